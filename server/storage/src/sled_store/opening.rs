//! Opening under an attempt marker and a net for panics, so that a broken directory is found out once and
//! never becomes a crash loop (hazard A4).
//!
//! `OPENING` counts the attempts that have begun; it is synced before sled sees the directory and removed
//! when everything is verified. An error, a panic, or two attempts that never came back make the directory
//! [`OpenError::Broken`]: the caller sets it aside and fetches the state from a peer (hazard A5).

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, RwLock};
use std::thread;
use std::time::Duration;

use super::device::{self, Device};
use super::{SledStore, StoreOptions, verify};

const MARKER: &str = "OPENING";

/// Attempts that may end without a word before the directory counts as broken.
const ATTEMPTS_MAX: u32 = 2;

/// Bytes of sled's cache; blocks are cached by the reader's side (hazard D2).
const CACHE_BYTES: u64 = 16 * 1024 * 1024;

/// Free bytes that opening needs: sled writes a snapshot of its page table.
const OPEN_BYTES: u64 = 16 * 1024 * 1024;

/// sled's background threads may hold the lock of a store closed a moment ago in this process.
const LOCK_TRIES: u32 = 2000;

thread_local! {
    static OPENING: Cell<bool> = const { Cell::new(false) };
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The content cannot be trusted; set the directory aside and fetch the state anew.
    #[error("the checkpoint directory is broken: {reason}")]
    Broken {
        /// What was found.
        reason: String,
    },
    /// The program was linked without the interposer, so nothing would be durable (hazard F32).
    #[error(
        "syncs of the checkpoint store are not real in this program; it must link kvd-syncshim"
    )]
    NotDurable,
    /// Opening needs some room on the device.
    #[error(
        "no space left to open the checkpoint store: free some room on the device of --data-dir"
    )]
    NoSpace,
    /// The directory could not be read or written at all.
    #[error("cannot open the checkpoint store in {}: {error}", dir.display())]
    Io {
        /// Which directory.
        dir: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

/// Whether this thread is opening a store. A panic hook that aborts must let such a panic pass: it is
/// caught, and the directory set aside.
pub fn is_opening() -> bool {
    OPENING.get()
}

/// Moves a broken directory out of the way, keeping it for an examination; gives its new name.
pub fn set_aside(dir: &Path) -> io::Result<PathBuf> {
    let parent = dir.parent().ok_or(io::ErrorKind::InvalidInput)?;
    for number in 1..1000 {
        let mut name = dir.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        name.push(format!(".broken-{number}"));
        let aside = parent.join(name);
        if !aside.try_exists()? {
            fs::rename(dir, &aside)?;
            File::open(parent)?.sync_all()?;
            return Ok(aside);
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, "a thousand broken directories already"))
}

pub(super) fn open(dir: &Path, options: StoreOptions) -> Result<SledStore, OpenError> {
    kvd_syncshim::link();
    let at = |error| io_error(dir, error);
    fs::create_dir_all(dir).map_err(at)?;
    if (options.free_bytes)().map_err(at)? < OPEN_BYTES {
        return Err(OpenError::NoSpace);
    }
    begin_attempt(dir)?;
    let opened = guarded(|| open_marked(dir, options));
    match opened {
        Ok(store) => {
            end_attempt(dir).map_err(at)?;
            Ok(store)
        }
        // Neither says anything about the content.
        Err(error @ (OpenError::NotDurable | OpenError::NoSpace | OpenError::Io { .. })) => {
            end_attempt(dir).map_err(at)?;
            Err(error)
        }
        Err(error) => Err(error),
    }
}

/// Runs `open` with the flag set; a panic becomes an error.
fn guarded<T>(open: impl FnOnce() -> Result<T, OpenError>) -> Result<T, OpenError> {
    OPENING.set(true);
    let result = catch_unwind(AssertUnwindSafe(open));
    OPENING.set(false);
    result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        Err(broken(format!("sled panicked: {text}")))
    })
}

