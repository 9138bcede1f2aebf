//! One member's data directory: who it belongs to, which state is live, and that only one process uses it.
//!
//! ```text
//! member/
//!   LOCK         held while the process lives
//!   FORMAT       text: format version, cluster id, member id, incarnation, hash function, checksum
//!   CURRENT      text: which state-<n> is live
//!   DIVERGED     text, rarely there: the live state is not the majority's, and how often that was so
//!   wal/         the log
//!   state-<n>/   a checkpoint store
//! ```
//! It promises that FORMAT and CURRENT are replaced as a whole and durably, and that a directory that is not
//! ours, damaged or newer is refused with one clear line. It does not know what is in the log or in a state.

mod divergence;
mod texts;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvd_core::ids::{ClusterId, Incarnation, MemberId};

pub use self::divergence::Divergence;
use self::texts::{Flaw, current_text, format_text, parse_current, parse_format};
use crate::fs::{Disk, DiskFile, OpenMode};
use crate::sled_store;

const MEMBER: &str = "member";
const LOCK: &str = "member/LOCK";
const FORMAT: &str = "member/FORMAT";
const CURRENT: &str = "member/CURRENT";
const DIVERGED: &str = "member/DIVERGED";
const WAL: &str = "member/wal";

/// The newest format of a data directory that this program reads, and the one it writes.
pub const FORMAT_VERSION: u32 = 1;

/// FORMAT and CURRENT are short; anything longer is not ours.
const TEXT_BYTES_MAX: u64 = 4096;

/// Whose data directory it is; written once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The member.
    pub member: MemberId,
    /// Random, made with the directory: tells an emptied disk under an old id apart (hazard A6).
    pub incarnation: Incarnation,
}

