//! Members as real processes on this machine: kvd's binary, or a real etcd, which takes the same
//! flags.
//!
//! Promises that every process is dead and its folder gone once its [`Cluster`] is dropped, that
//! a started member serves, and that each line it logged can be read. Knows nothing of Raft or of
//! the API.
//!
//! Each member has a loopback address of its own, so that ports never collide and a member can be
//! told by its address. Nothing here sleeps: what is waited for is a line in the log, or its end.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::log::Log;
use super::place;
pub use super::place::Place;
use crate::tools;

/// How long a member may take until it serves, and until it has stopped.
const PATIENCE: Duration = Duration::from_secs(30);
/// What kvd and etcd both log when they serve clients.
const READY: &str = "ready to serve client requests";

/// Which server runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// Our own.
    Kvd(PathBuf),
    /// A real etcd.
    Etcd(PathBuf),
}

impl Program {
    /// kvd, built from this tree.
    pub fn kvd() -> anyhow::Result<Self> {
        tools::kvd().map(Self::Kvd)
    }

    /// The real etcd that transcripts come from.
    pub fn etcd() -> anyhow::Result<Self> {
        tools::recorded_etcd().map(Self::Etcd)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        match self {
            Self::Kvd(path) | Self::Etcd(path) => path,
        }
    }
}

/// Members that were started together.
#[derive(Debug)]
pub struct Cluster {
    members: Vec<Member>,
    /// Holds the data directories; after `members`, so that it is removed when they are dead.
    /// `None` where the caller keeps them.
    _folder: Option<TempDir>,
}

impl Cluster {
    /// Starts `count` members with `flags` added to those that name and connect them, and waits
    /// until each serves.
    pub fn start(program: &Program, count: usize, flags: &[String]) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("kvd-test-").tempdir()?;
        let folders: Vec<PathBuf> = (0..count).map(|_| folder.path().to_owned()).collect();
        let mut cluster = Self::start_in(program, &folders, flags)?;
        cluster._folder = Some(folder);
        Ok(cluster)
    }

    /// The same with the data directory of `m0` in the first of these folders, and so on. The
    /// folders stay when the cluster is dropped.
    pub fn start_in(
        program: &Program,
        folders: &[PathBuf],
        flags: &[String],
    ) -> anyhow::Result<Self> {
        let here = |folder: &PathBuf| Place {
            folder: folder.clone(),
            address: place::loopback_address(),
            network: None,
        };
        Self::start_at(program, folders.iter().map(here).collect(), flags)
    }

    /// The same, each member at a place of its own.
    pub fn start_at(
        program: &Program,
        places: Vec<Place>,
        flags: &[String],
    ) -> anyhow::Result<Self> {
        let initial: Vec<String> = places
            .iter()
            .enumerate()
            .map(|(at, place)| format!("m{at}=http://{}:2380", place.address))
            .collect();
        let mut members = Vec::with_capacity(places.len());
        for (at, place) in places.into_iter().enumerate() {
            let name = format!("m{at}");
            let data_dir = place.folder.join(&name);
            let mut arguments = arguments(&name, place.address, &data_dir, &initial.join(","));
            arguments.extend_from_slice(flags);
            let client_url = format!("http://{}:2379", place.address);
            let (program, network) = (program.clone(), place.network);
            let process = Process::spawn(&program, &arguments, network.as_deref())?;
            let member =
                Member { name, client_url, data_dir, program, arguments, network, process };
            members.push(member);
        }
        let cluster = Self { members, _folder: None };
        for member in &cluster.members {
            member.wait_ready()?;
        }
        Ok(cluster)
    }

    /// A place for one more member. Its [`Place::peer_url`] is to be added to the cluster before it joins.
    pub fn place(&self) -> anyhow::Result<Place> {
        let folder = self.members.first().and_then(|member| member.data_dir.parent());
        let folder = folder.context("a cluster has a member, and that a folder")?.to_owned();
        Ok(Place { folder, address: place::loopback_address(), network: None })
    }

    /// Starts one more member there, which joins those with these indexes; does not wait until it serves. Answers its
    /// own index.
    pub fn join(
        &mut self,
        place: &Place,
        others: &[usize],
        flags: &[String],
    ) -> anyhow::Result<usize> {
        let at = self.members.len();
        let name = format!("m{at}");
        let peers = others.iter().map(|other| {
            let member = &self.members[*other];
            format!("{}={}", member.name, member.client_url.replace(":2379", ":2380"))
        });
        let own = format!("{name}={}", place.peer_url());
        let initial: Vec<String> = peers.chain([own]).collect();
        let data_dir = place.folder.join(&name);
        let mut arguments = arguments(&name, place.address, &data_dir, &initial.join(","));
        arguments.retain(|argument| !argument.starts_with("--initial-cluster-state"));
        arguments.push("--initial-cluster-state=existing".to_owned());
        arguments.extend_from_slice(flags);
        let client_url = format!("http://{}:2379", place.address);
        let program = self.members[0].program.clone();
        let process = Process::spawn(&program, &arguments, None)?;
        let member =
            Member { name, client_url, data_dir, program, arguments, network: None, process };
        self.members.push(member);
        Ok(at)
    }

    /// Its members, in the order of their names `m0`, `m1`, ….
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// One of them, to be killed, paused or started again.
    pub fn member(&mut self, at: usize) -> &mut Member {
        &mut self.members[at]
    }

    /// The client URLs of all members.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| member.client_url.clone()).collect()
    }

    /// The lines of all logs at warning level or above that contain none of `expected`.
    pub fn unexpected_log_lines(&self, expected: &[&str]) -> Vec<String> {
        let of = |member: &Member| {
            let lines = member.unexpected_log_lines(expected).into_iter();
            lines.map(|line| format!("{}: {line}", member.name)).collect::<Vec<_>>()
        };
        self.members.iter().flat_map(of).collect()
    }
}

