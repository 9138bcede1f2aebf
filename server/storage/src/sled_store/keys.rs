//! Names of records in the tree: unambiguous, in order of what they name, none a prefix of another.
//!
//! ```text
//! b | first.main ^ 2^63 | first.sub | sequence                     a block of history
//! t | table | id, 00 as 00 FF | 00 01 | sequence                   a table row
//! m | sequence                                                     the meta of a checkpoint
//! g | name of a dead record | sequence                             garbage as of that checkpoint
//! ```
//! All numbers are big-endian; main, sequence: 8 bytes, sub: 4, table: 1. An item's key is the name of its
//! record and the number of its chunk (4 bytes). The format is a promise: golden bytes below.

use bytes::Bytes;
use kvd_core::checkpoint::{BlockId, Table};
use kvd_core::ids::{ChangeId, Revision};

/// First byte of every block's name.
pub(crate) const BLOCK: u8 = b'b';
/// First byte of every table row's name.
pub(crate) const ROW: u8 = b't';
/// First byte of every meta's name.
pub(crate) const META: u8 = b'm';
/// First byte of every garbage mark's name.
pub(crate) const GARBAGE: u8 = b'g';

/// Longest id of a table row in bytes; escaped it is at most twice as long, and a third of an item.
pub(crate) const ROW_ID_BYTES_MAX: usize = 1024;

const SIGN: u64 = 1 << 63;

/// What a record's name says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    /// A block of history.
    Block(BlockId),
    /// A table row.
    Row {
        /// Its table.
        table: Table,
        /// Its id in that table.
        id: Bytes,
        /// The checkpoint that wrote it.
        sequence: u64,
    },
    /// The meta of a checkpoint.
    Meta {
        /// The checkpoint.
        sequence: u64,
    },
    /// Says that a record is no longer part of the state.
    Garbage {
        /// Name of the dead record.
        dead: Vec<u8>,
        /// The checkpoint as of which it is dead.
        sequence: u64,
    },
}

impl Name {
    /// The checkpoint that wrote the record.
    pub(crate) fn sequence(&self) -> u64 {
        match self {
            Self::Block(id) => id.sequence,
            Self::Row { sequence, .. }
            | Self::Meta { sequence }
            | Self::Garbage { sequence, .. } => *sequence,
        }
    }

    /// Reads an item's key: its record's name and the number of its chunk.
    pub(crate) fn parse(key: &[u8]) -> Option<(Self, u32)> {
        let (name, chunk) = key.split_last_chunk::<4>()?;
        Some((Self::parse_name(name)?, u32::from_be_bytes(*chunk)))
    }

    fn parse_name(name: &[u8]) -> Option<Self> {
        let (rest, sequence) = name.split_last_chunk::<8>()?;
        let sequence = u64::from_be_bytes(*sequence);
        let (tag, rest) = rest.split_first()?;
        match *tag {
            BLOCK => {
                let (main, sub) = rest.split_first_chunk::<8>()?;
                let main = Revision((u64::from_be_bytes(*main) ^ SIGN).cast_signed());
                let sub = u32::from_be_bytes(sub.try_into().ok()?);
                Some(Self::Block(BlockId { first: ChangeId { main, sub }, sequence }))
            }
            ROW => {
                let (table, id) = rest.split_first()?;
                Some(Self::Row {
                    table: Table::from_number(*table)?,
                    id: unescape(id)?.into(),
                    sequence,
                })
            }
            META => rest.is_empty().then_some(Self::Meta { sequence }),
            GARBAGE => match Self::parse_name(rest)? {
                Self::Block(_) | Self::Row { .. } => {
                    Some(Self::Garbage { dead: rest.to_vec(), sequence })
                }
                Self::Meta { .. } | Self::Garbage { .. } => None,
            },
            _ => None,
        }
    }
}

/// Name of a block.
pub(crate) fn block(id: BlockId) -> Vec<u8> {
    let mut name = blocks_from(id.first);
    name.extend_from_slice(&id.sequence.to_be_bytes());
    name
}

/// What the names of all blocks that start at this change begin with.
pub(crate) fn blocks_from(first: ChangeId) -> Vec<u8> {
    let mut name = Vec::with_capacity(21);
    name.push(BLOCK);
    name.extend_from_slice(&(first.main.0.cast_unsigned() ^ SIGN).to_be_bytes());
    name.extend_from_slice(&first.sub.to_be_bytes());
    name
}

/// Name of a table row.
pub(crate) fn row(table: Table, id: &[u8], sequence: u64) -> Vec<u8> {
    let mut name = rows_of(table, id);
    name.extend_from_slice(&sequence.to_be_bytes());
    name
}

