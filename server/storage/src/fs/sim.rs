//! A disk in memory that forgets: deterministic, with a crash model, faults on demand and damage at rest.
//!
//! What a power cut may leave is drawn from a seed, each as the real thing allows: every 512-byte sector written
//! since the last sync of its file is kept or lost by itself; so is the length; names created, renamed or
//! removed since the last `sync_dir` are kept or lost, in order for each file. After a sync that failed, the
//! written sectors look clean and are never written by a later sync, as Linux does it.
//!
//! Everything that goes wrong is asked for: operations that fail ([`SimDisk::fail`]), a device that is full
//! ([`SimDisk::set_free`]), bits that rot ([`SimDisk::rot`]), a device that lies ([`SimDisk::lie`]). What is
//! drawn at random is drawn from a seed of the caller. Paths are chosen by a part of their text; an empty part
//! means all. Clones name one disk; a crash or kill gives a new one, without faults.

mod faults;
mod file;
mod names;
mod port;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

#[cfg(doc)]
use super::Disk;
use faults::{Faults, concerns};
pub use faults::{Lie, Operation};
use file::File;
use names::{Change, Node, drop_orphans};

type SyncHook = Arc<dyn Fn() + Send + Sync>;

/// A simulated disk.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    files: BTreeMap<u64, File>,
    names: BTreeMap<PathBuf, Node>,
    durable_names: BTreeMap<PathBuf, Node>,
    /// Changes of names that no `sync_dir` has made durable, in order.
    pending: Vec<Change>,
    locks: BTreeSet<PathBuf>,
    next_file: u64,
    capacity: Option<u64>,
    faults: Faults,
    on_sync: Option<SyncHook>,
    syncs: u64,
    bytes_written: u64,
}

impl Default for SimDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl SimDisk {
    /// An empty disk without faults.
    #[must_use]
    pub fn new() -> Self {
        Self { state: Arc::default() }
    }

    /// The disk as a power cut leaves it: a new one, without faults, locks and open files.
    #[must_use]
    pub fn crash(&self, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let state = self.state();
        let mut names = state.durable_names.clone();
        let mut lost = BTreeSet::new();
        for change in &state.pending {
            // Of one file's changes only a beginning can be kept: the rest would not be possible without it.
            if !lost.contains(&change.node()) && rng.random_bool(0.5) {
                change.apply(&mut names);
            } else {
                lost.insert(change.node());
            }
        }
        drop_orphans(&mut names);
        let files = state.files.iter().map(|(id, file)| (*id, file.crash(&mut rng))).collect();
        let (next_file, capacity) = (state.next_file, state.capacity);
        let durable_names = names.clone();
        let survivor =
            State { files, names, durable_names, next_file, capacity, ..State::default() };
        Self { state: Arc::new(Mutex::new(survivor)) }
    }

    /// The disk as the death of the process alone leaves it: everything written, nothing more durable.
    #[must_use]
    pub fn kill(&self) -> Self {
        let state = self.state();
        let survivor = State {
            files: state.files.clone(),
            names: state.names.clone(),
            durable_names: state.durable_names.clone(),
            pending: state.pending.clone(),
            next_file: state.next_file,
            capacity: state.capacity,
            ..State::default()
        };
        Self { state: Arc::new(Mutex::new(survivor)) }
    }

    /// The next `count` of these operations on paths that contain `part` fail.
    pub fn fail(&self, operations: &[Operation], part: &str, count: u64, kind: io::ErrorKind) {
        self.state().faults.fail(operations, part, count, kind);
    }

    /// The next syncs, of files and folders, fail.
    pub fn fail_syncs(&self, count: u64, kind: io::ErrorKind) {
        self.fail(&[Operation::Sync, Operation::SyncDir], "", count, kind);
    }

    /// The next writes fail, and write nothing.
    pub fn fail_writes(&self, count: u64, kind: io::ErrorKind) {
        self.fail(&[Operation::Write], "", count, kind);
    }

    /// At these of the next chances with files whose path contains `part`, the disk does this and says nothing:
    /// `0..1` is the next one.
    pub fn lie(&self, lie: Lie, part: &str, chances: Range<u64>, seed: u64) {
        self.state().faults.lie(lie, part, chances, seed);
    }

    /// Whether some failure or lie that was asked for is still to come.
    #[must_use]
    pub fn is_to_fail(&self) -> bool {
        self.state().faults.are_to_come()
    }

    /// Takes back all failures and lies that did not happen yet.
    pub fn heal(&self) {
        self.state().faults = Faults::default();
    }

    /// Limits the lengths of all files together. A write beyond writes what fits and fails with `StorageFull`,
    /// as file systems do. There is room again when the limit is raised or files are removed.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// Leaves room for so many bytes besides what the files take up now. What a watch of the device makes of
    /// it is for [`Thresholds::next`](crate::space::Thresholds::next) to say, with [`Disk::free_bytes`].
    pub fn set_free(&self, bytes: u64) {
        let mut state = self.state();
        state.capacity = Some(state.used() + bytes);
    }

    /// Called at each sync of a file, before it takes effect: the place for latency.
    pub fn on_sync(&self, hook: impl Fn() + Send + Sync + 'static) {
        self.state().on_sync = Some(Arc::new(hook));
    }

    /// Syncs of files and folders so far.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// Bytes written so far.
    #[must_use]
    pub fn bytes_written(&self) -> u64 {
        self.state().bytes_written
    }

    /// Turns one bit of a file around, durably.
    pub fn flip_bit(&self, path: &Path, bit: u64) -> io::Result<()> {
        let mut state = self.state();
        let file = state.file_mut(path)?;
        if bit / 8 >= file.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        file.flip(bit);
        Ok(())
    }

