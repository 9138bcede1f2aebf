//! What a lease costs in memory, as ARCHITECTURE states it.
//!
//! A process of its own, so that nothing else grows meanwhile.

mod common;

use std::sync::Arc;
use std::time::Duration;

use kvd_core::checkpoint::CheckpointStore;
use kvd_core::checkpoint::mem::MemStore;
use kvd_core::command::{Command, LeaseGrant};
use kvd_core::ids::LeaseId;
use kvd_core::lease::deadlines::Deadlines;
use kvd_core::state::{Options, State};

/// Leases of one run; enough that what does not grow with them counts for nothing.
const LEASES: i64 = 200_000;

/// Bytes that a member may keep for one lease without keys, in the table and on its clock.
const BYTES_MAX: u64 = 240;

#[test]
fn a_lease_costs_what_is_stated() {
    let store = Arc::new(MemStore::new());
    let mut state = State::open(store as Arc<dyn CheckpointStore>, Options::DEFAULT).unwrap();
    let mut deadlines = Deadlines::new(Duration::from_secs(1));
    let Some(before) = resident_bytes() else {
        return;
    };
    for number in 1..=LEASES {
        // Ids that clients leave open are random: no order helps the tree.
        let id = LeaseId(number.wrapping_mul(0x9e37_79b9_7f4a_7c15_u64.cast_signed()) >> 1);
        let grant = LeaseGrant { id, ttl_seconds: 3600 };
        let entry = common::entry(number.unsigned_abs(), Command::LeaseGrant(grant));
        let applied = state.apply(&entry, false).unwrap();
        for change in applied.leases {
            deadlines.follow(change, Duration::from_millis(number.unsigned_abs()), true);
        }
        if number % 1000 == 0 {
            // What a checkpoint takes with it is no cost of a lease.
            drop(state.checkpoint());
        }
    }
    assert_eq!(i64::try_from(deadlines.count()), Ok(LEASES));
    let grown = resident_bytes().unwrap().saturating_sub(before);
    let each = grown / LEASES.unsigned_abs();
    assert!((80..=BYTES_MAX).contains(&each), "{each} bytes a lease");
}

/// Memory of this process; `None` where the system does not tell.
fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * 4096)
}
