//! Room on the device: how much is left, what that means, and a ballast to let go of (hazard B5).
//!
//! A full disk must never reach the log or the checkpoint store, whose errors are final. So the levels leave
//! a reserve: below `low` the cluster takes no more growing commands, below `critical` this member takes no
//! more entries. The ballast is a file of the size of the reserve: letting go of it gives the room in which a
//! checkpoint can be finished and the log be purged, also when somebody else has filled the disk.
//!
//! It does not know who acts on a level; time is passed in.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::fs::{Disk, DiskFile, OpenMode};

/// How much room there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Not even a checkpoint fits: no more entries are taken.
    Critical,
    /// The reserve is touched: no more growing commands.
    Low,
    /// All is well.
    Plenty,
}

/// Where the levels begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Free bytes below which the level is low (R1).
    pub low_bytes: u64,
    /// Free bytes below which it is critical (R2).
    pub critical_bytes: u64,
}

/// Spare bytes above segments and checkpoint.
const LOW_SPARE_BYTES: u64 = 64 * 1024 * 1024;
/// Spare bytes above a checkpoint.
const CRITICAL_SPARE_BYTES: u64 = 16 * 1024 * 1024;

impl Thresholds {
    /// For a log of such segments and an estimate of one checkpoint.
    pub fn new(segment_bytes: u64, checkpoint_bytes: u64) -> Self {
        Self {
            low_bytes: 2 * segment_bytes + checkpoint_bytes + LOW_SPARE_BYTES,
            critical_bytes: checkpoint_bytes + CRITICAL_SPARE_BYTES,
        }
    }

    /// The level after one look. It falls at once and rises only an eighth above the threshold, so that it
    /// does not flap while the last bytes come and go.
    #[must_use]
    pub fn next(&self, level: Level, free_bytes: u64) -> Level {
        let above = |threshold: u64, risen: bool| {
            free_bytes >= if risen { threshold } else { threshold + threshold / 8 }
        };
        if !above(self.critical_bytes, level > Level::Critical) {
            Level::Critical
        } else if !above(self.low_bytes, level > Level::Low) {
            Level::Low
        } else {
            Level::Plenty
        }
    }
}

/// Looks at the device from time to time; owns the ballast.
pub struct SpaceWatch {
    disk: Arc<dyn Disk>,
    thresholds: Thresholds,
    every: Duration,
    state: Mutex<State>,
}

struct State {
    level: Level,
    last_look: Option<Duration>,
    ballast: Ballast,
}

impl SpaceWatch {
    /// A watch that looks at most once in `every`, with its ballast at `ballast` (a path of `disk`).
    pub fn new(
        disk: Arc<dyn Disk>,
        ballast: PathBuf,
        thresholds: Thresholds,
        every: Duration,
    ) -> io::Result<Self> {
        let level = thresholds.next(Level::Plenty, disk.free_bytes()?);
        let ballast = Ballast::open(&*disk, ballast)?;
        let state = Mutex::new(State { level, last_look: None, ballast });
        Ok(Self { disk, thresholds, every, state })
    }

    /// The level at the last look.
    pub fn level(&self) -> Level {
        self.lock().level
    }

    /// Bytes that the ballast holds.
    pub fn ballast_bytes(&self) -> u64 {
        self.lock().ballast.bytes
    }

    /// Looks, if it is time: `now` is the time since some fixed moment. Gives the level when it changed.
    /// While there is plenty of room, the ballast is made whole.
    pub fn poll(&self, now: Duration) -> io::Result<Option<Level>> {
        let mut state = self.lock();
        if state.last_look.is_some_and(|last| now.saturating_sub(last) < self.every) {
            return Ok(None);
        }
        state.last_look = Some(now);
        let free = self.disk.free_bytes()?;
        let before = state.level;
        state.level = self.thresholds.next(before, free);
        if state.level == Level::Plenty {
            self.grow(&mut state.ballast, free)?;
        }
        Ok((state.level != before).then_some(state.level))
    }

    /// Whether so many bytes can be written now; lets go of the ballast if that is what it takes.
    pub fn make_room(&self, bytes: u64) -> io::Result<bool> {
        if self.disk.free_bytes()? >= bytes {
            return Ok(true);
        }
        self.lock().ballast.release(&*self.disk)?;
        Ok(self.disk.free_bytes()? >= bytes)
    }

    /// Grows the ballast towards the reserve, as long as twice the reserve stays free besides.
    fn grow(&self, ballast: &mut Ballast, free: u64) -> io::Result<()> {
        let missing = self.thresholds.low_bytes.saturating_sub(ballast.bytes);
        let room = free.saturating_sub(2 * self.thresholds.low_bytes);
        if missing == 0 || room < missing {
            return Ok(());
        }
        match ballast.grow(&*self.disk, missing) {
            // Somebody else was faster; the next look sees it.
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                ballast.release(&*self.disk)
            }
            other => other,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A file that only takes up room.
struct Ballast {
    path: PathBuf,
    file: Option<Arc<dyn DiskFile>>,
    bytes: u64,
}

impl Ballast {
    fn open(disk: &dyn Disk, path: PathBuf) -> io::Result<Self> {
        match disk.open(&path, OpenMode::Write) {
            Ok(file) => Ok(Self { path, bytes: file.len()?, file: Some(file) }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(Self { path, bytes: 0, file: None })
            }
            Err(error) => Err(error),
        }
    }

    /// Reserves room rather than extending the file: a hole takes up none.
    fn grow(&mut self, disk: &dyn Disk, bytes: u64) -> io::Result<()> {
        let file = match &self.file {
            Some(file) => Arc::clone(file),
            None => Arc::clone(self.file.insert(disk.open(&self.path, OpenMode::Create)?)),
        };
        file.reserve(self.bytes, bytes)?;
        self.bytes += bytes;
        file.sync_data()
    }

    fn release(&mut self, disk: &dyn Disk) -> io::Result<()> {
        if self.file.take().is_none() {
            return Ok(());
        }
        self.bytes = 0;
        // Its name needs no sync: a ballast that comes back after a power cut is a ballast.
        disk.remove_file(&self.path)
    }
}

#[cfg(test)]
mod tests;
