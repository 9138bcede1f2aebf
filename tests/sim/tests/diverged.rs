//! A member whose state differs from the others' is named, serves nothing, and is rebuilt; members that only
//! live through restarts, snapshots and compactions are never accused.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use kvd_core::command::{AlarmKind, RangeQuery};
use kvd_core::ids::MemberId;
use kvd_core::range::KeyRange;
use kvd_core::view::{Access, View};
use kvd_proto::etcdserverpb as pb;
use kvd_proto::etcdserverpb::kv_client::KvClient;
use kvd_proto::etcdserverpb::lease_client::LeaseClient;
use kvd_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use kvd_sim::machine::{CLIENT_PORT, Flags, Machine, NAMES as ALL_NAMES, id};
use kvd_sim::net::channel;
use tonic::{Code, Status};
use turmoil::{Builder, Sim};

/// The members' hosts.
const NAMES: &[&str] = ALL_NAMES.split_at(3).0;

/// Simulated time in which anything that is waited for must happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a member answers whose state differs.
const DIVERGED: &str = "the state of this member differs from the majority's";

/// The value of a put that was applied wrongly.
const FORGED: &str = "forged";

/// Three members, and a client that writes all the time.
struct Scene {
    sim: Sim<'static>,
    machines: Vec<Machine>,
    written: Arc<AtomicU64>,
    pause: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
}

impl Scene {
    fn new(seed: u64) -> Self {
        let mut sim = Builder::new()
            .rng_seed(seed)
            .enable_random_order()
            .tick_duration(Duration::from_millis(5))
            .tcp_capacity(4096)
            .max_message_latency(Duration::from_millis(5))
            .simulation_duration(Duration::from_secs(3600))
            .build();
        let flags = Flags {
            members: NAMES.len(),
            election_ms: 500,
            heartbeat_ms: 50,
            snapshot_count: 30,
            sync_ms: 4,
            progress_ms: 600_000,
            sample_entries: 8,
            compare_ms: 300,
        };
        let machines: Vec<Machine> =
            (0..NAMES.len()).map(|index| Machine::new(index, flags, seed + 100)).collect();
        for (machine, name) in machines.iter().zip(NAMES) {
            let machine = machine.clone();
            sim.host(*name, move || {
                let machine = machine.clone();
                async move {
                    machine.run().await;
                    Ok(())
                }
            });
        }
        let (written, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let pause = Arc::new(AtomicBool::new(false));
        let writer = (Arc::clone(&written), Arc::clone(&pause), Arc::clone(&stop));
        sim.client("writer", async move {
            write(&writer.0, &writer.1, &writer.2).await;
            Ok(())
        });
        let mut scene = Self { sim, machines, written, pause, stop };
        scene.until("all serve", |machines| machines.iter().all(serves));
        scene.write_some();
        scene
    }

    /// Goes on until this holds of the members.
    fn until(&mut self, what: &str, holds: impl Fn(&[Machine]) -> bool) {
        let deadline = self.sim.elapsed() + PATIENCE;
        while !holds(&self.machines) {
            self.step();
            assert!(self.sim.elapsed() < deadline, "never: {what}");
        }
    }

    /// Goes on for so long.
    fn pass(&mut self, time: Duration) {
        let end = self.sim.elapsed() + time;
        while self.sim.elapsed() < end {
            self.step();
        }
    }

    /// Goes on until the client has written some more.
    fn write_some(&mut self) {
        let (written, enough) =
            (Arc::clone(&self.written), self.written.load(Ordering::Relaxed) + 20);
        self.until("writes succeed", |_| written.load(Ordering::Relaxed) >= enough);
    }

    fn step(&mut self) {
        self.sim.step().unwrap();
        for machine in &self.machines {
            assert_eq!(machine.stopped(), None, "a member stopped");
        }
    }

    /// Starts a member again, its process only, or its machine too.
    fn restart(&mut self, member: usize, power_fails: Option<u64>) {
        self.sim.crash(NAMES[member]);
        self.machines[member].crash(power_fails);
        self.sim.bounce(NAMES[member]);
    }

    /// Who leads, by what the members say themselves: their clocks stand still between two steps.
    fn leader(&mut self) -> usize {
        let deadline = self.sim.elapsed() + PATIENCE;
        loop {
            for (member, name) in NAMES.iter().enumerate() {
                let status = self.ask(async move {
                    let mut client = MaintenanceClient::new(channel(name, CLIENT_PORT));
                    client.status(pb::StatusRequest {}).await.map(tonic::Response::into_inner)
                });
                if status.is_ok_and(|status| status.leader == id(member).0) {
                    return member;
                }
            }
            assert!(self.sim.elapsed() < deadline, "nobody leads");
        }
    }

    /// Lets the client rest, or go on; what it asked for before is answered.
    fn pause(&mut self, pause: bool) {
        self.pause.store(pause, Ordering::Relaxed);
        if pause {
            self.pass(Duration::from_secs(3));
        }
    }

    /// From its next put on, this member's state differs.
    fn forge(&self, member: usize, value: &'static str) {
        self.machines[member].node().unwrap().forge_next_put(Bytes::from_static(value.as_bytes()));
    }

    /// What a call of a client gives.
    fn ask<T: Send + 'static>(&mut self, call: impl Future<Output = T> + Send + 'static) -> T {
        let (answer, mut answered) = tokio::sync::oneshot::channel();
        self.sim.client(format!("asker-{}", self.sim.elapsed().as_nanos()), async move {
            let _waited_for = answer.send(call.await);
            Ok(())
        });
        let deadline = self.sim.elapsed() + PATIENCE;
        loop {
            self.step();
            if let Ok(answer) = answered.try_recv() {
                return answer;
            }
            assert!(self.sim.elapsed() < deadline, "no answer");
        }
    }

