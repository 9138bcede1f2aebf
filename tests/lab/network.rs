//! A switch in a namespace, with a namespace for each member and one for the clients. Nothing of the machine's own
//! network is touched.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, anyhow, ensure};
use kvd_tests::tools;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::runtime::Builder;

/// Tests here measure time, and the machine has few processors.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The clients' place on the switch.
const CLIENTS: usize = 100;

/// See the module. Gone when dropped.
pub(crate) struct Network {
    prefix: String,
    members: usize,
    _alone: MutexGuard<'static, ()>,
}

/// Whether networks can be made here; says so if not, and fails in the gate.
pub(crate) fn is_possible(test: &str) -> bool {
    let missing = if !rustix::process::geteuid().is_root() {
        "root"
    } else if tools::in_path("ip").is_none() {
        "ip"
    } else if tools::in_path("nft").is_none() {
        "nft"
    } else {
        return true;
    };
    tools::skip(test, &format!("networks of its own need {missing}"));
    false
}

impl Network {
    /// One for so many members and a crowd of clients.
    pub(crate) fn new(members: usize) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("kvd{}x{count}", std::process::id());
        let network = Self { prefix, members, _alone: alone };
        let switch = network.switch();
        run("ip", &["netns", "add", &switch])?;
        run("ip", &["-n", &switch, "link", "add", "br0", "type", "bridge"])?;
        run("ip", &["-n", &switch, "link", "set", "br0", "up"])?;
        for place in (0..members).chain([CLIENTS]) {
            network.connect(place)?;
        }
        let table = "table bridge fault {
            set cut { typeof iifname . oifname; }
            chain forward { type filter hook forward priority 0; iifname . oifname @cut counter drop; }
        }";
        run("ip", &["netns", "exec", &switch, "nft", table])?;
        Ok(network)
    }

    fn connect(&self, place: usize) -> Result<()> {
        let (switch, name, port) = (self.switch(), self.name(place), format!("p{place}"));
        let address = format!("{}/24", address(place));
        run("ip", &["netns", "add", &name])?;
        run("ip", &["-n", &name, "link", "set", "lo", "up"])?;
        let pair = ["link", "add", "eth0", "netns", &name, "type", "veth", "peer", "name", &port];
        run("ip", &[&pair[..], &["netns", &switch]].concat())?;
        run("ip", &["-n", &name, "addr", "add", &address, "dev", "eth0"])?;
        run("ip", &["-n", &name, "link", "set", "eth0", "up"])?;
        run("ip", &["-n", &switch, "link", "set", &port, "master", "br0"])?;
        run("ip", &["-n", &switch, "link", "set", &port, "up"])
    }

    /// A member's address.
    pub(crate) fn address(member: usize) -> Ipv4Addr {
        address(member)
    }

    /// A member's namespace.
    pub(crate) fn name(&self, place: usize) -> String {
        format!("{}n{place}", self.prefix)
    }

    /// Drops all that is on its way to or from a member, without a word.
    pub(crate) fn cut_off(&self, member: usize) -> Result<()> {
        let others = (0..self.members).chain([CLIENTS]).filter(|other| *other != member);
        let pairs = others
            .flat_map(|other| [(member, other), (other, member)])
            .map(|(from, to)| format!("\"p{from}\" . \"p{to}\""));
        let pairs = pairs.collect::<Vec<_>>().join(", ");
        let command = format!("add element bridge fault cut {{ {pairs} }}");
        run("ip", &["netns", "exec", &self.switch(), "nft", &command])
    }

    /// Everything arrives again.
    pub(crate) fn heal(&self) -> Result<()> {
        run("ip", &["netns", "exec", &self.switch(), "nft", "flush set bridge fault cut"])
    }

    /// Does something in a thread of its own where the clients are.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<JoinHandle<Result<T>>> {
        let namespace = File::open(format!("/run/netns/{}", self.name(CLIENTS)))?;
        Ok(std::thread::spawn(move || {
            let network = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(namespace.as_fd(), network)
                .context("entering a namespace")?;
            work()
        }))
    }

    /// Waits for something that is done where the clients are.
    pub(crate) fn run<T: Send + 'static, F: Future<Output = Result<T>>>(
        &self,
        work: impl FnOnce() -> F + Send + 'static,
    ) -> Result<T> {
        let thread = self.spawn(|| {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async { work().await })
        })?;
        thread.join().map_err(|_| anyhow!("it panicked"))?
    }

    /// Connections of clients that a member has now.
    pub(crate) fn connections(&self, member: usize) -> Result<usize> {
        let filter = ["-Htn", "state", "established", "sport = :2379"];
        let name = self.name(member);
        let output =
            Command::new("ip").args(["netns", "exec", &name, "ss"]).args(filter).output()?;
        ensure!(output.status.success(), "ss: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).lines().count())
    }

    fn switch(&self) -> String {
        format!("{}sw", self.prefix)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let members = (0..self.members).chain([CLIENTS]).map(|place| self.name(place));
        for name in members.chain([self.switch()]) {
            // Half a network may be all there is.
            let _gone = run("ip", &["netns", "del", &name]);
        }
    }
}

fn address(place: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, u8::try_from(place + 1).unwrap_or(u8::MAX))
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {said}", arguments.join(" "));
    Ok(())
}
