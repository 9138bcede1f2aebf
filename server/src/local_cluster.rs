//! A cluster of real processes on loopback, for `kvd dev` and `kvd demo`.
//!
//! Promises that a dropped cluster leaves no process and no temporary folder behind, that members
//! end when this process is killed, and that a member which misbehaves can be quoted: the ends of
//! all logs are kept. Speaks to members by etcd's flags and client services only, so the program
//! may be any etcd; knows nothing of what kvd is inside.

mod folder;
mod log;
mod ports;

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use kvd_client::{Client, Options};
use rustix::process::{Pid, Signal, kill_process};
use thiserror::Error;

use crate::local_cluster::log::{Tail, read_log};
use crate::local_cluster::ports::{Ports, addresses};
use crate::shutdown::Shutdown;

pub(crate) use crate::local_cluster::folder::Folder;
pub(crate) use crate::local_cluster::log::say;

/// Set to 1 for the members: they stop when their standard input closes, which the kernel sees to
/// however this process ends.
pub(crate) const EXIT_WITH_STDIN: &str = "KVD_EXIT_WITH_STDIN";

/// Most members; more of them only make writes slower (etcd's own advice is at most seven).
pub(crate) const MEMBERS_MAX: usize = 9;

/// How long a member may take to end by itself before it is killed.
const STOP_MAX: Duration = Duration::from_secs(5);

/// How long a member may take until its first answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Between two looks at something that is about to happen.
const POLL: Duration = Duration::from_millis(10);

/// Why a local cluster cannot be had.
#[derive(Debug, Error)]
pub(crate) enum LocalClusterError {
    /// The system refused something.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// What the system said.
        source: io::Error,
    },
    /// A member ended though nobody had asked it to.
    #[error("member {name} ended: {status}")]
    Ended {
        /// Its name.
        name: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// A member does not answer a linearizable read.
    #[error("member {name} did not answer in {waited:?}: {last}")]
    NoAnswer {
        /// Its name.
        name: String,
        /// For how long it was asked.
        waited: Duration,
        /// What the last attempt met with.
        last: String,
    },
    /// The data directory belongs to a cluster of another size, or its addresses are damaged.
    #[error("{path} does not describe a cluster of {count} members; give another --data-dir")]
    OtherCluster {
        /// The file with the addresses.
        path: String,
        /// Members asked for.
        count: usize,
    },
    /// A client cannot be made.
    #[error(transparent)]
    Client(#[from] kvd_client::Error),
}

fn io_error(doing: impl Into<String>) -> impl FnOnce(io::Error) -> LocalClusterError {
    |source| LocalClusterError::Io { doing: doing.into(), source }
}

/// Stops this process's server when its standard input closes: whoever started it is gone.
pub(crate) fn stop_when_stdin_closes(shutdown: Shutdown) -> io::Result<()> {
    // A thread, because a read from standard input cannot be given up.
    std::thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        // An input that fails is as good as closed.
        let _bytes = io::copy(&mut io::stdin().lock(), &mut io::sink());
        shutdown.begin();
    })?;
    Ok(())
}

/// The real etcd in the folder that `KVD_ETCD` names. Without one the test that asks is skipped, which fails where
/// nothing may be skipped.
#[cfg(test)]
pub(crate) fn real_etcd() -> Option<PathBuf> {
    let found = std::env::var_os("KVD_ETCD").map(|folder| PathBuf::from(folder).join("etcd"));
    if found.is_none() {
        assert!(std::env::var_os("KVD_REQUIRE_ALL").is_none(), "KVD_ETCD names no etcd");
        eprintln!("SKIPPED: KVD_ETCD names no etcd");
    }
    found
}

/// Where the members' log lines go, beside the tails that are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Logs {
    /// To our standard output, each line behind the member's name.
    Print,
    /// Nowhere.
    Keep,
}

