//! Reading entries: from memory where they are recent, else from their segment, each checked by its own crc.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use kvd_core::ids::Index;
#[cfg(any(test, feature = "testing"))]
use kvd_core::ids::LogId;

use super::picture::Place;
use super::record::{ENTRY_HEAD, RECORD_HEADER, read_entry, read_header};
use super::segment::Content;
use super::{Inner, LogEntry, LogError, RaftLog};
use crate::fs::DiskFile;

/// Entries looked up under one hold of the lock.
const PLACES_MAX: usize = 1024;

/// Entries on disk, to be read without the lock.
struct Cold {
    first: u64,
    places: Vec<(Place, Arc<dyn DiskFile>)>,
}

impl RaftLog {
    /// The entries of a range, at most `bytes_max` bytes of payload but at least one entry if any exists.
    /// May read from the device.
    pub fn read(
        &self,
        from: Index,
        to_exclusive: Index,
        bytes_max: usize,
    ) -> Result<Vec<LogEntry>, LogError> {
        let mut batch = Batch { entries: Vec::new(), bytes: 0, bytes_max };
        let mut next = from;
        while let Some(cold) = self.find(next, to_exclusive, &mut batch) {
            match read_cold(&cold, &mut batch) {
                Ok(Some(after)) => next = Index(after),
                Ok(None) => break,
                // The segment was recycled after the lock was given up.
                Err(_) if self.is_purged(cold.first) => {
                    if !batch.entries.is_empty() {
                        break;
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(batch.entries)
    }

    /// As [`Self::read`], without ever touching the device: none if an entry of the range is not in memory.
    #[must_use]
    pub fn read_tail(
        &self,
        from: Index,
        to_exclusive: Index,
        bytes_max: usize,
    ) -> Option<Vec<LogEntry>> {
        let inner = self.shared.inner();
        let mut batch = Batch { entries: Vec::new(), bytes: 0, bytes_max };
        for index in inner.picture.clamp(from, to_exclusive) {
            if !batch.take(inner.picture.recent(index)?.clone()) {
                break;
            }
        }
        Some(batch.entries)
    }

    /// Testing only: names the entry at an index, if it is in memory.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn log_id_at(&self, index: Index) -> Option<LogId> {
        self.shared.inner().picture.recent(index.0).map(|entry| entry.log_id)
    }

    /// Takes the next entries if they are in memory; else answers where they are on disk.
    fn find(&self, from: Index, to_exclusive: Index, batch: &mut Batch) -> Option<Cold> {
        let inner = self.shared.inner();
        let range = inner.picture.clamp(from, to_exclusive);
        if !batch.entries.is_empty() && range.start != from.0 {
            // A purge came between; what follows it would leave a hole.
            return None;
        }
        for index in range.clone() {
            match inner.picture.recent(index) {
                Some(entry) if batch.take(entry.clone()) => {}
                Some(_) => return None,
                None => return cold(&inner, range),
            }
        }
        None
    }

    fn is_purged(&self, index: u64) -> bool {
        super::picture::index_of(self.shared.inner().picture.state().purged) >= index
    }
}

/// The entries at the start of the range that are on disk.
fn cold(inner: &Inner, range: Range<u64>) -> Option<Cold> {
    let mut cold = Cold { first: range.start, places: Vec::new() };
    for index in range.take(PLACES_MAX) {
        let Some(place) = inner.picture.place(index) else { break };
        let Some(segment) = inner.segments.get(&place.segment) else { break };
        cold.places.push((place, Arc::clone(&segment.file)));
    }
    (!cold.places.is_empty()).then_some(cold)
}

/// Reads entries until the batch is full: then none, else the index after the last one read.
fn read_cold(cold: &Cold, batch: &mut Batch) -> Result<Option<u64>, LogError> {
    let mut index = cold.first;
    for of_segment in cold.places.chunk_by(|one, other| one.0.segment == other.0.segment) {
        let Some((_, file)) = of_segment.first() else { continue };
        let mut content = Content::new(Arc::clone(file));
        for (place, _) in of_segment {
            let entry = read_one(&mut content, *place)?;
            if entry.log_id.index.0 != index {
                return Err(damaged(*place, "another entry lies where this one was written"));
            }
            if !batch.take(entry) {
                return Ok(None);
            }
            index += 1;
        }
    }
    Ok(Some(index))
}

fn read_one(content: &mut Content, place: Place) -> Result<LogEntry, LogError> {
    let io = |source: io::Error| LogError::Io {
        operation: "read entry of segment",
        path: format!("{:016x}.seg", place.segment).into(),
        source,
    };
    content.seek(place.offset);
    let header = content.take(RECORD_HEADER).map_err(io)?;
    let length = match read_header(&header) {
        Ok(Some((_, length)))
            if (ENTRY_HEAD..=ENTRY_HEAD + super::ENTRY_BYTES_MAX).contains(&length) =>
        {
            length
        }
        _ => return Err(damaged(place, "no entry lies where one was written")),
    };
    let body = Bytes::from(content.take(length).map_err(io)?);
    read_entry(&body).ok_or_else(|| damaged(place, "an entry has changed"))
}

fn damaged(place: Place, what: &'static str) -> LogError {
    LogError::Damaged { segment: place.segment, offset: place.offset, what }
}

/// What was read so far.
struct Batch {
    entries: Vec<LogEntry>,
    bytes: usize,
    bytes_max: usize,
}

impl Batch {
    /// Whether the entry may be added: the first one always.
    fn fits(&self, entry: &LogEntry) -> bool {
        self.entries.is_empty() || self.bytes.saturating_add(entry.payload.len()) <= self.bytes_max
    }

    /// Adds the entry if it fits; answers whether it did.
    fn take(&mut self, entry: LogEntry) -> bool {
        let fits = self.fits(&entry);
        if fits {
            self.bytes = self.bytes.saturating_add(entry.payload.len());
            self.entries.push(entry);
        }
        fits
    }
}
