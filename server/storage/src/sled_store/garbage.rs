//! Deletes records that are no longer part of the state, a bounded number with each commit (hazard A1).
//!
//! A record named by a mark goes first; its mark goes with a later commit, when the record's absence has
//! been made durable by that commit's syncs. In the other order a crash would bring the record back.

use std::sync::PoisonError;

use kvd_core::checkpoint::StoreError;

use super::keys::{self, Name};
use super::{SledStore, commit, failed, items};

/// Marks looked at with each commit, beside four for each record that the commit itself made garbage: each
/// mark is looked at twice, so the collector catches up.
const STEP_MARKS: usize = 1024;

/// Marks handled under one hold of the lock that readers share.
const HOLD_MARKS: usize = 32;

/// Deletes some of what is garbage as of a durable checkpoint. Leaves all as it is while somebody visits
/// everything, rather than take records away from under them.
pub(super) fn collect(store: &SledStore, durable: u64, fresh: usize) -> Result<(), StoreError> {
    let Ok(_no_visits) = store.visits.try_write() else {
        return Ok(());
    };
    forget_older_metas(store, durable)?;
    let marks: Vec<sled::IVec> = store
        .tree
        .scan_prefix([keys::GARBAGE])
        .keys()
        .take(STEP_MARKS + 4 * fresh)
        .collect::<Result<_, _>>()
        .map_err(failed)?;
    for batch in marks.chunks(HOLD_MARKS) {
        let _no_reads = store.reads.write().unwrap_or_else(PoisonError::into_inner);
        for key in batch {
            collect_one(store, key, durable)?;
        }
    }
    commit::flush(store)
}

fn collect_one(store: &SledStore, mark: &sled::IVec, durable: u64) -> Result<(), StoreError> {
    let Some((Name::Garbage { dead, sequence }, _)) = Name::parse(mark) else {
        return Err(StoreError::Corrupt(format!("unknown mark {}", items::hex(mark))));
    };
    if sequence > durable {
        return Ok(());
    }
    let mut gone = true;
    for key in store.tree.scan_prefix(&dead).keys() {
        store.tree.remove(key.map_err(failed)?).map_err(failed)?;
        gone = false;
    }
    if gone {
        store.tree.remove(mark).map_err(failed)?;
    }
    Ok(())
}

fn forget_older_metas(store: &SledStore, durable: u64) -> Result<(), StoreError> {
    for key in store.tree.range(vec![keys::META]..keys::meta(durable)).keys() {
        store.tree.remove(key.map_err(failed)?).map_err(failed)?;
    }
    Ok(())
}
