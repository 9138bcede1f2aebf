//! The write-ahead log of Raft: opaque entries, the vote and the committed position in one ordered stream.
//!
//! ```text
//! append, save_vote, truncate_after, purge -> picture (readable at once) + queue
//!                                                                          |  one thread or task
//! on_durable, durable() <- written and synced <- one frame a group commit <- Flusher::step
//! ```
//!
//! Promises: what a callback has confirmed survives every power cut; callbacks run in the order of the calls;
//! an entry can be read as soon as `append` has returned; damage is found and refused, never passed over; a
//! write or sync that failed stops the log for good. Nothing here blocks on the device but opening and reading
//! entries that have left memory.
//!
//! It does not know what entries and votes mean. It does not bound its queue: whoever appends admits by bytes
//! first (hazard D10), since a log that refused an entry could only stop.

mod flusher;
mod frame;
mod picture;
mod read;
mod record;
mod recovery;
mod segment;
mod thread;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use kvd_core::ids::{Index, LogId};
use kvd_core::mutants::{Mutant, active};

use crate::fs::Disk;

pub use flusher::{Flusher, Step};
use picture::Picture;
use segment::{Folder, Segment};
pub use thread::spawn;

/// Bytes of a vote at most, so that a segment's head fits into one sector.
pub const VOTE_BYTES_MAX: usize = 256;

/// Bytes of an entry's payload at most; the limit of peer frames (hazard C9).
pub const ENTRY_BYTES_MAX: usize = 512 * 1024 * 1024;

/// One entry as the log keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Its id; the index counts from 1.
    pub log_id: LogId,
    /// What the log does not look into.
    pub payload: Bytes,
}

/// A vote, opaque to the log; [`VOTE_BYTES_MAX`] at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vote(pub Bytes);

/// Where the log stands, including what is not durable yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogState {
    /// Everything up to here is gone.
    pub purged: Option<LogId>,
    /// The newest entry; the purged one if there is none.
    pub last: Option<LogId>,
    /// The committed position as saved, never beyond `last` (hazard A2).
    pub committed: Option<LogId>,
    /// The vote as saved.
    pub vote: Option<Vote>,
}

/// Called once when the work is durable, or will never be.
pub type OnDurable = Box<dyn FnOnce(Result<(), io::Error>) + Send>;

/// Sizes, and the source of nonces.
pub struct Options {
    /// Bytes of a segment file; 64 MiB in production.
    pub segment_bytes: u64,
    /// Prepared spare segments; 2 in production (hazard B5).
    pub spares: usize,
    /// Bytes of the newest entries kept in memory; 16 MiB in production.
    pub tail_bytes: usize,
    /// Bytes of a frame's payload, unless a single entry is larger; 4 MiB in production (hazard D10).
    pub frame_bytes_max: usize,
    /// Random numbers: one a segment.
    pub nonce: Box<dyn FnMut() -> u64 + Send>,
}

/// Why the log cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The disk failed.
    #[error("log: {operation} {path}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Bytes that may have been acknowledged are not what was written.
    #[error("log segment {segment:016x} is damaged at byte {offset}: {what}")]
    Damaged {
        /// Seq of the segment.
        segment: u64,
        /// Offset in its file.
        offset: u64,
        /// What is wrong there.
        what: &'static str,
    },
    /// A segment that is still needed is gone.
    #[error("log entries up to index {upto} are missing")]
    Missing {
        /// Index of the last missing entry.
        upto: u64,
    },
    /// Written by a newer build.
    #[error("log {what} of version {version} is not supported")]
    Unsupported {
        /// Frame or record.
        what: &'static str,
        /// Its version.
        version: u8,
    },
    /// A frame is whole but a record in it cannot be read.
    #[error("log record cannot be read")]
    Record,
    /// A former failure stopped the log.
    #[error("log stopped: {0}")]
    Stopped(String),
}

/// A handle of the log; clones name the same log.
#[derive(Clone)]
pub struct RaftLog {
    shared: Arc<Shared>,
}

