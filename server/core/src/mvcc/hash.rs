//! HashKV as etcd computes it (behaviour.md 6.6).
//!
//! CRC-32C over `key`, then over each record's etcd key and wire form, in order. Records at or below the
//! compaction mark count only if a compaction at the hashed revision would keep them, so the result does not
//! depend on how far physical compaction got.

use std::ops::ControlFlow;

use super::history::ReadError;
use super::range::Reader;
use super::record::Record;
use crate::ids::{ChangeId, Revision};
use crate::outcome::{Fatal, Rejection};

/// Answer of HashKV.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvHash {
    /// The checksum.
    pub hash: u32,
    /// The revision that was hashed.
    pub hash_revision: i64,
    /// The compaction mark; -1 if never compacted.
    pub compact_revision: i64,
}

/// Hashes history up to a revision; zero means the latest.
pub(crate) fn hash_kv(
    reader: &Reader<'_>,
    revision: i64,
) -> Result<Result<KvHash, Rejection>, ReadError> {
    let at = if revision == 0 { reader.revision } else { Revision(revision) };
    if Some(at) < reader.compacted {
        return Ok(Err(Rejection::Compacted));
    }
    if at > reader.revision {
        return Ok(Err(Rejection::FutureRevision));
    }
    let mut hash = crc32c::crc32c(b"key");
    let mut visit = |record: &Record| {
        if counts(reader, record, at)? {
            hash = crc32c::crc32c_append(hash, &record_key(record.change));
            if record.tombstone {
                hash = crc32c::crc32c_append(hash, b"t");
            }
            hash = crc32c::crc32c_append(hash, &record.bytes);
        }
        Ok(ControlFlow::Continue(()))
    };
    reader.shared.history.scan(ChangeId::default(), at, reader.access, &mut visit)?;
    let compact_revision = reader.compacted.map_or(-1, |compacted| compacted.0);
    Ok(Ok(KvHash { hash, hash_revision: at.0, compact_revision }))
}

fn counts(reader: &Reader<'_>, record: &Record, at: Revision) -> Result<bool, ReadError> {
    if Some(record.change.main) > reader.compacted {
        return Ok(true);
    }
    // Tombstones below the mark go with it; the one exactly there is skipped, as older etcds dropped it.
    if record.tombstone {
        return Ok(false);
    }
    let kv = record
        .key_value()
        .map_err(|error| Fatal::Store(format!("record {}: {error}", record.change)))?;
    let keys = reader.shared.read();
    let newest = keys.index.get(&kv.key).and_then(|entry| entry.at(at));
    Ok(newest.is_some_and(|newest| newest.change() == record.change))
}

/// etcd's key of a record: main and sub, each eight bytes big-endian, a low line between them.
fn record_key(change: ChangeId) -> [u8; 17] {
    let mut key = [b'_'; 17];
    key[..8].copy_from_slice(&change.main.0.to_be_bytes());
    key[9..].copy_from_slice(&u64::from(change.sub).to_be_bytes());
    key
}
