//! Sixty clients while one of three members is killed, stands still, or is cut off.

use std::thread::park_timeout;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use kvd_client::{Client, Options};
use kvd_tests::cluster::process::{Cluster, Place, Program};
use tempfile::TempDir;

use crate::crowd::{Crowd, judge};
use crate::network::{Network, is_possible};

const CLIENTS: usize = 60;
/// Of these, what one of three members may serve.
const SHARE: std::ops::RangeInclusive<usize> = 12..=28;
/// How long a member stays away.
const AWAY: Duration = Duration::from_secs(5);
/// Within this, clients are spread as before.
const BALANCE_MAX: Duration = Duration::from_secs(60);
/// Within this, a member that is back serves.
const PATIENCE: Duration = Duration::from_secs(60);
/// Nobody waits longer where a follower, and where the leader is lost.
const LIMITS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(2)];
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug)]
enum Fault {
    Kill,
    Stop,
    CutOff,
}

#[test]
fn nobody_waits_long_for_a_killed_member() -> Result<()> {
    scene("nobody_waits_long_for_a_killed_member", Fault::Kill)
}

#[test]
fn nobody_waits_long_for_a_member_that_stands_still() -> Result<()> {
    scene("nobody_waits_long_for_a_member_that_stands_still", Fault::Stop)
}

#[test]
fn nobody_waits_long_for_a_member_that_is_cut_off() -> Result<()> {
    scene("nobody_waits_long_for_a_member_that_is_cut_off", Fault::CutOff)
}

struct Scene {
    // Dropped in this order: the processes end before their network.
    cluster: Cluster,
    network: Network,
    _folder: TempDir,
}

fn scene(test: &str, fault: Fault) -> Result<()> {
    if !is_possible(test) {
        return Ok(());
    }
    let mut scene = Scene::new()?;
    let crowd = Crowd::start(&scene.network, scene.cluster.endpoints(), CLIENTS)?;
    scene.until_spread(&crowd).context("at the beginning")?;
    for (is_leader, limit) in [(false, LIMITS[0]), (true, LIMITS[1])] {
        let member = scene.member(is_leader)?;
        let begin = Instant::now();
        scene.begin(fault, member)?;
        park_timeout(AWAY);
        let calls = crowd.since(begin);
        let who = if is_leader { "leader" } else { "follower" };
        let longest = judge(&calls, limit)
            .with_context(|| format!("{fault:?} of the {who}, begun at {begin:?}"))?;
        eprintln!("{fault:?} of the {who}: {} calls, longest waits {longest:?}", calls.len());
        scene.end(fault, member)?;
    }
    let back = Instant::now();
    scene.until_spread(&crowd).context("after the member was back")?;
    eprintln!("{fault:?}: spread as before after {:?}", back.elapsed());
    crowd.stop()
}

impl Scene {
    fn new() -> Result<Self> {
        let network = Network::new(3)?;
        let folder = TempDir::new()?;
        let place = |member| Place {
            folder: folder.path().to_owned(),
            address: Network::address(member),
            network: Some(network.name(member)),
        };
        let cluster = Cluster::start_at(&Program::kvd()?, (0..3).map(place).collect(), &[])?;
        Ok(Self { cluster, network, _folder: folder })
    }

    /// The member that leads, or one that does not.
    fn member(&self, is_leader: bool) -> Result<usize> {
        let endpoints = self.cluster.endpoints();
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            let leads: Vec<bool> =
                endpoints.iter().map(|endpoint| self.leads(endpoint)).collect::<Result<_>>()?;
            if leads.iter().filter(|leads| **leads).count() == 1 {
                let found = leads.iter().position(|leads| *leads == is_leader);
                return found.context("three members are there");
            }
            park_timeout(LOOK);
        }
        bail!("no leader was found")
    }

    fn leads(&self, endpoint: &str) -> Result<bool> {
        let endpoint = endpoint.to_owned();
        self.network.run(move || async move {
            let client = Client::lazy(Options::new([endpoint.clone()]))?;
            let status = client.with_timeout(Duration::from_secs(1)).status(&endpoint).await;
            // Who does not answer does not lead.
            let own = |header: Option<_>| {
                header
                    .map(|header: kvd_client::proto::etcdserverpb::ResponseHeader| header.member_id)
            };
            Ok(status.is_ok_and(|status| own(status.header) == Some(status.leader)))
        })
    }

    fn begin(&mut self, fault: Fault, member: usize) -> Result<()> {
        match fault {
            Fault::Kill => self.cluster.member(member).kill(),
            Fault::Stop => self.cluster.member(member).pause(),
            Fault::CutOff => self.network.cut_off(member),
        }
    }

    /// Until the member serves again.
    fn end(&mut self, fault: Fault, member: usize) -> Result<()> {
        match fault {
            Fault::Kill => self.cluster.member(member).restart()?,
            Fault::Stop => self.cluster.member(member).resume()?,
            Fault::CutOff => self.network.heal()?,
        }
        let endpoint = self.cluster.endpoints()[member].clone();
        self.network.run(move || async move {
            let client = Client::lazy(Options::new([endpoint]))?.with_timeout(PATIENCE);
            client.get("back").await?;
            Ok(())
        })
    }

    /// Each member serves its share of the clients and has its share of their connections.
    fn until_spread(&self, crowd: &Crowd) -> Result<()> {
        let begin = Instant::now();
        loop {
            let since = Instant::now();
            park_timeout(10 * LOOK);
            let served = crowd.served_by(since);
            let connections: Vec<usize> =
                (0..3).map(|member| self.network.connections(member)).collect::<Result<_>>()?;
            let fair = |count: &usize| SHARE.contains(count);
            let is_spread = served.len() == 3 && served.values().all(fair);
            if is_spread && connections.iter().all(fair) {
                return Ok(());
            }
            ensure!(begin.elapsed() < BALANCE_MAX, "served {served:?}, connected {connections:?}");
        }
    }
}
