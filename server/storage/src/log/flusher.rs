//! The only writer of the log's files: takes what is queued, writes it as frames, syncs, and tells.
//!
//! A step function, driven by a named thread in production and by a task in the simulator. Promises that a frame
//! is written only after the one before it is durable, across segments too, and that a failed write or sync is
//! the last thing it does. A full disk is no failure: segments are prepared ahead, and when even those are used
//! up the queue waits for space (hazard B5).

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use kvd_core::ids::LogId;
use kvd_core::mutants::{self, Mutant};

use super::frame::{FrameBuilder, Life, SECTOR, SECTOR_BYTES, payload_offset, payload_room};
use super::picture::{Place, index_of};
use super::record::{Record, SegmentHead};
use super::segment::{Filling, Folder, Segment, Spare, failed, fill};
use super::{Failure, LogError, LogState, OnDurable, Options, Shared, Work};
use crate::fs::{DiskFile, OpenMode};

/// Bytes of frames at most, whatever the options say: lengths are 32 bits.
const FRAME_BYTES_LIMIT: usize = 1 << 30;

/// Unused bytes at the end of a segment up to which clearing them is cheaper than a new file.
const CLEAR_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Whether a step found something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Call again at once.
    Worked,
    /// Nothing to do until something is queued, or until there is space again.
    Idle,
}

/// The writer of one log.
pub struct Flusher {
    shared: Arc<Shared>,
    folder: Folder,
    options: Options,
    active: Option<Active>,
    /// Number of the last frame.
    number: u64,
    /// Chained crc of the last frame.
    crc: u32,
    /// Where the log stands as of the last frame; what the next segment's head says.
    written: LogState,
    spares: VecDeque<Spare>,
    filling: Option<Filling>,
    /// Seq of the next spare; above all in use.
    next_seq: u64,
    /// The disk was full when a segment was needed.
    starved: bool,
}

/// The segment that is being written.
pub(super) struct Active {
    /// Its seq.
    pub(super) seq: u64,
    /// Its file.
    pub(super) file: Arc<dyn DiskFile>,
    /// Its life.
    pub(super) life: Life,
    /// Where the next frame goes.
    pub(super) end: u64,
    /// Bytes of the file.
    pub(super) file_bytes: u64,
}

/// Where opening found the end of the log.
pub(super) struct Start {
    /// The segment to go on with; none to begin a new one.
    pub(super) active: Option<Active>,
    /// Number of the last frame.
    pub(super) number: u64,
    /// Chained crc of the last frame.
    pub(super) crc: u32,
    /// Prepared spares, by seq.
    pub(super) spares: VecDeque<Spare>,
    /// Above all seqs in use.
    pub(super) next_seq: u64,
}

/// A frame that is written but not told.
#[derive(Default)]
struct Written {
    entries: Vec<(LogId, u64, Place)>,
    callbacks: Vec<OnDurable>,
}

impl Flusher {
    /// Goes on where opening found the end; begins a segment if there is none to go on with.
    pub(super) fn start(
        shared: Arc<Shared>,
        folder: Folder,
        options: Options,
        start: Start,
    ) -> Result<Self, LogError> {
        let written = shared.inner().picture.saved();
        let Start { active, number, crc, spares, next_seq } = start;
        let mut flusher = Self {
            shared,
            folder,
            options,
            active,
            number,
            crc,
            written,
            spares,
            filling: None,
            next_seq,
            starved: false,
        };
        if flusher.active.is_none() && !flusher.roll(0)? {
            let full = io::Error::from(io::ErrorKind::StorageFull);
            return Err(failed("begin segment in", &flusher.folder.path, full));
        }
        while flusher.spares.len() < flusher.options.spares {
            if !flusher.finish_spare()? {
                break;
            }
        }
        Ok(flusher)
    }