impl RaftLog {
    /// Opens the log in a folder of the disk, or begins one, and answers when all that it reports is durable.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        mut options: Options,
    ) -> Result<(Self, Flusher), LogError> {
        // Room for a head and a frame at least, in whole sectors.
        let sector = frame::SECTOR_BYTES;
        options.segment_bytes = options.segment_bytes.max(2 * sector).next_multiple_of(sector);
        let flusher = recovery::open(Folder { disk, path: dir.to_owned() }, options)?;
        Ok((Self { shared: flusher.shared() }, flusher))
    }

    /// Where the log stands, including what is not durable yet.
    #[must_use]
    pub fn state(&self) -> LogState {
        self.shared.inner().picture.state()
    }

    /// Appends entries, readable at once. They must follow the last entry; an empty log takes any first index
    /// (hazard A8). Entries that do not fit are refused by `on_durable` and change nothing.
    pub fn append(&self, entries: Vec<LogEntry>, on_durable: OnDurable) {
        self.submit(on_durable, |inner| {
            check_entries(&inner.picture, &entries)?;
            for entry in entries {
                let serial = inner.picture.append(entry.clone());
                inner.push(Work::Entry { entry, serial });
            }
            inner.picture.trim_tail();
            Ok(())
        });
    }

    /// Replaces the vote.
    pub fn save_vote(&self, vote: Vote, on_durable: OnDurable) {
        self.submit(on_durable, |inner| {
            if vote.0.len() > VOTE_BYTES_MAX {
                return Err(invalid("vote of more than 256 bytes"));
            }
            inner.picture.vote = Some(vote.clone());
            inner.push(Work::Vote(vote));
            Ok(())
        });
    }

    /// Notes the committed position. It rides with the next frame; an idle flusher writes it soon (hazard B9).
    pub fn save_committed(&self, committed: Option<LogId>) {
        let mut inner = self.shared.inner();
        if inner.picture.committed != committed {
            inner.picture.committed = committed;
            inner.committed_unsaved = true;
        }
    }

    /// Drops all entries after this one; all of them for none.
    pub fn truncate_after(&self, last: Option<LogId>, on_durable: OnDurable) {
        self.submit(on_durable, |inner| {
            let before = inner.picture.last();
            inner.picture.truncate_after(last);
            let after = inner.picture.last();
            if before != after && !active(Mutant::TruncationForgotten) {
                inner.lower_durable(after);
                inner.queued_truncates += 1;
                inner.push(Work::Truncate(after));
            }
            Ok(())
        });
    }

    /// Drops all entries up to this one, which may lie beyond the last: then the log is empty and goes on from
    /// there. Segments are recycled once this is durable (hazard F11).
    pub fn purge(&self, upto: LogId) {
        self.submit(Box::new(|_| {}), |inner| {
            inner.picture.purge(upto);
            inner.push(Work::Purge(upto));
            Ok(())
        });
    }

    /// Why nothing is accepted any more, if so: a failed device stops the log, and so does closing it.
    pub fn refusal(&self) -> Option<io::Error> {
        self.shared.inner().refusal()
    }

    /// The newest entry known durable; the purged one if there is none.
    #[must_use]
    pub fn durable(&self) -> Option<LogId> {
        self.shared.inner().durable
    }

    /// Calls `hook` on the flusher's thread whenever [`Self::durable`] has changed. Replaces a former hook.
    pub fn on_durable_advance(&self, hook: Box<dyn Fn(LogId) + Send + Sync>) {
        self.shared.hooks().durable = Some(Arc::from(hook));
    }

    /// Calls `waker` whenever something is queued: the simulator's task is driven by it. Replaces a former one.
    pub fn set_waker(&self, waker: Box<dyn Fn() + Send + Sync>) {
        self.shared.hooks().waker = Some(Arc::from(waker));
    }

    /// Bytes of all segments that are not recycled yet.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.shared.inner().segments.values().map(|segment| segment.end).sum()
    }

    /// The last index that does not lie among the newest so many bytes, counted in whole segments; zero if all
    /// do. Indexes that were truncated may make it higher.
    #[must_use]
    pub fn beyond_newest(&self, bytes: u64) -> Index {
        let inner = self.shared.inner();
        let mut newer = 0;
        let beyond = inner.segments.values().rev().skip_while(|segment| {
            let among_newest = newer < bytes;
            newer += segment.end;
            among_newest
        });
        Index(beyond.map(|segment| segment.index_max).max().unwrap_or(0))
    }

    /// Refuses further work; the production thread flushes what is queued and ends.
    pub fn close(&self) {
        self.shared.inner().closing = true;
        self.shared.wake();
    }

    /// Changes the picture, queues the work and the callback; or calls it at once with the reason why not.
    fn submit(
        &self,
        on_durable: OnDurable,
        change: impl FnOnce(&mut Inner) -> Result<(), io::Error>,
    ) {
        let mut inner = self.shared.inner();
        match inner.refusal().map_or(Ok(()), Err).and_then(|()| change(&mut inner)) {
            Ok(()) => {
                inner.queue.push_back(Work::Callback(on_durable));
                drop(inner);
                self.shared.wake();
            }
            Err(error) => {
                drop(inner);
                on_durable(Err(error));
            }
        }
    }
}

