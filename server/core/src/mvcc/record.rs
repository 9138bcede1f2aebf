//! One change as bytes: the canonical wire form of etcd's `mvccpb.KeyValue` (decision D5).
//!
//! Fields in the order of their numbers, zero and empty ones left out, so that equal changes have equal bytes
//! on every member and HashKV equals etcd's (hazard F21). A tombstone holds only the key (rule M7).

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::codec::DecodeError;
use crate::codec::wire::{Reader, put_varint, varint_len};
use crate::event::KeyValue;
use crate::ids::{ChangeId, LeaseId, Revision};

const KEY: u8 = 1 << 3 | LENGTH;
const CREATE: u8 = 2 << 3;
const MOD: u8 = 3 << 3;
const VERSION: u8 = 4 << 3;
const VALUE: u8 = 5 << 3 | LENGTH;
const LEASE: u8 = 6 << 3;
/// Protobuf's wire type of length-prefixed fields.
const LENGTH: u8 = 2;

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Its place in history.
    pub(crate) change: ChangeId,
    /// It ended the key's life.
    pub(crate) tombstone: bool,
    /// Its wire form.
    pub(crate) bytes: Bytes,
}

impl Record {
    /// A put; the bytes are owned, so that no log buffer outlives its entry (hazard C5).
    pub(crate) fn put(change: ChangeId, kv: &KeyValue) -> Self {
        Self { change, tombstone: false, bytes: encode(kv) }
    }

    /// A delete.
    pub(crate) fn tombstone(change: ChangeId, key: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(1 + varint_len(key.len() as u64) + key.len());
        put_bytes(&mut bytes, KEY, key);
        Self { change, tombstone: true, bytes: Bytes::from(bytes) }
    }

    /// The key and, of a put, all the rest. A tombstone states its own revision, as events do (rule M7).
    pub(crate) fn key_value(&self) -> Result<KeyValue, DecodeError> {
        let mut kv = decode(self.bytes.clone())?;
        if self.tombstone {
            kv.mod_revision = self.change.main;
        } else if kv.mod_revision != self.change.main {
            return Err(DecodeError::Contradiction("a record's revision is not its place"));
        }
        Ok(kv)
    }

    /// This record's share of the live hash (hazard C2).
    pub(crate) fn live_hash(&self) -> u64 {
        xxh3_64_with_seed(&self.bytes, KEY_ROWS)
    }

    /// The history hash after this record (hazard C2).
    pub(crate) fn chained(&self, previous: u64) -> u64 {
        let mut place = [0; 13];
        place[..8].copy_from_slice(&self.change.main.0.to_be_bytes());
        place[8..12].copy_from_slice(&self.change.sub.to_be_bytes());
        place[12] = u8::from(self.tombstone);
        xxh3_64_with_seed(&self.bytes, xxh3_64_with_seed(&place, previous))
    }
}

/// Tag of key records in the live hash; tables have their own numbers.
const KEY_ROWS: u64 = 0;

fn encode(kv: &KeyValue) -> Bytes {
    let mut bytes = Vec::with_capacity(wire_len(kv));
    write_wire(&mut bytes, kv);
    Bytes::from(bytes)
}

/// Appends a key's wire form.
pub(crate) fn write_wire(bytes: &mut Vec<u8>, kv: &KeyValue) {
    put_bytes(bytes, KEY, &kv.key);
    put_number(bytes, CREATE, kv.create_revision.0);
    put_number(bytes, MOD, kv.mod_revision.0);
    put_number(bytes, VERSION, kv.version);
    put_bytes(bytes, VALUE, &kv.value);
    put_number(bytes, LEASE, kv.lease.0);
}

/// Bytes of a key's wire form.
pub(crate) fn wire_len(kv: &KeyValue) -> usize {
    let bytes = |value: &Bytes| match value.len() {
        0 => 0,
        len => 1 + varint_len(len as u64) + len,
    };
    let number = |value: i64| match value {
        0 => 0,
        value => 1 + varint_len(value.cast_unsigned()),
    };
    let numbers = [kv.create_revision.0, kv.mod_revision.0, kv.version, kv.lease.0];
    bytes(&kv.key) + bytes(&kv.value) + numbers.into_iter().map(number).sum::<usize>()
}

fn put_bytes(buffer: &mut Vec<u8>, tag: u8, value: &[u8]) {
    if !value.is_empty() {
        buffer.push(tag);
        put_varint(buffer, value.len() as u64);
        buffer.extend_from_slice(value);
    }
}

/// Protobuf's int64: two's complement, so a negative lease takes ten bytes.
fn put_number(buffer: &mut Vec<u8>, tag: u8, value: i64) {
    if value != 0 {
        buffer.push(tag);
        put_varint(buffer, value.cast_unsigned());
    }
}

fn decode(bytes: Bytes) -> Result<KeyValue, DecodeError> {
    let mut input = Reader::new(bytes);
    let mut kv = KeyValue::default();
    let mut last = 0;
    while input.remaining() > 0 {
        let tag = input.u8()?;
        if tag <= last {
            return Err(DecodeError::Tag { what: "record field", found: tag });
        }
        last = tag;
        match tag {
            KEY => kv.key = input.bytes()?,
            CREATE => kv.create_revision = Revision(input.u64()?.cast_signed()),
            MOD => kv.mod_revision = Revision(input.u64()?.cast_signed()),
            VERSION => kv.version = input.u64()?.cast_signed(),
            VALUE => kv.value = input.bytes()?,
            LEASE => kv.lease = LeaseId(input.u64()?.cast_signed()),
            found => return Err(DecodeError::Tag { what: "record field", found }),
        }
    }
    Ok(kv)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn records_are_the_canonical_wire_form() {
        let change = ChangeId { main: Revision(300), sub: 0 };
        let kv = KeyValue {
            key: Bytes::from_static(b"foo"),
            create_revision: Revision(2),
            mod_revision: Revision(300),
            version: 1,
            value: Bytes::from_static(b"bar"),
            lease: LeaseId(-1),
        };
        let record = Record::put(change, &kv);
        assert_eq!(record.bytes.len(), wire_len(&kv));
        assert_eq!(hex(&record.bytes), "0a03666f6f100218ac0220012a0362617230ffffffffffffffffff01");
        assert_eq!(record.key_value(), Ok(kv));
        let tombstone = Record::tombstone(change, b"foo");
        assert_eq!(hex(&tombstone.bytes), "0a03666f6f");
        assert_eq!(tombstone.key_value().unwrap().mod_revision, Revision(300));
    }

    #[test]
    fn empty_values_and_zero_leases_are_left_out() {
        let change = ChangeId { main: Revision(2), sub: 0 };
        let kv = KeyValue {
            key: Bytes::from_static(b"k"),
            create_revision: Revision(2),
            mod_revision: Revision(2),
            version: 1,
            ..KeyValue::default()
        };
        assert_eq!(hex(&Record::put(change, &kv).bytes), "0a016b100218022001");
    }
}
