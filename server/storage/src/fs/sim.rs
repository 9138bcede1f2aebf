//! A disk in memory that forgets: deterministic, with a crash model, faults on demand and damage at rest.
//!
//! What a power cut may leave is drawn from a seed, each as the real thing allows: every 512-byte sector written
//! since the last sync of its file is kept or lost by itself; so is the length; names created, renamed or
//! removed since the last `sync_dir` are kept or lost, in order for each file. After a sync that failed, the
//! written sectors look clean and are never written by a later sync, as Linux does it. Clones name one disk.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{Disk, DiskFile, OpenMode};

/// Bytes that a disk writes wholly or not at all.
const SECTOR: usize = 512;
/// The same as an offset.
const SECTOR_BYTES: u64 = SECTOR as u64;

type Sector = [u8; SECTOR];
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
    failing_syncs: Failing,
    failing_writes: Failing,
    on_sync: Option<SyncHook>,
    syncs: u64,
    bytes_written: u64,
}

/// How many of the next operations fail, and how.
#[derive(Clone, Copy, Default)]
struct Failing {
    left: u64,
    kind: Option<io::ErrorKind>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    Folder(u64),
    File(u64),
}

#[derive(Clone, Debug)]
enum Change {
    Create(PathBuf, Node),
    Rename(PathBuf, PathBuf, Node),
    Remove(PathBuf, Node),
}

/// A file's content: what is read now, and what each unsynced sector held before. Zero sectors take no room.
#[derive(Clone, Default)]
struct File {
    len: u64,
    len_durable: u64,
    sectors: BTreeMap<u64, Sector>,
    /// Written since the last sync: the durable content.
    dirty: BTreeMap<u64, Sector>,
    /// A sync of these failed: they look clean, but this is on the medium.
    stranded: BTreeMap<u64, Sector>,
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

    /// The next syncs, of files and folders, fail.
    pub fn fail_syncs(&self, count: u64, kind: io::ErrorKind) {
        self.state().failing_syncs = Failing { left: count, kind: Some(kind) };
    }

    /// The next writes fail, and write nothing.
    pub fn fail_writes(&self, count: u64, kind: io::ErrorKind) {
        self.state().failing_writes = Failing { left: count, kind: Some(kind) };
    }

