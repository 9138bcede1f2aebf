//! HashKV by behaviour.md 6.6 and 15: the bytes etcd would store, and a CRC computed bit by bit.

use kvd_core::event::{Event, EventKind, KeyValue};
use kvd_core::outcome::Rejection;
use kvd_core::view::KvHash;

use super::store::Model;

impl Model {
    /// Zero means the latest revision.
    pub(crate) fn hash_kv(&self, revision: i64) -> Result<KvHash, Rejection> {
        let at = if revision == 0 { self.revision() } else { revision };
        self.at(at)?;
        let compacted = self.compacted.unwrap_or(-1);
        let mut bytes = b"key".to_vec();
        for change in self.changes.iter().filter(|change| change.change.main.0 <= at) {
            let main = change.change.main.0;
            let tombstone = change.kind == EventKind::Delete;
            if main <= compacted && !self.kept(change, at) || main == compacted && tombstone {
                continue;
            }
            bytes.extend(main.to_be_bytes());
            bytes.push(b'_');
            bytes.extend(u64::from(change.change.sub).to_be_bytes());
            if tombstone {
                bytes.push(b't');
            }
            bytes.extend(record(change));
        }
        Ok(KvHash { hash: crc32c(&bytes), hash_revision: at, compact_revision: compacted })
    }

    /// Bytes of the records that a finished compaction leaves.
    pub(crate) fn kept_bytes(&self) -> u64 {
        let compacted = self.compacted.unwrap_or(-1);
        let kept = self.changes.iter().filter(|change| self.kept(change, compacted));
        kept.map(|change| record(change).len() as u64).sum()
    }

    /// Whether a compaction at that revision keeps the change (rule M11); newer ones it does not touch.
    pub(crate) fn kept(&self, change: &Event, at: i64) -> bool {
        if change.change.main.0 > at {
            return true;
        }
        let newest = self
            .changes
            .iter()
            .rfind(|other| other.change.main.0 <= at && other.kv.key == change.kv.key)
            .unwrap();
        newest.change == change.change
            && (change.kind == EventKind::Put || change.change.main.0 == at)
    }
}

/// A record's value; a tombstone has only the key.
fn record(change: &Event) -> Vec<u8> {
    match change.kind {
        EventKind::Put => wire(&change.kv),
        EventKind::Delete => wire(&KeyValue { key: change.kv.key.clone(), ..KeyValue::default() }),
    }
}

/// `mvccpb.KeyValue` in protobuf: numbered fields in order, zero and empty ones left out.
fn wire(kv: &KeyValue) -> Vec<u8> {
    let mut out = Vec::new();
    let bytes = |out: &mut Vec<u8>, field: u64, value: &[u8]| {
        if !value.is_empty() {
            varint(out, field << 3 | 2);
            varint(out, value.len() as u64);
            out.extend(value);
        }
    };
    let number = |out: &mut Vec<u8>, field: u64, value: i64| {
        if value != 0 {
            varint(out, field << 3);
            varint(out, value.cast_unsigned());
        }
    };
    bytes(&mut out, 1, &kv.key);
    number(&mut out, 2, kv.create_revision.0);
    number(&mut out, 3, kv.mod_revision.0);
    number(&mut out, 4, kv.version);
    bytes(&mut out, 5, &kv.value);
    number(&mut out, 6, kv.lease.0);
    out
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// CRC-32C, reflected polynomial 0x82f63b78.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 }
        })
    })
}

#[test]
fn crc_of_the_check_string() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
}
