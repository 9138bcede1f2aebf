//! A state as a stream: what members send to each other, and what a backup will hold.
//!
//! ```text
//!   header | table rows in order | blocks in order | end
//! ```
//!
//! Each piece is framed: kind, length, bytes, crc32c. A [`Capture`] reads them from a pinned View, so the
//! stream shows one moment however long it takes; a [`Decoder`] gives them back. With a base only blocks after
//! that revision are sent: committed history up to it is the same on every member (hazard C3), and the
//! receiver adds its own. Dead records are never sent: blocks are packed anew from what the View can read.

use std::ops::ControlFlow;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::checkpoint::{BlockId, Meta, Table};
use crate::codec::{self, DecodeError};
use crate::ids::{ChangeId, Revision};
use crate::limits::{BLOCK_BYTES_MAX, BLOCK_RECORDS_MAX};
use crate::mvcc::block;
use crate::mvcc::record::Record;
use crate::view::{Access, ReadError, View};

/// Version of the stream, in the header.
const VERSION: u8 = 1;

/// Sequence of the one checkpoint that a received store holds.
const SEQUENCE: u64 = 1;

/// Kind, length and checksum of a piece.
const FRAME_BYTES: usize = 1 + 4 + 4;

/// Bytes of one piece at most; a block holds at most one record beyond [`BLOCK_BYTES_MAX`], and that is at
/// most a request. More is not a snapshot.
const PIECE_BYTES_MAX: usize = 512 << 20;

/// One part of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// The first: what follows, and what it is added to.
    Header {
        /// Meta of the checkpoint that the receiver's store will hold.
        meta: Box<Meta>,
        /// Only blocks after this revision follow; `None` for all.
        base: Option<Revision>,
    },
    /// A table row.
    Row {
        /// Which table.
        table: Table,
        /// The row's id.
        id: Bytes,
        /// The row.
        row: Bytes,
    },
    /// A block of history.
    Block {
        /// Its name.
        id: BlockId,
        /// Its bytes.
        block: Bytes,
    },
    /// The last: nothing is missing.
    End,
}

impl Piece {
    /// Appends the piece's frame.
    pub fn encode_to(&self, out: &mut BytesMut) {
        let (kind, body) = match self {
            Self::Header { meta, base } => {
                let mut body = vec![VERSION];
                body.put_i64(base.map_or(0, |base| base.0));
                body.extend_from_slice(&codec::encode_meta(meta));
                (0, Bytes::from(body))
            }
            Self::Row { table, id, row } => {
                let mut body = vec![*table as u8];
                body.put_u32(u32::try_from(id.len()).expect("ids of rows are a few bytes"));
                body.extend_from_slice(id);
                body.extend_from_slice(row);
                (1, Bytes::from(body))
            }
            Self::Block { block, .. } => (2, block.clone()),
            Self::End => (3, Bytes::new()),
        };
        out.reserve(FRAME_BYTES + body.len());
        out.put_u8(kind);
        out.put_u32(u32::try_from(body.len()).expect("pieces are far below 4 GiB"));
        out.put_slice(&body);
        out.put_u32(crc32c::crc32c_append(u32::from(kind), &body));
    }

    fn decode(kind: u8, mut body: Bytes) -> Result<Self, DecodeError> {
        match kind {
            0 => {
                let version = body.try_get_u8().map_err(|_| DecodeError::Short)?;
                if version != VERSION {
                    return Err(DecodeError::Version { found: version });
                }
                let base = body.try_get_i64().map_err(|_| DecodeError::Short)?;
                let meta = Box::new(codec::decode_meta(body)?);
                Ok(Self::Header { meta, base: (base > 0).then_some(Revision(base)) })
            }
            1 => {
                let table = body.try_get_u8().map_err(|_| DecodeError::Short)?;
                let table = Table::from_number(table)
                    .ok_or(DecodeError::Tag { what: "table", found: table })?;
                let id = body.try_get_u32().map_err(|_| DecodeError::Short)? as usize;
                if id > body.len() {
                    return Err(DecodeError::Short);
                }
                let id = body.split_to(id);
                Ok(Self::Row { table, id, row: body })
            }
            2 => {
                let first = block::Block::decode(body.clone())?.first();
                Ok(Self::Block { id: BlockId { first, sequence: SEQUENCE }, block: body })
            }
            3 => Ok(Self::End),
            found => Err(DecodeError::Tag { what: "piece", found }),
        }
    }
}

/// Pieces out of a stream of bytes, however it is cut.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
}

impl Decoder {
    /// Takes in more of the stream.
    pub fn push(&mut self, bytes: Bytes) {
        self.buffer.extend_from_slice(&bytes);
    }