    /// What handles share with it.
    pub(super) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Writes one frame of what is queued, syncs it and runs its callbacks; else recycles or prepares a piece of
    /// a spare. An error is final: everyone waiting was told, and nothing is accepted any more.
    pub fn step(&mut self) -> Result<Step, LogError> {
        self.guarded(|flusher, written| {
            let wrote = flusher.write_frame(written, false)?;
            if wrote && flusher.spares.len() >= flusher.options.spares {
                return Ok(Step::Worked);
            }
            let kept_house = flusher.recycle_one()? || flusher.prepare_piece()?;
            Ok(if wrote || kept_house { Step::Worked } else { Step::Idle })
        })
    }

    /// Writes the committed position if nothing carried it: to be called when idle for a while.
    pub fn step_after_idle(&mut self) -> Result<Step, LogError> {
        self.guarded(|flusher, written| {
            let wrote = flusher.write_frame(written, true)?;
            Ok(if wrote { Step::Worked } else { Step::Idle })
        })
    }

    /// Blocks until something is queued; answers whether something was before the time was over.
    pub fn wait(&self, timeout: Duration) -> bool {
        let inner = self.shared.inner();
        let starved = self.starved;
        let idle = |inner: &mut super::Inner| (inner.queue.is_empty() || starved) && !inner.closing;
        match self.shared.queued.wait_timeout_while(inner, timeout, idle) {
            Ok((_, result)) => !result.timed_out(),
            Err(_) => true,
        }
    }

    /// Writes what is queued, and ends the log.
    pub fn close(mut self) -> Result<(), LogError> {
        self.shared.inner().closing = true;
        loop {
            self.step_after_idle()?;
            if self.starved || self.shared.inner().queue.is_empty() {
                break;
            }
        }
        let full = LogError::Stopped("closed".to_owned());
        self.stop(&full, Vec::new());
        Ok(())
    }

    fn guarded(
        &mut self,
        work: impl FnOnce(&mut Self, &mut Written) -> Result<Step, LogError>,
    ) -> Result<Step, LogError> {
        if let Some(failure) = &self.shared.inner().stopped {
            return Err(LogError::Stopped(failure.text.clone()));
        }
        let mut written = Written::default();
        work(self, &mut written).inspect_err(|error| self.stop(error, written.callbacks))
    }

    /// Refuses everything from now on and tells everyone who waits.
    fn stop(&self, error: &LogError, mut waiting: Vec<OnDurable>) {
        let kind = match error {
            LogError::Io { source, .. } => source.kind(),
            _ => io::ErrorKind::Other,
        };
        let failure = Failure { kind, text: error.to_string() };
        let mut inner = self.shared.inner();
        inner.stopped = Some(failure.clone());
        waiting.extend(inner.queue.drain(..).filter_map(Work::into_callback));
        drop(inner);
        for on_durable in waiting {
            on_durable(Err(failure.error()));
        }
    }

    /// Writes one frame; answers whether there was anything to do.
    fn write_frame(&mut self, written: &mut Written, idle: bool) -> Result<bool, LogError> {
        let Some(needed) = self.next_bytes(idle) else { return Ok(false) };
        if self.room().is_none_or(|room| room < needed + Record::POSITION_BYTES) && needed > 0 {
            self.starved = !self.roll(needed + Record::POSITION_BYTES)?;
            if self.starved {
                return Ok(false);
            }
        }
        let Some(life) = self.active.as_ref().map(|active| active.life) else { return Ok(false) };
        let mut frame = FrameBuilder::new(life);
        // A full segment has no room for a record, but who waits without one is told all the same.
        let (work, committed) = self.take_work(self.room().unwrap_or(0), idle);
        for work in work {
            self.encode(work, &mut frame, written);
        }
        if let Some(committed) = committed {
            self.written.committed = committed;
            Record::Committed(committed).write(&mut frame);
        }
        if frame.payload() > 0 {
            self.put_frame(frame)?;
        }
        self.tell(std::mem::take(written));
        Ok(true)
    }

