//! Records: what a frame's payload consists of, one after another.
//!
//! ```text
//! record   kind u8 | version u8 | zero u16 | body length u32 | body
//! ```
//!
//! Kinds and versions are only ever added (decision D13). An entry carries a crc of its own, so that one read
//! from disk long after start-up is checked without reading its whole frame. Bytes from disk never panic here.

use bytes::Bytes;
use crc32c::{crc32c, crc32c_append};
use kvd_core::ids::{Index, LogId, MemberId, Term};

use super::frame::{FrameBuilder, u32_at, u64_at};
use super::{LogEntry, LogError, Vote};

/// Bytes in front of a record's body.
pub(super) const RECORD_HEADER: usize = 8;
/// Bytes of an entry's body in front of its payload: log id, crc.
pub(super) const ENTRY_HEAD: usize = LOG_ID + 4;
/// Bytes of a log id.
const LOG_ID: usize = 24;
/// Version of every kind of record so far.
const VERSION: u8 = 1;

const ENTRY: u8 = 1;
const VOTE: u8 = 2;
const TRUNCATE: u8 = 3;
const COMMITTED: u8 = 4;
const PURGE: u8 = 5;
const HEAD: u8 = 6;

/// One step of the log's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// An entry was appended.
    Entry(LogEntry),
    /// The vote was replaced.
    Vote(Vote),
    /// Everything after this entry was dropped.
    Truncate(Option<LogId>),
    /// The committed position, a hint that may lag.
    Committed(Option<LogId>),
    /// Everything up to this entry is no longer needed.
    Purge(LogId),
    /// A segment begins.
    Head(SegmentHead),
}

/// First record of each segment: makes all segments before it unnecessary but for their entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SegmentHead {
    /// Equal to the one in the file's name; else the file is a spare (hazard F12).
    pub(super) seq: u64,
    /// Length of the file: a shorter one was cut by someone else.
    pub(super) file_bytes: u64,
    /// Nonce of the file's former life; 0 for a new file.
    pub(super) former: u64,
    /// The segment before; 0 for the first one.
    pub(super) previous: u64,
    /// Number of the last frame before this segment.
    pub(super) previous_number: u64,
    /// Chained crc of that frame.
    pub(super) previous_crc: u32,
    /// Last entry before this segment, or the purged one.
    pub(super) last: Option<LogId>,
    /// Committed position.
    pub(super) committed: Option<LogId>,
    /// Purged position.
    pub(super) purged: Option<LogId>,
    /// Vote.
    pub(super) vote: Option<Vote>,
}

impl Record {
    /// Bytes that an entry takes in a frame's payload.
    pub(super) fn entry_bytes(entry: &LogEntry) -> usize {
        RECORD_HEADER + ENTRY_HEAD + entry.payload.len()
    }

    /// Bytes that a vote takes in a frame's payload.
    pub(super) fn vote_bytes(vote: &Vote) -> usize {
        RECORD_HEADER + vote.0.len()
    }

    /// Bytes that any other record but a head takes at most.
    pub(super) const POSITION_BYTES: usize = RECORD_HEADER + 1 + LOG_ID;

    /// Appends the record to a frame.
    pub(super) fn write(&self, frame: &mut FrameBuilder) {
        match self {
            Self::Entry(entry) => write_entry(entry, frame),
            Self::Vote(vote) => write(VOTE, &vote.0, frame),
            Self::Truncate(last) => write(TRUNCATE, &optional_log_id(*last), frame),
            Self::Committed(committed) => write(COMMITTED, &optional_log_id(*committed), frame),
            Self::Purge(upto) => write(PURGE, &log_id_bytes(*upto), frame),
            Self::Head(head) => write(HEAD, &head_body(head), frame),
        }
    }

    /// Takes the first record off a payload.
    pub(super) fn read(payload: &mut Bytes) -> Result<Self, LogError> {
        let Some((kind, length)) = read_header(payload)? else { return Err(LogError::Record) };
        if payload.len() - RECORD_HEADER < length {
            return Err(LogError::Record);
        }
        let mut record = payload.split_to(RECORD_HEADER + length);
        let body = record.split_off(RECORD_HEADER);
        Self::decode(kind, body).ok_or(LogError::Record)
    }