fn open_marked(dir: &Path, options: StoreOptions) -> Result<SledStore, OpenError> {
    let witnessed = match device::witnessed(dir) {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(broken(error)),
        other => other.map_err(|error| io_error(dir, error))?,
    };
    let tree = open_sled(dir)?;
    if tree.tree_names().len() != 1 {
        return Err(broken("a second tree is there"));
    }
    test_syncs(&tree)?;
    let covered = verify::recover(&tree, witnessed).map_err(broken)?;
    let device = Device::new(dir).map_err(|error| io_error(dir, error))?;
    if device.has_blobs().map_err(|error| io_error(dir, error))? {
        return Err(broken("blob files are there, which are never synced"));
    }
    // What a killed process wrote may be in the page cache only (hazard A3); so is what recovery wrote.
    device.sync().map_err(|error| io_error(dir, error))?;
    if let Some(covered) = &covered
        && witnessed != Some(covered.meta.sequence)
    {
        device.witness(covered.meta.sequence).map_err(|error| io_error(dir, error))?;
    }
    Ok(SledStore {
        dir: dir.to_owned(),
        tree,
        device,
        options,
        covered: RwLock::new(covered),
        writer: Mutex::new(()),
        visits: RwLock::new(()),
        reads: RwLock::new(()),
        unfinished: AtomicBool::new(false),
        failed: AtomicBool::new(false),
    })
}

fn open_sled(dir: &Path) -> Result<sled::Db, OpenError> {
    let config = sled::Config::new().path(dir).cache_capacity(CACHE_BYTES).flush_every_ms(None);
    for _ in 0..LOCK_TRIES {
        match config.open() {
            Ok(tree) => return Ok(tree),
            Err(sled::Error::Io(error)) if error.to_string().contains("could not acquire lock") => {
                thread::park_timeout(Duration::from_millis(1));
            }
            Err(sled::Error::Io(error)) if error.kind() == io::ErrorKind::StorageFull => {
                return Err(OpenError::NoSpace);
            }
            Err(error) => return Err(broken(error)),
        }
    }
    Err(io_error(dir, io::Error::new(io::ErrorKind::WouldBlock, "another process has it open")))
}

/// One flush of sled must reach the interposer. The key is no record's name and is gone before anything
/// else is read.
fn test_syncs(tree: &sled::Db) -> Result<(), OpenError> {
    let before = kvd_syncshim::intercepted();
    tree.insert(b"?", b"").map_err(broken)?;
    tree.flush().map_err(broken)?;
    tree.remove(b"?").map_err(broken)?;
    tree.flush().map_err(broken)?;
    if kvd_syncshim::intercepted() == before {
        return Err(OpenError::NotDurable);
    }
    Ok(())
}

fn begin_attempt(dir: &Path) -> Result<(), OpenError> {
    let at = |error| io_error(dir, error);
    let path = dir.join(MARKER);
    let attempts = match fs::read_to_string(&path) {
        // A marker that cannot be read is one whose attempt ended while writing it.
        Ok(text) => text.trim().parse().unwrap_or(1),
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) if error.kind() == io::ErrorKind::InvalidData => 1,
        Err(error) => return Err(at(error)),
    };
    if attempts >= ATTEMPTS_MAX {
        return Err(broken(format!("{attempts} attempts to open it never ended")));
    }
    let mut file = File::create(&path).map_err(at)?;
    file.write_all(format!("{}\n", attempts + 1).as_bytes()).map_err(at)?;
    file.sync_all().map_err(at)?;
    File::open(dir).and_then(|folder| folder.sync_all()).map_err(at)
}

fn end_attempt(dir: &Path) -> io::Result<()> {
    fs::remove_file(dir.join(MARKER))?;
    File::open(dir)?.sync_all()
}

fn broken(reason: impl std::fmt::Display) -> OpenError {
    OpenError::Broken { reason: reason.to_string() }
}

fn io_error(dir: &Path, error: io::Error) -> OpenError {
    OpenError::Io { dir: dir.to_owned(), error }
}
