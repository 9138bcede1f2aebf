//! Many seeds, each in a process of its own, as many at once as there are processors.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::report::{Coverage, Report};

/// Real time after which a run is stuck: a task that never sleeps stops simulated time, which no simulated
/// clock can tell.
const STUCK: Duration = Duration::from_secs(300);

/// The same with a mutant: some do nothing else in most seeds, and to stand still is to be found.
const MUTANT_STUCK: Duration = Duration::from_secs(60);

/// How to run seeds.
#[derive(Clone, Debug)]
pub struct Runner {
    /// The simulator's program.
    pub program: PathBuf,
    /// The mutant that the server has, if any.
    pub mutant: Option<String>,
}

/// Why a seed failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// What cannot be true, and how to see it again.
    pub what: String,
}

/// What a batch was like.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Seeds that ran.
    pub seeds: u64,
    /// Calls of all clients.
    pub calls: u64,
    /// Revisions of all stores.
    pub revisions: u64,
    /// Looks at invariants.
    pub looks: u64,
    /// Simulated time.
    pub simulated: Duration,
    /// The slowest convergence, with its seed.
    pub slowest: (Duration, u64),
    /// What happened.
    pub coverage: Coverage,
    /// Seeds that failed, in the order in which they did.
    pub failures: Vec<Failure>,
}

impl Runner {
    /// Runs one seed.
    ///
    /// # Errors
    /// What it says cannot be true.
    pub fn run(&self, seed: u64) -> Result<Report, Failure> {
        let failed = |what: String| Failure { seed, what: format!("{what}\n{}", self.again(seed)) };
        let output = self.output(seed, false).map_err(failed)?;
        match serde_json::from_slice(&output.stdout) {
            Ok(report) if output.status.success() => Ok(report),
            _ => Err(failed(String::from_utf8_lossy(&output.stderr).trim_end().to_owned())),
        }
    }

    /// Runs one seed with its members' log; answers log and report, byte by byte.
    ///
    /// # Errors
    /// If it cannot be started, or does not end.
    pub fn log(&self, seed: u64) -> Result<(Vec<u8>, Vec<u8>), String> {
        let output = self.output(seed, true)?;
        Ok((output.stderr, output.stdout))
    }

    /// Runs seeds until all are done, or one failed where `stop_at_failure`.
    #[must_use]
    pub fn run_all(&self, seeds: &[u64], stop_at_failure: bool) -> Batch {
        let batch = Mutex::new(Batch::default());
        let next = AtomicU64::new(0);
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            for _ in 0..workers.min(seeds.len()) {
                scope.spawn(|| {
                    while let Some(seed) = take(seeds, &next) {
                        let result = self.run(seed);
                        let mut batch = batch.lock().unwrap_or_else(PoisonError::into_inner);
                        batch.add(seed, result);
                        if stop_at_failure && !batch.failures.is_empty() {
                            return;
                        }
                    }
                });
            }
        });
        batch.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// How to see a seed again.
    #[must_use]
    pub fn again(&self, seed: u64) -> String {
        match &self.mutant {
            None => format!("see it again: cargo run -p kvd-sim -- {seed} --log"),
            Some(mutant) => format!(
                "see it again: cargo run -p kvd-sim --features mutants -- {seed} --mutant {mutant} --log"
            ),
        }
    }

    fn output(&self, seed: u64, log: bool) -> Result<std::process::Output, String> {
        let mut command = Command::new(&self.program);
        command.arg(seed.to_string()).env("RUST_BACKTRACE", "0");
        if let Some(mutant) = &self.mutant {
            command.args(["--mutant", mutant]);
        }
        if log {
            command.arg("--log");
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().map_err(|error| format!("cannot start: {error}"))?;
        let stuck = if self.mutant.is_some() { MUTANT_STUCK } else { STUCK };
        let watched = Watched::over(child.id(), stuck);
        let output = child.wait_with_output();
        if watched.was_stuck() {
            return Err("time stands still".to_owned());
        }
        output.map_err(|error| format!("cannot be read: {error}"))
    }
}

/// Kills a process that takes too long.
struct Watched {
    done: mpsc::Sender<()>,
    thread: std::thread::JoinHandle<bool>,
}

impl Watched {
    fn over(process: u32, stuck: Duration) -> Self {
        let (done, is_done) = mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            if is_done.recv_timeout(stuck) != Err(RecvTimeoutError::Timeout) {
                return false;
            }
            // Already gone: then it was not stuck after all, and its output says what it has to say.
            let killed = Command::new("kill").args(["-9", &process.to_string()]).status();
            killed.is_ok_and(|status| status.success())
        });
        Self { done, thread }
    }

    fn was_stuck(self) -> bool {
        drop(self.done);
        self.thread.join().unwrap_or(false)
    }
}

fn take(seeds: &[u64], next: &AtomicU64) -> Option<u64> {
    let at = next.fetch_add(1, Ordering::Relaxed);
    seeds.get(usize::try_from(at).ok()?).copied()
}

impl Batch {
    fn add(&mut self, seed: u64, result: Result<Report, Failure>) {
        self.seeds += 1;
        match result {
            Ok(report) => {
                self.calls += report.calls;
                self.revisions += report.revisions;
                self.looks += report.looks;
                self.simulated += report.simulated;
                self.slowest = self.slowest.max((report.converged_after, seed));
                self.coverage.join(&report.coverage);
            }
            Err(failure) => {
                eprintln!("seed {seed}: {}", failure.what);
                self.failures.push(failure);
            }
        }
    }

    /// All of it, a line each.
    #[must_use]
    pub fn text(&self) -> String {
        let mut lines = vec![
            format!("{:>12}  seeds", self.seeds),
            format!("{:>12}  violations", self.failures.len()),
            format!("{:>12}  simulated seconds", self.simulated.as_secs()),
            format!("{:>12}  calls", self.calls),
            format!("{:>12}  revisions", self.revisions),
            format!("{:>12}  looks at an invariant", self.looks),
            format!(
                "{:>12}  ms, the slowest convergence (seed {})",
                self.slowest.0.as_millis(),
                self.slowest.1
            ),
        ];
        lines.extend(self.coverage.iter().map(|(what, times)| format!("{times:>12}  {what}")));
        lines.extend(self.failures.iter().map(|one| format!("seed {}: {}", one.seed, one.what)));
        lines.join("\n")
    }
}
