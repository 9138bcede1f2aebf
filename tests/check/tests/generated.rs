//! Correct histories are never accused.
#![expect(clippy::print_stdout, reason = "figures of a run, and the one that is repeated")]

mod common;

use common::feed::limits;
use common::{SMALL, generate, seeds};
use kvd_check::Summary;

/// Histories of a default run; `KVD_SEEDS` says otherwise, `KVD_SEED` prints one.
const HISTORIES: u64 = 10_000;

#[test]
fn correct_histories_are_not_accused() {
    let mut total = Summary::default();
    for seed in seeds(HISTORIES) {
        let recorded = generate(seed, SMALL);
        let shown = recorded.feeds.iter().filter(|_| seeds(HISTORIES).count() == 1);
        shown.for_each(|feed| println!("{feed:?}"));
        let checked = recorded.check(limits());
        let summary = checked.unwrap_or_else(|violation| panic!("KVD_SEED={seed}: {violation}"));
        add(&mut total, &summary);
    }
    println!("{total:#?}");
    if seeds(HISTORIES).count() < 100 {
        return;
    }
    // The histories must have in them what could be judged wrongly.
    let each = [
        total.answered,
        total.refused,
        total.unknown,
        total.unknown_happened,
        total.watches,
        total.watch_events,
        total.lease_ends,
        total.acquisitions,
    ];
    assert!(each.iter().all(|count| *count > 100), "something never happens: {total:#?}");
    assert_eq!(total.unjudged, 0);
}

fn add(total: &mut Summary, one: &Summary) {
    total.operations += one.operations;
    total.answered += one.answered;
    total.refused += one.refused;
    total.unknown += one.unknown;
    total.unknown_happened += one.unknown_happened;
    total.revision += one.revision;
    total.watches += one.watches;
    total.watch_events += one.watch_events;
    total.lease_ends += one.lease_ends;
    total.acquisitions += one.acquisitions;
    total.unjudged += one.unjudged;
}