/// What the names of all rows of this id begin with.
pub(crate) fn rows_of(table: Table, id: &[u8]) -> Vec<u8> {
    let mut name = Vec::with_capacity(id.len() + 16);
    name.extend_from_slice(&[ROW, table as u8]);
    for byte in id {
        name.push(*byte);
        if *byte == 0 {
            name.push(0xff);
        }
    }
    name.extend_from_slice(&[0, 1]);
    name
}

/// Name of a checkpoint's meta.
pub(crate) fn meta(sequence: u64) -> Vec<u8> {
    let mut name = vec![META];
    name.extend_from_slice(&sequence.to_be_bytes());
    name
}

/// Name of the mark that a record is dead as of a checkpoint.
pub(crate) fn garbage(dead: &[u8], sequence: u64) -> Vec<u8> {
    let mut name = garbage_of(dead);
    name.extend_from_slice(&sequence.to_be_bytes());
    name
}

/// What the names of all garbage marks of a record begin with.
pub(crate) fn garbage_of(dead: &[u8]) -> Vec<u8> {
    let mut name = Vec::with_capacity(dead.len() + 9);
    name.push(GARBAGE);
    name.extend_from_slice(dead);
    name
}

/// Key of one item of a record.
pub(crate) fn item(name: &[u8], chunk: u32) -> Vec<u8> {
    let mut key = Vec::with_capacity(name.len() + 4);
    key.extend_from_slice(name);
    key.extend_from_slice(&chunk.to_be_bytes());
    key
}

/// Undoes the escaping of an id and takes off its terminator; `None` where no id was written like this.
fn unescape(escaped: &[u8]) -> Option<Vec<u8>> {
    let escaped = escaped.strip_suffix(&[0, 1])?;
    let mut id = Vec::with_capacity(escaped.len());
    let mut bytes = escaped.iter();
    while let Some(byte) = bytes.next() {
        id.push(*byte);
        if *byte == 0 && bytes.next() != Some(&0xff) {
            return None;
        }
    }
    Some(id)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(main: i64, sub: u32, sequence: u64) -> BlockId {
        BlockId { first: ChangeId { main: Revision(main), sub }, sequence }
    }

    #[test]
    fn names_are_a_promise() {
        let block = block(id(2, 3, 4));
        assert_eq!(block, b"b\x80\0\0\0\0\0\0\x02\0\0\0\x03\0\0\0\0\0\0\0\x04");
        let row = row(Table::Alarm, b"a\0", 5);
        assert_eq!(row, b"t\x04a\0\xff\0\x01\0\0\0\0\0\0\0\x05");
        assert_eq!(meta(6), b"m\0\0\0\0\0\0\0\x06");
        assert_eq!(garbage(&row, 7), b"gt\x04a\0\xff\0\x01\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0\x07");
        assert_eq!(item(b"x", 1), b"x\0\0\0\x01");
    }

    proptest! {
        #[test]
        fn blocks_sort_by_first_change_then_sequence(
            a in (any::<i64>(), any::<u32>(), any::<u64>()),
            b in (any::<i64>(), any::<u32>(), any::<u64>()),
        ) {
            let (a, b) = (id(a.0, a.1, a.2), id(b.0, b.1, b.2));
            prop_assert_eq!(block(a).cmp(&block(b)), a.cmp(&b));
            prop_assert_eq!(Name::parse(&item(&block(a), 9)), Some((Name::Block(a), 9)));
        }

        #[test]
        fn rows_sort_by_id_then_sequence(
            a in (proptest::collection::vec(0u8..3, 0..6), any::<u64>()),
            b in (proptest::collection::vec(0u8..3, 0..6), any::<u64>()),
        ) {
            let (row_a, row_b) = (row(Table::Lease, &a.0, a.1), row(Table::Lease, &b.0, b.1));
            prop_assert_eq!(row_a.cmp(&row_b), a.cmp(&b));
            prop_assert!(a == b || !row_a.starts_with(&row_b), "no name is a prefix of another");
            let read = Name::Row { table: Table::Lease, id: a.0.into(), sequence: a.1 };
            prop_assert_eq!(Name::parse(&item(&row_a, 0)), Some((read, 0)));
            let mark = Name::Garbage { dead: row_a.clone(), sequence: 8 };
            prop_assert_eq!(Name::parse(&item(&garbage(&row_a, 8), 0)), Some((mark, 0)));
        }

        #[test]
        fn no_key_panics(key in proptest::collection::vec(any::<u8>(), 0..64)) {
            let parsed = Name::parse(&key);
            prop_assert!(parsed.is_none_or(|(name, _)| name.sequence() > 0 || key.len() >= 12));
        }
    }
}
