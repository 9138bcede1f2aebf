//! The state's invariants, all verified from scratch. Tests and the simulator call it.

use super::State;
use crate::ids::LeaseId;
use crate::mvcc::Keys;
use crate::mvcc::history::Access;
use crate::mvcc::index::KeyEntry;
use crate::outcome::Fatal;
use crate::tables::Rows;

pub(super) fn check(state: &State) -> Result<(), Fatal> {
    let keys = state.shared.read();
    keys.index.check()?;
    let mut sums = Sums::default();
    for (key, entry) in keys.index.iter() {
        check_key(state, &keys, key, entry, &mut sums)?;
    }
    ensure(sums.hash == keys.index.hash(), "the hash over all keys is not the sum of theirs")?;
    ensure(sums.live_keys == keys.index.live_keys(), "the number of live keys is wrong")?;
    ensure(sums.bytes == keys.index.bytes(), "the number of bytes is wrong")?;
    ensure(
        sums.versions == state.shared.history.live_records(),
        "index and history disagree on how many records are alive",
    )?;
    for (id, lease) in keys.leases.iter() {
        for key in &lease.keys {
            let live = keys.index.get(key).and_then(KeyEntry::live);
            let attached = live.is_some_and(|(_, latest)| latest.lease == id);
            ensure(attached, "a lease names a key that does not name it")?;
            sums.attached -= 1;
        }
    }
    ensure(sums.attached == 0, "a key names a lease that does not name it")?;
    drop(keys);
    if let Some(broken) = state.sessions.broken(state.applied.index) {
        return Err(Fatal::Invariant(broken.into()));
    }
    let mut rows = Rows::default();
    for (table, id, row) in state.all_rows() {
        rows.recover(table, &id, &row);
    }
    ensure(rows.hash() == state.rows.hash(), "the hash over all rows is not the sum of theirs")?;
    ensure(rows.count() == state.rows.count(), "the number of rows is wrong")?;
    ensure(Some(state.revision) >= state.compacted, "the compaction mark lies in the future")
}

#[derive(Default)]
struct Sums {
    hash: u64,
    live_keys: u64,
    bytes: u64,
    versions: u64,
    /// Keys with a lease, less those that a lease names.
    attached: i64,
}

fn check_key(
    state: &State,
    keys: &Keys,
    key: &[u8],
    entry: &KeyEntry,
    sums: &mut Sums,
) -> Result<(), Fatal> {
    let mut last = None;
    for version in entry.versions() {
        ensure(last < Some(version.change()), "versions of a key are out of order")?;
        ensure(version.main() <= state.revision, "a version lies in the future")?;
        let alive = state.shared.history.is_alive(version.change(), version.place());
        ensure(alive, "the index names a record that is dead")?;
        last = Some(version.change());
        sums.bytes += version.bytes();
        sums.versions += 1;
    }
    let Some((version, latest)) = entry.live() else { return Ok(()) };
    let record = state.shared.history.get(version.change(), Access::Disk);
    let record = record.map_err(|error| error.into_fatal())?;
    let kv = record.key_value().map_err(|error| Fatal::Invariant(error.to_string()))?;
    ensure(kv.key == key, "a record is not its key's")?;
    let same = kv.create_revision == latest.create
        && kv.version == latest.version
        && kv.lease == latest.lease
        && record.live_hash() == latest.row_hash
        && record.bytes.len() as u64 == version.bytes();
    ensure(same, "the index says of a record what it does not say")?;
    if latest.lease != LeaseId(0) {
        ensure(keys.leases.contains(latest.lease), "a key hangs on a lease that is not there")?;
        sums.attached += 1;
    }
    sums.hash = sums.hash.wrapping_add(latest.row_hash);
    sums.live_keys += 1;
    Ok(())
}

fn ensure(holds: bool, otherwise: &str) -> Result<(), Fatal> {
    if holds { Ok(()) } else { Err(Fatal::Invariant(otherwise.into())) }
}