/// One member: its place in the cluster, and the process that now plays it.
#[derive(Debug)]
pub struct Member {
    name: String,
    client_url: String,
    data_dir: PathBuf,
    program: Program,
    arguments: Vec<String>,
    network: Option<String>,
    process: Process,
}

impl Member {
    /// `m0`, `m1`, ….
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it serves clients.
    pub fn client_url(&self) -> &str {
        &self.client_url
    }

    /// Where it keeps its data.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The id of its process.
    pub fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// What it has logged since it was last started.
    pub fn log(&self) -> Vec<String> {
        self.process.log.lock().lines.clone()
    }

    /// Waits until a line of its log contains `text`.
    pub fn wait_log(&self, text: &str) -> anyhow::Result<()> {
        let found = self
            .process
            .log
            .wait_until(PATIENCE, |lines| lines.iter().any(|line| line.contains(text)));
        if found { Ok(()) } else { bail!("{} never logged {text:?}:\n{}", self.name, self.tail()) }
    }

    /// Waits until it serves clients.
    pub fn wait_ready(&self) -> anyhow::Result<()> {
        self.wait_log(READY)
    }

    /// The lines of its log at warning level or above that contain none of `expected`.
    pub fn unexpected_log_lines(&self, expected: &[&str]) -> Vec<String> {
        let lines = self.log().into_iter();
        lines
            .filter(|line| is_alarming(line) && !expected.iter().any(|text| line.contains(text)))
            .collect()
    }

