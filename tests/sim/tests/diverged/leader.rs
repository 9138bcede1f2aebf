//! What must outlast its leader, or its link, and what must not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use kvd_core::command::RangeQuery;
use kvd_core::range::KeyRange;
use kvd_core::view::Access;
use kvd_proto::etcdserverpb as pb;
use kvd_proto::etcdserverpb::kv_client::KvClient;
use kvd_proto::etcdserverpb::lease_client::LeaseClient;
use kvd_proto::v3lockpb::lock_client::LockClient;
use kvd_proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest};
use kvd_sim::machine::{CLIENT_PORT, Machine};
use kvd_sim::net::channel;
use tokio::sync::oneshot;
use tonic::Status;

use super::scene::{FORGED, NAMES, Scene, is_fenced, serves, view};

/// Real time that a scene here may take.
const STUCK: Duration = Duration::from_secs(120);

fn others_than(member: usize) -> impl Iterator<Item = usize> {
    (0..NAMES.len()).filter(move |other| *other != member)
}

/// A leader finds that its state differs while leases run out all the time, and nobody takes leadership over at
/// once: what its state says of leases ends none, and nobody looks for what is due without end.
#[test]
fn a_fenced_leader_looks_for_no_due_leases() {
    // Who looks without end stops simulated time.
    let (done, is_done) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || {
        if is_done.recv_timeout(STUCK) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            eprintln!("time stands still");
            std::process::abort();
        }
    });
    let mut scene = Scene::new(14);
    let victim = scene.leader();
    let stop = Arc::new(AtomicBool::new(false));
    let granting = Arc::clone(&stop);
    scene.sim.client("grants", async move {
        let mut client = LeaseClient::new(channel(NAMES[victim], CLIENT_PORT));
        while !granting.load(Ordering::Relaxed) {
            let grant = client.lease_grant(pb::LeaseGrantRequest { ttl: 1, id: 0 });
            let _granted_or_not = tokio::time::timeout(Duration::from_millis(100), grant).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    });
    scene.pass(Duration::from_secs(3));
    scene.forge(victim, FORGED);
    scene.until("it knows", |machines| is_fenced(&machines[victim]));
    for other in others_than(victim) {
        scene.restart(other, None);
    }
    scene.until("another leads", |machines| others_than(victim).any(|at| machines[at].leads()));
    scene.until("it waits to be rebuilt", |machines| machines[victim].wants_rebuild());
    stop.store(true, Ordering::Relaxed);
    scene.restart(victim, None);
    scene.write_some();
    scene.ensure_all_is_well();
    drop(done);
}

/// Waits for the lock `l` at a member; tells how that ended.
fn wait_for_lock(
    scene: &mut Scene,
    member: usize,
    lease: i64,
) -> oneshot::Receiver<Result<LockResponse, Status>> {
    let (told, ended) = oneshot::channel();
    scene.sim.client(format!("waits-{lease}"), async move {
        let mut client = LockClient::new(channel(NAMES[member], CLIENT_PORT));
        let answer = client.lock(LockRequest { name: "l".into(), lease }).await;
        let _told = told.send(answer.map(tonic::Response::into_inner));
        Ok(())
    });
    ended
}

fn has(machine: &Machine, key: &'static str) -> bool {
    let key = KeyRange::new(Bytes::from_static(key.as_bytes()), Bytes::new());
    view(machine).is_some_and(|view| {
        let answer = view.range(&RangeQuery::latest(key), Access::Disk).expect("nothing is lost");
        !answer.expect("keys").kvs.is_empty()
    })
}