    /// Bytes of the record that comes next, 0 if only callbacks wait; none if there is nothing to do.
    fn next_bytes(&self, idle: bool) -> Option<usize> {
        let inner = self.shared.inner();
        let first = inner.queue.iter().find(|work| !matches!(work, Work::Callback(_)));
        match first {
            Some(work) => Some(work.bytes()),
            None if idle && inner.committed_unsaved => Some(Record::POSITION_BYTES),
            None => (!inner.queue.is_empty()).then_some(0),
        }
    }

    /// Bytes of payload that still fit into the segment.
    fn room(&self) -> Option<usize> {
        let active = self.active.as_ref()?;
        payload_room(active.file_bytes - active.end)
    }

    /// Takes work off the queue, as much as one frame holds, and the committed position if it is to be written.
    fn take_work(&mut self, room: usize, idle: bool) -> (Vec<Work>, Option<Option<LogId>>) {
        let bytes_max = self.options.frame_bytes_max.min(FRAME_BYTES_LIMIT);
        let mut inner = self.shared.inner();
        let (mut taken, mut bytes, mut voted) = (Vec::new(), 0, false);
        while let Some(next) = inner.queue.front() {
            let with_next = bytes + next.bytes();
            let too_many = with_next > bytes_max && bytes > 0;
            // A whole election waits for a vote: its frame does not wait for what is queued behind it.
            let waits = voted || too_many || with_next + Record::POSITION_BYTES > room;
            if waits && next.bytes() > 0 {
                break;
            }
            let Some(next) = inner.queue.pop_front() else { break };
            voted |= matches!(next, Work::Vote(_));
            inner.queued_truncates -= usize::from(next.truncation().is_some());
            bytes = with_next;
            taken.push(next);
        }
        let write_committed = inner.committed_unsaved && (bytes > 0 || idle);
        inner.committed_unsaved &= !write_committed;
        (taken, write_committed.then_some(inner.picture.committed))
    }

    fn encode(&mut self, work: Work, frame: &mut FrameBuilder, written: &mut Written) {
        match work {
            Work::Entry { entry, serial } => {
                let (segment, end) = self.active.as_ref().map_or((0, 0), |a| (a.seq, a.end));
                let place = Place { segment, offset: end + payload_offset(frame.payload()) };
                written.entries.push((entry.log_id, serial, place));
                self.written.last = Some(entry.log_id);
                Record::Entry(entry).write(frame);
            }
            Work::Vote(vote) => {
                self.written.vote = Some(vote.clone());
                Record::Vote(vote).write(frame);
            }
            Work::Truncate(last) => {
                self.written.last = last;
                Record::Truncate(last).write(frame);
            }
            Work::Purge(upto) => {
                if upto.index.0 > index_of(self.written.purged) {
                    self.written.purged = Some(upto);
                }
                if upto.index.0 >= index_of(self.written.last) {
                    self.written.last = Some(upto);
                }
                Record::Purge(upto).write(frame);
            }
            Work::Callback(on_durable) => written.callbacks.push(on_durable),
        }
    }

    /// Writes and syncs a frame in the active segment.
    fn put_frame(&mut self, frame: FrameBuilder) -> Result<(), LogError> {
        let Some(active) = &mut self.active else { return Err(LogError::Record) };
        let (bytes, crc) = frame.finish(self.number + 1, self.crc);
        let skip = mutants::active(Mutant::SkipFsync);
        let sync = || if skip { Ok(()) } else { active.file.sync_data() };
        let synced = active.file.write_all_at(&bytes, active.end).and_then(|()| sync());
        synced.map_err(|source| failed("write", &self.folder.segment(active.seq), source))?;
        active.end += bytes.len() as u64;
        self.number += 1;
        self.crc = crc;
        Ok(())
    }

