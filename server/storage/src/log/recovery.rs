//! Opening a log: which files are segments, what their frames say, where the log ends.
//!
//! The rules are hazard A3's. A frame is written only after the one before it is durable, so at most the last
//! one can be torn. At the first bad frame: a whole frame anywhere behind it means that something acknowledged
//! was damaged; else a sector that still holds what lay there before means that the frame never became
//! durable, and it is cut; anything else is damage. A segment that was cut is never written to again: the next
//! one begins, and its head says with which frame the cut one ends, so that remains never come back to life.
//!
//! Nothing is believed because it can be read: after a crash of the process alone the last frame may be in the
//! page cache only, even marked clean after a sync that failed. All files and the folder are synced before
//! they are read, and the last frame, which alone can be concerned, is written once more where it lies, the
//! same bytes, and synced. Only then is the log reported.

mod tear;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex};

use bytes::Bytes;

use super::flusher::{Active, Flusher, Start};
use super::frame::{Header, Life, SECTOR, SECTOR_BYTES, payload_offset};
use super::picture::{Picture, Place};
use super::record::{Record, SegmentHead};
use super::segment::{CHUNK, Folder, Segment, Spare, Window, failed, is_old, seq_of};
use super::{Hooks, Inner, LogError, Options, Shared};
use crate::fs::{DiskFile, OpenMode};
use tear::{Tear, Trouble};

/// Opens the log of a folder, or begins one.
pub(super) fn open(folder: Folder, options: Options) -> Result<Flusher, LogError> {
    let mut found = find_files(&folder, &options)?;
    let run = take_run(&mut found.heads);
    let mut replay = Replay::new(run.first_key_value().map(|(_, own)| &own.head), &options);
    replay.run(run)?;
    replay.picture.finish_replay().map_err(|upto| LogError::Missing { upto })?;
    replay.picture.trim_tail();
    let active = replay.rewrite_last_frame(&folder)?;
    remove_leftovers(&folder, &found)?;
    let start = Start {
        active,
        number: replay.number,
        crc: replay.crc,
        spares: found.spares,
        next_seq: found.next_seq,
    };
    let inner = Inner {
        durable: replay.picture.last(),
        picture: replay.picture,
        segments: replay.segments,
        queue: VecDeque::new(),
        queued_truncates: 0,
        committed_unsaved: false,
        stopped: None,
        closing: false,
    };
    let hooks = Mutex::new(Hooks::default());
    let shared = Arc::new(Shared { inner: Mutex::new(inner), hooks, queued: Condvar::new() });
    Flusher::start(shared, folder, options, start)
}

/// What lies in the folder.
struct Found {
    heads: BTreeMap<u64, Own>,
    spares: VecDeque<Spare>,
    /// Names of files that are of no use.
    useless: Vec<String>,
    next_seq: u64,
}

/// A segment with its head.
struct Own {
    file: Arc<dyn DiskFile>,
    header: Header,
    head: SegmentHead,
}

/// Syncs and classifies all files.
fn find_files(folder: &Folder, options: &Options) -> Result<Found, LogError> {
    let path = &folder.path;
    folder.disk.create_dir_all(path).map_err(|source| failed("create folder", path, source))?;
    // Any of the folders above may be new as well.
    for parent in path.ancestors().skip(1) {
        folder.disk.sync_dir(parent).map_err(|source| failed("sync folder", parent, source))?;
    }
    folder.sync()?;
    let mut found =
        Found { heads: BTreeMap::new(), spares: VecDeque::new(), useless: Vec::new(), next_seq: 1 };
    let names = folder.disk.list(path).map_err(|source| failed("list", path, source))?;
    for name in names {
        match seq_of(&name) {
            Some(seq) => found.add(folder, seq, name, options)?,
            None if name.ends_with(".tmp") => found.useless.push(name),
            None => {}
        }
    }
    // A spare below the newest segment would be named out of order.
    let newest = found.heads.keys().next_back().copied().unwrap_or(0);
    let (spares, low): (Vec<_>, Vec<_>) =
        found.spares.into_iter().partition(|spare| spare.seq > newest);
    found.useless.extend(low.iter().map(|spare| format!("{:016x}.seg", spare.seq)));
    found.spares = spares.into();
    Ok(found)
}

impl Found {
    fn add(
        &mut self,
        folder: &Folder,
        seq: u64,
        name: String,
        options: &Options,
    ) -> Result<(), LogError> {
        let path = folder.segment(seq);
        let io = |source| failed("open", &path, source);
        let file = folder.disk.open(&path, OpenMode::Write).map_err(io)?;
        file.sync_data().map_err(io)?;
        let file_bytes = file.len().map_err(io)?;
        let mut start = vec![0; 2 * SECTOR];
        let read = file.read_at(&mut start, 0).map_err(io)?;
        if read < start.len() {
            return Err(damaged(seq, read as u64, "the file was cut"));
        }
        self.next_seq = self.next_seq.max(seq.saturating_add(1));
        match read_head(seq, &start)? {
            Some((header, head)) if head.seq == seq => {
                if file_bytes < head.file_bytes {
                    return Err(damaged(seq, file_bytes, "the file was cut"));
                }
                self.heads.insert(seq, Own { file, header, head });
            }
            head => {
                let former = head.map(|(header, _)| header.life);
                if file_bytes == options.segment_bytes && self.spares.len() < options.spares {
                    self.spares.push_back(Spare { seq, file, file_bytes, former });
                } else {
                    self.useless.push(name);
                }
            }
        }
        Ok(())
    }
}

