//! Every mistake that can be put into the server is found by the simulator, within 200 seeds.
//!
//! `KVD_MUTANT=skip-fsync` looks for one only.

use kvd_core::mutants::Mutant;
use kvd_sim::batch::Runner;

/// Seeds that may be needed for one mutant.
const SEEDS: usize = 200;

/// The seed that found it last: tried first. Any change of the server or the simulator may move it.
const FOUND_BY: &[(&str, u64)] = &[];

#[test]
fn every_mutant_is_found() {
    let wanted = std::env::var("KVD_MUTANT").ok();
    let mut survivors = Vec::new();
    for mutant in Mutant::ALL.iter().map(|mutant| mutant.name()) {
        if wanted.as_deref().is_some_and(|wanted| wanted != mutant) {
            continue;
        }
        let program = env!("CARGO_BIN_EXE_kvd-sim").into();
        let runner = Runner { program, mutant: Some(mutant.to_owned()) };
        let known = FOUND_BY.iter().find(|(name, _)| *name == mutant).map(|(_, seed)| *seed);
        let seeds: Vec<u64> = known.into_iter().chain(0..).take(SEEDS).collect();
        let batch = runner.run_all(&seeds, true);
        match batch.failures.first() {
            Some(failure) => {
                let what = failure.what.lines().next().unwrap_or("");
                eprintln!("FOUND (\"{mutant}\", {}) after {}: {what}", failure.seed, batch.seeds);
            }
            None => survivors.push(mutant),
        }
    }
    assert!(survivors.is_empty(), "these live on after {SEEDS} seeds: {survivors:?}");
}

#[test]
fn known_seeds_are_of_mutants_that_exist() {
    for (name, _) in FOUND_BY {
        assert!(Mutant::ALL.iter().any(|mutant| mutant.name() == *name), "{name} is no mutant");
    }
}
