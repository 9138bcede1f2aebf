//! Three members on one thread, simulated: network, disks and time follow from a seed.
//!
//! `KVD_SEEDS=1000` runs more seeds, `KVD_SEED=7` just one.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use kvd_tests::sim::nemesis::Coverage;
use kvd_tests::sim::run::{Report, run};

/// Seeds of a run without wishes.
const SEEDS: u64 = 8;

/// Real time after which a run is stuck.
const STUCK: Duration = Duration::from_secs(180);

/// Seeds that found a fault once, each with a word on what it was.
const KEPT: &[(u64, &str)] =
    &[(0, "who waited for another leader never slept again once consensus had failed")];

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// How to see a seed again.
fn again(seed: u64) -> String {
    format!("see it again: KVD_SEED={seed} cargo test -p kvd-tests --test sim -- --nocapture")
}

/// A task that never sleeps stops simulated time, and no clock of the simulation can tell: a real one does.
/// Whoever holds the answer is done in time.
fn watch_time(seed: u64) -> mpsc::Sender<()> {
    let (in_time, done) = mpsc::channel();
    std::thread::spawn(move || {
        if done.recv_timeout(STUCK) == Err(mpsc::RecvTimeoutError::Timeout) {
            eprintln!("seed {seed}: time stands still\n{}", again(seed));
            std::process::exit(1);
        }
    });
    in_time
}

/// Runs a seed; a failure says how to see it again.
fn run_or_tell(seed: u64) -> Report {
    let _in_time = watch_time(seed);
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
        Err(what) => panic!("seed {seed}: {what}\n{}", again(seed)),
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