    /// Limits the lengths of all files together; a write beyond fails with `StorageFull`.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
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
        let (sector, within) = (bit / 8 / SECTOR_BYTES, bit / 8 % SECTOR_BYTES);
        let within = usize::try_from(within).unwrap_or(0);
        file.sectors.entry(sector).or_insert([0; SECTOR])[within] ^= 1 << (bit % 8);
        Ok(())
    }

    /// Cuts a file, durably.
    pub fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
        let mut state = self.state();
        let file = state.file_mut(path)?;
        file.set_len(len);
        file.sync();
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

    /// Refuses to let the files grow by this much.
    fn check_space(&self, growth: u64) -> io::Result<()> {
        let used: u64 = self.files.values().map(|file| file.len).sum();
        match self.capacity {
            Some(capacity) if used + growth > capacity => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
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

impl Failing {
    fn check(&mut self) -> io::Result<()> {
        match self.kind {
            Some(kind) if self.left > 0 => {
                self.left -= 1;
                Err(kind.into())
            }
            _ => Ok(()),
        }
    }
}

impl Node {
    fn id(self) -> u64 {
        match self {
            Self::Folder(id) | Self::File(id) => id,
        }
    }
}

impl PartialOrd for Node {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Node {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.id().cmp(&other.id())
    }
}

impl Change {
    fn node(&self) -> Node {
        match self {
            Self::Create(_, node) | Self::Rename(_, _, node) | Self::Remove(_, node) => *node,
        }
    }

    /// Whether syncing this folder makes the change durable.
    fn is_in(&self, folder: &Path) -> bool {
        match self {
            Self::Create(path, _) | Self::Remove(path, _) | Self::Rename(_, path, _) => {
                path.parent() == Some(folder)
            }
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, Node>) {
        match self {
            Self::Create(path, node) => {
                names.insert(path.clone(), *node);
            }
            Self::Remove(path, _) => names.retain(|name, _| !name.starts_with(path)),
            Self::Rename(from, to, node) => {
                let moved: Vec<_> = names
                    .iter()
                    .filter_map(|(name, node)| Some((name.strip_prefix(from).ok()?, *node)))
                    .filter(|(rest, _)| !rest.as_os_str().is_empty())
                    .map(|(rest, node)| (to.join(rest), node))
                    .collect();
                names.retain(|name, _| !name.starts_with(from) && !name.starts_with(to));
                names.extend(moved);
                names.insert(to.clone(), *node);
            }
        }
    }
}

/// A name whose folder was lost cannot be reached.
fn drop_orphans(names: &mut BTreeMap<PathBuf, Node>) {
    let mut folders: BTreeSet<PathBuf> = BTreeSet::from([PathBuf::new()]);
    names.retain(|name, node| {
        let reachable = name.parent().is_none_or(|parent| folders.contains(parent));
        if reachable && matches!(node, Node::Folder(_)) {
            folders.insert(name.clone());
        }
        reachable
    });
}

impl File {
    fn read(&self, buffer: &mut [u8], offset: u64) -> usize {
        let available = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let length = buffer.len().min(available);
        let mut filled = 0;
        while filled < length {
            let at = offset + filled as u64;
            let within = usize::try_from(at % SECTOR_BYTES).unwrap_or(0);
            let piece = (SECTOR - within).min(length - filled);
            let into = &mut buffer[filled..filled + piece];
            match self.sectors.get(&(at / SECTOR_BYTES)) {
                Some(sector) => into.copy_from_slice(&sector[within..within + piece]),
                None => into.fill(0),
            }
            filled += piece;
        }
        length
    }

    fn write(&mut self, mut bytes: &[u8], offset: u64) {
        let mut at = offset;
        while !bytes.is_empty() {
            let within = usize::try_from(at % SECTOR_BYTES).unwrap_or(0);
            let (piece, rest) = bytes.split_at(bytes.len().min(SECTOR - within));
            let mut sector = self.touch(at / SECTOR_BYTES);
            sector[within..within + piece.len()].copy_from_slice(piece);
            self.put(at / SECTOR_BYTES, sector);
            at += piece.len() as u64;
            bytes = rest;
        }
        self.len = self.len.max(at);
    }

    /// The present content of a sector that is about to change; remembers the durable one.
    fn touch(&mut self, at: u64) -> Sector {
        let now = self.sectors.get(&at).copied().unwrap_or([0; SECTOR]);
        let durable = self.stranded.remove(&at).unwrap_or(now);
        self.dirty.entry(at).or_insert(durable);
        now
    }

    fn put(&mut self, at: u64, sector: Sector) {
        if sector == [0; SECTOR] {
            self.sectors.remove(&at);
        } else {
            self.sectors.insert(at, sector);
        }
    }

    fn set_len(&mut self, len: u64) {
        let first_gone = len.div_ceil(SECTOR_BYTES);
        let gone: Vec<u64> = self.sectors.range(first_gone..).map(|(at, _)| *at).collect();
        for at in gone {
            self.touch(at);
            self.sectors.remove(&at);
        }
        let within = usize::try_from(len % SECTOR_BYTES).unwrap_or(0);
        if within > 0 && len < self.len {
            let mut sector = self.touch(len / SECTOR_BYTES);
            sector[within..].fill(0);
            self.put(len / SECTOR_BYTES, sector);
        }
        self.len = len;
    }

    fn sync(&mut self) {
        self.dirty.clear();
        self.len_durable = self.len;
    }

    /// The sectors look clean, but the medium has the old ones.
    fn fail_sync(&mut self) {
        self.stranded.append(&mut self.dirty);
    }

    /// What a power cut leaves.
    fn crash(&self, rng: &mut StdRng) -> Self {
        let mut survivor = self.clone();
        let longer = self.len > self.len_durable;
        let keep_len = self.len == self.len_durable || rng.random_bool(0.5);
        for (at, durable) in &self.stranded {
            survivor.put(*at, *durable);
        }
        for (at, durable) in &self.dirty {
            if rng.random_bool(0.5) {
                survivor.put(*at, *durable);
            }
        }
        if !keep_len {
            survivor.set_len(self.len_durable);
        } else if !longer {
            survivor.set_len(self.len);
        }
        survivor.dirty.clear();
        survivor.stranded.clear();
        survivor.len_durable = survivor.len;
        survivor
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        let id = match (mode, state.names.get(path).copied()) {
            (OpenMode::Create, Some(_)) => return Err(io::ErrorKind::AlreadyExists.into()),
            (OpenMode::Create, None) => {
                if !path.parent().is_none_or(|parent| state.is_folder(parent)) {
                    return Err(io::ErrorKind::NotFound.into());
                }
                let id = state.new_id();
                state.files.insert(id, File::default());
                state.change(Change::Create(path.to_owned(), Node::File(id)));
                id
            }
            (_, Some(Node::File(id))) => id,
            (_, Some(Node::Folder(_))) => return Err(io::ErrorKind::IsADirectory.into()),
            (_, None) => return Err(io::ErrorKind::NotFound.into()),
        };
        let writable = mode != OpenMode::Read;
        Ok(Arc::new(SimFile { disk: self.clone(), id, writable }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        let mut missing: Vec<&Path> = path.ancestors().filter(|p| !state.is_folder(p)).collect();
        missing.reverse();
        for folder in missing {
            if state.names.contains_key(folder) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let id = state.new_id();
            state.change(Change::Create(folder.to_owned(), Node::Folder(id)));
        }
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let state = self.state();
        if !state.is_folder(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inside = state.names.keys().filter(|name| name.parent() == Some(path));
        Ok(inside.filter_map(|name| Some(name.file_name()?.to_str()?.to_owned())).collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        let Some(node) = state.names.get(from).copied() else {
            return Err(io::ErrorKind::NotFound.into());
        };
        state.change(Change::Rename(from.to_owned(), to.to_owned(), node));
        state.forget_unnamed();
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        let Some(node @ Node::File(_)) = state.names.get(path).copied() else {
            return Err(io::ErrorKind::NotFound.into());
        };
        state.change(Change::Remove(path.to_owned(), node));
        state.forget_unnamed();
        Ok(())
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        let Some(node @ Node::Folder(_)) = state.names.get(path).copied() else {
            return Err(io::ErrorKind::NotFound.into());
        };
        state.change(Change::Remove(path.to_owned(), node));
        state.forget_unnamed();
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.syncs += 1;
        if !state.is_folder(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.failing_syncs.check()?;
        let (durable, pending) = state.pending.drain(..).partition(|change| change.is_in(path));
        let durable: Vec<Change> = durable;
        state.pending = pending;
        for change in durable {
            change.apply(&mut state.durable_names);
        }
        state.forget_unnamed();
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        if !self.state().locks.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(Lock { disk: self.clone(), path: path.to_owned() }))
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let state = self.state();
        let used: u64 = state.files.values().map(|file| file.len).sum();
        Ok(state.capacity.unwrap_or(u64::MAX / 2).saturating_sub(used))
    }
}

struct Lock {
    disk: SimDisk,
    path: PathBuf,
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.disk.state().locks.remove(&self.path);
    }
}

struct SimFile {
    disk: SimDisk,
    id: u64,
    writable: bool,
}

impl SimFile {
    fn check_writable(&self) -> io::Result<()> {
        if self.writable { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        Ok(self.disk.state().files.get(&self.id).map_or(0, |file| file.read(buffer, offset)))
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.check_writable()?;
        let mut state = self.disk.state();
        state.failing_writes.check()?;
        let len = state.files.get(&self.id).map_or(0, |file| file.len);
        state.check_space((offset + bytes.len() as u64).saturating_sub(len))?;
        state.bytes_written += bytes.len() as u64;
        if let Some(file) = state.files.get_mut(&self.id) {
            file.write(bytes, offset);
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.state().files.get(&self.id).map_or(0, |file| file.len))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check_writable()?;
        let mut state = self.disk.state();
        state.failing_writes.check()?;
        if let Some(file) = state.files.get_mut(&self.id) {
            file.set_len(len);
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let hook = self.disk.state().on_sync.clone();
        if let Some(hook) = hook {
            hook();
        }
        let mut state = self.disk.state();
        state.syncs += 1;
        let failed = state.failing_syncs.check();
        if let Some(file) = state.files.get_mut(&self.id) {
            match failed {
                Ok(()) => file.sync(),
                Err(_) => file.fail_sync(),
            }
        }
        failed
    }
}
