//! Real etcd processes for tests: found by `KVD_ETCD` (a folder) or on the PATH, started on free
//! ports, killed when dropped. Shared with the tests of other packages, each using its part.

#![allow(dead_code, reason = "not every test uses every part")]

use std::env;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use kvd_client::{Client, Options};
use tempfile::TempDir;

/// Long enough for anything on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Finds a binary of etcd's. Says so when it is missing; with `KVD_REQUIRE_ALL=1` that is an error.
pub(crate) fn find(binary: &str) -> Option<PathBuf> {
    let folder = env::var_os("KVD_ETCD").map(PathBuf::from);
    let path = env::var_os("PATH").unwrap_or_default();
    let mut candidates = folder.into_iter().chain(env::split_paths(&path));
    let found = candidates.find_map(|folder| Some(folder.join(binary)).filter(|at| at.is_file()));
    if found.is_none() {
        let required = env::var_os("KVD_REQUIRE_ALL").is_some_and(|value| value == "1");
        assert!(!required, "{binary} is neither in KVD_ETCD nor on the PATH");
        eprintln!("SKIPPED: {binary} is neither in KVD_ETCD nor on the PATH");
    }
    found
}

/// A cluster on the loopback interface.
pub(crate) struct Cluster {
    pub(crate) members: Vec<Member>,
    _data: TempDir,
}

/// One process.
pub(crate) struct Member {
    /// `host:port` for clients.
    pub(crate) endpoint: String,
    process: Child,
}

impl Cluster {
    pub(crate) fn start(etcd: &Path, size: usize) -> Result<Self> {
        Self::start_on(etcd, &free_ports(2 * size)?)
    }

    /// Half of the ports are for clients, half for peers. A cluster on the same ports has the same
    /// ids.
    pub(crate) fn start_on(etcd: &Path, ports: &[u16]) -> Result<Self> {
        let data = TempDir::new()?;
        let size = ports.len() / 2;
        let peer = |at: usize| format!("http://127.0.0.1:{}", ports[size + at]);
        let all: Vec<_> = (0..size).map(|at| format!("m{at}={}", peer(at))).collect();
        let members = (0..size).map(|at| {
            let name = format!("m{at}");
            let endpoint = format!("127.0.0.1:{}", ports[at]);
            let client = format!("http://{endpoint}");
            let process = Command::new(etcd)
                .args(["--name", &name, "--log-level", "error"])
                .arg("--data-dir")
                .arg(data.path().join(&name))
                .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
                .args(["--listen-peer-urls", &peer(at)])
                .args(["--initial-advertise-peer-urls", &peer(at)])
                .args(["--initial-cluster", &all.join(",")])
                // Whoever asks for progress shall not wait ten minutes for it.
                .env("ETCD_EXPERIMENTAL_WATCH_PROGRESS_NOTIFY_INTERVAL", "200ms")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .with_context(|| format!("starting {}", etcd.display()))?;
            Ok(Member { endpoint, process })
        });
        let members = members.collect::<Result<_>>()?;
        Ok(Self { members, _data: data })
    }

    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| member.endpoint.clone()).collect()
    }
}

impl Member {
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("etcd at {} could not be killed: {error}", self.endpoint);
        }
    }
}

/// Ports that nobody held a moment ago; all are held at once, so that they differ.
pub(crate) fn free_ports(count: usize) -> Result<Vec<u16>> {
    let held: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

/// A patient client of all members, when the cluster serves.
pub(crate) async fn connect(endpoints: Vec<String>) -> Result<Client> {
    let options = Options::new(endpoints).request_timeout(PATIENCE);
    let client = Client::connect(options).await?;
    client.get("started").await?;
    Ok(client)
}