    fn read(&mut self, member: usize, serializable: bool) -> Result<pb::RangeResponse, Status> {
        self.ask(async move {
            let key = Bytes::from_static(b"k/0");
            let range = pb::RangeRequest { key, serializable, ..Default::default() };
            let mut client = KvClient::new(channel(NAMES[member], CLIENT_PORT));
            client.range(range).await.map(tonic::Response::into_inner)
        })
    }

    fn put(&mut self, member: usize) -> Result<(), Status> {
        self.ask(async move {
            let mut client = KvClient::new(channel(NAMES[member], CLIENT_PORT));
            client.put(put("k/0", "more")).await.map(|_answer| ())
        })
    }

    /// Ends the writing; then all members have the same state, and nothing in it was forged.
    fn ensure_all_is_well(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.until("all are trusted", |machines| {
            machines.iter().all(|machine| serves(machine) && names(machine).is_empty())
        });
        self.until("all have applied the same", |machines| {
            let views: Vec<View> = machines.iter().filter_map(view).collect();
            views.len() == machines.len() && views.windows(2).all(|two| two[0].at() == two[1].at())
        });
        let views: Vec<View> = self.machines.iter().filter_map(view).collect();
        for view in &views {
            assert_eq!(view.state_hash(), views[0].state_hash());
            let hash = |view: &View| view.hash_kv(0, Access::Disk).unwrap().unwrap();
            assert_eq!(hash(view), hash(&views[0]));
            let every = RangeQuery::latest(KeyRange::From(Bytes::from_static(b"\0")));
            let answer = view.range(&every, Access::Disk).unwrap().unwrap();
            assert!(!answer.kvs.is_empty());
            let forged = format!("{answer:?}").contains(FORGED);
            assert!(!forged, "a wrong value is there: {answer:?}");
            assert!(view.alarms().is_empty(), "{:?}", view.alarms());
        }
    }
}

fn view(machine: &Machine) -> Option<View> {
    machine.node().map(|node| node.view())
}

fn serves(machine: &Machine) -> bool {
    machine.node().is_some_and(|node| node.is_ready() && !node.fence().is_raised())
}

fn is_fenced(machine: &Machine) -> bool {
    machine.node().is_some_and(|node| node.fence().is_raised())
}

/// Whom a member accuses, itself included.
fn names(machine: &Machine) -> Vec<MemberId> {
    let Some(node) = machine.node() else { return Vec::new() };
    let differs = node.status().state_differs;
    differs.into_iter().filter(|(_, differs)| *differs).map(|(id, _)| id).collect()
}

fn put(key: &str, value: &str) -> pb::PutRequest {
    let (key, value) = (key.to_owned().into(), value.to_owned().into());
    pb::PutRequest { key, value, ..Default::default() }
}

/// Writes: mostly puts, and of everything else that changes the state a little. Failures are passed over.
async fn write(written: &AtomicU64, pause: &AtomicBool, stop: &AtomicBool) {
    let mut revision = 0;
    for number in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        if pause.load(Ordering::Relaxed) {
            continue;
        }
        let name = NAMES[usize::try_from(number / 7 % 3).unwrap()];
        let some = tokio::time::timeout(Duration::from_secs(2), write_one(name, number, revision));
        if let Ok(Ok(header)) = some.await {
            revision = header.unwrap_or_default().revision;
            written.fetch_add(1, Ordering::Relaxed);
        }
    }
}

