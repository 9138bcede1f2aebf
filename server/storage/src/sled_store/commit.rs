//! One commit: plan, room, records, sync, meta, sync, witness, and then some garbage.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use kvd_core::checkpoint::{Checkpoint, StoreError, Table};

use super::keys::{self, Name};
use super::meta::{Covered, digest};
use super::{SledStore, failed, garbage, items, verify};

/// Bytes written between two flushes: one flush must not hold up the log's syncs for long (hazard D6).
const FLUSH_BYTES: u64 = 1024 * 1024;

/// Free bytes that a commit leaves in any case; sled writes whole segments of 512 KiB and moves pages.
const SPARE_BYTES: u64 = 16 * 1024 * 1024;

/// sled writes a page anew for most of its items.
const WRITE_FACTOR: u64 = 3;

/// All that a commit will write, decided before anything is written.
struct Plan {
    /// Names and contents of new records, in order of their names.
    records: BTreeMap<Vec<u8>, Bytes>,
    /// Names of records that are garbage as of this checkpoint.
    dead: BTreeSet<Vec<u8>>,
    covered: Covered,
}

/// Makes a checkpoint durable.
pub(super) fn run(store: &SledStore, checkpoint: &Checkpoint) -> Result<(), StoreError> {
    let _writer = store.writer.lock().unwrap_or_else(PoisonError::into_inner);
    let Plan { covered, dead, .. } = records_locked(store, checkpoint)?;
    let sequence = covered.meta.sequence;

    seal(store, covered)?;
    garbage::collect(store, sequence, dead.len())?;
    assert_no_blobs(store)
}

/// Writes the meta of records that are durable; from here on the checkpoint counts.
pub(super) fn seal(store: &SledStore, covered: Covered) -> Result<(), StoreError> {
    assert_no_blobs(store)?;
    let sequence = covered.meta.sequence;
    write_record(store, &keys::meta(sequence), &covered.encode())?;
    sync(store)?;
    store.device.witness(sequence).map_err(failed)?;
    *store.covered.write().unwrap_or_else(PoisonError::into_inner) = Some(covered);
    store.unfinished.store(false, Ordering::Release);
    Ok(())
}

/// Makes a checkpoint's records durable, without its meta.
#[cfg(any(test, feature = "testing"))]
pub(super) fn records(store: &SledStore, checkpoint: &Checkpoint) -> Result<(), StoreError> {
    let _writer = store.writer.lock().unwrap_or_else(PoisonError::into_inner);
    records_locked(store, checkpoint).map(drop)
}

fn records_locked(store: &SledStore, checkpoint: &Checkpoint) -> Result<Plan, StoreError> {
    if store.unfinished.load(Ordering::Acquire) {
        // What an earlier try wrote under the same sequence must not shine through.
        verify::drop_above(&store.tree, store.sequence())?;
        sync(store)?;
        store.unfinished.store(false, Ordering::Release);
    }
    let plan = plan(store, checkpoint)?;
    let sequence = plan.covered.meta.sequence;
    assert_room(store, plan.bytes())?;
    store.unfinished.store(true, Ordering::Release);
    let mut unflushed_bytes = 0;
    for (name, payload) in &plan.records {
        write_paced(store, &mut unflushed_bytes, name, payload)?;
    }
    for name in &plan.dead {
        write_paced(store, &mut unflushed_bytes, &keys::garbage(name, sequence), &[])?;
    }
    sync(store)?;
    Ok(plan)
}

/// Writes one record, and flushes once enough has gathered.
pub(super) fn write_paced(
    store: &SledStore,
    unflushed_bytes: &mut u64,
    name: &[u8],
    payload: &[u8],
) -> Result<(), StoreError> {
    write_record(store, name, payload)?;
    *unflushed_bytes += items::encoded_bytes(name, payload);
    if *unflushed_bytes >= FLUSH_BYTES {
        *unflushed_bytes = 0;
        assert_room(store, FLUSH_BYTES)?;
        flush(store)?;
    }
    Ok(())
}

fn assert_room(store: &SledStore, bytes: u64) -> Result<(), StoreError> {
    let free = (store.options.free_bytes)().map_err(failed)?;
    if free < bytes.saturating_mul(WRITE_FACTOR).saturating_add(SPARE_BYTES) {
        return Err(StoreError::NoSpace);
    }
    Ok(())
}

fn write_record(store: &SledStore, name: &[u8], payload: &[u8]) -> Result<(), StoreError> {
    for (key, value) in items::encode(name, payload) {
        store.tree.insert(key, value).map_err(failed)?;
    }
    Ok(())
}

/// Hands everything to the device and gives the log the same time.
pub(super) fn flush(store: &SledStore) -> Result<(), StoreError> {
    let begin = Instant::now();
    store.tree.flush().map_err(failed)?;
    (store.options.pace)(begin.elapsed());
    Ok(())
}

/// Makes everything written durable. sled's flush is a real sync through the interposer; file and folder are
/// synced once more because sled's own notion of what it has flushed does not cover the file's growth.
pub(super) fn sync(store: &SledStore) -> Result<(), StoreError> {
    store.tree.flush().map_err(failed)?;
    store.device.sync().map_err(failed)
}

fn assert_no_blobs(store: &SledStore) -> Result<(), StoreError> {
    if store.device.has_blobs().map_err(failed)? {
        return Err(StoreError::Failed("sled wrote a blob file, which it never syncs".to_owned()));
    }
    Ok(())
}

