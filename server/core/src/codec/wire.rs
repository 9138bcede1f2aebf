//! Varints and length prefixes: the two bricks of every format of ours.
//!
//! The reader trusts nothing: every length is compared with what is left before it is used, a varint has one
//! spelling only, and what it hands out are slices of the input, never copies.

use bytes::Bytes;

use super::DecodeError;
use crate::ids::{ChangeId, Index, LogId, MemberId, Revision, Term};

/// Longest LEB128 spelling of 64 bits.
const VARINT_BYTES_MAX: usize = 10;

/// Builds one encoded value.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    buffer: Vec<u8>,
}

impl Writer {
    /// Starts with the format's version byte.
    pub(crate) fn versioned(version: u8) -> Self {
        Self { buffer: vec![version] }
    }

    pub(crate) fn finish(self) -> Bytes {
        Bytes::from(self.buffer)
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.buffer.push(value);
    }

    pub(crate) fn flag(&mut self, value: bool) {
        self.u8(u8::from(value));
    }

    pub(crate) fn u64(&mut self, value: u64) {
        put_varint(&mut self.buffer, value);
    }

    /// Zigzag, so that small negative numbers stay short.
    pub(crate) fn i64(&mut self, value: i64) {
        self.u64(((value << 1) ^ (value >> 63)).cast_unsigned());
    }

    pub(crate) fn bytes(&mut self, value: &[u8]) {
        self.u64(value.len() as u64);
        self.buffer.extend_from_slice(value);
    }

    pub(crate) fn fixed_u64(&mut self, value: u64) {
        self.buffer.extend_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn fixed_u32(&mut self, value: u32) {
        self.buffer.extend_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn strings(&mut self, values: &[String]) {
        self.u64(values.len() as u64);
        for value in values {
            self.bytes(value.as_bytes());
        }
    }

    pub(crate) fn revision(&mut self, value: Revision) {
        self.i64(value.0);
    }

    pub(crate) fn log_id(&mut self, value: LogId) {
        self.u64(value.term.0);
        self.u64(value.node.0);
        self.u64(value.index.0);
    }

    /// A one for `Some` and the value, or a zero.
    pub(crate) fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        match value {
            None => self.u8(0),
            Some(value) => {
                self.u8(1);
                write(self, value);
            }
        }
    }
}

/// Appends a LEB128 varint.
pub(crate) fn put_varint(buffer: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        buffer.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    buffer.push((value & 0x7f) as u8);
}

/// Length of a LEB128 varint.
pub(crate) fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Reads one encoded value from its front.
#[derive(Debug)]
pub(crate) struct Reader {
    input: Bytes,
    position: usize,
}

impl Reader {
    pub(crate) fn new(input: Bytes) -> Self {
        Self { input, position: 0 }
    }

    /// Checks the version byte first.
    pub(crate) fn versioned(input: Bytes, version: u8) -> Result<Self, DecodeError> {
        let mut reader = Self::new(input);
        match reader.u8()? {
            found if found == version => Ok(reader),
            found => Err(DecodeError::Version { found }),
        }
    }

    /// Nothing may follow.
    pub(crate) fn finish(self) -> Result<(), DecodeError> {
        match self.remaining() {
            0 => Ok(()),
            bytes => Err(DecodeError::Trailing { bytes }),
        }
    }

    pub(crate) fn remaining(&self) -> usize {
        self.input.len() - self.position
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        let byte = *self.input.get(self.position).ok_or(DecodeError::Short)?;
        self.position += 1;
        Ok(byte)
    }

    pub(crate) fn flag(&mut self, what: &'static str) -> Result<bool, DecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            found => Err(DecodeError::Tag { what, found }),
        }
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0_u64;
        for place in 0..VARINT_BYTES_MAX {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if place == VARINT_BYTES_MAX - 1 && byte > 1 {
                return Err(DecodeError::Varint);
            }
            value |= bits << (7 * place);
            if byte < 0x80 {
                let one_spelling = byte != 0 || place == 0;
                return if one_spelling { Ok(value) } else { Err(DecodeError::Varint) };
            }
        }
        Err(DecodeError::Varint)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        u32::try_from(self.u64()?).map_err(|_| DecodeError::Varint)
    }

    pub(crate) fn i64(&mut self) -> Result<i64, DecodeError> {
        let value = self.u64()?;
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    /// So many bytes, as a slice of the input.
    pub(crate) fn take(&mut self, length: u64) -> Result<Bytes, DecodeError> {
        let length = usize::try_from(length).map_err(|_| DecodeError::Short)?;
        if length > self.remaining() {
            return Err(DecodeError::Short);
        }
        let slice = self.input.slice(self.position..self.position + length);
        self.position += length;
        Ok(slice)
    }

    pub(crate) fn bytes(&mut self) -> Result<Bytes, DecodeError> {
        let length = self.u64()?;
        self.take(length)
    }

    pub(crate) fn fixed_u64(&mut self) -> Result<u64, DecodeError> {
        let mut value = [0; 8];
        value.copy_from_slice(&self.take(8)?);
        Ok(u64::from_be_bytes(value))
    }

    pub(crate) fn fixed_u32(&mut self) -> Result<u32, DecodeError> {
        let mut value = [0; 4];
        value.copy_from_slice(&self.take(4)?);
        Ok(u32::from_be_bytes(value))
    }

    pub(crate) fn string(&mut self) -> Result<String, DecodeError> {
        let bytes = self.bytes()?;
        String::from_utf8(bytes.to_vec()).map_err(|_| DecodeError::Text)
    }

    pub(crate) fn strings(&mut self) -> Result<Vec<String>, DecodeError> {
        self.list(Self::string)
    }

    /// A count and so many items. An item takes a byte at least, so a count beyond what is left is a lie.
    pub(crate) fn list<T>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let count = self.u64()?;
        if count > self.remaining() as u64 {
            return Err(DecodeError::Short);
        }
        (0..count).map(|_| item(self)).collect()
    }

    pub(crate) fn option<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        if self.flag("option")? { read(self).map(Some) } else { Ok(None) }
    }

    pub(crate) fn revision(&mut self) -> Result<Revision, DecodeError> {
        self.i64().map(Revision)
    }

    pub(crate) fn change(&mut self) -> Result<ChangeId, DecodeError> {
        let main = i64::try_from(self.u64()?).map_err(|_| DecodeError::Varint)?;
        Ok(ChangeId { main: Revision(main), sub: self.u32()? })
    }

    pub(crate) fn log_id(&mut self) -> Result<LogId, DecodeError> {
        let (term, node, index) = (self.u64()?, self.u64()?, self.u64()?);
        Ok(LogId { term: Term(term), node: MemberId(node), index: Index(index) })
    }
}