/// Why a data directory cannot be used. Each says what is wrong and what to do.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another process uses it.
    #[error(
        "another process holds {}/{LOCK}; stop it or choose another --data-dir", root.display()
    )]
    Locked {
        /// The data directory.
        root: PathBuf,
    },
    /// There is a file where the directory should be.
    #[error("{} is not a directory; choose another --data-dir", root.display())]
    NotADirectory {
        /// The data directory.
        root: PathBuf,
    },
    /// The process may not read or write it.
    #[error("no permission to use {}; give its owner to this user: {error}", root.display())]
    PermissionDenied {
        /// The data directory.
        root: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// A newer program wrote it.
    #[error(
        "{} has data format {found}, this program reads up to {FORMAT_VERSION}; start a newer kvd",
        root.display()
    )]
    NewerFormat {
        /// The data directory.
        root: PathBuf,
        /// The format found.
        found: u32,
    },
    /// It contradicts itself.
    #[error(
        "{} is damaged: {what}; restore a snapshot or remove the member and add it anew",
        root.display()
    )]
    Corrupt {
        /// The data directory.
        root: PathBuf,
        /// What was found.
        what: String,
    },
    /// It belongs to another cluster.
    #[error(
        "{} belongs to cluster {found}, not {expected}; choose another --data-dir or correct \
         --initial-cluster", root.display()
    )]
    Foreign {
        /// The data directory.
        root: PathBuf,
        /// The cluster that was asked for.
        expected: ClusterId,
        /// The cluster it belongs to.
        found: ClusterId,
    },
    /// Another program's data is in it.
    #[error(
        "{} holds data of etcd, which kvd does not read; choose another --data-dir and restore an \
         etcd snapshot or copy the keys", root.display()
    )]
    Etcd {
        /// The data directory.
        root: PathBuf,
    },
    /// It has never been used, and nobody said for which member to create it.
    #[error("{} is empty: there is no member to start", root.display())]
    Empty {
        /// The data directory.
        root: PathBuf,
    },
    /// The device failed.
    #[error("cannot use {}: {error}", root.display())]
    Io {
        /// The data directory.
        root: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

/// A data directory in use by this process.
pub struct DataDir {
    disk: Arc<dyn Disk>,
    root: PathBuf,
    identity: Option<Identity>,
    current: Option<u64>,
    _lock: Box<dyn Send + Sync>,
}

impl DataDir {
    /// Opens a data directory; creates it for `identity` where it has never been used.
    ///
    /// `disk` must begin at `root`. The incarnation of an existing directory is kept, and so is its member:
    /// only the cluster must be the one given.
    pub fn open_or_create(
        disk: Arc<dyn Disk>,
        root: &Path,
        identity: Option<Identity>,
    ) -> Result<Self, DataDirError> {
        let mut dir = Self::open(disk, root)?;
        match (dir.identity, identity) {
            (Some(found), Some(given)) if found.cluster != given.cluster => {
                return Err(DataDirError::Foreign {
                    root: root.to_owned(),
                    expected: given.cluster,
                    found: found.cluster,
                });
            }
            (None, Some(given)) => dir.create(given)?,
            (None, None) => return Err(DataDirError::Empty { root: root.to_owned() }),
            (Some(_), _) => {}
        }
        Ok(dir)
    }

    /// Locks a data directory and reads whose it is, if it has ever been used.
    pub fn open(disk: Arc<dyn Disk>, root: &Path) -> Result<Self, DataDirError> {
        let at = |error: io::Error| io_error(root, error);
        disk.create_dir_all(Path::new(MEMBER)).map_err(at)?;
        let lock = match disk.lock(Path::new(LOCK)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(DataDirError::Locked { root: root.to_owned() });
            }
            other => other.map_err(at)?,
        };
        let mut dir =
            Self { disk, root: root.to_owned(), identity: None, current: None, _lock: lock };
        dir.identity = match dir.read(FORMAT)? {
            Some(text) => {
                let identity = parse_format(&text).map_err(|flaw| dir.flaw(flaw))?;
                dir.check_log()?;
                Some(identity)
            }
            None => {
                dir.check_unused()?;
                None
            }
        };
        dir.current = match dir.read(CURRENT)? {
            Some(text) => Some(
                parse_current(&text)
                    .ok_or_else(|| dir.flaw(Flaw::Damaged("CURRENT is unreadable".to_owned())))?,
            ),
            None => None,
        };
        Ok(dir)
    }

    /// Makes a directory that has never been used a member's.
    pub fn create(&mut self, identity: Identity) -> Result<(), DataDirError> {
        assert!(self.identity.is_none(), "a data directory changes its owner never");
        self.disk.create_dir_all(Path::new(WAL)).map_err(|error| self.io_error(error))?;
        self.disk.sync_dir(Path::new(MEMBER)).map_err(|error| self.io_error(error))?;
        self.replace(FORMAT, &format_text(&identity))?;
        // The name `member` itself.
        self.disk.sync_dir(Path::new("")).map_err(|error| self.io_error(error))?;
        self.identity = Some(identity);
        Ok(())
    }

    /// Whose it is; `None` where it has never been used.
    pub fn identity(&self) -> Option<Identity> {
        self.identity
    }

    /// The files under the directory.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// Where the log is, as a path of [`DataDir::disk`].
    pub fn wal(&self) -> &Path {
        Path::new(WAL)
    }

    /// Real path of the live state; `None` where there is none yet.
    pub fn state(&self) -> Option<PathBuf> {
        self.current.map(|number| self.state_path(number))
    }

    /// Number and real path for a new state, beside all that are there.
    pub fn next_state(&self) -> Result<(u64, PathBuf), DataDirError> {
        let names = self.names()?;
        let taken = names
            .iter()
            .filter_map(|name| name.strip_prefix("state-")?.split('.').next()?.parse::<u64>().ok());
        let next = taken.chain(self.current).max().unwrap_or(0) + 1;
        Ok((next, self.state_path(next)))
    }

    /// Makes a finished state the live one, durably.
    pub fn switch(&mut self, number: u64) -> Result<(), DataDirError> {
        self.disk.sync_dir(Path::new(MEMBER)).map_err(|error| self.io_error(error))?;
        self.replace(CURRENT, &current_text(number))?;
        self.current = Some(number);
        Ok(())
    }

    /// Moves the live state out of the way because it is broken; gives its new path, if there was one. One that was
    /// set aside before is deleted: a whole state each would fill the device, and the newest tells most.
    pub fn set_aside(&mut self) -> Result<Option<PathBuf>, DataDirError> {
        let Some(number) = self.current.take() else {
            return Ok(None);
        };
        let aside = sled_store::set_aside(&self.state_path(number))
            .map_err(|error| self.io_error(error))?;
        self.disk.remove_file(Path::new(CURRENT)).map_err(|error| self.io_error(error))?;
        self.disk.sync_dir(Path::new(MEMBER)).map_err(|error| self.io_error(error))?;
        for name in self.names()? {
            let before = name.starts_with("state-") && name.contains(".broken-");
            if before && aside.file_name() != Some(name.as_ref()) {
                self.disk
                    .remove_dir_all(&Path::new(MEMBER).join(name))
                    .map_err(|error| self.io_error(error))?;
            }
        }
        Ok(Some(aside))
    }

    /// Deletes states that are neither live nor set aside: unfinished ones and ones that were replaced.
    pub fn remove_stale(&self) -> Result<Vec<u64>, DataDirError> {
        let mut removed = Vec::new();
        for name in self.names()? {
            let number = name.strip_prefix("state-").and_then(|number| number.parse::<u64>().ok());
            if let Some(number) = number.filter(|number| self.current != Some(*number)) {
                self.disk
                    .remove_dir_all(&Path::new(MEMBER).join(name))
                    .map_err(|error| self.io_error(error))?;
                removed.push(number);
            }
        }
        Ok(removed)
    }

    fn state_path(&self, number: u64) -> PathBuf {
        self.root.join(MEMBER).join(format!("state-{number}"))
    }

    fn names(&self) -> Result<Vec<String>, DataDirError> {
        self.disk.list(Path::new(MEMBER)).map_err(|error| self.io_error(error))
    }

    /// Refuses a directory without FORMAT in which somebody has kept data.
    fn check_unused(&self) -> Result<(), DataDirError> {
        let names = self.names()?;
        let wal = match self.disk.list(Path::new(WAL)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            other => other.map_err(|error| self.io_error(error))?,
        };
        if names.iter().any(|name| name == "snap") || wal.iter().any(|name| name.ends_with(".wal"))
        {
            return Err(DataDirError::Etcd { root: self.root.clone() });
        }
        let used = names.iter().any(|name| name == "CURRENT" || name.starts_with("state-"));
        if used || !wal.is_empty() {
            let what = "FORMAT is missing beside a log or a state".to_owned();
            return Err(self.flaw(Flaw::Damaged(what)));
        }
        Ok(())
    }

    /// Refuses a directory whose log is gone: its folder was durable before FORMAT. Without it the member would
    /// forget its vote and what it acknowledged.
    fn check_log(&self) -> Result<(), DataDirError> {
        match self.disk.list(Path::new(WAL)) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(self.flaw(Flaw::Damaged(format!("{WAL}, the log, is missing"))))
            }
            Err(error) => Err(self.io_error(error)),
        }
    }

    /// Reads a short text file; `None` where there is none.
    fn read(&self, path: &str) -> Result<Option<String>, DataDirError> {
        let file = match self.disk.open(Path::new(path), OpenMode::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|error| self.io_error(error))?,
        };
        let unreadable = || self.flaw(Flaw::Damaged(format!("{path} is unreadable")));
        let text =
            read_all(&*file).map_err(|error| self.io_error(error))?.ok_or_else(unreadable)?;
        String::from_utf8(text).map(Some).map_err(|_| unreadable())
    }

    /// Replaces a text file as a whole and durably.
    fn replace(&self, path: &str, text: &str) -> Result<(), DataDirError> {
        let replace = || -> io::Result<()> {
            let temporary = PathBuf::from(format!("{path}.tmp"));
            match self.disk.remove_file(&temporary) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let file = self.disk.open(&temporary, OpenMode::Create)?;
            file.write_all_at(text.as_bytes(), 0)?;
            file.sync_data()?;
            self.disk.rename(&temporary, Path::new(path))?;
            self.disk.sync_dir(Path::new(MEMBER))
        };
        replace().map_err(|error| self.io_error(error))
    }

    fn io_error(&self, error: io::Error) -> DataDirError {
        io_error(&self.root, error)
    }

    fn flaw(&self, flaw: Flaw) -> DataDirError {
        let root = self.root.clone();
        match flaw {
            Flaw::Newer(found) => DataDirError::NewerFormat { root, found },
            Flaw::Damaged(what) => DataDirError::Corrupt { root, what },
        }
    }
}