    fn decode(kind: u8, body: Bytes) -> Option<Self> {
        let mut fields = Fields(&body);
        let record = match kind {
            ENTRY => return read_entry(&body).map(Self::Entry),
            VOTE => return Some(Self::Vote(Vote(body))),
            TRUNCATE => Self::Truncate(fields.optional_log_id()?),
            COMMITTED => Self::Committed(fields.optional_log_id()?),
            PURGE => Self::Purge(fields.log_id()?),
            HEAD => Self::Head(fields.head()?),
            _ => return None,
        };
        fields.0.is_empty().then_some(record)
    }
}

/// Kind and body length of the record at the start of `bytes`; none if there are too few bytes.
pub(super) fn read_header(bytes: &[u8]) -> Result<Option<(u8, usize)>, LogError> {
    if bytes.len() < RECORD_HEADER {
        return Ok(None);
    }
    if bytes[1] != VERSION || bytes[0] == 0 || bytes[0] > HEAD {
        return Err(LogError::Unsupported { what: "record", version: bytes[1] });
    }
    Ok(Some((bytes[0], u32_at(bytes, 4) as usize)))
}

/// Reads an entry's body; none if it is not as it was written.
pub(super) fn read_entry(body: &Bytes) -> Option<LogEntry> {
    let mut fields = Fields(body);
    let log_id = fields.log_id()?;
    let crc = fields.u32()?;
    let payload = body.slice(ENTRY_HEAD..);
    let right = crc32c_append(crc32c(&body[..LOG_ID]), &payload) == crc;
    right.then_some(LogEntry { log_id, payload })
}

fn write_entry(entry: &LogEntry, frame: &mut FrameBuilder) {
    let id = log_id_bytes(entry.log_id);
    write_header(ENTRY, ENTRY_HEAD + entry.payload.len(), frame);
    frame.push(&id);
    frame.push(&crc32c_append(crc32c(&id), &entry.payload).to_le_bytes());
    frame.push(&entry.payload);
}

fn write(kind: u8, body: &[u8], frame: &mut FrameBuilder) {
    write_header(kind, body.len(), frame);
    frame.push(body);
}

fn write_header(kind: u8, length: usize, frame: &mut FrameBuilder) {
    let length = u32::try_from(length).expect("RaftLog refuses entries above ENTRY_BYTES_MAX");
    frame.push(&[kind, VERSION, 0, 0]);
    frame.push(&length.to_le_bytes());
}

fn log_id_bytes(log_id: LogId) -> [u8; LOG_ID] {
    let mut bytes = [0; LOG_ID];
    bytes[..8].copy_from_slice(&log_id.term.0.to_le_bytes());
    bytes[8..16].copy_from_slice(&log_id.node.0.to_le_bytes());
    bytes[16..].copy_from_slice(&log_id.index.0.to_le_bytes());
    bytes
}

/// A flag and a log id, of fixed length.
fn optional_log_id(log_id: Option<LogId>) -> [u8; 1 + LOG_ID] {
    let mut bytes = [0; 1 + LOG_ID];
    if let Some(log_id) = log_id {
        bytes[0] = 1;
        bytes[1..].copy_from_slice(&log_id_bytes(log_id));
    }
    bytes
}

fn head_body(head: &SegmentHead) -> Vec<u8> {
    let mut body = Vec::new();
    for number in [head.seq, head.file_bytes, head.former, head.previous, head.previous_number] {
        body.extend_from_slice(&number.to_le_bytes());
    }
    body.extend_from_slice(&head.previous_crc.to_le_bytes());
    for log_id in [head.last, head.committed, head.purged] {
        body.extend_from_slice(&optional_log_id(log_id));
    }
    if let Some(vote) = &head.vote {
        body.push(1);
        body.extend_from_slice(&vote.0);
    } else {
        body.push(0);
    }
    body
}