/// The members' processes and their folder.
pub(crate) struct LocalCluster {
    // Dropped in this order: the processes end before their files go.
    members: Vec<Member>,
    folder: Folder,
}

struct Member {
    name: String,
    url: String,
    arguments: Vec<String>,
    program: PathBuf,
    logs: Logs,
    tail: Tail,
    process: Option<Child>,
}

impl LocalCluster {
    /// Starts `count` members of `program` in `folder`. They are not asked anything yet.
    pub(crate) fn start(
        program: &Path,
        count: usize,
        folder: Folder,
        logs: Logs,
    ) -> Result<Self, LocalClusterError> {
        let addresses = addresses(&folder, count)?;
        let members = members(program, &addresses, folder.path(), logs);
        let mut cluster = Self { members, folder };
        for number in 0..count {
            cluster.start_member(number)?;
        }
        Ok(cluster)
    }

    /// How many members it has, running or not.
    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    /// A member's name.
    pub(crate) fn name(&self, number: usize) -> &str {
        &self.members[number].name
    }

    /// A member's URL for clients.
    pub(crate) fn url(&self, number: usize) -> &str {
        &self.members[number].url
    }

    /// The folder of all data.
    pub(crate) fn folder(&self) -> &Folder {
        &self.folder
    }

    /// A client of all members but `without`.
    pub(crate) fn client(&self, without: Option<usize>) -> Result<Client, LocalClusterError> {
        let urls = self.members.iter().enumerate().filter(|(number, _)| Some(*number) != without);
        Ok(Client::lazy(Options::new(urls.map(|(_, member)| &member.url)))?)
    }

