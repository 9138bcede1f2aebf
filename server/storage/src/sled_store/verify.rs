//! Reads everything that the last meta covers, and proves that it is everything.
//!
//! Used on opening and by every visit: each item's checksum, the completeness of each record, the number of
//! records and the digest over their names must agree with the meta.

use std::collections::BTreeSet;
use std::sync::PoisonError;

use bytes::Bytes;
use kvd_core::checkpoint::StoreError;

use super::items::Assembly;
use super::keys::{self, Name};
use super::meta::{Covered, digest};
use super::{SledStore, failed, items};

type Visit<'a> = &'a mut dyn FnMut(Name, Bytes) -> Result<(), StoreError>;

/// What a scan found.
#[derive(Default)]
struct Found {
    records: u64,
    digest: u64,
    /// Something of an unfinished commit is there.
    above: bool,
}

/// Visits every live record of one kind, in order, and checks that their number is the meta's.
pub(super) fn visit(store: &SledStore, kind: u8, visit: Visit<'_>) -> Result<(), StoreError> {
    let _visits = store.visits.read().unwrap_or_else(PoisonError::into_inner);
    let covered = store.covered.read().unwrap_or_else(PoisonError::into_inner).clone();
    let Some(Covered { meta, .. }) = covered else {
        return Ok(());
    };
    let (dead, _) = garbage_until(&store.tree, meta.sequence)?;
    let found = scan(&store.tree, kind, meta.sequence, &dead, visit)?;
    let claimed = if kind == keys::BLOCK { meta.blocks } else { meta.rows };
    if found.records != claimed {
        return Err(incomplete(kind, found.records, claimed));
    }
    Ok(())
}

/// Finds the last committed meta, deletes what an unfinished commit left above it, and proves the rest.
pub(super) fn recover(
    tree: &sled::Db,
    witnessed: Option<u64>,
) -> Result<Option<Covered>, StoreError> {
    let (covered, cut_short) = last_meta(tree)?;
    let sequence = covered.as_ref().map_or(0, |covered| covered.meta.sequence);
    if sequence < witnessed.unwrap_or(0) {
        return Err(StoreError::Corrupt(format!(
            "checkpoint {} was committed, the last one found is {sequence}",
            witnessed.unwrap_or(0)
        )));
    }
    let above = match &covered {
        Some(covered) => prove(tree, covered)?,
        None => true,
    };
    // One scan proves and looks for what is above; a second one only where there is something to delete.
    if above || cut_short {
        drop_above(tree, sequence)?;
    }
    Ok(covered)
}

/// Reads every record and compares what is there with what the meta covers; says whether anything above the
/// meta is there.
pub(super) fn prove(tree: &sled::Db, covered: &Covered) -> Result<bool, StoreError> {
    let meta = &covered.meta;
    let (dead, above) = garbage_until(tree, meta.sequence)?;
    let blocks = scan(tree, keys::BLOCK, meta.sequence, &dead, &mut |_, _| Ok(()))?;
    let rows = scan(tree, keys::ROW, meta.sequence, &dead, &mut |_, _| Ok(()))?;
    if blocks.records != meta.blocks {
        return Err(incomplete(keys::BLOCK, blocks.records, meta.blocks));
    }
    if rows.records != meta.rows {
        return Err(incomplete(keys::ROW, rows.records, meta.rows));
    }
    if blocks.digest.wrapping_add(rows.digest) != covered.digest {
        return Err(StoreError::Corrupt("records are not those of the meta".to_owned()));
    }
    Ok(above || blocks.above || rows.above)
}

fn incomplete(kind: u8, found: u64, claimed: u64) -> StoreError {
    let what = if kind == keys::BLOCK { "blocks" } else { "rows" };
    StoreError::Corrupt(format!("{found} {what} found, the meta covers {claimed}"))
}

/// The meta with the highest sequence that is complete, and whether one was cut short: such a one was never
/// committed.
fn last_meta(tree: &sled::Db) -> Result<(Option<Covered>, bool), StoreError> {
    let mut last = None;
    let mut cut_short = false;
    each_record(tree, keys::META, &mut |name, _, assembly| {
        let Some(payload) = assembly?.finish() else {
            cut_short = true;
            return Ok(());
        };
        let covered = Covered::decode(&payload)
            .filter(|covered| covered.meta.sequence == name.sequence())
            .ok_or_else(|| StoreError::Corrupt("a meta cannot be read".to_owned()))?;
        last = Some(covered);
        Ok(())
    })?;
    Ok((last, cut_short))
}

