//! The machine and the disk that a result was measured on.
//!
//! Promises to describe, never to judge: what cannot be found out is an empty string or nothing.

use std::fs;
use std::os::linux::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Serialize;

/// `f_type` of tmpfs and ramfs (statfs(2)).
const MEMORY_FILE_SYSTEMS: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// Bytes of a sector in /proc/diskstats, whatever the device's own sectors are (iostats.rst).
const SECTOR_BYTES: u64 = 512;

/// Where and from what a result comes.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    /// Model name of the first processor.
    pub(crate) processor: String,
    /// Processors that this process may use.
    pub(crate) processors: usize,
    /// Bytes of main memory.
    pub(crate) memory_bytes: u64,
    /// Load averages of 1, 5 and 15 minutes before the run: whether the machine was quiet.
    pub(crate) load_average: String,
    /// Release of the kernel.
    pub(crate) kernel: String,
    /// Commit of the working tree, `-dirty` if it differs; empty outside a repository.
    pub(crate) commit: String,
    /// UTC, RFC 3339.
    pub(crate) date: String,
}

impl Machine {
    /// This machine, now.
    pub(crate) fn here() -> Self {
        let processors = std::thread::available_parallelism().map_or(0, usize::from);
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            processor: value_of("/proc/cpuinfo", "model name").unwrap_or_default(),
            processors,
            memory_bytes: memory_bytes().unwrap_or(0),
            load_average: load_average(),
            kernel: kernel.trim().to_owned(),
            commit: output_of("git", &["describe", "--always", "--dirty"]),
            date: output_of("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]),
        }
    }

    /// The date in the form of a file name, to the minute.
    pub(crate) fn date_in_name(&self) -> String {
        let kept: String = self.date.chars().filter(|letter| *letter != ':').collect();
        kept.chars().take("2026-11-20T1405".len()).collect()
    }
}

/// The block device under a folder, and how much was written to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Device {
    major: u32,
    minor: u32,
}

impl Device {
    /// The device that holds `folder`.
    pub(crate) fn under(folder: &Path) -> Result<Self> {
        let id = fs::metadata(folder)?.st_dev();
        Ok(Self { major: rustix::fs::major(id), minor: rustix::fs::minor(id) })
    }

    /// Bytes written since the machine started; nothing where the device keeps no count.
    pub(crate) fn written_bytes(self) -> Option<u64> {
        let table = fs::read_to_string("/proc/diskstats").ok()?;
        sectors_written(&table, self.major, self.minor).map(|sectors| sectors * SECTOR_BYTES)
    }
}

/// Whether files in `folder` live in memory only.
pub(crate) fn is_in_memory(folder: &Path) -> Result<bool> {
    let about = rustix::fs::statfs(folder).with_context(|| folder.display().to_string())?;
    Ok(u64::try_from(about.f_type).is_ok_and(|kind| MEMORY_FILE_SYSTEMS.contains(&kind)))
}

/// Bytes that the files under `folder` take on the disk.
pub(crate) fn disk_bytes(folder: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // A running server removes files while we look.
        let Ok(about) = entry.metadata() else { continue };
        sum += if about.is_dir() {
            disk_bytes(&entry.path()).unwrap_or(0)
        } else {
            about.st_blocks() * SECTOR_BYTES
        };
    }
    Ok(sum)
}

/// Field 10 of the device's line.
fn sectors_written(table: &str, major: u32, minor: u32) -> Option<u64> {
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let is_it = fields.first()?.parse() == Ok(major) && fields.get(1)?.parse() == Ok(minor);
        if is_it { fields.get(9)?.parse().ok() } else { None }
    })
}

fn memory_bytes() -> Option<u64> {
    let line = value_of("/proc/meminfo", "MemTotal")?;
    Some(line.split_ascii_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_ascii_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// The text behind the colon of the first line that starts with `name`.
fn value_of(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn output_of(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_the_device_is_found_by_both_numbers() {
        let table = " 254 1 vdb 1 2 3 4 5 6 70 8 0 0 0\n 254 0 vda 1 2 3 4 5 6 71 8 0 0 0\n";
        assert_eq!(sectors_written(table, 254, 0), Some(71));
        assert_eq!(sectors_written(table, 8, 0), None);
    }

    #[test]
    fn the_kernel_files_are_in_memory_or_not_but_answer() {
        assert!(is_in_memory(Path::new("/proc")).is_ok());
        assert!(is_in_memory(Path::new("/no/such/folder")).is_err());
    }

    #[test]
    fn disk_space_counts_blocks_in_all_folders() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("inner")).unwrap();
        fs::write(folder.path().join("inner/file"), vec![7; 100_000]).unwrap();
        assert!(disk_bytes(folder.path()).unwrap() >= 98_304);
    }
}