    /// Waits until a member has answered a linearizable read: it knows all that the cluster knows.
    pub(crate) async fn wait_for(&mut self, number: usize) -> Result<(), LocalClusterError> {
        let begin = Instant::now();
        let url = self.members[number].url.clone();
        // A new client each time: none of them is held back by what an earlier one met with.
        loop {
            let client = Client::lazy(Options::new([&url]))?;
            let read = client.with_timeout(Duration::from_millis(500)).get("kvd").await;
            let Err(error) = read else { return Ok(()) };
            let name = self.members[number].name.clone();
            if let Some(status) = self.ended(number)? {
                return Err(LocalClusterError::Ended { name, status });
            }
            if begin.elapsed() > ANSWER_MAX {
                let (waited, last) = (begin.elapsed(), error.to_string());
                return Err(LocalClusterError::NoAnswer { name, waited, last });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The running member that knows itself to lead, if there is one now.
    pub(crate) async fn leader(&self) -> Option<usize> {
        let client = self.client(None).ok()?.with_timeout(Duration::from_millis(500));
        for (number, member) in self.members.iter().enumerate() {
            if member.process.is_none() {
                continue;
            }
            // A member that cannot answer does not lead.
            let Ok(status) = client.status(&member.url).await else { continue };
            let own = status.header.map(|header| header.member_id);
            if own == Some(status.leader) {
                return Some(number);
            }
        }
        None
    }

    /// kill -9.
    pub(crate) fn kill(&mut self, number: usize) -> Result<(), LocalClusterError> {
        let member = &mut self.members[number];
        if let Some(mut process) = member.process.take() {
            let doing = format!("killing member {}", member.name);
            process.kill().and_then(|()| process.wait()).map_err(io_error(doing))?;
        }
        Ok(())
    }

    /// Starts a member that is not running, on the data it has.
    pub(crate) fn start_member(&mut self, number: usize) -> Result<(), LocalClusterError> {
        let colour = 31 + u8::try_from(number % 6).unwrap_or(0);
        self.members[number].start(colour)
    }

    /// How a member ended, if it was started and has ended.
    pub(crate) fn ended(&mut self, number: usize) -> Result<Option<ExitStatus>, LocalClusterError> {
        let member = &mut self.members[number];
        let Some(process) = member.process.as_mut() else { return Ok(None) };
        let doing = format!("waiting for member {}", member.name);
        let status = process.try_wait().map_err(io_error(doing))?;
        if status.is_some() {
            member.process = None;
        }
        Ok(status)
    }

    /// Asks all members to end and waits for them; the slow ones are killed.
    pub(crate) async fn stop(mut self) {
        let mut processes: Vec<&mut Child> =
            self.members.iter_mut().filter_map(|member| member.process.as_mut()).collect();
        for process in &processes {
            terminate(process);
        }
        let begin = Instant::now();
        for process in &mut processes {
            while matches!(process.try_wait(), Ok(None)) && begin.elapsed() < STOP_MAX {
                tokio::time::sleep(POLL).await;
            }
        }
        // The drop kills whoever is still there.
    }

    /// The last lines of all logs, each behind its member's name.
    pub(crate) fn tails(&self) -> String {
        let of_member = |member: &Member| {
            let lines = member.tail.lock().unwrap_or_else(PoisonError::into_inner);
            lines.iter().map(|line| format!("{} | {line}\n", member.name)).collect::<String>()
        };
        self.members.iter().map(of_member).collect()
    }
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        for process in self.members.iter_mut().filter_map(|member| member.process.as_mut()) {
            // Both fail only for a process that has ended, which is what we want.
            let _killed = process.kill();
            let _waited = process.wait();
        }
    }
}

impl Member {
    fn start(&mut self, colour: u8) -> Result<(), LocalClusterError> {
        let doing = || format!("starting member {}, {}", self.name, self.program.display());
        let mut process = Command::new(&self.program)
            .args(&self.arguments)
            .env(EXIT_WITH_STDIN, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(io_error(doing()))?;
        let prefix = match self.logs {
            Logs::Keep => None,
            Logs::Print if io::stdout().is_terminal() => {
                Some(format!("\x1b[{colour}m{}\x1b[0m | ", self.name))
            }
            Logs::Print => Some(format!("{} | ", self.name)),
        };
        let (stdout, stderr) = (process.stdout.take(), process.stderr.take());
        self.process = Some(process);
        if let Some(stdout) = stdout {
            read_log(stdout, prefix.clone(), Arc::clone(&self.tail)).map_err(io_error(doing()))?;
        }
        if let Some(stderr) = stderr {
            read_log(stderr, prefix, Arc::clone(&self.tail)).map_err(io_error(doing()))?;
        }
        Ok(())
    }
}

/// The members, named a, b, c…, none of them started.
fn members(program: &Path, addresses: &[Ports], folder: &Path, logs: Logs) -> Vec<Member> {
    let names: Vec<String> = ('a'..='z').take(addresses.len()).map(String::from).collect();
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    let initial: Vec<String> = names
        .iter()
        .zip(addresses)
        .map(|(name, ports)| format!("{name}={}", url(ports.peer)))
        .collect();
    let member = |(name, ports): (&String, &Ports)| Member {
        name: name.clone(),
        url: url(ports.client),
        arguments: vec![
            format!("--name={name}"),
            format!("--data-dir={}", folder.join(format!("{name}.kvd")).display()),
            format!("--listen-client-urls={}", url(ports.client)),
            format!("--advertise-client-urls={}", url(ports.client)),
            format!("--listen-peer-urls={}", url(ports.peer)),
            format!("--initial-advertise-peer-urls={}", url(ports.peer)),
            format!("--initial-cluster={}", initial.join(",")),
            "--initial-cluster-token=kvd-local".to_owned(),
            "--initial-cluster-state=new".to_owned(),
        ],
        program: program.to_owned(),
        logs,
        tail: Tail::default(),
        process: None,
    };
    names.iter().zip(addresses).map(member).collect()
}

/// Asks a process to end. One that has ended already cannot be asked, which is as well.
fn terminate(process: &Child) {
    let pid = i32::try_from(process.id()).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid {
        let _asked = kill_process(pid, Signal::TERM);
    }
}
