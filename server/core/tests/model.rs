//! The core against a naive model of etcd's KV that was written from behaviour.md alone.
//!
//! Every answer, event, revision, read and hash must be the model's, whatever compaction, checkpoints, crashes
//! and held Views do meanwhile. A failure prints the shortest history that shows it and how to repeat it;
//! `KVD_CASES` sets the number of histories.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod model {
    pub(crate) mod expect;
    pub(crate) mod hash;
    pub(crate) mod member;
    pub(crate) mod steps;
    pub(crate) mod store;
    pub(crate) mod txn;
    pub(crate) mod world;
}

use std::cell::Cell;
use std::hash::{BuildHasher, Hasher, RandomState};

use proptest::collection::vec;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use model::steps::step;
use model::world::World;

/// Histories in a run.
const CASES: u32 = 400;

/// Steps of one history.
const STEPS: std::ops::Range<usize> = 1..260;

/// Commands that such a run commits, at least: fewer would mean that most steps come to nothing.
const COMMITTED_MIN: usize = 20_000;

#[test]
fn the_core_does_what_the_model_does() {
    let cases = number("KVD_CASES").map_or(CASES, |cases| u32::try_from(cases).unwrap());
    let seed = number("KVD_SEED").unwrap_or_else(|| RandomState::new().build_hasher().finish());
    let config =
        Config { cases, max_shrink_iters: 4096, failure_persistence: None, ..Config::default() };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed.to_le_bytes().repeat(4));
    let committed = Cell::new(0);
    let outcome = TestRunner::new_with_rng(config, rng).run(&vec(step(), STEPS), |steps| {
        let mut world = World::new();
        let taken = steps.iter().try_for_each(|step| world.take(step));
        taken.and_then(|()| world.finish()).map_err(TestCaseError::fail)?;
        committed.set(committed.get() + world.commands());
        Ok(())
    });
    match outcome {
        Ok(()) => assert!(
            cases < CASES || committed.get() >= COMMITTED_MIN,
            "only {} commands in {cases} histories",
            committed.get()
        ),
        Err(TestError::Fail(reason, _)) => {
            panic!("{reason}\nagain: KVD_SEED={seed} cargo test -p kvd-core --test model")
        }
        Err(TestError::Abort(reason)) => panic!("{reason}"),
    }
}

fn number(variable: &str) -> Option<u64> {
    Some(std::env::var(variable).ok()?.parse().unwrap())
}
