//! A member whose state differs from the others' is named, serves nothing, and is rebuilt; members that only
//! live through restarts, snapshots and compactions are never accused.

mod leader;
mod scene;

use std::time::Duration;

use kvd_core::command::AlarmKind;
use kvd_core::ids::MemberId;
use kvd_sim::machine::{Machine, id};
use tonic::Code;

use self::scene::{FORGED, NAMES, Scene, ensure_refused, is_fenced, names, serves, view, watch};

/// Lets a member's state differ; it must be found, named, kept from serving, and come back with the others'.
fn is_found_and_rebuilt(scene: &mut Scene, victim: usize) {
    let mut watched = scene.watch(victim);
    scene.write_some();
    assert!(watched.try_recv().is_err(), "watches are served");
    scene.forge(victim, FORGED);
    scene.until("it knows", |machines| is_fenced(&machines[victim]));
    scene.until("it is ready to be rebuilt", |machines| machines[victim].wants_rebuild());
    scene.pass(Duration::from_millis(100));
    assert_eq!(watched.try_recv().expect("no more events").code(), Code::Unavailable);
    ensure_refused(scene.ask(async move { Err::<(), _>(watch(victim).await) }));
    for other in (0..NAMES.len()).filter(|other| *other != victim) {
        scene.until("the others name it", |machines| names(&machines[other]) == [id(victim)]);
        assert!(serves(&scene.machines[other]));
    }
    assert_eq!(names(&scene.machines[victim]), [id(victim)]);
    assert!(!scene.machines[victim].node().expect("the member runs").is_ready());
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

/// The same, and the third does not come back for long: writes stop rather than go on with a wrong state, until it
/// does.
#[test]
fn two_that_differ_do_not_wait_for_ever() {
    let mut scene = Scene::new(7);
    let leader = scene.leader();
    let (victim, third) = ((leader + 1) % NAMES.len(), (leader + 2) % NAMES.len());
    // So little is written that the third can still be given the entries: it takes no disputed state.
    scene.pause(true);
    scene.sim.crash(NAMES[third]);
    scene.machines[third].crash(None);
    scene.forge(victim, FORGED);
    for _ in 0..10 {
        scene.put(leader).expect("two of three");
    }
    scene.until("the alarm is raised", |machines| {
        view(&machines[leader]).is_some_and(|view| !view.alarms().is_empty())
    });
    assert!(!is_fenced(&scene.machines[leader]) && !is_fenced(&scene.machines[victim]));
    scene.sim.bounce(NAMES[third]);
    scene.until("it is ready to be rebuilt", |machines| machines[victim].wants_rebuild());
    scene.restart(victim, None);
    scene.pause(false);
    scene.write_some();
    scene.ensure_all_is_well();
}

/// A leader and a follower differ, and the third needs a state: with the leader's that would become the
/// majority's, and whoever is right be rebuilt into what is wrong.
#[test]
fn a_disputed_state_is_not_taken() {
    let mut scene = Scene::new(9);
    let leader = scene.leader();
    let (right, third) = ((leader + 1) % NAMES.len(), (leader + 2) % NAMES.len());
    scene.pause(true);
    scene.sim.crash(NAMES[third]);
    scene.machines[third].crash(None);
    scene.forge(leader, FORGED);
    // The log that the third would need goes, so it needs a snapshot.
    for _ in 0..100 {
        scene.put(leader).expect("two of three");
    }
    scene.sim.bounce(NAMES[third]);
    scene.until("the alarm is raised", |machines| {
        view(&machines[leader]).is_some_and(|view| !view.alarms().is_empty())
    });
    scene.pass(Duration::from_secs(10));
    for member in [leader, right, third] {
        assert!(!is_fenced(&scene.machines[member]), "nobody knows who is right");
        assert!(names(&scene.machines[member]).is_empty(), "somebody was accused");
    }
    let sent = scene.machines[leader].node().map_or(0, |node| node.status().snapshot_sent_bytes);
    assert!(sent > 0, "it was never offered");
    let at = |member: usize| view(&scene.machines[member]).expect("it runs").at();
    assert!(at(third) < at(right), "the disputed state was taken");
}

/// A founder that comes when the beginning of the log is gone has no state, and so knows of no members but those
/// it founds the cluster with: it asks them before it takes a state.
#[test]
fn who_comes_late_is_given_a_state() {
    let mut scene = Scene::without(13, 2);
    for _ in 0..10 {
        scene.write_some();
    }
    scene.sim.bounce(NAMES[2]);
    scene.until("it serves", |machines| serves(&machines[2]));
    let sent =
        |machine: &Machine| machine.node().map_or(0, |node| node.status().snapshot_sent_bytes);
    assert!(scene.machines.iter().any(|machine| sent(machine) > 0), "no state was needed");
    scene.write_some();
    scene.ensure_all_is_well();
}

/// Restarts, power cuts, snapshots to members that were away, deletes, leases and compactions: states are equal
/// whatever way they came about.
#[test]
fn nobody_is_accused_of_living() {
    let mut snapshots = 0;
    for seed in 10..12 {
        let mut scene = Scene::new(seed);
        for round in 0..9 {
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

/// What was rebuilt and agrees for ten minutes may be rebuilt as often again.
#[test]
fn a_rebuild_is_forgotten_after_long_agreement() {
    let mut scene = Scene::with_tick(8, 50);
    let victim = (scene.leader() + 1) % NAMES.len();
    is_found_and_rebuilt(&mut scene, victim);
    scene.write_some();
    scene.pause(true);
    scene.pass(Duration::from_secs(500));
    assert_eq!(scene.machines[victim].rebuilds(), 1);
    scene.pass(Duration::from_secs(120));
    assert_eq!(scene.machines[victim].rebuilds(), 0);
    scene.pause(false);
    scene.ensure_all_is_well();
}