/// Just when a lock becomes free both other members die: who is next in line has to ask whose turn it is, and
/// there is nobody who could say. It asks until there is.
#[test]
fn who_waits_for_a_lock_asks_again_without_a_leader() {
    let mut scene = Scene::new(15);
    let at = (scene.leader() + 1) % NAMES.len();
    for id in [1, 2] {
        let granted = scene.ask(async move {
            let mut client = LeaseClient::new(channel(NAMES[at], CLIENT_PORT));
            client.lease_grant(pb::LeaseGrantRequest { ttl: 600, id }).await
        });
        granted.expect("a lease");
    }
    let mut held = wait_for_lock(&mut scene, at, 1);
    scene.until("the first has it", |machines| has(&machines[at], "l/1"));
    scene.pass(Duration::from_millis(100));
    assert!(held.try_recv().is_ok_and(|answer| answer.is_ok()), "it is free");
    let mut waits = wait_for_lock(&mut scene, at, 2);
    scene.until("the second waits", |machines| has(&machines[at], "l/2"));
    scene.sim.client("unlocks", async move {
        let mut client = LockClient::new(channel(NAMES[at], CLIENT_PORT));
        let _cut_off = client.unlock(UnlockRequest { key: "l/1".into() }).await;
        Ok(())
    });
    scene.until("it is free", |machines| !has(&machines[at], "l/1"));
    for other in others_than(at) {
        scene.sim.crash(NAMES[other]);
        scene.machines[other].crash(None);
    }
    // Longer than a member waits for a leader before it tells its client that there is none.
    scene.pass(Duration::from_secs(10));
    assert!(waits.try_recv().is_err(), "it was told something that nobody could know");
    for other in others_than(at) {
        scene.sim.bounce(NAMES[other]);
    }
    scene.until("all serve", |machines| machines.iter().all(serves));
    scene.write_some();
    let got = waits.try_recv().expect("it is its turn").expect("it has not lost its place");
    assert_eq!(&got.key[..], b"l/2");
    scene.ensure_all_is_well();
}

/// Writes at one member, ten at a time.
fn write_at(scene: &mut Scene, member: usize) {
    let written = scene.ask(async move {
        let client = KvClient::new(channel(NAMES[member], CLIENT_PORT));
        let put = |number: u32| {
            let mut client = client.clone();
            let key = format!("k/{}", number % 5).into();
            async move { client.put(pb::PutRequest { key, ..Default::default() }).await }
        };
        let mut written = 0;
        for first in (0..200).step_by(10) {
            let some = futures_util::future::join_all((first..first + 10).map(put)).await;
            written += some.iter().filter(|answer| answer.is_ok()).count();
        }
        written
    });
    assert_eq!(written, 200, "two of three");
}

/// A member has taken a state, and its leader does not hear of it for so long that the log from there on would
/// have been dropped several times: it stays for who will go on from there, so that no second state need follow.
#[test]
fn the_log_waits_for_a_state_that_is_on_its_way() {
    // In steps of a millisecond no answer comes in the step in which it is given.
    let mut scene = Scene::with_tick(16, 1);
    let leader = scene.leader();
    let late = (leader + 1) % NAMES.len();
    scene.pause(true);
    scene.sim.crash(NAMES[late]);
    scene.machines[late].crash(None);
    // The log goes only once the leader knows that it is gone.
    for _ in 0..3 {
        write_at(&mut scene, leader);
        scene.pass(Duration::from_secs(1));
    }
    scene.sim.bounce(NAMES[late]);
    let installs = |machine: &Machine| machine.glance().map(|glance| glance.installs);
    scene.until("it took the state", |machines| installs(&machines[late]) == Some(1));
    scene.sim.hold(NAMES[leader], NAMES[late]);
    let begun = scene.sim.elapsed();
    write_at(&mut scene, leader);
    assert!(scene.sim.elapsed() - begun < Duration::from_secs(4), "the link is taken for dead");
    scene.sim.release(NAMES[leader], NAMES[late]);
    scene.until("it serves", |machines| serves(&machines[late]));
    scene.pause(false);
    scene.write_some();
    assert_eq!(installs(&scene.machines[late]), Some(1), "the log after the first was gone");
    scene.ensure_all_is_well();
}
