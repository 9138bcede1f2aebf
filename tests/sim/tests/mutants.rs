//! Mistakes that can be put into the server are found by the simulator, within 200 seeds.
//!
//! `KVD_MUTANT=skip-fsync` looks for one only.

use std::collections::BTreeSet;

use kvd_core::mutants::Mutant;
use kvd_sim::batch::Runner;

/// Seeds that may be needed for one mutant.
const SEEDS: usize = 200;

/// Mutants with the seed that found each last: it is tried first. Any change of the server or of the simulator
/// may move it.
const FOUND_BY: &[(&str, u64)] = &[
    ("ack-early", 1),
    ("apply-not-awaited", 1),
    ("apply-twice", 1),
    ("checks-skipped", 1),
    ("compacted-skipped", 6),
    ("compaction-local", 1),
    ("compaction-too-far", 1),
    ("compare-stale", 0),
    ("event-before-apply", 0),
    ("event-lost-on-resume", 0),
    ("event-twice", 0),
    ("filter-forgotten", 1),
    ("folder-unsynced", 0),
    ("forward-retried", 1),
    ("gap-ignored", 26),
    ("incarnation-unchecked", 2),
    ("leader-assumed", 2),
    ("lease-by-wall-clock", 0),
    ("lease-leaves-key", 0),
    ("lease-not-detached", 0),
    ("lease-without-slack", 7),
    ("leases-not-attached", 0),
    ("leases-not-loaded", 17),
    ("no-read-barrier", 0),
    ("purge-early", 0),
    ("read-index-reused", 0),
    ("round-joined-late", 17),
    ("rows-before-meta", 0),
    ("silence-is-consent", 1),
    ("skip-fsync", 0),
    ("torn-tail-refused", 6),
    ("truncation-forgotten", 0),
    ("txn-torn-apart", 0),
    ("vote-forgotten", 0),
];

/// Mutants that the simulator did not find within its seeds, with who does.
const ELSEWHERE: &[(&str, &str)] = &[
    ("answer-before-visible", "nobody: no client reads its own write without a barrier here"),
    ("discarded-retried", "kvd raft::tests::only_who_is_sent_on_was_not_appended"),
    ("keep-alive-unconfirmed", "nobody: a leader alone must keep a lease alive that others end"),
    ("prev-kv-forgotten", "kvd node::watch::tests::previous_values_are_for_those_who_want_them"),
    ("progress-overtakes", "kvd node::watch::tests::progress_is_told_when_all_are_there"),
    ("rot-cut", "kvd-storage log_damage::each_flipped_bit_is_refused_or_without_effect"),
];

#[test]
fn every_mutant_is_found() {
    let wanted = std::env::var("KVD_MUTANT").ok();
    let is_listed = |wanted: &String| Mutant::ALL.iter().any(|mutant| mutant.name() == wanted);
    assert!(wanted.as_ref().is_none_or(is_listed), "{wanted:?} is no mutant");
    // Without a mutant nothing is found, or finding one would say nothing.
    let healthy = Runner { program: env!("CARGO_BIN_EXE_kvd-sim").into(), mutant: None };
    let seeds: BTreeSet<u64> = FOUND_BY.iter().map(|row| row.1).collect();
    let control = healthy.run_all(&seeds.into_iter().collect::<Vec<u64>>(), false);
    assert!(control.failures.is_empty(), "these seeds fail without a mutant");
    let mut survivors = Vec::new();
    for (mutant, known) in FOUND_BY {
        if wanted.as_deref().is_some_and(|wanted| wanted != *mutant) {
            continue;
        }
        if !is_found(mutant, Some(*known)) {
            survivors.push(*mutant);
        }
    }
    for (mutant, _) in ELSEWHERE.iter().filter(|(name, _)| wanted.as_deref() == Some(*name)) {
        if !is_found(mutant, None) {
            survivors.push(*mutant);
        }
    }
    assert!(survivors.is_empty(), "these live on after {SEEDS} seeds: {survivors:?}");
}

/// Looks for one; says with which seed it was found.
fn is_found(mutant: &str, known: Option<u64>) -> bool {
    let program = env!("CARGO_BIN_EXE_kvd-sim").into();
    let runner = Runner { program, mutant: Some(mutant.to_owned()) };
    let seeds: Vec<u64> = known.into_iter().chain(0..).take(SEEDS).collect();
    let batch = runner.run_all(&seeds, true);
    if let Some(failure) = batch.failures.first() {
        eprintln!("{mutant} was found by seed {} after {} seeds", failure.seed, batch.seeds);
    }
    !batch.failures.is_empty()
}

#[test]
fn every_mutant_stands_in_one_list() {
    let listed: Vec<&str> =
        FOUND_BY.iter().map(|row| row.0).chain(ELSEWHERE.iter().map(|row| row.0)).collect();
    for mutant in Mutant::ALL.iter().map(|mutant| mutant.name()) {
        let times = listed.iter().filter(|name| **name == mutant).count();
        assert_eq!(times, 1, "{mutant} stands in {times} lists");
    }
    assert_eq!(listed.len(), Mutant::ALL.len(), "a list has a mutant that does not exist");
    assert!(FOUND_BY.len() >= 25);
}