/// The head of a segment's life, perhaps a former one; none if the file was never used.
fn read_head(seq: u64, start: &[u8]) -> Result<Option<(Header, SegmentHead)>, LogError> {
    let (sector, behind) = start.split_at(SECTOR);
    if is_old(sector, None) {
        // Frames lie behind each head that was ever written, so this one was wiped.
        return if is_old(behind, None) { Ok(None) } else { Err(damaged(seq, 0, "no head")) };
    }
    let header = Header::read(sector)?.ok_or_else(|| damaged(seq, 0, "the head has changed"))?;
    if header.frame_bytes() == SECTOR
        && let Some(payload) = header.payload(sector, header.life.chain_start())
        && let Record::Head(head) = Record::read(&mut Bytes::from(payload))?
    {
        return Ok(Some((header, head)));
    }
    Err(damaged(seq, 0, "the head has changed"))
}

/// Takes the newest segment and all before it that are linked without a hole. What stays behind was purged:
/// its removal was not durable when the power went.
fn take_run(heads: &mut BTreeMap<u64, Own>) -> BTreeMap<u64, Own> {
    let mut run = BTreeMap::new();
    let mut next = heads.keys().next_back().copied();
    while let Some((seq, own)) = next.and_then(|seq| heads.remove_entry(&seq)) {
        next = Some(own.head.previous);
        run.insert(seq, own);
    }
    run
}

/// Removes segments before the run, half-made files and spares that do not fit.
fn remove_leftovers(folder: &Folder, found: &Found) -> Result<(), LogError> {
    let useless = found.useless.iter().map(|name| folder.path.join(name));
    let purged = found.heads.keys().map(|seq| folder.segment(*seq));
    let paths: Vec<_> = useless.chain(purged).collect();
    for path in &paths {
        folder.remove(path)?;
    }
    if paths.is_empty() { Ok(()) } else { folder.sync() }
}

/// The log as far as it was read.
struct Replay {
    picture: Picture,
    segments: BTreeMap<u64, Segment>,
    number: u64,
    crc: u32,
    /// Where the last frame begins, in the last segment.
    last_frame: u64,
    /// Chained crc of the frame before the last.
    crc_before: u32,
    /// The last segment ends with a torn frame, or with remains of one.
    cut: bool,
}

/// What lies where the next frame is expected.
enum Next {
    Frame(Header, Vec<u8>),
    /// Not a whole frame; its length in bytes if the header is.
    Bad(Option<u64>),
    /// The file ends.
    Full,
}

impl Replay {
    /// Starts from what the first head says about everything before it.
    fn new(head: Option<&SegmentHead>, options: &Options) -> Self {
        let picture = match head {
            Some(head) => Picture::new(
                head.last,
                head.purged,
                head.committed,
                head.vote.clone(),
                options.tail_bytes,
            ),
            None => Picture::new(None, None, None, None, options.tail_bytes),
        };
        let segments = BTreeMap::new();
        Self { picture, segments, number: 0, crc: 0, last_frame: 0, crc_before: 0, cut: false }
    }

    /// Reads all segments of the run, in order.
    fn run(&mut self, run: BTreeMap<u64, Own>) -> Result<(), LogError> {
        let mut run = run.into_iter().peekable();
        if let Some((_, first)) = run.peek() {
            self.number = first.head.previous_number;
        }
        while let Some((seq, own)) = run.next() {
            if own.header.number != self.number + 1 {
                return Err(damaged(seq, 0, "the head does not follow the frame before it"));
            }
            let end =
                run.peek().map(|(_, next)| (next.head.previous_number, next.head.previous_crc));
            self.segment(seq, own, end)?;
        }
        Ok(())
    }

