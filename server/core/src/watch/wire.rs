//! An event as bytes: one entry of `WatchResponse.events` in etcd's wire form, tag and length included, so that
//! a response is its head and the shared bytes of its events (decision D5).

use bytes::Bytes;

use crate::codec::wire::{put_varint, varint_len};
use crate::event::{Event, EventKind, KeyValue};
use crate::mvcc::record::{wire_len, write_wire};

/// `WatchResponse.events`.
const EVENTS: u8 = 11 << 3 | LENGTH;
/// `Event.type`.
const TYPE: u8 = 1 << 3;
/// `Event.kv`.
const KV: u8 = 2 << 3 | LENGTH;
/// `Event.prev_kv`.
const PREV_KV: u8 = 3 << 3 | LENGTH;
/// Protobuf's wire type of length-prefixed fields.
const LENGTH: u8 = 2;
/// `Event.DELETE`; a put is zero and left out.
const DELETE: u8 = 1;

/// Encodes an event, with the key as it was before where the watcher asked for it.
pub fn encode_event(event: &Event, prev: Option<&KeyValue>) -> Bytes {
    let is_delete = event.kind == EventKind::Delete;
    let field = |kv: &KeyValue| {
        let len = wire_len(kv);
        1 + varint_len(len as u64) + len
    };
    let len = if is_delete { 2 } else { 0 } + field(&event.kv) + prev.map_or(0, field);
    let mut bytes = Vec::with_capacity(1 + varint_len(len as u64) + len);
    bytes.push(EVENTS);
    put_varint(&mut bytes, len as u64);
    if is_delete {
        bytes.extend_from_slice(&[TYPE, DELETE]);
    }
    write_field(&mut bytes, KV, &event.kv);
    if let Some(prev) = prev {
        write_field(&mut bytes, PREV_KV, prev);
    }
    Bytes::from(bytes)
}

fn write_field(bytes: &mut Vec<u8>, tag: u8, kv: &KeyValue) {
    bytes.push(tag);
    put_varint(bytes, wire_len(kv) as u64);
    write_wire(bytes, kv);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ChangeId, LeaseId, Revision};

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn events_are_the_wire_form() {
        let kv = KeyValue {
            key: Bytes::from_static(b"k"),
            create_revision: Revision(2),
            mod_revision: Revision(300),
            version: 2,
            value: Bytes::from_static(b"v"),
            lease: LeaseId(0),
        };
        let prev = KeyValue { mod_revision: Revision(2), version: 1, ..kv.clone() };
        let change = ChangeId { main: Revision(300), sub: 0 };
        let put = Event { kind: EventKind::Put, kv, change, prev: None };
        assert_eq!(hex(&encode_event(&put, None)), "5a0f120d0a016b100218ac0220022a0176");
        let with = encode_event(&put, Some(&prev));
        assert_eq!(hex(&with), "5a1d120d0a016b100218ac0220022a01761a0c0a016b1002180220012a0176");
        let kv = KeyValue {
            key: Bytes::from_static(b"k"),
            mod_revision: Revision(300),
            ..KeyValue::default()
        };
        let delete = Event { kind: EventKind::Delete, kv, change, prev: None };
        assert_eq!(hex(&encode_event(&delete, None)), "5a0a080112060a016b18ac02");
    }
}