/// Reads a file; `None` where it is too long to be one of ours.
fn read_all(file: &dyn DiskFile) -> io::Result<Option<Vec<u8>>> {
    let len = file.len()?;
    let Some(len) = usize::try_from(len).ok().filter(|_| len <= TEXT_BYTES_MAX) else {
        return Ok(None);
    };
    let mut bytes = vec![0; len];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(Some(bytes))
}

fn io_error(root: &Path, error: io::Error) -> DataDirError {
    let root = root.to_owned();
    match error.kind() {
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            DataDirError::NotADirectory { root }
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            DataDirError::PermissionDenied { root, error }
        }
        _ => DataDirError::Io { root, error },
    }
}

#[cfg(test)]
mod tests {
    use super::texts::with_crc;
    use super::*;

    pub(super) const IDENTITY: Identity = Identity {
        cluster: ClusterId(0xcdf8_181e_3227_7449),
        member: MemberId(0x8e9e_05c5_2164_694d),
        incarnation: Incarnation(7),
    };

    #[test]
    fn texts_are_a_promise() {
        assert_eq!(
            format_text(&IDENTITY),
            "kvd data directory\nformat 1\ncluster cdf8181e32277449\nmember 8e9e05c52164694d\n\
             incarnation 7\nhash xxh3-64\ncrc 502390dc\n"
        );
        assert_eq!(current_text(3), "state-3\ncrc ba36be19\n");
        assert!(parse_format(&format_text(&IDENTITY)).is_ok_and(|found| found == IDENTITY));
        assert_eq!(parse_current(&current_text(3)), Some(3));
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let texts = [format_text(&IDENTITY), current_text(12)];
        for (text, bit) in texts.iter().flat_map(|text| (0..text.len() * 8).map(move |b| (text, b)))
        {
            let mut bytes = text.clone().into_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let Ok(text) = String::from_utf8(bytes) else { continue };
            assert!(matches!(parse_format(&text), Err(Flaw::Damaged(_))), "{text}");
            assert_eq!(parse_current(&text), None, "{text}");
        }
    }

    #[test]
    fn a_newer_format_is_named() {
        let text = with_crc("kvd data directory\nformat 2\nsomething new\n".to_owned());
        assert!(matches!(parse_format(&text), Err(Flaw::Newer(2))));
    }
}
