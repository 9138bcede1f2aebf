//! The simulated disk behind the [`Disk`] port: one operation, one look at the shared state.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::SimDisk;
use super::faults::Operation;
use super::file::File;
use super::names::{Change, Node};
use crate::fs::{Disk, DiskFile, OpenMode};

impl Disk for SimDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        state.faults.check(Operation::Open, path)?;
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
        state.faults.check(Operation::Rename, from)?;
        let Some(node) = state.names.get(from).copied() else {
            return Err(io::ErrorKind::NotFound.into());
        };
        state.change(Change::Rename(from.to_owned(), to.to_owned(), node));
        state.forget_unnamed();
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.faults.check(Operation::Remove, path)?;
        let Some(node @ Node::File(_)) = state.names.get(path).copied() else {
            return Err(io::ErrorKind::NotFound.into());
        };
        state.change(Change::Remove(path.to_owned(), node));
        state.forget_unnamed();
        Ok(())
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.faults.check(Operation::Remove, path)?;
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
        state.faults.check(Operation::SyncDir, path)?;
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
        Ok(self.state().free())
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
        let mut state = self.disk.state();
        state.check(Operation::Read, self.id)?;
        let read = state.files.get(&self.id).map_or(0, |file| file.read(buffer, offset));
        state.read_other(self.id, &mut buffer[..read]);
        Ok(read)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.check_writable()?;
        let mut state = self.disk.state();
        state.check(Operation::Write, self.id)?;
        let fitting = state.fitting(self.id, offset, bytes.len() as u64);
        let written = &bytes[..usize::try_from(fitting).unwrap_or(bytes.len())];
        state.bytes_written += fitting;
        // Nothing at all does not make a file longer.
        if let Some(file) = state.files.get_mut(&self.id).filter(|_| fitting > 0) {
            file.write(written, offset);
        }
        full_unless(written.len() == bytes.len())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.state().files.get(&self.id).map_or(0, |file| file.len))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check_writable()?;
        let mut state = self.disk.state();
        state.check(Operation::Write, self.id)?;
        full_unless(state.fitting(self.id, 0, len) == len)?;
        if let Some(file) = state.files.get_mut(&self.id) {
            file.set_len(len);
        }
        Ok(())
    }

    fn reserve(&self, offset: u64, len: u64) -> io::Result<()> {
        self.check_writable()?;
        let mut state = self.disk.state();
        state.check(Operation::Write, self.id)?;
        let fitting = state.fitting(self.id, offset, len);
        if let Some(file) = state.files.get_mut(&self.id) {
            file.set_len(file.len.max(offset + fitting));
        }
        full_unless(fitting == len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let hook = self.disk.state().on_sync.clone();
        if let Some(hook) = hook {
            hook();
        }
        let mut state = self.disk.state();
        state.syncs += 1;
        let failed = state.check(Operation::Sync, self.id);
        if failed.is_ok() {
            state.sync_otherwise(self.id);
        }
        let number = state.syncs;
        if let Some(file) = state.files.get_mut(&self.id) {
            match failed {
                Ok(()) => file.sync(number),
                Err(_) => file.fail_sync(),
            }
        }
        failed
    }
}

/// The error of a full device, unless all fitted.
fn full_unless(fitted: bool) -> io::Result<()> {
    if fitted { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
}
