//! The operating system's files behind the [`Disk`] port: positioned reads and writes, `fdatasync`, `flock`.
//!
//! Promises that whatever it creates is readable by its owner only, and that a sync which returned `Ok` reached
//! the device as far as the kernel can tell. It never retries: after a failed sync the kernel may have marked
//! the pages clean, so a second attempt would lie.

use std::fs::{DirBuilder, File, OpenOptions, remove_dir_all, remove_file, rename};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock, statvfs};

use super::{Disk, DiskFile, OpenMode};

/// Permissions of files: a log holds every secret that was ever stored.
const FILE_MODE: u32 = 0o600;
/// Permissions of folders.
const FOLDER_MODE: u32 = 0o700;

/// A folder of the operating system.
#[derive(Clone, Debug)]
pub struct RealDisk {
    root: PathBuf,
}

impl RealDisk {
    /// A disk whose relative paths start at `root`, which must exist before anything else is opened.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }
}

impl Disk for RealDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).mode(FILE_MODE);
        match mode {
            OpenMode::Read => {}
            OpenMode::Write => {
                options.write(true);
            }
            OpenMode::Create => {
                options.write(true).create_new(true);
            }
        }
        Ok(Arc::new(RealFile(options.open(self.root.join(path))?)))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(self.root.join(path))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in self.root.join(path).read_dir()? {
            // A name that is not UTF-8 is none of ours; in lossy form it matches nothing that we look for.
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        rename(self.root.join(from), self.root.join(to))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        remove_file(self.root.join(path))
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        remove_dir_all(self.root.join(path))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(self.root.join(path))?.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE);
        let file = options.open(self.root.join(path))?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(file))
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let figures = statvfs(&self.root)?;
        Ok(figures.f_bavail.saturating_mul(figures.f_frsize))
    }
}

/// An open file of the operating system.
struct RealFile(File);

impl DiskFile for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.0.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn reserve(&self, offset: u64, len: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.0, rustix::fs::FallocateFlags::empty(), offset, len) {
            // Not every file system can.
            Err(rustix::io::Errno::OPNOTSUPP) => super::write_zeros(self, offset, len),
            other => Ok(other?),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn files_are_private_and_reads_end_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let disk = RealDisk::new(folder.path());
        disk.create_dir_all(Path::new("a/b")).unwrap();
        let file = disk.open(Path::new("a/b/f"), OpenMode::Create).unwrap();
        file.write_all_at(b"hello", 3).unwrap();
        file.sync_data().unwrap();
        disk.sync_dir(Path::new("a/b")).unwrap();
        let mut buffer = [1; 16];
        assert_eq!(file.read_at(&mut buffer, 2).unwrap(), 6);
        assert_eq!(&buffer[..6], b"\0hello");
        let mode =
            |path: &str| folder.path().join(path).metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode("a/b/f"), 0o600);
        assert_eq!(mode("a/b"), 0o700);
        assert_eq!(disk.list(Path::new("a")).unwrap(), ["b"]);
        assert!(disk.open(Path::new("a/b/f"), OpenMode::Create).is_err());
        assert!(disk.free_bytes().unwrap() > 0);
    }

    #[test]
    fn a_lock_is_exclusive_until_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let disk = RealDisk::new(folder.path());
        let guard = disk.lock(Path::new("LOCK")).unwrap();
        let Err(refused) = disk.lock(Path::new("LOCK")) else { panic!("locked twice") };
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        drop(guard);
        disk.lock(Path::new("LOCK")).unwrap();
    }
}
