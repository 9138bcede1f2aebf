//! Records as items of the tree: cut into chunks small enough for sled, each with its own checksum.
//!
//! ```text
//! value of an item:  format 1 | chunks of the record (4) | payload | crc32c over key and all before (4)
//! ```
//! Key and value together stay within [`ITEM_BYTES_MAX`]: a leaf of sled holds up to 19 items, and from
//! 131,052 bytes on it spills into a file of `blobs/` that nobody syncs (hazard C7). The checksum covers the
//! key, so that an item cannot be taken for another, and each item names the number of chunks, so that no
//! record is read short.

use bytes::{BufMut, Bytes, BytesMut};
use crc32c::{crc32c, crc32c_append};

use super::keys;

/// Bytes of key and value of one item at most.
pub(crate) const ITEM_BYTES_MAX: usize = 6 * 1024;

const _: () =
    assert!(ITEM_BYTES_MAX * 19 < 512 * 1024 / 4 - 20, "a leaf of 19 items must not spill");

const FORMAT: u8 = 1;
const HEADER_BYTES: usize = 1 + 4;
const CRC_BYTES: usize = 4;

/// Cuts a record into items.
pub(crate) fn encode(name: &[u8], payload: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let room = ITEM_BYTES_MAX - (name.len() + 4) - HEADER_BYTES - CRC_BYTES;
    let chunks: Vec<&[u8]> =
        if payload.is_empty() { vec![payload] } else { payload.chunks(room).collect() };
    let total = u32::try_from(chunks.len()).expect("a request has far less than 2^32 chunks");
    (0..total)
        .zip(chunks)
        .map(|(number, chunk)| {
            let key = keys::item(name, number);
            let mut value = Vec::with_capacity(HEADER_BYTES + chunk.len() + CRC_BYTES);
            value.push(FORMAT);
            value.extend_from_slice(&total.to_be_bytes());
            value.extend_from_slice(chunk);
            let crc = crc32c_append(crc32c(&key), &value);
            value.extend_from_slice(&crc.to_be_bytes());
            (key, value)
        })
        .collect()
}

/// Bytes that a record takes in the tree.
pub(crate) fn encoded_bytes(name: &[u8], payload: &[u8]) -> u64 {
    let room = ITEM_BYTES_MAX - (name.len() + 4) - HEADER_BYTES - CRC_BYTES;
    let items = payload.len().div_ceil(room).max(1);
    (payload.len() + items * (name.len() + 4 + HEADER_BYTES + CRC_BYTES)) as u64
}

/// Checks one item; gives the number of chunks of its record and its payload.
fn decode<'a>(key: &[u8], value: &'a [u8]) -> Result<(u32, &'a [u8]), String> {
    let damaged = || format!("item {} is damaged", hex(key));
    let (body, crc) = value.split_last_chunk::<CRC_BYTES>().ok_or_else(damaged)?;
    if crc32c_append(crc32c(key), body) != u32::from_be_bytes(*crc) {
        return Err(damaged());
    }
    let (format, rest) = body.split_first().ok_or_else(damaged)?;
    if *format != FORMAT {
        return Err(format!("item {} has format {format}, this program reads {FORMAT}", hex(key)));
    }
    let (total, payload) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
    Ok((u32::from_be_bytes(*total), payload))
}

/// Puts a record together again from its items, given in order.
#[derive(Default)]
pub(crate) struct Assembly {
    total: Option<u32>,
    next: u32,
    single: Option<Bytes>,
    payload: BytesMut,
}

impl Assembly {
    /// Takes the next item.
    pub(crate) fn push(&mut self, key: &[u8], chunk: u32, value: &[u8]) -> Result<(), String> {
        let (total, payload) = decode(key, value)?;
        if chunk != self.next || chunk >= total || self.total.is_some_and(|known| known != total) {
            return Err(format!("item {} is out of place: {} expected", hex(key), self.next));
        }
        self.total = Some(total);
        self.next += 1;
        if total == 1 {
            self.single = Some(Bytes::copy_from_slice(payload));
        } else {
            self.payload.put_slice(payload);
        }
        Ok(())
    }

    /// The record, if all its items were there.
    pub(crate) fn finish(self) -> Option<Bytes> {
        match self.total {
            Some(total) if total == self.next => {
                Some(self.single.unwrap_or_else(|| self.payload.freeze()))
            }
            _ => None,
        }
    }
}

/// Bytes as lower-case hex, for messages.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn assemble(items: &[(Vec<u8>, Vec<u8>)]) -> Result<Option<Bytes>, String> {
        let mut assembly = Assembly::default();
        for (key, value) in items {
            let chunk = key.last_chunk::<4>().unwrap();
            assembly.push(key, u32::from_be_bytes(*chunk), value)?;
        }
        Ok(assembly.finish())
    }

    #[test]
    fn values_are_a_promise() {
        let items = encode(b"m", b"hi");
        assert_eq!(items.len(), 1);
        assert_eq!(items[0].0, b"m\0\0\0\0");
        assert_eq!(items[0].1, b"\x01\0\0\0\x01hi\xce\xfe\x26\x10");
    }

    proptest! {
        #[test]
        fn a_record_survives_and_its_items_stay_small(len in 0usize..40_000, seed in any::<u8>()) {
            let payload: Vec<u8> = (0..=250u8).cycle().take(len).map(|byte| byte ^ seed).collect();
            let items = encode(b"name of it", &payload);
            prop_assert!(items.iter().all(|(key, value)| key.len() + value.len() <= ITEM_BYTES_MAX));
            let bytes: usize = items.iter().map(|(key, value)| key.len() + value.len()).sum();
            prop_assert_eq!(bytes as u64, encoded_bytes(b"name of it", &payload));
            prop_assert_eq!(assemble(&items), Ok(Some(payload.into())));
            prop_assert_eq!(assemble(&items[..items.len() - 1]), Ok(None));
        }

        #[test]
        fn every_flipped_bit_is_found(bit in 0usize..(11 + 5) * 8) {
            let (mut key, mut value) = encode(b"m", b"hello!").remove(0);
            let at = bit / 8;
            if at < 5 { key[at] ^= 1 << (bit % 8) } else { value[at - 5] ^= 1 << (bit % 8) }
            prop_assert!(decode(&key, &value).is_err());
        }
    }
}