async fn write_one(
    name: &'static str,
    number: u64,
    revision: i64,
) -> Result<Option<pb::ResponseHeader>, Status> {
    let mut kv = KvClient::new(channel(name, CLIENT_PORT));
    let key = format!("k/{}", number % 5);
    match number % 40 {
        13 => {
            let delete = pb::DeleteRangeRequest { key: key.into(), ..Default::default() };
            Ok(kv.delete_range(delete).await?.into_inner().header)
        }
        21 => {
            let grant = pb::LeaseGrantRequest { ttl: 60, id: 0 };
            let granted = LeaseClient::new(channel(name, CLIENT_PORT)).lease_grant(grant).await?;
            let lease = granted.into_inner().id;
            let leased = pb::PutRequest { lease, ..put("k/leased", &number.to_string()) };
            Ok(kv.put(leased).await?.into_inner().header)
        }
        34 if revision > 30 => {
            let compact = pb::CompactionRequest { revision: revision - 10, physical: false };
            kv.compact(compact).await?;
            Ok(Some(pb::ResponseHeader { revision, ..Default::default() }))
        }
        _ => Ok(kv.put(put(&key, &number.to_string())).await?.into_inner().header),
    }
}

fn ensure_refused<T: std::fmt::Debug>(answer: Result<T, Status>) {
    let status = answer.expect_err("a wrong state was served");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.message().contains(DIVERGED), "{status:?}");
}

/// Lets a member's state differ; it must be found, named, kept from serving, and come back with the others'.
fn is_found_and_rebuilt(scene: &mut Scene, victim: usize) {
    scene.forge(victim, FORGED);
    scene.until("it knows", |machines| is_fenced(&machines[victim]));
    scene.until("it is ready to be rebuilt", |machines| machines[victim].wants_rebuild());
    for other in (0..NAMES.len()).filter(|other| *other != victim) {
        scene.until("the others name it", |machines| names(&machines[other]) == [id(victim)]);
        assert!(serves(&scene.machines[other]));
    }
    assert_eq!(names(&scene.machines[victim]), [id(victim)]);
    assert!(!scene.machines[victim].node().unwrap().is_ready());
    ensure_refused(scene.read(victim, true));
    ensure_refused(scene.read(victim, false));
    ensure_refused(scene.put(victim));
    assert_ne!(scene.leader(), victim);
    // Two of three go on.
    scene.write_some();
    scene.restart(victim, None);
    scene.until("it serves again", |machines| serves(&machines[victim]));
}

#[test]
fn a_follower_that_diverged_is_rebuilt() {
    let mut scene = Scene::new(1);
    let victim = (scene.leader() + 1) % NAMES.len();
    is_found_and_rebuilt(&mut scene, victim);
    scene.write_some();
    scene.ensure_all_is_well();
}

#[test]
fn a_leader_that_diverged_hands_over_and_is_rebuilt() {
    let mut scene = Scene::new(2);
    let victim = scene.leader();
    is_found_and_rebuilt(&mut scene, victim);
    scene.write_some();
    scene.ensure_all_is_well();
}

/// Power fails while it is rebuilt: it begins again, and the wrong state is never used.
#[test]
fn a_rebuild_survives_power_cuts() {
    let mut scene = Scene::new(3);
    let victim = (scene.leader() + 1) % NAMES.len();
    scene.forge(victim, FORGED);
    scene.until("it is ready to be rebuilt", |machines| machines[victim].wants_rebuild());
    for ms in [1, 10, 30, 60, 100, 200] {
        scene.restart(victim, Some(ms));
        scene.pass(Duration::from_millis(ms));
        assert!(!names(&scene.machines[victim]).contains(&id(victim)), "the wrong state was used");
    }
    scene.restart(victim, Some(0));
    scene.until("it serves again", |machines| serves(&machines[victim]));
    scene.write_some();
    scene.ensure_all_is_well();
}

#[test]
fn a_member_that_diverges_again_and_again_stays_out() {
    let mut scene = Scene::new(4);
    let victim = (scene.leader() + 1) % NAMES.len();
    for _ in 0..3 {
        is_found_and_rebuilt(&mut scene, victim);
        scene.write_some();
    }
    scene.forge(victim, FORGED);
    scene.until("it knows", |machines| is_fenced(&machines[victim]));
    scene.pass(Duration::from_secs(10));
    assert!(!scene.machines[victim].wants_rebuild(), "rebuilt for ever");
    ensure_refused(scene.read(victim, true));
    scene.write_some();
    // Who starts it again wants it to be tried once more.
    scene.restart(victim, None);
    scene.until("it serves again", |machines| serves(&machines[victim]));
    scene.ensure_all_is_well();
}

