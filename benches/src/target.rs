//! A target: a program, and a cluster of its processes on loopback with fresh data.
//!
//! Promises that every target is started with the same flags, that a cluster is ready only when it
//! has answered a linearizable read, and that dropping it ends its processes and removes its data.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use kvd_proto::etcdserverpb::kv_client::KvClient;
use kvd_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use kvd_proto::etcdserverpb::{RangeRequest, StatusRequest, StatusResponse};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use crate::process::Usage;

/// How long a cluster may take to answer after its start; a large store takes its time.
const READY_MAX: Duration = Duration::from_secs(120);

/// Between two looks at something that is about to happen.
const POLL: Duration = Duration::from_millis(2);

/// Bytes; far above the default of etcd (2 GiB), so that loading is not stopped by the quota.
const QUOTA_BYTES: u64 = 64 * 1024 * 1024 * 1024;

/// HTTP/2 windows, bytes: larger than any answer here, so that they are not what is measured.
const WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// HTTP/2 windows that a client has who asks for nothing else (RFC 9113, 6.9.2).
const WINDOW_INITIAL_BYTES: u32 = 65_535;

/// A program to measure.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Its name in the results.
    pub(crate) name: String,
    /// The file to start.
    pub(crate) program: PathBuf,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Understands etcd's flags.
    Store,
    /// Our own server that does nothing.
    Floor,
}

impl Target {
    /// The server that answers without doing anything.
    pub(crate) fn floor() -> Result<Self> {
        let program = std::env::current_exe().context("the path of kvbench")?;
        Ok(Self { name: "floor".to_owned(), program, kind: Kind::Floor })
    }
}

impl FromStr for Target {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, path) = text.split_once('=').ok_or_else(|| anyhow!("not NAME=PATH: {text}"))?;
        ensure!(!name.is_empty(), "a target needs a name: {text}");
        ensure!(Path::new(path).is_file(), "there is no program {path}");
        Ok(Self { name: name.to_owned(), program: path.into(), kind: Kind::Store })
    }
}

/// Running processes of one target.
pub(crate) struct Cluster {
    members: Vec<Member>,
    folder: TempDir,
}

struct Member {
    program: PathBuf,
    arguments: Vec<String>,
    client_url: String,
    log: PathBuf,
    process: Option<Child>,
}

impl Cluster {
    /// Starts `count` members with their data under `folder` and waits until they answer.
    pub(crate) async fn start(
        target: &Target,
        count: usize,
        folder: &Path,
        flags: &[String],
    ) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("kvbench-").tempdir_in(folder)?;
        let members = match target.kind {
            Kind::Store => store_members(target, count, folder.path(), flags)?,
            Kind::Floor => vec![floor_member(target, folder.path())?],
        };
        let mut cluster = Self { members, folder };
        for number in 0..cluster.members.len() {
            cluster.restart(number)?;
        }
        cluster.ready().await.with_context(|| format!("target {}", target.name))?;
        Ok(cluster)
    }

    /// The URLs of the members for clients, in the order of the members.
    pub(crate) fn urls(&self) -> Vec<String> {
        self.members.iter().map(|member| member.client_url.clone()).collect()
    }

    /// The same with the leader's first.
    pub(crate) async fn urls_leader_first(&self) -> Result<Vec<String>> {
        let mut urls = self.urls();
        let leader = urls.remove(self.leader().await?);
        urls.insert(0, leader);
        Ok(urls)
    }

    /// The folder that holds all their data.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What the processes have consumed so far.
    pub(crate) fn usage(&self) -> Result<Usage> {
        let running = self.members.iter().filter_map(|member| member.process.as_ref());
        let pids: Vec<u32> = running.map(Child::id).collect();
        Usage::of_all(&pids)
    }

    /// What each process has consumed so far, in the order of the members.
    pub(crate) fn usage_of_each(&self) -> Result<Vec<Usage>> {
        let running = self.members.iter().filter_map(|member| member.process.as_ref());
        running.map(|process| Usage::of(process.id())).collect()
    }

    /// Waits until every member has applied what the leader has applied now.
    pub(crate) async fn caught_up(&self) -> Result<()> {
        let leader = &self.members[self.leader().await?].client_url;
        let applied = status(leader).await?.raft_applied_index;
        let begin = Instant::now();
        for member in &self.members {
            while status(&member.client_url).await?.raft_applied_index < applied {
                ensure!(begin.elapsed() < READY_MAX, "a member stays behind for {READY_MAX:?}");
                tokio::time::sleep(POLL).await;
            }
        }
        Ok(())
    }

    /// The number of the member that leads; the first one where nobody leads (a floor server).
    pub(crate) async fn leader(&self) -> Result<usize> {
        for (number, member) in self.members.iter().enumerate() {
            let status = status(&member.client_url).await?;
            let own = status.header.as_ref().map_or(0, |header| header.member_id);
            if status.leader == own {
                return Ok(number);
            }
        }
        bail!("no member leads")
    }

    /// The version that the first member says it has.
    pub(crate) async fn version(&self) -> Result<String> {
        Ok(status(&self.members[0].client_url).await?.version)
    }

    /// kill -9 of a member.
    pub(crate) fn kill(&mut self, number: usize) -> Result<()> {
        if let Some(mut process) = self.members[number].process.take() {
            process.kill()?;
            process.wait()?;
        }
        Ok(())
    }

    /// Starts a member that is not running, on the data it has.
    pub(crate) fn restart(&mut self, number: usize) -> Result<()> {
        let member = &mut self.members[number];
        let log = File::options().create(true).append(true).open(&member.log)?;
        let process = Command::new(&member.program)
            .args(&member.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| member.program.display().to_string())?;
        member.process = Some(process);
        Ok(())
    }

    /// Waits until every member has answered a linearizable read.
    pub(crate) async fn ready(&mut self) -> Result<()> {
        for number in 0..self.members.len() {
            self.answers(number, false).await?;
        }
        Ok(())
    }

    /// Waits for the first answer of a member and says how long it took.
    pub(crate) async fn answers(&mut self, number: usize, serializable: bool) -> Result<Duration> {
        let begin = Instant::now();
        while !read_once(&self.members[number].client_url, serializable).await {
            let member = &mut self.members[number];
            let ended = member.process.as_mut().map_or(Ok(None), Child::try_wait)?;
            if let Some(status) = ended {
                bail!("the server ended ({status}): {}", last_lines(&member.log));
            }
            if begin.elapsed() > READY_MAX {
                bail!("no answer in {READY_MAX:?}: {}", last_lines(&member.log));
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(begin.elapsed())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for process in self.members.iter_mut().filter_map(|member| member.process.as_mut()) {
            // Nobody needs the data again, so nobody waits for an orderly end. Both fail only for a process that has ended, which is what we want.
            let _killed = process.kill();
            let _waited = process.wait();
        }
    }
}

/// Connects with windows that do not limit large answers.
pub(crate) async fn connect(url: &str) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(url.to_owned())?
        .connect_timeout(Duration::from_secs(2))
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES * 4);
    endpoint.connect().await.with_context(|| url.to_owned())
}

