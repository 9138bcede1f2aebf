//! What sled leaves to us of durability: syncs of its file and folder, the absence of blob files, and a
//! witness beside it of the last committed sequence.
//!
//! The witness (`COMMITTED`) is written after a meta is durable and before the commit returns. Without it, a
//! flipped bit that costs the newest meta would silently bring back the checkpoint before.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crc32c::crc32c;

const COMMITTED: &str = "COMMITTED";

/// The files under one store.
pub(crate) struct Device {
    dir: PathBuf,
    folder: File,
    data: File,
}

impl Device {
    /// Takes hold of the files that sled has created.
    pub(crate) fn new(dir: &Path) -> io::Result<Self> {
        let data = File::open(dir.join("db"))?;
        Ok(Self { dir: dir.to_owned(), folder: File::open(dir)?, data })
    }

    /// Makes everything that sled has written durable, the device's cache included.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.data.sync_data()?;
        self.folder.sync_all()
    }

    /// Whether sled has written values into files of their own, which it never syncs (hazard C7).
    pub(crate) fn has_blobs(&self) -> io::Result<bool> {
        match fs::read_dir(self.dir.join("blobs")) {
            Ok(mut entries) => Ok(entries.next().is_some()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Records durably that a checkpoint is committed.
    pub(crate) fn witness(&self, sequence: u64) -> io::Result<()> {
        let temporary = self.dir.join("COMMITTED.tmp");
        let mut file = File::create(&temporary)?;
        file.write_all(witness_text(sequence).as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, self.dir.join(COMMITTED))?;
        self.folder.sync_all()
    }
}

/// The last sequence recorded as committed; `None` where none ever was.
pub(crate) fn witnessed(dir: &Path) -> io::Result<Option<u64>> {
    let text = match fs::read(dir.join(COMMITTED)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let sequence = std::str::from_utf8(&text).ok().and_then(|text| {
        let sequence = text.strip_prefix("kvd checkpoint ")?.split(' ').next()?.parse().ok()?;
        (witness_text(sequence) == text).then_some(sequence)
    });
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "file COMMITTED is damaged");
    sequence.map(Some).ok_or_else(damaged)
}

fn witness_text(sequence: u64) -> String {
    let body = format!("kvd checkpoint {sequence}");
    format!("{body} {:08x}\n", crc32c(body.as_bytes()))
}

/// Bytes that a directory's files occupy.
pub(crate) fn allocated_bytes(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        match entry?.metadata() {
            Ok(metadata) => bytes += metadata.blocks() * 512,
            // sled replaces its snapshot files in the background.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}
