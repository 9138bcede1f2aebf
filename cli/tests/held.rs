//! What runs while a lock is held is gone before the lock can be somebody else's; and where etcdctl has the same
//! commands, kvctl ends as it does. Against real etcd processes.

#[path = "../../client/tests/etcd/mod.rs"]
mod etcd;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::thread::park_timeout;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::etcd::{Cluster, find};

/// Long enough for anything on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// The lease's time in these tests; no etcd makes it longer.
const TTL: Duration = Duration::from_secs(8);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// A store, and kvctl to use it.
struct Scene {
    cluster: Cluster,
}

/// A lock that is held while a group of three processes runs.
struct Holder {
    kvctl: Child,
    /// The number of the group.
    group: i32,
    _stdout: BufReader<ChildStdout>,
}

impl Scene {
    fn new() -> Result<Option<Self>> {
        let Some(binary) = find("etcd") else { return Ok(None) };
        let scene = Self { cluster: Cluster::start(&binary, 1)? };
        let begin = Instant::now();
        while !scene.kvctl(&["put", "started", "1"])?.status.success() {
            ensure!(begin.elapsed() < PATIENCE, "etcd does not start");
        }
        Ok(Some(scene))
    }

    fn command(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(["--endpoints", &self.cluster.members[0].endpoint]).args(arguments);
        command
    }

    fn kvctl(&self, arguments: &[&str]) -> Result<Output> {
        let program = Path::new(env!("CARGO_BIN_EXE_kvctl"));
        Ok(self.command(program, arguments).stdin(Stdio::null()).output()?)
    }

    /// Takes the lock `held`; what it runs leaves a child in the background.
    fn hold(&self, script: &str) -> Result<Holder> {
        let ttl = TTL.as_secs().to_string();
        let script = format!("sleep 1000 & echo $$; {script}");
        let arguments = ["lock", "--ttl", &ttl, "held", "--", "sh", "-c", &script];
        let program = Path::new(env!("CARGO_BIN_EXE_kvctl"));
        let mut kvctl = self.command(program, &arguments).stdout(Stdio::piped()).spawn()?;
        let mut stdout = BufReader::new(kvctl.stdout.take().context("it is piped")?);
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        let group = line.trim().parse().with_context(|| format!("no number: {line:?}"))?;
        Ok(Holder { kvctl, group, _stdout: stdout })
    }

    /// Keys of the lock.
    fn taken(&self) -> Result<usize> {
        let found = self.kvctl(&["get", "held/", "--prefix", "--keys-only"])?;
        ensure!(found.status.success(), "{found:?}");
        Ok(String::from_utf8(found.stdout)?.lines().filter(|line| !line.is_empty()).count())
    }

    fn signal_store(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.cluster.members[0].pid())?;
        Ok(kill_process(Pid::from_raw(pid).context("it runs")?, signal)?)
    }
}

impl Holder {
    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.kvctl), signal)?)
    }

    /// Processes of the group that are more than a name.
    fn alive(&self) -> Result<usize> {
        let mut alive = 0;
        for entry in fs::read_dir("/proc")? {
            // It may have ended meanwhile.
            let Ok(stat) = fs::read_to_string(entry?.path().join("stat")) else { continue };
            let Some((_, stat)) = stat.rsplit_once(')') else { continue };
            let words: Vec<&str> = stat.split_whitespace().collect();
            let [state, _, group, ..] = words.as_slice() else { continue };
            alive += usize::from(*group == self.group.to_string() && *state != "Z");
        }
        Ok(alive)
    }

    /// The process between kvctl and the group.
    fn guard(&self) -> Result<Pid> {
        let kvctl = self.kvctl.id().to_string();
        for entry in fs::read_dir("/proc")? {
            let path = entry?.path();
            let Ok(stat) = fs::read_to_string(path.join("stat")) else { continue };
            let Some((_, stat)) = stat.rsplit_once(')') else { continue };
            if stat.split_whitespace().nth(1) == Some(&kvctl) {
                let pid = path.file_name().and_then(|name| name.to_str()).context("a number")?;
                return Pid::from_raw(pid.parse()?).context("a process");
            }
        }
        anyhow::bail!("kvctl has no child")
    }

    /// Waits until the whole group is gone; answers how long that took.
    fn until_gone(&self) -> Result<Duration> {
        let begin = Instant::now();
        while self.alive()? > 0 {
            ensure!(begin.elapsed() < PATIENCE, "the group lives on");
            park_timeout(LOOK);
        }
        Ok(begin.elapsed())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // It may have ended.
        let _killed = self.kvctl.kill();
        let _waited = self.kvctl.wait();
    }
}

