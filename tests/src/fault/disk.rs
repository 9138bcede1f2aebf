//! A file system of its own on a loop device, whose power can be cut and which can be filled.
//!
//! Mounts happen in a mount namespace of their own, which [`in_private_mounts`] makes by running
//! one test again under `unshare`; nothing of it outlives the test. A power cut is the file
//! system's shutdown without flushing its journal: everything unsynced is gone, as after a pulled
//! plug; only torn sectors cannot be had this way.

use std::env;
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use tempfile::TempDir;

use super::has_means;

/// Set in the process that has mounts of its own.
const PRIVATE: &str = "KVD_PRIVATE_MOUNTS";
/// `EXT4_IOC_SHUTDOWN` and `XFS_IOC_GOINGDOWN` with "no log flush"; python, since a request number
/// cannot be passed to ioctl in safe Rust.
const CUT: &str = "import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, struct.pack('I', 2))";

/// Which file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// ext4.
    Ext4,
    /// XFS.
    Xfs,
}

impl Kind {
    /// The program that makes one.
    pub fn maker(self) -> &'static str {
        match self {
            Self::Ext4 => "mkfs.ext4",
            Self::Xfs => "mkfs.xfs",
        }
    }
}

/// Runs `body` in a process with mounts of its own: the test `test` is run again there. Skips
/// without root or without these programs.
pub fn in_private_mounts(
    test: &str,
    programs: &[&str],
    body: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut needed = vec!["unshare", "mount", "umount", "python3"];
    needed.extend(programs);
    if !has_means(test, &needed) {
        return Ok(());
    }
    if env::var_os(PRIVATE).is_some() {
        return body();
    }
    let status = Command::new("unshare")
        .args(["--mount", "--propagation=private"])
        .arg(env::current_exe()?)
        .args([test, "--exact", "--nocapture"])
        .env(PRIVATE, "1")
        .status()?;
    ensure!(status.success(), "{test} failed with mounts of its own");
    Ok(())
}

/// A mounted file system.
pub struct LoopDisk {
    kind: Kind,
    image: PathBuf,
    mount: PathBuf,
    _folder: TempDir,
}

impl LoopDisk {
    /// Makes and mounts one of this size; the image takes only as much as is written.
    pub fn new(kind: Kind, bytes: u64) -> anyhow::Result<Self> {
        ensure!(env::var_os(PRIVATE).is_some(), "mounts belong into a namespace");
        let folder = tempfile::Builder::new().prefix("kvd-disk-").tempdir()?;
        let (image, mount) = (folder.path().join("image"), folder.path().join("mount"));
        File::create(&image)?.set_len(bytes)?;
        fs::create_dir(&mount)?;
        run(Command::new(kind.maker()).arg("-q").arg(&image))?;
        let disk = Self { kind, image, mount, _folder: folder };
        disk.attach()?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Which one.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Cuts the power. Whoever uses it gets I/O errors from now on.
    pub fn cut_power(&self) -> anyhow::Result<()> {
        run(Command::new("python3").args(["-c", CUT]).arg(&self.mount))
    }

    /// Mounts it again after a cut; nobody may use it any more.
    pub fn restore_power(&self) -> anyhow::Result<()> {
        run(Command::new("umount").arg(&self.mount))?;
        self.attach()
    }

    /// Fills it to the last byte with a file of somebody else's.
    pub fn fill(&self) -> anyhow::Result<Filler> {
        let path = self.mount.join("somebody else's");
        let mut file = File::create(&path)?;
        let mut piece = vec![b'x'; 1 << 20];
        loop {
            match file.write_all(&piece) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull && piece.len() > 1 => {
                    piece.truncate(piece.len() / 16);
                }
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => bail!("filling the disk: {error}"),
            }
        }
        // A full disk is one whose blocks are taken, not one that promises them.
        let _full = file.sync_all();
        Ok(Filler { path })
    }

    fn attach(&self) -> anyhow::Result<()> {
        run(Command::new("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.mount))
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        // A failed test may leave users behind; the namespace ends with this process anyway.
        let _gone = Command::new("umount").arg("--lazy").arg(&self.mount).status();
    }
}

/// The file that fills a disk.
pub struct Filler {
    path: PathBuf,
}

impl Filler {
    /// Gives the room back.
    pub fn remove(self) -> anyhow::Result<()> {
        fs::remove_file(&self.path).context("removing the file that fills the disk")
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