/// The rest of a body that is being read.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn u8(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn u32(&mut self) -> Option<u32> {
        let (value, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*value))
    }

    fn u64(&mut self) -> Option<u64> {
        let (value, rest) = self.0.split_at_checked(8)?;
        self.0 = rest;
        Some(u64_at(value, 0))
    }

    fn log_id(&mut self) -> Option<LogId> {
        let (term, node, index) = (self.u64()?, self.u64()?, self.u64()?);
        Some(LogId { term: Term(term), node: MemberId(node), index: Index(index) })
    }

    fn optional_log_id(&mut self) -> Option<Option<LogId>> {
        let present = self.u8()?;
        let log_id = self.log_id()?;
        match present {
            0 => Some(None),
            1 => Some(Some(log_id)),
            _ => None,
        }
    }

    fn head(&mut self) -> Option<SegmentHead> {
        Some(SegmentHead {
            seq: self.u64()?,
            file_bytes: self.u64()?,
            former: self.u64()?,
            previous: self.u64()?,
            previous_number: self.u64()?,
            previous_crc: self.u32()?,
            last: self.optional_log_id()?,
            committed: self.optional_log_id()?,
            purged: self.optional_log_id()?,
            vote: match self.u8()? {
                0 => None,
                1 => Some(Vote(Bytes::copy_from_slice(std::mem::take(&mut self.0)))),
                _ => return None,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::frame::{Header, Life};
    use crate::log::{VOTE_BYTES_MAX, frame::SECTOR};

    fn log_id(index: u64) -> LogId {
        LogId { term: Term(3), node: MemberId(4), index: Index(index) }
    }

    fn head() -> SegmentHead {
        SegmentHead {
            seq: 1,
            file_bytes: 2,
            former: 3,
            previous: 4,
            previous_number: 5,
            previous_crc: 6,
            last: Some(log_id(7)),
            committed: Some(log_id(8)),
            purged: None,
            vote: Some(Vote(Bytes::from(vec![9; VOTE_BYTES_MAX]))),
        }
    }

    fn payload(record: &Record) -> Bytes {
        let life = Life { nonce: 1 };
        let mut frame = FrameBuilder::new(life);
        record.write(&mut frame);
        let (bytes, _) = frame.finish(1, 0);
        Bytes::from(Header::read(&bytes).unwrap().unwrap().payload(&bytes, 0).unwrap())
    }

    fn records() -> Vec<Record> {
        vec![
            Record::Entry(LogEntry { log_id: log_id(5), payload: Bytes::from_static(b"put") }),
            Record::Vote(Vote(Bytes::from_static(b"v"))),
            Record::Truncate(None),
            Record::Committed(Some(log_id(2))),
            Record::Purge(log_id(1)),
            Record::Head(head()),
        ]
    }

    #[test]
    fn records_are_read_back() {
        for record in records() {
            let mut bytes = payload(&record);
            assert_eq!(Record::read(&mut bytes).unwrap(), record);
            assert!(bytes.is_empty());
        }
    }

    #[test]
    fn the_longest_head_fits_into_one_sector() {
        assert_eq!(crate::log::frame::frame_bytes(payload(&Record::Head(head())).len()), SECTOR);
    }

    #[test]
    fn no_bytes_panic() {
        for record in records() {
            let whole = payload(&record);
            for cut in 0..whole.len() {
                assert!(Record::read(&mut whole.slice(..cut)).is_err());
            }
            for bit in 0..whole.len() * 8 {
                let mut rotten = whole.to_vec();
                rotten[bit / 8] ^= 1 << (bit % 8);
                // The frame's crc catches these; here only the absence of a panic counts.
                drop(Record::read(&mut Bytes::from(rotten)));
            }
        }
    }

    #[test]
    fn golden_bytes() {
        let hex = |record: &Record| -> String {
            payload(record).iter().map(|byte| format!("{byte:02x}")).collect()
        };
        let records = records();
        let id = |index: u8| format!("03000000000000000400000000000000{index:02x}00000000000000");
        assert!(hex(&records[0]).starts_with(&format!("010100001f000000{}", id(5))));
        assert!(hex(&records[0]).ends_with("707574"));
        assert_eq!(hex(&records[1]), "020100000100000076");
        assert_eq!(hex(&records[2]), format!("030100001900000000{}", "0".repeat(48)));
        assert_eq!(hex(&records[3]), format!("040100001900000001{}", id(2)));
        assert_eq!(hex(&records[4]), format!("0501000018000000{}", id(1)));
        assert!(hex(&records[5]).starts_with("060100007801000001000000"));
    }
}
