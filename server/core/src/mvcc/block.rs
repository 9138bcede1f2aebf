//! A block: consecutive records packed into one row of the checkpoint store.
//!
//! ```text
//!   version 1 | count 1 | { main varint | sub varint | tombstone 1 | length varint | record } ... | crc32c 4
//! ```
//!
//! The checksum covers all before it and is checked on every decode; records are slices of the block's bytes.

use bytes::Bytes;

use super::record::Record;
use crate::codec::DecodeError;
use crate::codec::wire::{Reader, Writer, put_varint};
use crate::ids::ChangeId;
use crate::limits::BLOCK_RECORDS_MAX;

/// Version of the block format.
const VERSION: u8 = 1;

const CRC_BYTES: usize = 4;

const _: () = assert!(BLOCK_RECORDS_MAX <= 16, "a block's dead records are a mask of 16 bits");

/// Encodes records that follow each other.
pub(crate) fn encode(records: &[Record]) -> Bytes {
    assert!(!records.is_empty(), "a block without records has no name");
    assert!(records.len() <= BLOCK_RECORDS_MAX, "history seals before a block is too large");
    let mut out = Writer::versioned(VERSION);
    out.u8(u8::try_from(records.len()).expect("at most 16, asserted above"));
    let mut bytes = out.finish().to_vec();
    for record in records {
        put_varint(&mut bytes, record.change.main.0.cast_unsigned());
        put_varint(&mut bytes, record.change.sub.into());
        bytes.push(u8::from(record.tombstone));
        put_varint(&mut bytes, record.bytes.len() as u64);
        bytes.extend_from_slice(&record.bytes);
    }
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_be_bytes());
    Bytes::from(bytes)
}

/// A block in memory, verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    records: Vec<Record>,
    bytes: Bytes,
}

impl Block {
    /// Verifies and reads a block.
    pub(crate) fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let body = bytes.len().checked_sub(CRC_BYTES).ok_or(DecodeError::Short)?;
        let mut crc = [0; CRC_BYTES];
        crc.copy_from_slice(&bytes[body..]);
        if crc32c::crc32c(&bytes[..body]) != u32::from_be_bytes(crc) {
            return Err(DecodeError::Checksum);
        }
        let mut input = Reader::versioned(bytes.slice(..body), VERSION)?;
        let count = usize::from(input.u8()?);
        if count == 0 || count > BLOCK_RECORDS_MAX {
            return Err(DecodeError::Contradiction("a block's number of records"));
        }
        let mut records: Vec<Record> = Vec::with_capacity(count);
        for _ in 0..count {
            let change = input.change()?;
            let tombstone = input.flag("tombstone")?;
            let record = Record { change, tombstone, bytes: input.bytes()? };
            if records.last().is_some_and(|last| last.change >= change) {
                return Err(DecodeError::Contradiction("a block's records are out of order"));
            }
            records.push(record);
        }
        input.finish()?;
        Ok(Self { records, bytes })
    }

    /// Seals records that follow each other.
    pub(crate) fn seal(records: &[Record]) -> Self {
        Self::decode(encode(records)).expect("what was just encoded is well formed")
    }

    pub(crate) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    pub(crate) fn records(&self) -> &[Record] {
        &self.records
    }

    /// The first change.
    pub(crate) fn first(&self) -> ChangeId {
        self.records[0].change
    }

    /// Where in the block that change stands.
    pub(crate) fn position(&self, change: ChangeId) -> Option<usize> {
        self.records.binary_search_by_key(&change, |record| record.change).ok()
    }

    /// Bytes of memory that it takes, about.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.bytes.len() + self.records.len() * size_of::<Record>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Revision;

    fn block() -> Block {
        let change = |main, sub| ChangeId { main: Revision(main), sub };
        Block::seal(&[Record::tombstone(change(2, 0), b"a"), Record::tombstone(change(2, 1), b"b")])
    }

    #[test]
    fn the_format_is_locked() {
        let hex: String = block().bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(&hex[..hex.len() - 8], "0102020001030a0161020101030a0162");
    }

    #[test]
    fn every_single_bit_flip_is_found() {
        let good = block().bytes().to_vec();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Block::decode(Bytes::from(bad)).is_err(), "bit {bit}");
        }
    }
}