impl Plan {
    fn bytes(&self) -> u64 {
        let records: u64 =
            self.records.iter().map(|(name, payload)| items::encoded_bytes(name, payload)).sum();
        let marks: u64 = self.dead.iter().map(|name| items::encoded_bytes(name, &[]) + 9).sum();
        records + marks
    }
}

/// Decides what the commit writes, and refuses a checkpoint that contradicts itself or what is stored.
fn plan(store: &SledStore, checkpoint: &Checkpoint) -> Result<Plan, StoreError> {
    let before = store.covered.read().unwrap_or_else(PoisonError::into_inner).clone();
    let meta = &checkpoint.meta;
    let sequence = before.as_ref().map_or(0, |covered| covered.meta.sequence);
    if meta.sequence <= sequence {
        return Err(StoreError::Corrupt(format!(
            "checkpoint {} does not follow {sequence}",
            meta.sequence
        )));
    }
    let mut plan = Plan {
        records: BTreeMap::new(),
        dead: BTreeSet::new(),
        covered: Covered {
            meta: meta.clone(),
            digest: before.as_ref().map_or(0, |covered| covered.digest),
        },
    };
    let (blocks, rows) = before.map_or((0, 0), |covered| (covered.meta.blocks, covered.meta.rows));
    let dead_blocks = plan_blocks(store, checkpoint, &mut plan)?;
    let dead_rows = plan_rows(store, checkpoint, &mut plan)?;
    let new_rows = (plan.records.len() - checkpoint.blocks.len()) as u64;
    let found = (
        (blocks + checkpoint.blocks.len() as u64).checked_sub(dead_blocks),
        (rows + new_rows).checked_sub(dead_rows),
    );
    if found != (Some(meta.blocks), Some(meta.rows)) {
        return Err(StoreError::Corrupt(format!(
            "checkpoint {} claims {} blocks and {} rows, it would cover {found:?}",
            meta.sequence, meta.blocks, meta.rows
        )));
    }
    let add = plan.records.keys().fold(0u64, |sum, name| sum.wrapping_add(digest(name)));
    let take = plan.dead.iter().fold(0u64, |sum, name| sum.wrapping_add(digest(name)));
    plan.covered.digest = plan.covered.digest.wrapping_add(add).wrapping_sub(take);
    Ok(plan)
}

/// Plans blocks, freed ones and those that a block of the same first change replaces; counts the dead.
fn plan_blocks(
    store: &SledStore,
    checkpoint: &Checkpoint,
    plan: &mut Plan,
) -> Result<u64, StoreError> {
    let sequence = store.sequence();
    for id in &checkpoint.freed {
        let name = keys::block(*id);
        let known = id.sequence <= sequence && store.record_exists(&name)?;
        if !known || store.is_garbage(&name, sequence)? {
            return Err(StoreError::Corrupt(format!("freed block {id:?} is not there")));
        }
        plan.dead.insert(name);
    }
    for (id, payload) in &checkpoint.blocks {
        if id.sequence != checkpoint.meta.sequence {
            return Err(StoreError::Corrupt(format!("block {id:?} is of another checkpoint")));
        }
        live_names(store, &keys::blocks_from(id.first), &mut plan.dead)?;
        if plan.records.insert(keys::block(*id), payload.clone()).is_some() {
            return Err(StoreError::Corrupt(format!("block {id:?} is there twice")));
        }
    }
    Ok(plan.dead.len() as u64)
}

/// Plans table rows and those that they replace or delete; counts the dead.
fn plan_rows(
    store: &SledStore,
    checkpoint: &Checkpoint,
    plan: &mut Plan,
) -> Result<u64, StoreError> {
    // Of several changes of one id the last counts.
    let changes: BTreeMap<(Table, &Bytes), &Option<Bytes>> =
        checkpoint.rows.iter().map(|(table, id, row)| ((*table, id), row)).collect();
    let dead_blocks = plan.dead.len();
    for ((table, id), row) in changes {
        if id.len() > keys::ROW_ID_BYTES_MAX {
            return Err(StoreError::Corrupt(format!("a row's id has {} bytes", id.len())));
        }
        live_names(store, &keys::rows_of(table, id), &mut plan.dead)?;
        if let Some(row) = row {
            plan.records.insert(keys::row(table, id, checkpoint.meta.sequence), row.clone());
        }
    }
    Ok((plan.dead.len() - dead_blocks) as u64)
}

/// Collects the names of live records that begin with `prefix`.
fn live_names(
    store: &SledStore,
    prefix: &[u8],
    names: &mut BTreeSet<Vec<u8>>,
) -> Result<(), StoreError> {
    let sequence = store.sequence();
    for key in store.tree.scan_prefix(prefix).keys() {
        let key = key.map_err(failed)?;
        let Some((name, chunk)) = Name::parse(&key) else {
            return Err(StoreError::Corrupt(format!("unknown key {}", items::hex(&key))));
        };
        let bytes = &key[..key.len() - 4];
        if chunk == 0 && name.sequence() <= sequence && !store.is_garbage(bytes, sequence)? {
            names.insert(bytes.to_vec());
        }
    }
    Ok(())
}

impl SledStore {
    fn record_exists(&self, name: &[u8]) -> Result<bool, StoreError> {
        self.tree.contains_key(keys::item(name, 0)).map_err(failed)
    }
}