    /// Publishes what became durable and runs the callbacks, in order.
    fn tell(&self, written: Written) {
        let mut inner = self.shared.inner();
        if let Some(active) = &self.active
            && let Some(segment) = inner.segments.get_mut(&active.seq)
        {
            segment.end = active.end;
            let newest = written.entries.iter().map(|(log_id, ..)| log_id.index.0).max();
            segment.index_max = segment.index_max.max(newest.unwrap_or(0));
        }
        for (log_id, serial, place) in &written.entries {
            inner.picture.written(log_id.index, *serial, *place);
        }
        inner.picture.trim_tail();
        let before = inner.durable;
        inner.durable = self.written.last;
        if inner.queued_truncates > 0 {
            let queued: Vec<_> = inner.queue.iter().filter_map(Work::truncation).collect();
            queued.into_iter().for_each(|last| inner.lower_durable(last));
        }
        let advanced = inner.durable.filter(|durable| before != Some(*durable));
        drop(inner);
        for on_durable in written.callbacks {
            on_durable(Ok(()));
        }
        let hook = self.shared.hooks().durable.clone();
        if let (Some(hook), Some(durable)) = (hook, advanced) {
            hook(durable);
        }
    }

    /// Begins the next segment, large enough for a frame of this much payload; answers false if there is no
    /// space for one.
    fn roll(&mut self, payload: usize) -> Result<bool, LogError> {
        if self.spares.is_empty() && !self.finish_spare()? {
            return Ok(false);
        }
        let needed = SECTOR_BYTES + super::frame::frame_bytes(payload) as u64;
        let folder = self.folder.clone();
        let Some(spare) = self.spares.front_mut() else { return Ok(false) };
        if spare.file_bytes < needed {
            let path = folder.segment(spare.seq);
            let (file, from) = (spare.file.as_ref(), spare.file_bytes);
            let extended = fill(file, from, needed).and_then(|()| file.sync_data());
            if !has_space(extended, |source| failed("extend", &path, source))? {
                return Ok(false);
            }
            spare.file_bytes = needed;
        }
        let Some(spare) = self.spares.pop_front() else { return Ok(false) };
        self.begin(spare)?;
        Ok(true)
    }

    /// Writes the head of a new segment, durably and alone: the frames behind it rely on it.
    fn begin(&mut self, spare: Spare) -> Result<(), LogError> {
        let life = Life::new(&mut self.options.nonce, spare.former);
        let previous = self.shared.inner().segments.keys().next_back().copied();
        let mut frame = FrameBuilder::new(life);
        let head = SegmentHead {
            seq: spare.seq,
            file_bytes: spare.file_bytes,
            former: spare.former.map_or(0, |former| former.nonce),
            previous: previous.unwrap_or(0),
            previous_number: self.number,
            previous_crc: self.crc,
            last: self.written.last,
            committed: self.written.committed,
            purged: self.written.purged,
            vote: self.written.vote.clone(),
        };
        Record::Head(head).write(&mut frame);
        let (file, file_bytes) = (Arc::clone(&spare.file), spare.file_bytes);
        self.active = Some(Active { seq: spare.seq, file, life, end: 0, file_bytes });
        self.crc = life.chain_start();
        self.put_frame(frame)?;
        let segment =
            Segment { file: spare.file, life, file_bytes, end: SECTOR as u64, index_max: 0 };
        self.shared.inner().segments.insert(spare.seq, segment);
        Ok(())
    }

    /// Recycles or removes the oldest segment if nothing in it is needed; the purge is durable by then.
    fn recycle_one(&mut self) -> Result<bool, LogError> {
        let purged = index_of(self.written.purged);
        let active = self.active.as_ref().map_or(0, |active| active.seq);
        let mut inner = self.shared.inner();
        let Some((&seq, oldest)) = inner.segments.first_key_value() else { return Ok(false) };
        if seq == active || oldest.index_max > purged {
            return Ok(false);
        }
        let Some(segment) = inner.segments.remove(&seq) else { return Ok(false) };
        drop(inner);
        let wanted = self.spares.len() < self.options.spares;
        let unused = segment.file_bytes - segment.end;
        if wanted && segment.file_bytes == self.options.segment_bytes && unused <= CLEAR_BYTES_MAX {
            self.recycle(seq, segment)?;
        } else {
            self.folder.remove(&self.folder.segment(seq))?;
            self.folder.sync()?;
        }
        Ok(true)
    }