#[test]
fn a_killed_kvctl_takes_its_group_along() -> Result<()> {
    let Some(scene) = Scene::new()? else { return Ok(()) };
    let holder = scene.hold("sleep 1000")?;
    let begin = Instant::now();
    // The shell, and two that sleep.
    while holder.alive()? < 3 {
        ensure!(begin.elapsed() < PATIENCE, "{} processes", holder.alive()?);
        park_timeout(LOOK);
    }
    holder.signal(Signal::KILL)?;
    holder.until_gone()?;
    assert_eq!(scene.taken()?, 1, "the lease was not given back, and has not ended");
    Ok(())
}

#[test]
fn a_kvctl_that_stands_still_has_no_group_when_its_lease_ends() -> Result<()> {
    let Some(scene) = Scene::new()? else { return Ok(()) };
    // It does not end when it is asked to.
    let holder = scene.hold("trap '' TERM; while :; do sleep 1000; done")?;
    holder.signal(Signal::STOP)?;
    let took = holder.until_gone()?;
    assert_eq!(scene.taken()?, 1, "the lock was taken for longer than the group lived: {took:?}");
    holder.signal(Signal::CONT)?;
    Ok(())
}

#[test]
fn a_killed_guard_takes_its_group_along() -> Result<()> {
    let Some(scene) = Scene::new()? else { return Ok(()) };
    let mut holder = scene.hold("trap '' TERM; while :; do sleep 1000; done")?;
    kill_process(holder.guard()?, Signal::KILL)?;
    assert!(!holder.kvctl.wait()?.success());
    assert_eq!((holder.alive()?, scene.taken()?), (0, 0), "given back when nobody used it");
    Ok(())
}

#[test]
fn a_store_that_stands_still_ends_the_group_in_time() -> Result<()> {
    let Some(scene) = Scene::new()? else { return Ok(()) };
    let mut holder = scene.hold("sleep 1000")?;
    scene.signal_store(Signal::STOP)?;
    let took = holder.until_gone()?;
    scene.signal_store(Signal::CONT)?;
    assert!(took < TTL, "{took:?}");
    assert!(!holder.kvctl.wait()?.success());
    Ok(())
}

#[test]
fn signals_are_handed_on_and_the_lock_is_given_back() -> Result<()> {
    let Some(scene) = Scene::new()? else { return Ok(()) };
    let mut holder = scene.hold("trap 'exit 7' TERM; while :; do sleep 0.1; done")?;
    holder.signal(Signal::TERM)?;
    assert_eq!(holder.kvctl.wait()?.code(), Some(7));
    assert_eq!((holder.alive()?, scene.taken()?), (0, 0));
    Ok(())
}

#[test]
fn a_deleted_lock_ends_its_group() -> Result<()> {
    let Some(scene) = Scene::new()? else { return Ok(()) };
    let holder = scene.hold("sleep 1000")?;
    ensure!(scene.kvctl(&["del", "held/", "--prefix"])?.status.success(), "it is deleted");
    holder.until_gone()?;
    Ok(())
}

#[test]
fn tokens_grow_and_stand_in_the_environment() -> Result<()> {
    let Some(scene) = Scene::new()? else { return Ok(()) };
    let mut last = 0;
    for command in [["lock", "a"], ["lock", "a"], ["elect", "a"], ["elect", "a"]] {
        let proposal: &[&str] = if command[0] == "elect" { &["me"] } else { &[] };
        let script = ["--", "sh", "-c", "echo $KVD_FENCING_TOKEN"];
        let told = scene.kvctl(&[&command, proposal, &script].concat())?;
        ensure!(told.status.success(), "{told:?}");
        let token: i64 = String::from_utf8(told.stdout)?.trim().parse()?;
        assert!(token > last, "{token} after {last}");
        last = token;
    }
    Ok(())
}

#[test]
fn kvctl_ends_as_etcdctl_does() -> Result<()> {
    let Some(etcdctl) = find("etcdctl") else { return Ok(()) };
    let Some(scene) = Scene::new()? else { return Ok(()) };
    let cases: &[&[&str]] = &[
        &["lock"],
        &["lock", "a", "nosuch"],
        &["lock", "a", "/no/such"],
        &["lock", "a", "echo", "hi"],
        &["lock", "a", "--ttl", "5", "echo", "hi"],
        &["lock", "--", "a", "echo", "-n", "hi"],
        &["lock", "a", "--", "sh", "-c", "echo $ETCD_LOCK_REV >/dev/null; exit 3"],
        &["lock", "a", "--", "sh", "-c", "kill -9 $$"],
        &["elect"],
        &["elect", "e"],
        &["elect", "a", "b", "c"],
    ];
    for case in cases {
        let theirs = scene.command(&etcdctl, case).stdin(Stdio::null()).output()?;
        let ours = scene.kvctl(case)?;
        assert_eq!(text(&ours.stdout), text(&theirs.stdout), "{case:?}");
        assert_eq!(text(&ours.stderr), text(&theirs.stderr), "{case:?}");
        assert_eq!(ours.status.code(), theirs.status.code(), "{case:?}");
    }
    Ok(())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
