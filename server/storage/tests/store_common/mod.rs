//! Opening and copying checkpoint directories in tests.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::fs;
use std::path::Path;

use kvd_storage::sled_store::{OpenError, SledStore, StoreOptions};

/// Options that never wait and never run out of space.
pub(crate) fn options() -> StoreOptions {
    StoreOptions { pace: Box::new(|_| {}), free_bytes: Box::new(|| Ok(u64::MAX)) }
}

/// Opens a store without pacing.
pub(crate) fn open(dir: &Path) -> Result<SledStore, OpenError> {
    SledStore::open(dir, options())
}

/// Copies a directory, as a killed process leaves it.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
