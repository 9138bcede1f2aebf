//! Faults of real processes on real disks, and the proof that nothing acknowledged was lost.
//!
//! - [`caller`]: the API as blocking calls, for the test that breaks things.
//! - [`load`]: writers that go on whatever happens.
//! - [`ledger`]: what became of each write, and whether a store agrees with it.
//! - [`disk`]: a file system of its own whose power can be cut, and that can be filled.
//! - [`memory`]: a limit on the memory of a process.
//! - [`refusal`]: a start that must end with one clear line.

pub mod caller;
pub mod disk;
pub mod ledger;
pub mod load;
pub mod memory;
pub mod refusal;

use std::env;

use crate::tools;

/// A number from the environment: how often, how many.
pub fn number(name: &str, default: u64) -> u64 {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// The seed of this run's choices: `KVD_SEED`, else of this process; printed, so that a failure
/// can be repeated.
pub fn seed(test: &str) -> u64 {
    let seed = number("KVD_SEED", u64::from(std::process::id()));
    eprintln!("{test}: KVD_SEED={seed}");
    seed
}

/// Whether this process may mount and set limits and has all of these programs; says which is
/// missing, and fails under `KVD_REQUIRE_ALL=1`.
pub fn has_means(test: &str, programs: &[&str]) -> bool {
    if !rustix::process::geteuid().is_root() {
        tools::skip(test, "it needs root");
        return false;
    }
    if let Some(missing) = programs.iter().find(|name| tools::in_path(name).is_none()) {
        tools::skip(test, &format!("{missing} is missing"));
        return false;
    }
    true
}
