//! Properties of the whole state machine over random histories.
//!
//! Repeat a failure with the seed that proptest prints: `cargo test -p kvd-core --test property`.

mod common;

use std::sync::Arc;

use kvd_core::checkpoint::CheckpointStore;
use kvd_core::checkpoint::mem::MemStore;
use kvd_core::command::{Entry, RangeQuery};
use kvd_core::event::Event;
use kvd_core::ids::Revision;
use kvd_core::outcome::Applied;
use kvd_core::range::KeyRange;
use kvd_core::state::{CompactProgress, Options, State};
use kvd_core::view::{Access, View};
use proptest::prelude::*;

const SMALL_CACHE: Options = Options { cache_bytes: 4096 };

fn open(store: &Arc<MemStore>) -> State {
    State::open(Arc::clone(store) as Arc<dyn CheckpointStore>, SMALL_CACHE).expect("opens")
}

fn apply(state: &mut State, log: &[Entry]) -> Vec<Applied> {
    log.iter().map(|entry| state.apply(entry, true).expect("applies")).collect()
}

fn checkpoint(state: &mut State, store: &MemStore) {
    let checkpoint = state.checkpoint();
    store.commit(&checkpoint).expect("commits");
    state.checkpointed(&checkpoint.meta);
}

fn finish_compaction(state: &mut State) {
    while state.compact_step(2).expect("compacts") == CompactProgress::More {}
}

/// Everything that a client can see of a View.
fn picture(view: &View) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    let first = view.compacted().map_or(1, |compacted| compacted.0.max(1));
    for revision in first..=view.revision().0 {
        let query = RangeQuery {
            revision: Some(Revision(revision)),
            ..RangeQuery::latest(KeyRange::all())
        };
        let answer = view.range(&query, Access::Disk).expect("reads");
        let hash = view.hash_kv(revision, Access::Disk).expect("hashes");
        writeln!(text, "{revision}: {answer:?} {hash:?}").expect("writes");
    }
    for event in history(view) {
        let previous = view.previous(&event, Access::Disk).expect("reads");
        writeln!(text, "{event:?} before {previous:?}").expect("writes");
    }
    let leases = view.leases().into_iter().map(|(id, _)| view.lease(id)).collect::<Vec<_>>();
    write!(
        text,
        "{:?} {:?} {:?} {leases:?} {:?} {:?} {:?} {:?} {}",
        view.at(),
        view.compacted(),
        view.state_hash(),
        view.members(),
        view.membership(),
        view.alarms(),
        view.cluster_version(),
        view.count(),
    )
    .expect("writes");
    text
}

fn history(view: &View) -> Vec<Event> {
    let mut events = Vec::new();
    let from = view.compacted().unwrap_or(Revision(0));
    view.scan(from, view.revision(), Access::Disk, &mut |event| {
        events.push(event);
        std::ops::ControlFlow::Continue(())
    })
    .expect("scans")
    .expect("is not compacted");
    events
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    /// Two members that apply the same log agree in everything, one of them building no answers (invariant 1).
    #[test]
    fn members_agree(commands in proptest::collection::vec(common::command(), 1..60)) {
        let log = common::entries(commands);
        let (mut leader, mut follower) = (open(&Arc::default()), open(&Arc::default()));
        for entry in &log {
            let at_leader = leader.apply(entry, true).expect("applies");
            let at_follower = follower.apply(entry, false).expect("applies");
            prop_assert_eq!(&at_leader.events, &at_follower.events);
            prop_assert_eq!(at_leader.revision, at_follower.revision);
            prop_assert_eq!(at_leader.outcome.err(), at_follower.outcome.err());
        }
        prop_assert_eq!(picture(&leader.publish()), picture(&follower.publish()));
        leader.check().expect("holds");
        follower.check().expect("holds");
    }

    /// A checkpoint at any point, opened again, with the rest of the log, is the state that never stopped;
    /// whatever physical compaction did meanwhile.
    #[test]
    fn checkpoint_and_tail_equal_full_replay(
        commands in proptest::collection::vec(common::command(), 1..80),
        cuts in proptest::collection::vec(0_usize..80, 1..4),
        sweeps in proptest::collection::vec(any::<bool>(), 4),
    ) {
        let log = common::entries(commands);
        let mut whole = open(&Arc::default());
        let answers = apply(&mut whole, &log);
        let store = Arc::new(MemStore::new());
        let mut state = open(&store);
        let mut next = 0;
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(log.len())).collect();
        cuts.sort_unstable();
        for (cut, sweep) in cuts.into_iter().zip(sweeps) {
            let applied = apply(&mut state, &log[next..cut.max(next)]);
            prop_assert_eq!(&answers[next..cut.max(next)], &applied[..]);
            next = cut.max(next);
            if sweep {
                state.publish();
                finish_compaction(&mut state);
            }
            state.check().expect("holds");
            checkpoint(&mut state, &store);
            state.check().expect("holds");
            let before = picture(&state.publish());
            state = open(&store);
            state.check().expect("holds after opening");
            prop_assert_eq!(before, picture(&state.view()));
        }
        let applied = apply(&mut state, &log[next..]);
        prop_assert_eq!(&answers[next..], &applied[..]);
        let seen = picture(&state.publish());
        whole.publish();
        prop_assert_eq!(&seen, &picture(&whole.view()));
        finish_compaction(&mut whole);
        whole.check().expect("holds");
        prop_assert_eq!(seen, picture(&whole.view()));
    }

    /// The events of apply are the history that a View shows, their previous keys included.
    #[test]
    fn history_repeats_what_was_applied(
        commands in proptest::collection::vec(common::command(), 1..60),
    ) {
        let log = common::entries(commands);
        let mut state = open(&Arc::default());
        let applied = apply(&mut state, &log);
        let view = state.publish();
        let after = view.compacted().unwrap_or(Revision(0));
        // Of the mark itself only the newest change of each key is kept, without what was before it.
        let seen: Vec<Event> =
            history(&view).into_iter().filter(|event| event.change.main > after).collect();
        let made: Vec<Event> = applied
            .into_iter()
            .flat_map(|applied| applied.events)
            .filter(|event| event.change.main > after)
            .collect();
        prop_assert_eq!(made, seen);
    }
}