    /// Turns around one bit of what lies on the medium, in a sector that is not zero, of some file whose path
    /// contains `part`. Answers which; none if nothing lies there.
    pub fn rot(&self, part: &str, seed: u64) -> Option<(PathBuf, u64)> {
        let mut state = self.state();
        let mut sectors = Vec::new();
        for (path, file) in state.named(part) {
            sectors.extend(file.at_rest().map(|sector| (path.clone(), sector)));
        }
        state.rot(sectors, seed)
    }

    /// As [`SimDisk::rot`], in what a sync of such a file wrote last.
    pub fn rot_newest(&self, part: &str, seed: u64) -> Option<(PathBuf, u64)> {
        let mut state = self.state();
        let newest = state.named(part).max_by_key(|(_, file)| file.newest().0);
        let sectors = newest.into_iter().flat_map(|(path, file)| {
            file.newest().1.map(|sector| (path.clone(), sector)).collect::<Vec<_>>()
        });
        let sectors = sectors.collect();
        state.rot(sectors, seed)
    }

    /// Cuts a file, durably.
    pub fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
        let mut state = self.state();
        let number = state.syncs;
        let file = state.file_mut(path)?;
        file.set_len(len);
        file.sync(number);
        Ok(())
    }

    /// Length of a file.
    pub fn file_len(&self, path: &Path) -> io::Result<u64> {
        Ok(self.state().file_mut(path)?.len)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn file_mut(&mut self, path: &Path) -> io::Result<&mut File> {
        let Some(Node::File(id)) = self.names.get(path).copied() else {
            return Err(io::ErrorKind::NotFound.into());
        };
        Ok(self.files.entry(id).or_default())
    }

    /// Files whose path contains a part.
    fn named(&self, part: &str) -> impl Iterator<Item = (&PathBuf, &File)> {
        let named = self.names.iter().filter(move |(path, _)| concerns(part, path));
        named.filter_map(|(path, node)| Some((path, self.files.get(&node.id())?)))
    }

    /// Turns a bit of one of these sectors around.
    fn rot(&mut self, mut sectors: Vec<(PathBuf, u64)>, seed: u64) -> Option<(PathBuf, u64)> {
        let mut rng = StdRng::seed_from_u64(seed);
        if sectors.is_empty() {
            return None;
        }
        let (path, sector) = sectors.swap_remove(rng.random_range(0..sectors.len()));
        let file = self.file_mut(&path).ok()?;
        let bit = file.draw_bit(sector, &mut rng);
        file.flip(bit);
        Some((path, bit))
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.names);
        self.pending.push(change);
    }

    fn new_id(&mut self) -> u64 {
        self.next_file += 1;
        self.next_file
    }

    fn is_folder(&self, path: &Path) -> bool {
        path.as_os_str().is_empty() || matches!(self.names.get(path), Some(Node::Folder(_)))
    }

    /// Bytes of all files that have a name.
    fn used(&self) -> u64 {
        let files = self.names.values().filter_map(|node| self.files.get(&node.id()));
        files.map(|file| file.len).sum()
    }

    /// Bytes by which the files may grow.
    fn free(&self) -> u64 {
        self.capacity.map_or(u64::MAX / 2, |capacity| capacity.saturating_sub(self.used()))
    }

    /// How many of `length` bytes at an offset of a file there is room for.
    fn fitting(&self, id: u64, offset: u64, length: u64) -> u64 {
        let len = self.files.get(&id).map_or(0, |file| file.len);
        if offset + length <= len {
            return length;
        }
        (len + self.free()).saturating_sub(offset).min(length)
    }

    /// Fails if this operation on an open file is to fail.
    fn check(&mut self, operation: Operation, id: u64) -> io::Result<()> {
        if self.faults.is_empty() {
            return Ok(());
        }
        let path = self.name_of(id);
        self.faults.check(operation, &path)
    }

    /// The present name of a file; an empty one if it was removed.
    fn name_of(&self, id: u64) -> PathBuf {
        let mut names = self.names.iter();
        let name = names.find(|(_, node)| **node == Node::File(id));
        name.map_or_else(PathBuf::new, |(name, _)| name.clone())
    }

    /// Turns a bit around in what was read, if it is to be.
    fn read_other(&mut self, id: u64, read: &mut [u8]) {
        if self.faults.is_empty() || read.is_empty() {
            return;
        }
        let path = self.name_of(id);
        if let Some(rng) = self.faults.told(Lie::ReadsOther, &path) {
            let at = rng.random_range(0..read.len());
            read[at] ^= 1 << rng.random_range(0..8);
        }
    }

    /// Keeps a sync from writing all that it covers, if it is to.
    fn sync_otherwise(&mut self, id: u64) {
        let path = if self.faults.is_empty() { return } else { self.name_of(id) };
        let Some(file) = self.files.get_mut(&id) else { return };
        if !file.is_dirty() {
            return;
        }
        if let Some(rng) = self.faults.told(Lie::LosesWrite, &path) {
            file.lose_write(rng);
        }
        if let Some(rng) = self.faults.told(Lie::MisdirectsWrite, &path) {
            file.misdirect_write(rng);
        }
    }

    /// Forgets files that neither a name nor a pending name refers to. Open handles see an empty file then,
    /// which only those who removed it can notice.
    fn forget_unnamed(&mut self) {
        let named = self.names.values().chain(self.durable_names.values()).copied();
        let named: BTreeSet<u64> =
            named.chain(self.pending.iter().map(Change::node)).map(Node::id).collect();
        self.files.retain(|id, _| named.contains(id));
    }
}

#[cfg(test)]
mod tests;