/// What handles, readers and the flusher share.
struct Shared {
    inner: Mutex<Inner>,
    hooks: Mutex<Hooks>,
    queued: Condvar,
}

/// Whom to tell.
#[derive(Default)]
struct Hooks {
    durable: Option<Arc<dyn Fn(LogId) + Send + Sync>>,
    waker: Option<Arc<dyn Fn() + Send + Sync>>,
}

/// The shared state; its lock is never held over a device operation.
struct Inner {
    picture: Picture,
    segments: BTreeMap<u64, Segment>,
    queue: VecDeque<Work>,
    /// Truncations in `queue`.
    queued_truncates: usize,
    /// The committed position is not written yet.
    committed_unsaved: bool,
    durable: Option<LogId>,
    stopped: Option<Failure>,
    closing: bool,
}

/// What the flusher has to do, in order.
enum Work {
    Entry { entry: LogEntry, serial: u64 },
    Vote(Vote),
    Truncate(Option<LogId>),
    Purge(LogId),
    Callback(OnDurable),
}

/// Why the log stopped, to be told to everyone who asks.
#[derive(Clone)]
struct Failure {
    kind: io::ErrorKind,
    text: String,
}

impl Shared {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hooks(&self) -> MutexGuard<'_, Hooks> {
        self.hooks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        self.queued.notify_all();
        let waker = self.hooks().waker.clone();
        if let Some(waker) = waker {
            waker();
        }
    }
}

impl Inner {
    fn push(&mut self, work: Work) {
        self.queue.push_back(work);
    }

    /// Why no further work is accepted, if so.
    fn refusal(&self) -> Option<io::Error> {
        match &self.stopped {
            Some(failure) => Some(failure.error()),
            None if self.closing => Some(io::Error::other("the log is closed")),
            None => None,
        }
    }

    /// An entry that was dropped is not durable, although its bytes are.
    fn lower_durable(&mut self, last: Option<LogId>) {
        if picture::index_of(self.durable) > picture::index_of(last) {
            self.durable = last;
        }
    }
}

impl Failure {
    fn error(&self) -> io::Error {
        io::Error::new(self.kind, self.text.clone())
    }
}

/// Whether the entries may be appended.
fn check_entries(picture: &Picture, entries: &[LogEntry]) -> Result<(), io::Error> {
    let Some(first) = entries.first() else { return Ok(()) };
    if !picture.accepts(first.log_id.index) {
        return Err(invalid("entry does not follow the last one"));
    }
    if entries.windows(2).any(|pair| pair[0].log_id.index.next() != pair[1].log_id.index) {
        return Err(invalid("entries have a gap"));
    }
    if entries.iter().any(|entry| entry.payload.len() > ENTRY_BYTES_MAX) {
        return Err(invalid("entry of more than 512 MiB"));
    }
    Ok(())
}

fn invalid(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

const _: fn() = || {
    fn is_shared<T: Send + Sync>() {}
    is_shared::<RaftLog>();
};