    /// Reads one segment up to the frame with which the next one goes on, or to the end of the log.
    fn segment(&mut self, seq: u64, own: Own, end: Option<(u64, u32)>) -> Result<(), LogError> {
        let mut window = Window::new(Arc::clone(&own.file), CHUNK);
        let (life, file_bytes) = (own.header.life, own.head.file_bytes);
        let segment = Segment { file: own.file, life, file_bytes, end: SECTOR_BYTES, index_max: 0 };
        self.segments.insert(seq, segment);
        (self.number, self.crc, self.last_frame) = (own.header.number, own.header.crc, 0);
        self.crc_before = life.chain_start();
        let mut at = SECTOR_BYTES;
        while end.is_none_or(|(number, _)| self.number < number) {
            match self.next_frame(&mut window, life, at, file_bytes).map_err(|e| e.at(seq, at))? {
                Next::Frame(header, payload) => {
                    self.replay(seq, at, payload)?;
                    self.crc_before = self.crc;
                    (self.number, self.crc, self.last_frame) = (header.number, header.crc, at);
                    at += header.frame_bytes() as u64;
                }
                Next::Full if end.is_none() => break,
                Next::Bad(length) if end.is_none() => {
                    let former = (own.head.former != 0).then_some(Life { nonce: own.head.former });
                    let tear = Tear { window: &mut window, life, former, at, file_bytes };
                    self.cut = tear.judge(length).map_err(|e| e.at(seq, at))?;
                    break;
                }
                Next::Bad(_) | Next::Full => {
                    return Err(damaged(seq, at, "a frame before the next segment has changed"));
                }
            }
        }
        if end.is_some_and(|end| end != (self.number, self.crc)) {
            return Err(damaged(seq, at, "the next segment goes on from another frame"));
        }
        if let Some(segment) = self.segments.get_mut(&seq) {
            segment.end = at;
        }
        Ok(())
    }

    fn next_frame(
        &self,
        window: &mut Window,
        life: Life,
        at: u64,
        file_bytes: u64,
    ) -> Result<Next, Trouble> {
        if at + SECTOR_BYTES > file_bytes {
            return Ok(Next::Full);
        }
        let sector = window.get(at, SECTOR)?;
        let header = match Header::read(sector)? {
            Some(header) if header.life == life => header,
            _ => return Ok(Next::Bad(None)),
        };
        let length = header.frame_bytes();
        if header.number != self.number + 1 || at + length as u64 > file_bytes {
            return Err(Trouble::Damage("a frame is not in its place"));
        }
        match header.payload(window.get(at, length)?, self.crc) {
            Some(payload) => Ok(Next::Frame(header, payload)),
            None => Ok(Next::Bad(Some(length as u64))),
        }
    }

    /// Applies the records of a frame.
    fn replay(&mut self, seq: u64, at: u64, payload: Vec<u8>) -> Result<(), LogError> {
        let mut rest = Bytes::from(payload);
        let length = rest.len();
        while !rest.is_empty() {
            let offset = at + payload_offset(length - rest.len());
            match Record::read(&mut rest)? {
                Record::Entry(mut entry) => {
                    let index = entry.log_id.index;
                    if !self.picture.accepts(index) {
                        return Err(damaged(seq, offset, "an entry does not follow the last one"));
                    }
                    // A copy, so that one entry kept in memory does not keep its whole frame.
                    entry.payload = Bytes::copy_from_slice(&entry.payload);
                    let serial = self.picture.append(entry);
                    self.picture.written(index, serial, Place { segment: seq, offset });
                    if let Some(segment) = self.segments.get_mut(&seq) {
                        segment.index_max = segment.index_max.max(index.0);
                    }
                }
                Record::Vote(vote) => self.picture.vote = Some(vote),
                Record::Truncate(last) => self.picture.truncate_after(last),
                Record::Committed(committed) => self.picture.committed = committed,
                Record::Purge(upto) => self.picture.purge(upto),
                Record::Head(_) => return Err(damaged(seq, offset, "a head inside a segment")),
            }
        }
        self.picture.trim_tail();
        Ok(())
    }

    /// Makes the last frame durable whatever the page cache believes, and answers the segment to go on with:
    /// none if there is none, or if the last one was cut.
    fn rewrite_last_frame(&self, folder: &Folder) -> Result<Option<Active>, LogError> {
        let Some((&seq, last)) = self.segments.last_key_value() else { return Ok(None) };
        let path = folder.segment(seq);
        let length = usize::try_from(last.end - self.last_frame).unwrap_or(usize::MAX);
        let mut frame = vec![0; length];
        let file = &last.file;
        let io = |source| failed("write last frame again in", &path, source);
        let read = file.read_at(&mut frame, self.last_frame).map_err(io)?;
        // A bit that turned on its way here must not be written back.
        if read != length || !self.is_last_frame(&frame)? {
            return Err(damaged(seq, self.last_frame, "the last frame is read otherwise now"));
        }
        file.write_all_at(&frame, self.last_frame).map_err(io)?;
        file.sync_data().map_err(io)?;
        let (file, life, end) = (Arc::clone(file), last.life, last.end);
        let active = Active { seq, file, life, end, file_bytes: last.file_bytes };
        Ok((!self.cut).then_some(active))
    }

    /// Whether these bytes are the last frame.
    fn is_last_frame(&self, frame: &[u8]) -> Result<bool, LogError> {
        let header = Header::read(&frame[..SECTOR])?;
        Ok(header.is_some_and(|header| {
            let whole = header.frame_bytes() == frame.len();
            whole && header.crc == self.crc && header.payload(frame, self.crc_before).is_some()
        }))
    }
}

fn damaged(segment: u64, offset: u64, what: &'static str) -> LogError {
    LogError::Damaged { segment, offset, what }
}
