//! Seeds that nothing may go wrong with, however much does.
//!
//! `KVD_SEEDS=1000` runs more of them, `KVD_SEED_FIRST=5000` others, `KVD_REPORT=path` writes down what they
//! were like.

use std::time::Instant;

use kvd_sim::batch::Runner;

/// Seeds of a run without wishes: about three minutes on two processors.
const SEEDS: u64 = 60;

/// Seeds whose logs are compared byte by byte.
const COMPARED: [u64; 2] = [3, 4];

/// Seeds that found a fault once, each with a word on what it was.
const KEPT: &[(u64, &str)] = &[
    (928, "who waited for the log without a record was never told in a full segment"),
    (469, "the same, in the middle of other trouble"),
    (2534, "a watch was begun while the end was judged"),
    (654, "a member applied what consensus, waiting for its log, had not said it committed"),
    (583, "a clock jumped before a renewal that did not go through the log"),
    (225, "the second opinion took a put for a delete, where the checker kept its request no more"),
];

/// What must have happened in a batch, or it shows nothing.
const NEEDED: &[&str] = &[
    "blackouts",
    "checkpoints lost",
    "clock jumps",
    "compactions applied",
    "cut links",
    "failing disks",
    "fast clocks",
    "full disks",
    "kills",
    "leader changes",
    "leaders cut off",
    "leaders held back",
    "leaders that heard nothing",
    "leases expired with keys",
    "leases revoked with keys",
    "links cut in one direction",
    "links held back",
    "lossy links",
    "members gone for good",
    "orderly stops",
    "power cuts",
    "power cuts in a checkpoint",
    "power cuts in a sync",
    "restarts",
    "rotten bits",
    "slow disks",
    "slow links",
    "snapshots installed",
    "snapshots sent",
    "stops for a failed device",
    "unknown outcomes that happened",
    "watch events",
    "watches ended by compaction",
    "watches resumed",
    "windows searched",
    "wiped disks",
    "witnesses ended by compaction",
    "wrong reads",
];

fn runner() -> Runner {
    Runner { program: env!("CARGO_BIN_EXE_kvd-sim").into(), mutant: None }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn faults_lose_and_invent_nothing() {
    let first = number("KVD_SEED_FIRST").unwrap_or(0);
    let count = number("KVD_SEEDS").unwrap_or(SEEDS);
    let seeds: Vec<u64> = (first..first + count).collect();
    let begin = Instant::now();
    let batch = runner().run_all(&seeds, false);
    let took = format!("{:>12}  seconds it took", begin.elapsed().as_secs());
    let text = format!("{took}\n{}\n", batch.text());
    eprintln!("{text}");
    if let Some(path) = std::env::var_os("KVD_REPORT") {
        std::fs::write(path, &text).unwrap();
    }
    assert!(batch.failures.is_empty(), "{} seeds failed, see above", batch.failures.len());
    for what in NEEDED {
        assert!(batch.coverage.of(what) > 0, "these seeds have no {what}");
    }
}

#[test]
fn a_seed_decides_every_byte() {
    for seed in COMPARED {
        let (one, other) = (runner().log(seed).unwrap(), runner().log(seed).unwrap());
        assert!(one.0.len() > 10_000, "hardly a log: {} bytes", one.0.len());
        assert!(one == other, "seed {seed} did not do the same twice");
    }
}

#[test]
fn kept_seeds_stay_true() {
    for (seed, what) in KEPT {
        eprintln!("{what}:");
        if let Err(failure) = runner().run(*seed) {
            panic!("{what}, again: {}", failure.what);
        }
    }
}
