//! Several apiservers at once: processes that run this test again with a job, until they are told
//! to end, and what they left.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::ensure;
use tempfile::TempDir;

use super::ledger::Ledger;
use super::load::Job;

/// Running apiservers.
#[derive(Debug)]
pub struct Apiservers {
    children: Vec<(Child, PathBuf)>,
    _folder: TempDir,
}

impl Apiservers {
    /// Starts `count` of them by running the test `test` again, which must do
    /// [`Job::of_this_process`] first of all.
    pub fn start(
        test: &str,
        count: usize,
        endpoints: &[String],
        compact_every: Duration,
    ) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("kvd-kube-").tempdir()?;
        let compact_every_ms = u64::try_from(compact_every.as_millis())?;
        let mut children = Vec::with_capacity(count);
        for process in 0..count {
            let ledger = folder.path().join(format!("ledger-{process}"));
            let job = Job {
                process,
                endpoints: endpoints.to_vec(),
                compact_every_ms,
                ledger: ledger.clone(),
            };
            let (name, value) = job.environment();
            let child = Command::new(std::env::current_exe()?)
                .args([test, "--exact", "--nocapture"])
                .env(name, value)
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .spawn()?;
            children.push((child, ledger));
        }
        Ok(Self { children, _folder: folder })
    }

    /// Fails when one has ended by itself.
    pub fn ensure_running(&mut self) -> anyhow::Result<()> {
        for (child, ledger) in &mut self.children {
            ensure!(child.try_wait()?.is_none(), "{} ended by itself", ledger.display());
        }
        Ok(())
    }

    /// Tells all to end; gives what each did and saw.
    pub fn end(mut self) -> anyhow::Result<Vec<Ledger>> {
        for (child, _) in &mut self.children {
            drop(child.stdin.take());
        }
        let mut ledgers = Vec::new();
        for (child, path) in &mut self.children {
            // Ends by itself: each of its calls has a deadline.
            let status = child.wait()?;
            ensure!(status.success(), "{} ended with {status}", path.display());
            ledgers.push(Ledger::load(path)?);
        }
        Ok(ledgers)
    }
}

impl Drop for Apiservers {
    fn drop(&mut self) {
        for (child, _) in &mut self.children {
            // Ended already, unless the test failed before.
            let _ended = child.kill().and_then(|()| child.wait());
        }
    }
}
