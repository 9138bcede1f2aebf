//! The folder of a local cluster: temporary, gone with its owner, or given and kept.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::{LocalClusterError, io_error};

/// A folder of our own that goes when its owner goes.
pub(crate) struct Folder {
    path: PathBuf,
    temporary: bool,
}

impl Folder {
    /// A new folder in the system's temporary one, readable by us only.
    pub(crate) fn temporary(purpose: &str) -> Result<Self, LocalClusterError> {
        let (parent, process) = (std::env::temp_dir(), std::process::id());
        let mut builder = fs::DirBuilder::new();
        builder.mode(0o700);
        for attempt in 0..1000 {
            let path = parent.join(format!("kvd-{purpose}-{process}-{attempt}"));
            match builder.create(&path) {
                Ok(()) => return Ok(Self { path, temporary: true }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(io_error(path.display().to_string())(error)),
            }
        }
        let error = io::Error::from(io::ErrorKind::AlreadyExists);
        Err(io_error(parent.display().to_string())(error))
    }

    /// A folder that stays; it is made if it is not there.
    pub(crate) fn lasting(path: &Path) -> Result<Self, LocalClusterError> {
        let text = path.display().to_string();
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error(&text))?;
        // The members run elsewhere one day; a full path means the same everywhere.
        let path = path.canonicalize().map_err(io_error(&text))?;
        Ok(Self { path, temporary: false })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it will be removed.
    pub(crate) fn is_temporary(&self) -> bool {
        self.temporary
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.temporary {
            // Nobody is left to be told; the system clears its temporary folder.
            let _removed = fs::remove_dir_all(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_folder_goes_with_its_files_and_a_lasting_one_stays() {
        let outer = Folder::temporary("folder-test").unwrap();
        let path = outer.path().join("data");
        fs::create_dir(&path).unwrap();
        drop(Folder::lasting(&path).unwrap());
        assert!(path.is_dir());
        let gone = outer.path().to_owned();
        drop(outer);
        assert!(!gone.exists());
    }

    #[test]
    fn two_temporary_folders_differ() {
        let one = Folder::temporary("folder-test").unwrap();
        let other = Folder::temporary("folder-test").unwrap();
        assert_ne!(one.path(), other.path());
    }
}
