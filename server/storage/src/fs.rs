//! The port to files: everything that must survive a power cut goes through [`Disk`], so that a simulated
//! disk can lose what was not synced, tear, rot, fill, fail and stall (decision D15).
//!
//! Names are paths relative to the data directory. Durability is explicit: file content is durable after
//! `sync_data`/`sync_all` of the file, a name (create, rename, remove) after `sync_dir` of its folder.

mod real;
#[cfg(feature = "testing")]
mod sim;

use std::io;
use std::path::Path;
use std::sync::Arc;

pub use real::RealDisk;
#[cfg(feature = "testing")]
pub use sim::{Lie, Operation, SimDisk};

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// It must exist; only reads.
    Read,
    /// It must exist; reads and writes.
    Write,
    /// It must not exist; reads and writes.
    Create,
}

/// A folder of files, real or simulated.
pub trait Disk: Send + Sync {
    /// Opens or creates a file.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>>;
    /// Creates a folder and its parents where they are missing, readable by the owner only.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Names of the entries of a folder, sorted.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;
    /// Renames a file or folder, replacing a file of that name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes a folder with all it holds.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Takes the exclusive lock of a file, creating it; held until the guard is dropped.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>>;
    /// Bytes that an unprivileged process may still write.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// An open file. Reads and writes carry their offset, so that no two users share a cursor.
pub trait DiskFile: Send + Sync {
    /// Reads at most `buffer.len()` bytes; fewer only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all bytes.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Current length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file holds nothing.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Cuts or extends the file with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Takes up room from `offset` on, as zeros: writes them, where the device has no quicker way.
    fn reserve(&self, offset: u64, len: u64) -> io::Result<()> {
        write_zeros(self, offset, len)
    }
    /// Makes content (and the length needed to read it) durable, the device's cache included.
    fn sync_data(&self) -> io::Result<()>;
}

/// Bytes of zeros written at once.
const ZEROS_BYTES: usize = 256 * 1024;

fn write_zeros<F: DiskFile + ?Sized>(file: &F, offset: u64, len: u64) -> io::Result<()> {
    let zeros = vec![0; ZEROS_BYTES];
    let mut written = 0;
    while written < len {
        let piece =
            usize::try_from(len - written).map_or(ZEROS_BYTES, |left| left.min(ZEROS_BYTES));
        file.write_all_at(&zeros[..piece], offset + written)?;
        written += piece as u64;
    }
    Ok(())
}