/// Deletes, durably, every record of a sequence above the last meta's.
pub(super) fn drop_above(tree: &sled::Db, sequence: u64) -> Result<(), StoreError> {
    let mut dropped = false;
    for key in tree.iter().keys() {
        let key = key.map_err(failed)?;
        let Some((name, _)) = Name::parse(&key) else {
            return Err(StoreError::Corrupt(format!("unknown key {}", items::hex(&key))));
        };
        if name.sequence() > sequence {
            tree.remove(&key).map_err(failed)?;
            dropped = true;
        }
    }
    if dropped {
        tree.flush().map_err(failed)?;
    }
    Ok(())
}

/// Names of all records that are garbage as of a checkpoint, and whether there are marks above it.
fn garbage_until(tree: &sled::Db, sequence: u64) -> Result<(BTreeSet<Vec<u8>>, bool), StoreError> {
    let mut dead = BTreeSet::new();
    let mut above = false;
    each_record(tree, keys::GARBAGE, &mut |name, _, assembly| {
        assembly?;
        match name {
            Name::Garbage { dead: record, sequence: since } if since <= sequence => {
                dead.insert(record);
            }
            _ => above = true,
        }
        Ok(())
    })?;
    Ok((dead, above))
}

/// Visits the live records of one kind.
fn scan(
    tree: &sled::Db,
    kind: u8,
    sequence: u64,
    dead: &BTreeSet<Vec<u8>>,
    visit: Visit<'_>,
) -> Result<Found, StoreError> {
    let mut found = Found::default();
    each_record(tree, kind, &mut |name, bytes, assembly| {
        found.above |= name.sequence() > sequence;
        if name.sequence() > sequence || dead.contains(bytes) {
            return Ok(());
        }
        let payload = assembly?.finish().ok_or_else(|| {
            StoreError::Corrupt(format!("record {} is incomplete", items::hex(bytes)))
        })?;
        found.records += 1;
        found.digest = found.digest.wrapping_add(digest(bytes));
        visit(name, payload)
    })?;
    Ok(found)
}

type Each<'a> =
    &'a mut dyn FnMut(Name, &[u8], Result<Assembly, StoreError>) -> Result<(), StoreError>;

/// Groups the items of one kind into records. An item's damage is handed on, because it does not matter in a
/// record that is garbage.
fn each_record(tree: &sled::Db, kind: u8, each: Each<'_>) -> Result<(), StoreError> {
    let mut current: Option<(Name, Vec<u8>, Result<Assembly, StoreError>)> = None;
    for item in in_pages(tree, kind) {
        let (key, value) = item?;
        let Some((name, chunk)) = Name::parse(&key) else {
            return Err(StoreError::Corrupt(format!("unknown key {}", items::hex(&key))));
        };
        let bytes = &key[..key.len() - 4];
        if let Some((done, done_bytes, assembly)) =
            current.take_if(|(_, current_bytes, _)| current_bytes.as_slice() != bytes)
        {
            each(done, &done_bytes, assembly)?;
        }
        let (_, _, assembly) =
            current.get_or_insert_with(|| (name, bytes.to_vec(), Ok(Assembly::default())));
        if let Ok(so_far) = assembly
            && let Err(damage) = so_far.push(&key, chunk, &value)
        {
            *assembly = Err(StoreError::Corrupt(damage));
        }
    }
    match current {
        Some((name, bytes, assembly)) => each(name, &bytes, assembly),
        None => Ok(()),
    }
}

/// Items read before the cache is told: about what one page of sled holds.
const PAGE_ITEMS: usize = 16;

/// All items of one kind in order; what was read leaves the cache again.
fn in_pages(
    tree: &sled::Db,
    kind: u8,
) -> impl Iterator<Item = Result<(sled::IVec, sled::IVec), StoreError>> + '_ {
    let mut items = 0;
    tree.scan_prefix([kind]).map(move |item| {
        let (key, value) = item.map_err(failed)?;
        items += 1;
        if items % PAGE_ITEMS == 0 {
            tell_cache(tree, &key)?;
        }
        Ok((key, value))
    })
}

/// Accesses that a page is told with.
const ACCESSES: usize = 24;

/// Lets the cache know of the page that holds a key. sled evicts when a shard of its cache has gathered 64
/// accesses, and reading a page is one: without more, 256 shards keep up to 16,384 pages of about 100 KB each,
/// whatever the cache's size (measured: 500 MB after a scan of 500 MB; 0 with this).
pub(super) fn tell_cache(tree: &sled::Db, key: &[u8]) -> Result<(), StoreError> {
    for _ in 0..ACCESSES {
        tree.get(key).map_err(failed)?;
    }
    Ok(())
}
