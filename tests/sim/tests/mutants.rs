//! Mistakes that can be put into the server are found by the simulator, within 200 seeds.
//!
//! `KVD_MUTANT=skip-fsync` looks for one only. `KVD_MUTANTS_ANEW=1` forgets the seeds below, looks for all from
//! seed 0 on, and prints the rows of the list: `-- --nocapture` shows them.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use kvd_core::mutants::Mutant;
use kvd_sim::batch::Runner;

/// Seeds that may be needed for one mutant.
const SEEDS: usize = 200;

/// Mutants with the seed that found each last: it is tried first. Any change of the server or of the simulator
/// may move it, and makes this test slower until the list is true again:
/// `KVD_MUTANTS_ANEW=1 cargo test --profile sim -p kvd-sim --features mutants --test mutants -- --nocapture`.
const FOUND_BY: &[(&str, u64)] = &[
    ("ack-early", 20),
    ("answer-before-visible", 0),
    ("apply-not-awaited", 3),
    ("apply-twice", 1),
    ("checks-skipped", 4),
    ("compacted-skipped", 4),
    ("compaction-local", 1),
    ("compaction-too-far", 1),
    ("compare-stale", 1),
    ("discarded-retried", 4),
    ("event-before-apply", 5),
    ("event-lost-on-resume", 0),
    ("event-twice", 0),
    ("filter-forgotten", 0),
    ("folder-unsynced", 0),
    ("forward-retried", 7),
    ("gap-ignored", 2),
    ("incarnation-unchecked", 5),
    ("keep-alive-unconfirmed", 190),
    ("leader-assumed", 1),
    ("lease-by-wall-clock", 0),
    ("lease-leaves-key", 0),
    ("lease-not-detached", 0),
    ("lease-without-slack", 2),
    ("leases-not-attached", 0),
    ("leases-not-loaded", 1),
    ("no-read-barrier", 0),
    ("prev-kv-forgotten", 9),
    ("progress-overtakes", 0),
    ("purge-early", 1),
    ("read-index-reused", 1),
    ("rot-cut", 19),
    ("round-joined-late", 7),
    ("rows-before-meta", 10),
    ("silence-is-consent", 2),
    ("skip-fsync", 0),
    ("torn-tail-refused", 38),
    ("truncation-forgotten", 1),
    ("txn-torn-apart", 0),
    ("vote-forgotten", 0),
];

/// Mutants that the simulator did not find within its seeds, with who does: none at present.
const ELSEWHERE: &[(&str, &str)] = &[];

#[test]
fn every_mutant_is_found() {
    let wanted = std::env::var("KVD_MUTANT").ok();
    let is_listed = |wanted: &String| Mutant::ALL.iter().any(|mutant| mutant.name() == wanted);
    assert!(wanted.as_ref().is_none_or(is_listed), "{wanted:?} is no mutant");
    let anew = std::env::var_os("KVD_MUTANTS_ANEW").is_some();
    let found_before = FOUND_BY.iter().map(|(mutant, seed)| (*mutant, (!anew).then_some(*seed)));
    let never = ELSEWHERE.iter().filter(|(mutant, _)| anew || wanted.as_deref() == Some(*mutant));
    let rows: Vec<(&str, Option<u64>)> = found_before
        .chain(never.map(|(mutant, _)| (*mutant, None)))
        .filter(|(mutant, _)| wanted.as_deref().is_none_or(|wanted| wanted == *mutant))
        .collect();
    let found = in_parallel(&rows, |(mutant, known)| find(mutant, *known));
    for ((mutant, known), found) in rows.iter().zip(&found) {
        match found {
            Some(seed) if found != known => eprintln!("    (\"{mutant}\", {seed}),"),
            Some(_) => {}
            None => eprintln!("{mutant} lives on after {SEEDS} seeds"),
        }
    }
    // Without a mutant nothing is found, or finding one would say nothing.
    let healthy = Runner { program: env!("CARGO_BIN_EXE_kvd-sim").into(), mutant: None };
    let seeds: BTreeSet<u64> = found.iter().flatten().copied().collect();
    let seeds: Vec<u64> = seeds.into_iter().collect();
    let accused = in_parallel(&seeds, |seed| healthy.run(*seed).err());
    for failure in accused.iter().flatten() {
        eprintln!("seed {} fails without a mutant: {}", failure.seed, failure.what);
    }
    assert!(accused.iter().all(Option::is_none), "a seed fails without a mutant, see above");
    let is_known = |mutant: &str| FOUND_BY.iter().any(|row| row.0 == mutant);
    let survivors: Vec<&str> = rows
        .iter()
        .zip(&found)
        .filter(|((mutant, _), found)| found.is_none() && (!anew || is_known(mutant)))
        .map(|((mutant, _), _)| *mutant)
        .collect();
    assert!(survivors.is_empty(), "these live on after {SEEDS} seeds: {survivors:?}");
}

/// Looks for one, first with the seed that is known; answers the seed that finds it.
fn find(mutant: &str, known: Option<u64>) -> Option<u64> {
    let program = env!("CARGO_BIN_EXE_kvd-sim").into();
    let runner = Runner { program, mutant: Some(mutant.to_owned()) };
    known.into_iter().chain(0..).take(SEEDS).find(|seed| runner.run(*seed).is_err())
}

/// Does something to each, as many at once as there are processors; answers in their order.
fn in_parallel<T: Sync, R: Send>(all: &[T], each: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers.min(all.len()) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(one) = all.get(at) else { return };
                    let result = each(one);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((at, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
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
    assert!(FOUND_BY.len() >= 40);
}
