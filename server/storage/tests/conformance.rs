//! The suite for checkpoint stores, on sled; a crash is a copy of the directory as the process leaves it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod store_common;

use kvd_core::checkpoint::conformance::{self, Subject};
use kvd_core::checkpoint::{Checkpoint, CheckpointStore};
use kvd_storage::sled_store::SledStore;
use tempfile::TempDir;

use self::store_common::{copy, open};

struct OnDisk {
    // Dropped first: sled writes into the directory while it closes.
    store: SledStore,
    _folder: TempDir,
}

impl Subject for OnDisk {
    fn store(&self) -> &dyn CheckpointStore {
        &self.store
    }

    fn commit_without_meta(&self, checkpoint: &Checkpoint) {
        self.store.commit_without_meta(checkpoint).unwrap();
    }

    fn crash(self: Box<Self>) -> Box<dyn Subject> {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("state-1");
        copy(self.store.dir(), &dir);
        Box::new(Self { store: open(&dir).unwrap(), _folder: folder })
    }
}

#[test]
fn sled_store_conforms() {
    conformance::run(&|| {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder.path().join("state-1")).unwrap();
        Box::new(OnDisk { store, _folder: folder })
    });
}
