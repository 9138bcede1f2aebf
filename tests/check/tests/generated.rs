//! Correct histories are never accused.

mod common;

use common::{SMALL, generate, limits};

/// Histories of a default run; `KVD_SEEDS` says otherwise.
const HISTORIES: u64 = 10_000;

fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    match number("KVD_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("KVD_SEEDS").unwrap_or(HISTORIES),
    }
}

#[test]
fn correct_histories_are_not_accused() {
    for seed in seeds() {
        let recorded = generate(seed, SMALL);
        if let Err(violation) = recorded.check(limits()) {
            for feed in recorded.feeds.iter().filter(|_| seeds().count() == 1) {
                println!("{feed:?}");
            }
            panic!("KVD_SEED={seed}: {violation}");
        }
    }
}
