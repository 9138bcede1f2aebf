//! What the log holds, as memory knows it: the same rules for a running log and for one that is being replayed.
//!
//! Sixteen bytes an entry say where it lies; the newest entries are kept whole. An entry that was not yet
//! written is always among those. It does not know files or threads.

use std::collections::VecDeque;

use kvd_core::ids::{Index, LogId};

use super::{LogEntry, LogState, Vote};

/// Where an entry lies on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Seq of the segment; 0 while the entry is not written.
    pub(super) segment: u64,
    /// Offset in that file of its record's first byte.
    pub(super) offset: u64,
}

impl Place {
    const UNWRITTEN: Self = Self { segment: 0, offset: 0 };
}

const _: () = assert!(size_of::<Place>() == 16, "the index in memory has 16 bytes an entry");

/// An entry in memory.
struct Recent {
    entry: LogEntry,
    /// Tells two entries apart that had the same index one after the other.
    serial: u64,
}

/// The content of the log.
pub(super) struct Picture {
    /// Everything up to here is gone.
    purged: Option<LogId>,
    /// The newest entry, else the purged one.
    last: Option<LogId>,
    /// As saved: may be ahead of `last`.
    pub(super) committed: Option<LogId>,
    /// The vote.
    pub(super) vote: Option<Vote>,
    /// Index of the first place.
    first: u64,
    places: VecDeque<Place>,
    /// The newest entries: their places are the last ones.
    tail: VecDeque<Recent>,
    tail_bytes: usize,
    tail_bytes_max: usize,
    /// While replaying: entries up to this index may have lain in segments that are gone.
    unknown: u64,
    serial: u64,
}

impl Picture {
    /// A log whose segments before the first one that is left are gone: only their last entry's id is known.
    pub(super) fn new(
        last: Option<LogId>,
        purged: Option<LogId>,
        committed: Option<LogId>,
        vote: Option<Vote>,
        tail_bytes_max: usize,
    ) -> Self {
        Self {
            purged,
            last,
            committed,
            vote,
            first: 0,
            places: VecDeque::new(),
            tail: VecDeque::new(),
            tail_bytes: 0,
            tail_bytes_max,
            unknown: index_of(last),
            serial: 0,
        }
    }

    /// Ends the replay. Answers the index up to which entries are missing although they are not purged.
    pub(super) fn finish_replay(&mut self) -> Result<(), u64> {
        let unknown = std::mem::take(&mut self.unknown);
        if unknown > index_of(self.purged) {
            return Err(unknown);
        }
        if self.places.is_empty() {
            self.last = self.purged;
        }
        Ok(())
    }

    /// The log's positions.
    pub(super) fn state(&self) -> LogState {
        let committed = match (self.committed, self.last) {
            (Some(committed), Some(last)) if committed.index <= last.index => Some(committed),
            (Some(_), last) => last,
            (None, _) => None,
        };
        LogState { purged: self.purged, last: self.last, committed, vote: self.vote.clone() }
    }

    /// The same with the committed position as it was saved, which may be ahead of the last entry.
    pub(super) fn saved(&self) -> LogState {
        LogState { committed: self.committed, ..self.state() }
    }

    /// The newest entry, else the purged one.
    pub(super) fn last(&self) -> Option<LogId> {
        self.last
    }

    /// Whether an entry of this index may come next: the one after the last, or any while there is none
    /// (hazard A8).
    pub(super) fn accepts(&self, index: Index) -> bool {
        if self.places.is_empty() {
            index.0 > self.unknown.max(index_of(self.purged))
        } else {
            Some(index) == self.last.map(|last| last.index.next())
        }
    }

    /// Appends an entry that is not written yet; answers its serial.
    pub(super) fn append(&mut self, entry: LogEntry) -> u64 {
        if self.places.is_empty() {
            self.first = entry.log_id.index.0;
        }
        self.serial += 1;
        self.last = Some(entry.log_id);
        self.tail_bytes += cost(&entry);
        self.places.push_back(Place::UNWRITTEN);
        self.tail.push_back(Recent { entry, serial: self.serial });
        self.serial
    }

    /// Notes where an entry was written, unless it was dropped or replaced meanwhile.
    pub(super) fn written(&mut self, index: Index, serial: u64, place: Place) {
        let Some(at) = self.position(index.0) else { return };
        let Some(in_tail) = at.checked_sub(self.places.len() - self.tail.len()) else { return };
        if self.tail[in_tail].serial == serial {
            self.places[at] = place;
        }
    }

    /// Lets go of the oldest entries in memory that are above the limit and on disk.
    pub(super) fn trim_tail(&mut self) {
        while self.tail_bytes > self.tail_bytes_max {
            let oldest = self.places.len() - self.tail.len();
            if self.places.get(oldest).is_none_or(|place| *place == Place::UNWRITTEN) {
                break;
            }
            self.drop_oldest_of_tail();
        }
    }

    /// Drops all entries after this one.
    pub(super) fn truncate_after(&mut self, last: Option<LogId>) {
        let keep = index_of(last);
        if keep >= index_of(self.last) {
            return;
        }
        while !self.places.is_empty() && self.first + self.places.len() as u64 - 1 > keep {
            self.places.pop_back();
            if let Some(recent) = self.tail.pop_back() {
                self.tail_bytes -= cost(&recent.entry);
            }
        }
        let known = !self.places.is_empty() || keep <= self.unknown;
        self.unknown = self.unknown.min(keep);
        self.last = if known && keep > index_of(self.purged) { last } else { self.purged };
    }

    /// Drops all entries up to this one, which may lie beyond the last.
    pub(super) fn purge(&mut self, upto: LogId) {
        if upto.index.0 <= index_of(self.purged) {
            return;
        }
        while !self.places.is_empty() && self.first <= upto.index.0 {
            if self.tail.len() == self.places.len() {
                self.drop_oldest_of_tail();
            }
            self.places.pop_front();
            self.first += 1;
        }
        self.purged = Some(upto);
        if upto.index.0 >= index_of(self.last) {
            self.last = Some(upto);
        }
    }

    /// The indexes of a range that exist.
    pub(super) fn clamp(&self, from: Index, to_exclusive: Index) -> std::ops::Range<u64> {
        if self.places.is_empty() {
            return 0..0;
        }
        let end = self.first + self.places.len() as u64;
        from.0.max(self.first)..to_exclusive.0.min(end)
    }

    /// The entry, if it is in memory.
    pub(super) fn recent(&self, index: u64) -> Option<&LogEntry> {
        let at = self.position(index)?;
        let in_tail = at.checked_sub(self.places.len() - self.tail.len())?;
        self.tail.get(in_tail).map(|recent| &recent.entry)
    }

    /// Where the entry lies, if it exists.
    pub(super) fn place(&self, index: u64) -> Option<Place> {
        self.position(index).map(|at| self.places[at])
    }

    fn position(&self, index: u64) -> Option<usize> {
        let at = usize::try_from(index.checked_sub(self.first)?).ok()?;
        (at < self.places.len()).then_some(at)
    }

    fn drop_oldest_of_tail(&mut self) {
        if let Some(recent) = self.tail.pop_front() {
            self.tail_bytes -= cost(&recent.entry);
        }
    }
}

/// Bytes that an entry in memory counts for.
fn cost(entry: &LogEntry) -> usize {
    entry.payload.len() + size_of::<Recent>()
}

/// The index of an id; 0 for none.
pub(super) fn index_of(log_id: Option<LogId>) -> u64 {
    log_id.map_or(0, |log_id| log_id.index.0)
}