/// Three states: nobody knows who is right, so nobody is rebuilt, and all writes stop.
#[test]
fn without_a_majority_the_alarm_stops_all_writes() {
    let mut scene = Scene::new(5);
    let leader = scene.leader();
    // At the same entry, or the first to differ would have a majority against it.
    scene.pause(true);
    scene.forge(leader, "forged here");
    scene.forge((leader + 1) % NAMES.len(), "forged there");
    scene.put(leader).expect("nobody knows yet");
    scene.pause(false);
    let raised = |machine: &Machine| {
        let alarms = view(machine).map(|view| view.alarms().clone()).unwrap_or_default();
        alarms.into_iter().eq([(MemberId(0), AlarmKind::Corrupt)])
    };
    scene.until("the alarm is raised", |machines| machines.iter().all(raised));
    for member in 0..NAMES.len() {
        let refused = scene.put(member).expect_err("a write into a cluster that is corrupt");
        assert_eq!(refused.code(), Code::DataLoss, "{refused:?}");
        assert_eq!(refused.message(), "etcdserver: corrupt cluster");
        scene.read(member, true).expect("reads go on");
    }
    scene.pass(Duration::from_secs(5));
    for machine in &scene.machines {
        assert!(!is_fenced(machine) && names(machine).is_empty(), "somebody was accused");
    }
}

/// One of two that differ is wrong, but only the third knows which: it decides when it comes back.
#[test]
fn two_that_differ_wait_for_the_third() {
    let mut scene = Scene::new(6);
    let leader = scene.leader();
    let (victim, third) = ((leader + 1) % NAMES.len(), (leader + 2) % NAMES.len());
    scene.sim.crash(NAMES[third]);
    scene.machines[third].crash(None);
    scene.forge(victim, FORGED);
    scene.pass(Duration::from_secs(5));
    let accused =
        |machines: &[Machine]| machines.iter().any(|it| is_fenced(it) || !names(it).is_empty());
    assert!(!accused(&scene.machines), "nobody knows yet");
    scene.sim.bounce(NAMES[third]);
    scene.until("it is ready to be rebuilt", |machines| machines[victim].wants_rebuild());
    scene.restart(victim, None);
    scene.write_some();
    scene.ensure_all_is_well();
}

/// The same, and the third does not come back: writes stop rather than go on with a wrong state.
#[test]
fn two_that_differ_do_not_wait_for_ever() {
    let mut scene = Scene::new(7);
    let leader = scene.leader();
    let (victim, third) = ((leader + 1) % NAMES.len(), (leader + 2) % NAMES.len());
    scene.sim.crash(NAMES[third]);
    scene.machines[third].crash(None);
    scene.forge(victim, FORGED);
    scene.until("the alarm is raised", |machines| {
        view(&machines[leader]).is_some_and(|view| !view.alarms().is_empty())
    });
    assert!(!is_fenced(&scene.machines[leader]) && !is_fenced(&scene.machines[victim]));
}

/// Restarts, power cuts, snapshots to members that were away, deletes, leases and compactions: states are equal
/// whatever way they came about.
#[test]
fn nobody_is_accused_of_living() {
    let mut snapshots = 0;
    for seed in 10..13 {
        let mut scene = Scene::new(seed);
        for round in 0..12 {
            let member = usize::try_from((seed + round) % 3).unwrap();
            let power_fails = (round % 2 == 0).then_some(seed + round);
            scene.sim.crash(NAMES[member]);
            scene.machines[member].crash(power_fails);
            // Long enough away, and the log it would need is gone.
            if round % 3 == 0 {
                for _ in 0..5 {
                    scene.write_some();
                }
            }
            scene.sim.bounce(NAMES[member]);
            scene.until("it serves again", |machines| serves(&machines[member]));
            scene.write_some();
            let sent = |machine: &Machine| {
                machine.node().map_or(0, |node| node.status().snapshot_sent_bytes)
            };
            snapshots += scene.machines.iter().map(sent).max().unwrap_or(0);
            for machine in &scene.machines {
                assert!(!is_fenced(machine) && names(machine).is_empty(), "seed {seed}");
            }
        }
        scene.ensure_all_is_well();
    }
    assert!(snapshots > 0, "no state was ever sent");
}
