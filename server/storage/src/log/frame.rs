//! Frames: the unit in which the log reaches the disk, one group commit each (hazard A3).
//!
//! ```text
//! sector   | mark 2 | header 32 | payload ...                    |  512 bytes
//! sector   | mark 2 | payload ...                     | zeros    |  512 bytes
//! header   version u8, 3 zeros, payload length u32, segment nonce u64, frame number u64,
//!          crc32c of payload and padding (chained) u32, crc32c of the header so far u32
//! ```
//!
//! All numbers are little-endian. A frame begins and ends at a sector's border, so that writing one never
//! touches a sector that was acknowledged before. The mark is derived from the segment's nonce: it tells a
//! sector of this frame from one that still holds what lay there before. The nonce also keeps a client from
//! planting a frame inside a value. This file knows nothing of records or files.

use crc32c::{crc32c, crc32c_append};

use super::LogError;

/// Bytes of a sector: what a disk writes wholly or not at all.
pub(super) const SECTOR: usize = 512;
/// The same as an offset in a file.
pub(super) const SECTOR_BYTES: u64 = SECTOR as u64;
/// Bytes of the mark at the start of each sector.
pub(super) const MARK: usize = 2;
/// Bytes of a frame's header.
const HEADER: usize = 32;
/// Bytes of payload and header in one sector.
const CONTENT: usize = SECTOR - MARK;
/// The format written by this build; older ones stay readable for ever (decision D13).
const VERSION: u8 = 1;
/// Bits in which the marks of two lives of a file differ at least, so that one flipped bit never turns one
/// into the other, nor into zeros.
const MARK_DISTANCE: u32 = 3;

/// Bytes on disk of a frame with this much payload.
pub(super) fn frame_bytes(payload: usize) -> usize {
    (HEADER + payload).div_ceil(CONTENT) * SECTOR
}

/// One life of a segment file, from its head to its recycling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    /// Random, never zero.
    pub(super) nonce: u64,
}

impl Life {
    /// Begins a life whose mark cannot be mistaken for the former life's, nor for zeros.
    pub(super) fn new(nonce: &mut dyn FnMut() -> u64, former: Option<Self>) -> Self {
        let before = former.map_or(0, |former| u16::from_le_bytes(former.mark()));
        let mut step = 0_u64;
        loop {
            // The step makes this end even if the source of nonces is broken and repeats itself.
            let life =
                Self { nonce: nonce().wrapping_add(step.wrapping_mul(0x9e37_79b9_7f4a_7c15)) };
            let mark = u16::from_le_bytes(life.mark());
            let apart = (mark ^ before).count_ones() >= MARK_DISTANCE;
            if life.nonce != 0 && apart && mark.count_ones() >= MARK_DISTANCE {
                return life;
            }
            step += 1;
        }
    }

    /// What each sector of a frame starts with.
    pub(super) fn mark(self) -> [u8; MARK] {
        let [a, b, ..] = self.chain_start().to_le_bytes();
        [a, b]
    }

    /// What the first frame's payload crc continues.
    pub(super) fn chain_start(self) -> u32 {
        crc32c(&self.nonce.to_le_bytes())
    }
}

/// The header of a frame as read from disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Bytes of payload.
    pub(super) length: u32,
    /// The life of the file that it belongs to.
    pub(super) life: Life,
    /// Position among all frames of the log, from 1.
    pub(super) number: u64,
    /// Chained crc of the payload and the padding behind it.
    pub(super) crc: u32,
}

impl Header {
    /// Reads the header at the start of a sector; none if the sector does not start a frame.
    pub(super) fn read(sector: &[u8]) -> Result<Option<Self>, LogError> {
        let Some(header) = sector.get(MARK..MARK + HEADER) else { return Ok(None) };
        if crc32c(&header[..28]) != u32_at(header, 28) {
            return Ok(None);
        }
        let life = Life { nonce: u64_at(header, 8) };
        if sector[..MARK] != life.mark() {
            return Ok(None);
        }
        if header[0] != VERSION {
            return Err(LogError::Unsupported { what: "frame", version: header[0] });
        }
        let (length, number, crc) = (u32_at(header, 4), u64_at(header, 16), u32_at(header, 24));
        Ok(Some(Self { length, life, number, crc }))
    }

    /// Bytes of the whole frame on disk.
    pub(super) fn frame_bytes(&self) -> usize {
        frame_bytes(self.length as usize)
    }

    /// The payload of this frame without marks; none unless each bit of it is as it was written.
    pub(super) fn payload(&self, frame: &[u8], chain: u32) -> Option<Vec<u8>> {
        let mut payload = Vec::with_capacity(frame.len());
        for (at, sector) in frame.chunks(SECTOR).enumerate() {
            if sector[..MARK] != self.life.mark() {
                return None;
            }
            payload.extend_from_slice(&sector[content_start(at)..]);
        }
        if crc32c_append(chain, &payload) != self.crc {
            return None;
        }
        payload.truncate(self.length as usize);
        Some(payload)
    }
}

