//! Segment files: their names, the spares that wait to become one, and reading them by sectors.
//!
//! Every `<seq>.seg` was filled and synced before it got that name, so a file of that name is a segment (its
//! head carries its own seq) or a spare: all zeros, or nothing but zeros and the sectors of one former life.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvd_core::mutants::{Mutant, active};

use super::LogError;
use super::frame::{Life, SECTOR, SECTOR_BYTES};
use crate::fs::{Disk, DiskFile};

/// Bytes read or filled at a time.
pub(super) const CHUNK: usize = 512 * 1024;
/// The same as a length in a file.
const CHUNK_BYTES: u64 = CHUNK as u64;
/// Bytes read at a time for old entries.
const READ_CHUNK: usize = 64 * 1024;
/// Zeros to fill new files with.
static ZEROS: [u8; CHUNK] = [0; CHUNK];

/// The folder of the log.
#[derive(Clone)]
pub(super) struct Folder {
    /// Where its files are.
    pub(super) disk: Arc<dyn Disk>,
    /// Its path on that disk.
    pub(super) path: PathBuf,
}

/// A segment of the log.
pub(super) struct Segment {
    /// Its file, shared with readers.
    pub(super) file: Arc<dyn DiskFile>,
    /// Its present life.
    pub(super) life: Life,
    /// Bytes of the file.
    pub(super) file_bytes: u64,
    /// Offset behind its last frame.
    pub(super) end: u64,
    /// Highest index of an entry in it, truncated ones included; 0 if it has none.
    pub(super) index_max: u64,
}

/// A file ready to become the next segment.
pub(super) struct Spare {
    /// The seq in its name.
    pub(super) seq: u64,
    /// The open file.
    pub(super) file: Arc<dyn DiskFile>,
    /// Its length in bytes.
    pub(super) file_bytes: u64,
    /// Whose sectors it may still hold.
    pub(super) former: Option<Life>,
}

/// A new file that is being filled with zeros under a temporary name.
pub(super) struct Filling {
    /// The number of its temporary name.
    pub(super) seq: u64,
    file: Arc<dyn DiskFile>,
    filled: u64,
    file_bytes: u64,
}

impl Folder {
    /// Path of a segment or spare.
    pub(super) fn segment(&self, seq: u64) -> PathBuf {
        self.path.join(format!("{seq:016x}.seg"))
    }

    /// Path of a file that is being filled.
    pub(super) fn temporary(&self, seq: u64) -> PathBuf {
        self.path.join(format!("{seq:016x}.tmp"))
    }

    /// Makes names durable.
    pub(super) fn sync(&self) -> Result<(), LogError> {
        if active(Mutant::FolderUnsynced) {
            return Ok(());
        }
        self.disk.sync_dir(&self.path).map_err(|source| failed("sync folder", &self.path, source))
    }

    /// Removes a file of the log that is no longer needed.
    pub(super) fn remove(&self, path: &Path) -> Result<(), LogError> {
        self.disk.remove_file(path).map_err(|source| failed("remove", path, source))
    }

    /// Gives a file its name as a spare, durably.
    pub(super) fn rename(&self, from: &Path, seq: u64) -> Result<(), LogError> {
        let rename = self.disk.rename(from, &self.segment(seq));
        rename.map_err(|source| failed("rename", from, source))?;
        self.sync()
    }
}

impl Filling {
    /// Wraps a new, empty file.
    pub(super) fn new(seq: u64, file: Arc<dyn DiskFile>, file_bytes: u64) -> Self {
        Self { seq, file, filled: 0, file_bytes }
    }

    /// Fills the next piece and syncs it, so that no large flush ever delays a frame (hazard D6).
    /// Answers whether the file is full.
    pub(super) fn fill_piece(&mut self) -> io::Result<bool> {
        let next = (self.filled + CHUNK_BYTES).min(self.file_bytes);
        fill(self.file.as_ref(), self.filled, next)?;
        self.file.sync_data()?;
        self.filled = next;
        Ok(self.filled == self.file_bytes)
    }

    /// The full file as a spare of this name.
    pub(super) fn into_spare(self, seq: u64) -> Spare {
        Spare { seq, file: self.file, file_bytes: self.file_bytes, former: None }
    }
}

/// Writes zeros from one offset to another.
pub(super) fn fill(file: &dyn DiskFile, from: u64, to: u64) -> io::Result<()> {
    let mut at = from;
    while at < to {
        let piece = usize::try_from((to - at).min(CHUNK_BYTES)).unwrap_or(CHUNK);
        file.write_all_at(&ZEROS[..piece], at)?;
        at += piece as u64;
    }
    Ok(())
}

/// The seq in a segment's name; none for other files.
pub(super) fn seq_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
    let seq = u64::from_str_radix(digits, 16).ok()?;
    (digits.len() == 16 && seq > 0).then_some(seq)
}

/// An error with what was done and where.
pub(super) fn failed(operation: &'static str, path: &Path, source: io::Error) -> LogError {
    LogError::Io { operation, path: path.to_owned(), source }
}

/// Whether a sector still holds what lay there before the present life of its file.
pub(super) fn is_old(sector: &[u8], former: Option<Life>) -> bool {
    let of_former = former.is_some_and(|former| sector.starts_with(&former.mark()));
    of_former || sector.iter().all(|byte| *byte == 0)
}

/// A file read forward in large pieces and handed out by whole sectors.
pub(super) struct Window {
    file: Arc<dyn DiskFile>,
    chunk: usize,
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    /// Will read this many bytes at a time.
    pub(super) fn new(file: Arc<dyn DiskFile>, chunk: usize) -> Self {
        Self { file, chunk, start: 0, bytes: Vec::new() }
    }

    /// The bytes from `offset`, whole sectors; fewer where the file ends.
    pub(super) fn get(&mut self, offset: u64, length: usize) -> io::Result<&[u8]> {
        let held = offset.checked_sub(self.start).and_then(|at| usize::try_from(at).ok());
        let at = match held {
            Some(at) if at + length <= self.bytes.len() => at,
            _ => {
                self.bytes.resize(length.max(self.chunk), 0);
                let read = self.file.read_at(&mut self.bytes, offset)?;
                self.bytes.truncate(read);
                self.start = offset;
                0
            }
        };
        Ok(&self.bytes[at..self.bytes.len().min(at + length)])
    }
}

/// Reads a payload by bytes from the middle of a segment, skipping the marks.
pub(super) struct Content {
    window: Window,
    offset: u64,
}

impl Content {
    /// Starts at the file's beginning.
    pub(super) fn new(file: Arc<dyn DiskFile>) -> Self {
        Self { window: Window::new(file, READ_CHUNK), offset: 0 }
    }

    /// Moves to another offset.
    pub(super) fn seek(&mut self, offset: u64) {
        self.offset = offset;
    }

    /// The next `length` bytes of content; fewer where the file ends.
    pub(super) fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut content = Vec::with_capacity(length.min(CHUNK));
        while content.len() < length {
            let sector_at = self.offset / SECTOR_BYTES * SECTOR_BYTES;
            let sector = self.window.get(sector_at, SECTOR)?;
            let from =
                usize::try_from(self.offset % SECTOR_BYTES).unwrap_or(0).max(super::frame::MARK);
            let Some(rest) = sector.get(from..) else { break };
            let piece = &rest[..rest.len().min(length - content.len())];
            if piece.is_empty() {
                break;
            }
            content.extend_from_slice(piece);
            self.offset = sector_at + (from + piece.len()) as u64;
        }
        Ok(content)
    }
}
