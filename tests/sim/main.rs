//! Three members on one thread, simulated: network, disks and time follow from a seed.
//!
//! `KVD_SEEDS=1000` runs more seeds, `KVD_SEED=7` just one.

use std::time::{Duration, Instant};

use kvd_tests::sim::nemesis::Coverage;
use kvd_tests::sim::run::{Report, run};

/// Seeds of a run without wishes.
const SEEDS: u64 = 8;

/// Seeds that found a fault once, each with a word on what it was.
const KEPT: &[(u64, &str)] =
    &[(1, "who waited for another leader never slept again once consensus had failed")];

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs a seed; a failure says how to see it again.
fn run_or_tell(seed: u64) -> Report {
    let begin = Instant::now();
    match run(seed) {
        Ok(report) => {
            let (calls, revisions) = (report.calls, report.revisions);
            let (took, converged) = (begin.elapsed(), report.converged_after);
            eprintln!(
                "seed {seed}: {calls} calls, {revisions} revisions, converged after {converged:?}, \
                 {took:.1?}, digest {:016x}, {:?}",
                report.digest, report.coverage
            );
            report
        }
        Err(what) => panic!(
            "seed {seed}: {what}\nsee it again: KVD_SEED={seed} cargo test -p kvd-tests --test sim -- --nocapture"
        ),
    }
}

#[test]
fn faults_lose_and_invent_nothing() {
    if let Some(seed) = number("KVD_SEED") {
        run_or_tell(seed);
        return;
    }
    let mut sum = Coverage::default();
    let mut slowest = Duration::ZERO;
    let seeds = number("KVD_SEEDS").unwrap_or(SEEDS);
    for seed in 0..seeds {
        let report = run_or_tell(seed);
        slowest = slowest.max(report.converged_after);
        sum.add(&report.coverage);
    }
    eprintln!("slowest to converge: {slowest:?}; {sum:?}");
    let happened = [
        ("leader changes", (sum.terms as u64).saturating_sub(seeds)),
        ("kills", sum.kills),
        ("power cuts", sum.power_cuts),
        ("power cuts in a sync", sum.cuts_in_sync),
        ("restarts", sum.restarts),
        ("partitions", sum.partitions + sum.one_way_cuts),
        ("checkpoints", sum.checkpoints),
    ];
    for (what, times) in happened {
        assert!(times > 0, "the seeds have no {what}: {sum:?}");
    }
}

#[test]
fn kept_seeds_stay_true() {
    for (seed, what) in KEPT {
        eprintln!("{what}:");
        run_or_tell(*seed);
    }
}