/// Offset from the start of a frame on disk of this byte of its payload.
pub(super) fn payload_offset(at: usize) -> u64 {
    let content = HEADER + at;
    (content / CONTENT * SECTOR + MARK + content % CONTENT) as u64
}

/// Bytes of payload that a frame within this many bytes of disk can have; none if there is no room for one.
pub(super) fn payload_room(bytes: u64) -> Option<usize> {
    let sectors = usize::try_from(bytes / SECTOR_BYTES).unwrap_or(usize::MAX / SECTOR);
    (sectors * CONTENT).checked_sub(HEADER)
}

/// Where the payload starts in the sector at this place of a frame.
fn content_start(sector_in_frame: usize) -> usize {
    if sector_in_frame == 0 { MARK + HEADER } else { MARK }
}

/// A frame while it is being filled.
pub(super) struct FrameBuilder {
    life: Life,
    bytes: Vec<u8>,
    payload: usize,
}

impl FrameBuilder {
    /// Begins an empty frame.
    pub(super) fn new(life: Life) -> Self {
        let mut bytes = life.mark().to_vec();
        bytes.resize(MARK + HEADER, 0);
        Self { life, bytes, payload: 0 }
    }

    /// Bytes of payload so far.
    pub(super) fn payload(&self) -> usize {
        self.payload
    }

    /// Appends to the payload.
    pub(super) fn push(&mut self, mut content: &[u8]) {
        self.payload += content.len();
        while !content.is_empty() {
            let filled = self.bytes.len() % SECTOR;
            if filled == 0 {
                self.bytes.extend_from_slice(&self.life.mark());
                continue;
            }
            let (now, later) = content.split_at(content.len().min(SECTOR - filled));
            self.bytes.extend_from_slice(now);
            content = later;
        }
    }

    /// Finishes the frame: its bytes, and the chain value that the next frame continues.
    pub(super) fn finish(mut self, number: u64, chain: u32) -> (Vec<u8>, u32) {
        self.bytes.resize(self.bytes.len().next_multiple_of(SECTOR), 0);
        let crc = self
            .bytes
            .chunks(SECTOR)
            .enumerate()
            .fold(chain, |crc, (at, sector)| crc32c_append(crc, &sector[content_start(at)..]));
        let length = u32::try_from(self.payload).expect("the flusher keeps frames below 2 GiB");
        let header = &mut self.bytes[MARK..MARK + HEADER];
        header[0] = VERSION;
        header[4..8].copy_from_slice(&length.to_le_bytes());
        header[8..16].copy_from_slice(&self.life.nonce.to_le_bytes());
        header[16..24].copy_from_slice(&number.to_le_bytes());
        header[24..28].copy_from_slice(&crc.to_le_bytes());
        let own = crc32c(&header[..28]);
        header[28..].copy_from_slice(&own.to_le_bytes());
        (self.bytes, crc)
    }
}

/// The four bytes at `at`, which the caller has checked to exist.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(value)
}

/// The eight bytes at `at`, which the caller has checked to exist.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(payload: &[u8]) -> (Vec<u8>, u32) {
        let mut builder = FrameBuilder::new(Life { nonce: 0x1122_3344_5566_7788 });
        builder.push(payload);
        builder.finish(7, 99)
    }

    #[test]
    fn a_frame_is_read_back_at_every_size() {
        for size in [0, 1, 477, 478, 479, 987, 988, 989, 5000] {
            let payload: Vec<u8> = (0..size).map(|at: usize| at.to_le_bytes()[0]).collect();
            let (bytes, crc) = frame(&payload);
            assert_eq!(bytes.len(), frame_bytes(size));
            let header = Header::read(&bytes).unwrap().unwrap();
            assert_eq!((header.number, header.crc, header.frame_bytes()), (7, crc, bytes.len()));
            assert_eq!(header.payload(&bytes, 99).unwrap(), payload);
            assert_eq!(header.payload(&bytes, 98), None, "another chain");
        }
    }

    #[test]
    fn each_flipped_bit_is_noticed() {
        let (bytes, _) = frame(&[5; 700]);
        for bit in 0..bytes.len() * 8 {
            let mut rotten = bytes.clone();
            rotten[bit / 8] ^= 1 << (bit % 8);
            let payload = Header::read(&rotten).ok().flatten().and_then(|h| h.payload(&rotten, 99));
            assert_eq!(payload, None, "bit {bit}");
        }
    }

    #[test]
    fn golden_bytes() {
        let (bytes, _) = frame(b"kvd");
        let hex: String = bytes[..40].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "1651010000000300000088776655443322110700000000000000405242155e63fb386b7664000000"
        );
        assert!(bytes[37..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_broken_source_of_nonces_still_gives_marks_apart() {
        for constant in [0, 1, u64::MAX] {
            let first = Life::new(&mut || constant, None);
            let second = Life::new(&mut || constant, Some(first));
            let marks = [first, second].map(|life| u16::from_le_bytes(life.mark()));
            assert!((marks[0] ^ marks[1]).count_ones() >= MARK_DISTANCE);
            assert!(marks.iter().all(|mark| mark.count_ones() >= MARK_DISTANCE));
        }
    }
}