    /// SIGKILL, and waits until the process is gone.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.process.kill()
    }

    /// The flags it is started with.
    pub fn arguments(&self) -> &[String] {
        &self.arguments
    }

    /// From its next start on it listens to its peers at that place.
    pub fn move_to(&mut self, place: &Place) {
        for argument in &mut self.arguments {
            for flag in ["--listen-peer-urls=", "--initial-advertise-peer-urls="] {
                if argument.starts_with(flag) {
                    *argument = format!("{flag}{}", place.peer_url());
                }
            }
        }
    }

    /// Waits until the process has ended by itself, and how.
    pub fn wait_end(&mut self) -> anyhow::Result<ExitStatus> {
        if !self.process.log.wait_end(PATIENCE) {
            bail!("{} did not end:\n{}", self.name, self.tail());
        }
        Ok(self.process.child.wait()?)
    }

    /// SIGSTOP: the process keeps its connections and answers nothing.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.process.signal(Signal::STOP)
    }

    /// SIGCONT, after [`Self::pause`].
    pub fn resume(&self) -> anyhow::Result<()> {
        self.process.signal(Signal::CONT)
    }

    /// SIGTERM, and waits until it has stopped by itself.
    pub fn terminate(&mut self) -> anyhow::Result<ExitStatus> {
        self.process.signal(Signal::TERM)?;
        self.wait_end()
    }

    /// Starts it again on its data and waits until it serves; kills it first when it runs.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.spawn()?;
        self.wait_ready()
    }

    /// Starts it again without waiting, for a member that cannot serve alone.
    pub fn spawn(&mut self) -> anyhow::Result<()> {
        self.process.kill()?;
        self.process = Process::spawn(&self.program, &self.arguments, self.network.as_deref())?;
        Ok(())
    }

    /// The end of its log, for a failed test's message.
    pub fn tail(&self) -> String {
        let lines = self.log();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

/// One run of the program.
#[derive(Debug)]
struct Process {
    child: Child,
    log: Arc<Log>,
}

impl Process {
    fn spawn(
        program: &Program,
        arguments: &[String],
        network: Option<&str>,
    ) -> anyhow::Result<Self> {
        let mut command = match network {
            None => Command::new(program.path()),
            // It becomes the program, so the process is that one.
            Some(network) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", network]).arg(program.path());
                command
            }
        };
        let mut child = command
            .args(arguments)
            // kvd ends with this pipe, so that it does not outlive a test that was killed.
            .env("KVD_EXIT_WITH_STDIN", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", program.path().display()))?;
        let log = Arc::new(Log::default());
        if let Some(stderr) = child.stderr.take() {
            let log = Arc::clone(&log);
            std::thread::spawn(move || log.read(stderr));
        }
        Ok(Self { child, log })
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        kill_process(Pid::from_child(&self.child), signal).context("signalling a member")
    }

    fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be dead already, and a failing drop would hide the failure that led here.
        let _ = self.kill();
    }
}

/// The flags that make a process this member of this cluster.
fn arguments(name: &str, address: Ipv4Addr, data_dir: &Path, initial: &str) -> Vec<String> {
    let client_url = format!("http://{address}:2379");
    let peer_url = format!("http://{address}:2380");
    vec![
        format!("--name={name}"),
        format!("--data-dir={}", data_dir.display()),
        format!("--listen-client-urls={client_url}"),
        format!("--advertise-client-urls={client_url}"),
        format!("--listen-peer-urls={peer_url}"),
        format!("--initial-advertise-peer-urls={peer_url}"),
        format!("--initial-cluster={initial}"),
        "--initial-cluster-state=new".to_owned(),
    ]
}

/// Whether a log line says that somebody should look: JSON lines by their level, others by what
/// a dying Go or Rust process prints.
fn is_alarming(line: &str) -> bool {
    match serde_json::from_str::<Value>(line) {
        Ok(event) => !matches!(event["level"].as_str(), Some("debug" | "info")),
        Err(_) => line.contains("panic"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_tell_which_lines_alarm() {
        assert!(is_alarming(r#"{"level":"warn","msg":"slow fdatasync"}"#));
        assert!(is_alarming(r#"{"msg":"a line without a level"}"#));
        assert!(!is_alarming(r#"{"level":"info","msg":"panic is only a word here"}"#));
        assert!(is_alarming("thread 'main' panicked at src/main.rs"));
        assert!(!is_alarming("plain text"));
    }

    /// A real etcd is killed, started again on its data, paused, and stops when asked to.
    #[test]
    fn a_member_is_killed_paused_and_stopped() -> anyhow::Result<()> {
        let Ok(program) = Program::etcd() else {
            tools::skip("a_member_is_killed_paused_and_stopped", "no etcd");
            return Ok(());
        };
        let flags = ["--heartbeat-interval=10", "--election-timeout=100"].map(str::to_owned);
        let mut cluster = Cluster::start(&program, 1, &flags)?;
        assert_eq!(cluster.endpoints().len(), 1);
        let member = cluster.member(0);
        let before = member.pid();
        member.kill()?;
        member.restart()?;
        assert_ne!(before, member.pid());
        member.pause()?;
        member.resume()?;
        assert!(!member.terminate()?.success() || member.log().len() > 1);
        assert!(cluster.unexpected_log_lines(&[]).iter().all(|line| line.starts_with("m0: ")));
        Ok(())
    }
}
