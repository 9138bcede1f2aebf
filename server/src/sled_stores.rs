//! Stores in production: folders of sled under the data directory, one of them live.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use kvd_core::checkpoint::{BlockId, Checkpoint, CheckpointStore, Meta, StoreError, Table};
use kvd_storage::datadir::{DataDir, Divergence};
use kvd_storage::fs::Disk;
use kvd_storage::receive::Receiver;
use kvd_storage::sled_store::{OpenError, SledStore, StoreOptions};

use crate::stores::{FinishedStore, NewStore, Stores};

/// The folders of one data directory.
pub struct SledStores {
    shared: Arc<Shared>,
}

struct Shared {
    data_dir: Mutex<DataDir>,
    disk: Arc<dyn Disk>,
    live: Mutex<Arc<Folder>>,
}

impl SledStores {
    /// Opens the live store; creates the first one where there is none.
    #[expect(
        clippy::result_large_err,
        reason = "happens once a start, and gives the directory back"
    )]
    pub fn open(mut data_dir: DataDir) -> Result<Self, (DataDir, OpenError)> {
        let disk = Arc::clone(data_dir.disk());
        let opened = open_live(&mut data_dir, &disk);
        match opened {
            Ok(live) => {
                let shared =
                    Shared { data_dir: Mutex::new(data_dir), disk, live: Mutex::new(live) };
                Ok(Self { shared: Arc::new(shared) })
            }
            Err(error) => Err((data_dir, error)),
        }
    }
}

fn open_live(data_dir: &mut DataDir, disk: &Arc<dyn Disk>) -> Result<Arc<Folder>, OpenError> {
    let broken = |error: &dyn std::fmt::Display| OpenError::Broken { reason: error.to_string() };
    if let Some(path) = data_dir.state() {
        return open_folder(&path, disk);
    }
    let (number, path) = data_dir.next_state().map_err(|error| broken(&error))?;
    let live = open_folder(&path, disk)?;
    data_dir.switch(number).map_err(|error| broken(&error))?;
    Ok(live)
}

fn open_folder(path: &Path, disk: &Arc<dyn Disk>) -> Result<Arc<Folder>, OpenError> {
    let free = Arc::clone(disk);
    let options =
        StoreOptions { pace: Box::new(rest), free_bytes: Box::new(move || free.free_bytes()) };
    let store = SledStore::open(path, options)?;
    Ok(Arc::new(Folder { store, replaced: AtomicBool::new(false) }))
}

/// Leaves the device to the log for as long as a flush took it (hazard D6). Runs on the checkpointer's thread.
#[expect(
    clippy::disallowed_methods,
    reason = "the checkpointer has a thread of its own, never simulated"
)]
fn rest(flush_took: std::time::Duration) {
    std::thread::sleep(flush_took);
}

impl Shared {
    fn data_dir(&self) -> MutexGuard<'_, DataDir> {
        self.data_dir.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stores for SledStores {
    fn live(&self) -> Arc<dyn CheckpointStore> {
        Arc::clone(&*self.shared.live.lock().unwrap_or_else(PoisonError::into_inner)) as _
    }

    fn create(&self) -> Result<Box<dyn NewStore>, StoreError> {
        let failed = |error: String| StoreError::Failed(error);
        let data_dir = self.shared.data_dir();
        data_dir.remove_stale().map_err(|error| failed(error.to_string()))?;
        let (number, path) = data_dir.next_state().map_err(|error| failed(error.to_string()))?;
        drop(data_dir);
        let free = Arc::clone(&self.shared.disk);
        let options = StoreOptions {
            // A transfer is paced by its sender.
            pace: Box::new(|_flush_took| {}),
            free_bytes: Box::new(move || free.free_bytes()),
        };
        let store = SledStore::open(&path, options).map_err(|error| failed(error.to_string()))?;
        let receiver = Receiver::new(store)?;
        Ok(Box::new(New { receiver, number, shared: Arc::clone(&self.shared) }))
    }

    fn divergence(&self) -> Result<Divergence, StoreError> {
        let noted = self.shared.data_dir().divergence();
        noted.map_err(|error| StoreError::Failed(error.to_string()))
    }

    fn note_divergence(&self, divergence: &Divergence) -> Result<(), StoreError> {
        let noted = self.shared.data_dir().note_divergence(divergence);
        noted.map_err(|error| StoreError::Failed(error.to_string()))
    }
}

struct New {
    receiver: Receiver,
    number: u64,
    shared: Arc<Shared>,
}

impl NewStore for New {
    fn put_block(&mut self, id: BlockId, block: Bytes) -> Result<(), StoreError> {
        self.receiver.put_block(id, &block)
    }

    fn put_row(&mut self, table: Table, id: Bytes, row: Bytes) -> Result<(), StoreError> {
        self.receiver.put_row(table, &id, &row)
    }

    fn finish(self: Box<Self>, meta: &Meta) -> Result<Box<dyn FinishedStore>, StoreError> {
        let store = self.receiver.finish(meta.clone())?;
        let folder = Arc::new(Folder { store, replaced: AtomicBool::new(false) });
        Ok(Box::new(Finished { folder, number: self.number, shared: self.shared }))
    }
}

struct Finished {
    folder: Arc<Folder>,
    number: u64,
    shared: Arc<Shared>,
}

impl FinishedStore for Finished {
    fn store(&self) -> Arc<dyn CheckpointStore> {
        Arc::clone(&self.folder) as _
    }

    fn make_live(&self) -> Result<(), StoreError> {
        let switched = self.shared.data_dir().switch(self.number);
        switched.map_err(|error| StoreError::Failed(error.to_string()))?;
        let mut live = self.shared.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.replaced.store(true, Ordering::Relaxed);
        *live = Arc::clone(&self.folder);
        Ok(())
    }
}

/// A store that takes its folder with it once it was replaced and nobody reads from it any more.
struct Folder {
    store: SledStore,
    replaced: AtomicBool,
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.replaced.load(Ordering::Relaxed)
            && let Err(error) = std::fs::remove_dir_all(self.store.dir())
        {
            // The next start deletes what CURRENT does not name.
            tracing::debug!(%error, "a replaced state was not deleted");
        }
    }
}

impl CheckpointStore for Folder {
    fn meta(&self) -> Result<Option<Meta>, StoreError> {
        self.store.meta()
    }

    fn blocks(
        &self,
        visit: &mut dyn FnMut(BlockId, Bytes) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.store.blocks(visit)
    }

    fn rows(
        &self,
        visit: &mut dyn FnMut(Table, Bytes, Bytes) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.store.rows(visit)
    }

    fn block(&self, id: BlockId) -> Result<Option<Bytes>, StoreError> {
        self.store.block(id)
    }

    fn commit(&self, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        self.store.commit(checkpoint)
    }

    fn size_bytes(&self) -> Result<u64, StoreError> {
        self.store.size_bytes()
    }
}