/// Connects with the windows that HTTP/2 begins with: a server soon notices who does not read.
pub(crate) async fn connect_with_small_windows(url: &str) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(url.to_owned())?
        .connect_timeout(Duration::from_secs(2))
        .initial_stream_window_size(WINDOW_INITIAL_BYTES)
        .initial_connection_window_size(WINDOW_INITIAL_BYTES);
    endpoint.connect().await.with_context(|| url.to_owned())
}

async fn status(url: &str) -> Result<StatusResponse> {
    let mut client = MaintenanceClient::new(connect(url).await?);
    Ok(client.status(StatusRequest {}).await?.into_inner())
}

/// Whether a read is answered now. A member that hangs is asked again over a new connection.
async fn read_once(url: &str, serializable: bool) -> bool {
    let attempt = async {
        let mut client = KvClient::new(connect(url).await?);
        let request =
            RangeRequest { key: "ready".into(), serializable, limit: 1, ..Default::default() };
        client.range(request).await?;
        anyhow::Ok(())
    };
    tokio::time::timeout(Duration::from_secs(2), attempt).await.is_ok_and(|read| read.is_ok())
}

fn store_members(
    target: &Target,
    count: usize,
    folder: &Path,
    flags: &[String],
) -> Result<Vec<Member>> {
    let ports = free_addresses(count * 2)?;
    let (clients, peers) = ports.split_at(count);
    let name = |number: usize| format!("m{}", number + 1);
    let initial: Vec<String> = peers
        .iter()
        .enumerate()
        .map(|(number, peer)| format!("{}=http://{peer}", name(number)))
        .collect();
    let member = |number: usize| {
        let client_url = format!("http://{}", clients[number]);
        let peer_url = format!("http://{}", peers[number]);
        let data = folder.join(name(number));
        let mut arguments = vec![
            format!("--name={}", name(number)),
            format!("--data-dir={}", data.display()),
            format!("--listen-client-urls={client_url}"),
            format!("--advertise-client-urls={client_url}"),
            format!("--listen-peer-urls={peer_url}"),
            format!("--initial-advertise-peer-urls={peer_url}"),
            format!("--initial-cluster={}", initial.join(",")),
            "--initial-cluster-token=kvbench".to_owned(),
            "--initial-cluster-state=new".to_owned(),
            format!("--quota-backend-bytes={QUOTA_BYTES}"),
            "--log-level=warn".to_owned(),
        ];
        arguments.extend_from_slice(flags);
        Member {
            program: target.program.clone(),
            arguments,
            client_url,
            log: folder.join(format!("{}.log", name(number))),
            process: None,
        }
    };
    Ok((0..count).map(member).collect())
}

fn floor_member(target: &Target, folder: &Path) -> Result<Member> {
    let address = free_addresses(1)?[0];
    Ok(Member {
        program: target.program.clone(),
        arguments: vec!["floor-server".to_owned(), format!("--listen={address}")],
        client_url: format!("http://{address}"),
        log: folder.join("floor.log"),
        process: None,
    })
}

/// Loopback addresses that nobody listens on now. They are taken together, so they differ.
fn free_addresses(count: usize) -> Result<Vec<SocketAddr>> {
    let listeners: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect::<std::io::Result<_>>()?;
    Ok(listeners.iter().map(TcpListener::local_addr).collect::<std::io::Result<_>>()?)
}

/// The end of a server's log, for a message.
fn last_lines(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_name_and_a_program_that_exists() {
        let target: Target = "shell=/bin/sh".parse().unwrap();
        assert_eq!(target.name, "shell");
        assert!("/bin/sh".parse::<Target>().is_err());
        assert!("=/bin/sh".parse::<Target>().is_err());
        assert!("none=/no/such/program".parse::<Target>().is_err());
    }

    #[test]
    fn free_addresses_differ() {
        let mut addresses = free_addresses(20).unwrap();
        addresses.sort_unstable();
        addresses.dedup();
        assert_eq!(addresses.len(), 20);
    }

    #[tokio::test]
    async fn a_server_that_ends_at_once_is_an_error_with_its_last_words() {
        let target: Target = "false=/bin/false".parse().unwrap();
        let Err(error) = Cluster::start(&target, 1, &std::env::temp_dir(), &[]).await else {
            panic!("a program that only fails was taken for a server");
        };
        assert!(format!("{error:#}").contains("the server ended"), "{error:#}");
    }
}