    /// The next whole piece; `None` until more arrives.
    pub fn next_piece(&mut self) -> Result<Option<Piece>, DecodeError> {
        let Some(&[kind, a, b, c, d]) = self.buffer.get(..5).and_then(|h| h.first_chunk::<5>())
        else {
            return Ok(None);
        };
        let len = u32::from_be_bytes([a, b, c, d]) as usize;
        if len > PIECE_BYTES_MAX {
            return Err(DecodeError::Contradiction("a piece's length"));
        }
        if self.buffer.len() < FRAME_BYTES + len {
            return Ok(None);
        }
        let mut frame = self.buffer.split_to(FRAME_BYTES + len).freeze();
        frame.advance(5);
        let body = frame.split_to(len);
        if frame.get_u32() != crc32c::crc32c_append(u32::from(kind), &body) {
            return Err(DecodeError::Checksum);
        }
        Piece::decode(kind, body).map(Some)
    }
}

/// The history hash after the records of a block, from the one before them (hazard C2).
pub fn history_after(history: u64, block: &Bytes) -> Result<u64, DecodeError> {
    let block = block::Block::decode(block.clone())?;
    Ok(block.records().iter().fold(history, |history, record| record.chained(history)))
}

/// One moment of a state, to be sent. Pins its View.
#[derive(Debug)]
pub struct Capture {
    blocks: Blocks,
    meta: Meta,
    rows: std::vec::IntoIter<(Table, Bytes, Bytes)>,
    base: Option<Revision>,
    at: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Header,
    Rows,
    Blocks,
    Done,
}

impl Capture {
    /// A moment: a View, the rows of all tables at it, and the meta of a checkpoint of it.
    pub(crate) fn new(view: View, meta: Meta, rows: Vec<(Table, Bytes, Bytes)>) -> Self {
        let blocks = Blocks::new(view, Revision(0), None);
        Self { blocks, meta, rows: rows.into_iter(), base: None, at: Stage::Header }
    }

    /// This member's own blocks up to a revision: the part of an increment that is not sent.
    pub fn blocks_upto(view: &View, upto: Revision) -> Blocks {
        Blocks::new(view.clone(), Revision(0), Some(upto))
    }

    /// Leaves out what a receiver at this revision has, if what it has can still be built upon: history below
    /// the compaction mark may differ in what is left of it.
    pub fn send_after(&mut self, revision: Revision) {
        let usable = revision > Revision::FIRST
            && revision <= self.meta.revision
            && self.meta.compacted <= Some(revision);
        if usable && self.at == Stage::Header {
            self.base = Some(revision);
            self.blocks = Blocks::new(self.blocks.view.clone(), revision, None);
        }
    }

    /// What is sent.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// The revision that the receiver must have; `None` when everything is sent.
    pub fn base(&self) -> Option<Revision> {
        self.base
    }

    /// The next piece; `None` after the end.
    pub fn next_piece(&mut self, access: Access) -> Result<Option<Piece>, ReadError> {
        if self.at == Stage::Header {
            self.at = Stage::Rows;
            let meta = Box::new(self.meta.clone());
            return Ok(Some(Piece::Header { meta, base: self.base }));
        }
        if self.at == Stage::Rows {
            if let Some((table, id, row)) = self.rows.next() {
                return Ok(Some(Piece::Row { table, id, row }));
            }
            self.at = Stage::Blocks;
        }
        if self.at == Stage::Blocks {
            if let Some((id, block)) = self.blocks.next_block(access)? {
                return Ok(Some(Piece::Block { id, block }));
            }
            self.at = Stage::Done;
            return Ok(Some(Piece::End));
        }
        Ok(None)
    }
}

/// Blocks packed anew from what a View can read, in order.
#[derive(Debug)]
pub struct Blocks {
    view: View,
    next: ChangeId,
    upto: Revision,
}

impl Blocks {
    fn new(view: View, after: Revision, upto: Option<Revision>) -> Self {
        let upto = upto.unwrap_or(view.revision()).min(view.revision());
        Self { view, next: ChangeId { main: after.next(), sub: 0 }, upto }
    }

    /// The next block; `None` after the last.
    pub fn next_block(&mut self, access: Access) -> Result<Option<(BlockId, Bytes)>, ReadError> {
        let mut records: Vec<Record> = Vec::with_capacity(BLOCK_RECORDS_MAX);
        let mut bytes = 0;
        self.view.scan_records(self.next, self.upto, access, &mut |record| {
            let fits = records.is_empty() || bytes + record.bytes.len() <= BLOCK_BYTES_MAX;
            if records.len() == BLOCK_RECORDS_MAX || !fits {
                return ControlFlow::Break(());
            }
            bytes += record.bytes.len();
            records.push(record.clone());
            ControlFlow::Continue(())
        })?;
        let (Some(first), Some(last)) = (records.first(), records.last()) else {
            return Ok(None);
        };
        let id = BlockId { first: first.change, sequence: SEQUENCE };
        self.next = ChangeId { sub: last.change.sub + 1, ..last.change };
        Ok(Some((id, block::encode(&records))))
    }
}