    /// Clears what former lives left behind the segment's end, so that a spare holds one life only, and gives
    /// the file its next name.
    fn recycle(&mut self, seq: u64, segment: Segment) -> Result<(), LogError> {
        let path = self.folder.segment(seq);
        let file = segment.file.as_ref();
        let cleared = fill(file, segment.end, segment.file_bytes).and_then(|()| file.sync_data());
        cleared.map_err(|source| failed("clear", &path, source))?;
        self.folder.rename(&path, self.next_seq)?;
        let (file, file_bytes) = (segment.file, segment.file_bytes);
        self.spares.push_back(Spare {
            seq: self.next_seq,
            file,
            file_bytes,
            former: Some(segment.life),
        });
        self.next_seq += 1;
        Ok(())
    }

    /// Fills a piece of a new spare if one is missing; answers whether it did.
    fn prepare_piece(&mut self) -> Result<bool, LogError> {
        if self.spares.len() >= self.options.spares {
            return Ok(false);
        }
        self.fill_piece()
    }

    /// Prepares a spare to the end, because it is needed now; answers false if there is no space.
    fn finish_spare(&mut self) -> Result<bool, LogError> {
        let spares = self.spares.len();
        while self.spares.len() == spares {
            if !self.fill_piece()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Fills the next piece of a new spare; answers false if there is no space.
    fn fill_piece(&mut self) -> Result<bool, LogError> {
        let Some(filling) = self.filling_mut()? else { return Ok(false) };
        let (seq, filled) = (filling.seq, filling.fill_piece());
        let path = self.folder.temporary(seq);
        let mut full = false;
        let filled = filled.map(|done| full = done);
        let space = has_space(filled, |source| failed("fill", &path, source))?;
        if full && let Some(filling) = self.filling.take() {
            // Its seq is taken now: a file recycled meanwhile is used before it, and recovery reads by seq.
            let seq = self.next_seq;
            self.folder.rename(&path, seq)?;
            self.next_seq += 1;
            self.spares.push_back(filling.into_spare(seq));
        }
        Ok(space)
    }

    /// The file that is being filled; none if there is no space for a new one.
    fn filling_mut(&mut self) -> Result<Option<&mut Filling>, LogError> {
        if self.filling.is_none() {
            let path = self.folder.temporary(self.next_seq);
            let created = self.folder.disk.open(&path, OpenMode::Create);
            let mut file = None;
            let created = created.map(|created| file = Some(created));
            has_space(created, |source| failed("create", &path, source))?;
            let Some(file) = file else { return Ok(None) };
            self.filling = Some(Filling::new(self.next_seq, file, self.options.segment_bytes));
            self.next_seq += 1;
        }
        Ok(self.filling.as_mut())
    }
}

impl Work {
    /// Bytes that it takes in a frame.
    fn bytes(&self) -> usize {
        match self {
            Self::Entry { entry, .. } => Record::entry_bytes(entry),
            Self::Vote(vote) => Record::vote_bytes(vote),
            Self::Truncate(_) | Self::Purge(_) => Record::POSITION_BYTES,
            Self::Callback(_) => 0,
        }
    }

    fn into_callback(self) -> Option<OnDurable> {
        if let Self::Callback(on_durable) = self { Some(on_durable) } else { None }
    }

    fn truncation(&self) -> Option<Option<LogId>> {
        if let Self::Truncate(last) = self { Some(*last) } else { None }
    }
}

/// Splits "there is no space" from failures that end the log.
fn has_space(
    result: io::Result<()>,
    describe: impl FnOnce(io::Error) -> LogError,
) -> Result<bool, LogError> {
    match result {
        Ok(()) => Ok(true),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ) =>
        {
            Ok(false)
        }
        Err(error) => Err(describe(error)),
    }
}
