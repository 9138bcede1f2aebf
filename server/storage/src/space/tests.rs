//! Levels as a pure function, and the watch over a folder whose free bytes the test decides.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use super::*;
use crate::fs::RealDisk;

const MIB: u64 = 1024 * 1024;

/// A real folder on a device of which the test says how large it is.
struct Device {
    real: RealDisk,
    root: PathBuf,
    size_bytes: AtomicU64,
}

impl Device {
    fn used(&self) -> u64 {
        std::fs::metadata(self.root.join("ballast")).map_or(0, |metadata| metadata.len())
    }
}

impl Disk for Device {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        self.real.open(path, mode)
    }
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.real.create_dir_all(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.real.list(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.real.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.real.remove_file(path)
    }
    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.real.remove_dir_all(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.real.sync_dir(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.real.lock(path)
    }
    fn free_bytes(&self) -> io::Result<u64> {
        Ok(self.size_bytes.load(Ordering::Relaxed).saturating_sub(self.used()))
    }
}

fn thresholds() -> Thresholds {
    Thresholds { low_bytes: 8 * MIB, critical_bytes: 2 * MIB }
}

fn second(number: u64) -> Duration {
    Duration::from_secs(number)
}

#[test]
fn the_reserve_holds_two_segments_and_a_checkpoint() {
    let thresholds = Thresholds::new(64 * MIB, 16 * MIB);
    assert_eq!(thresholds.low_bytes, (128 + 16 + 64) * MIB);
    assert_eq!(thresholds.critical_bytes, 32 * MIB);
}

#[test]
fn levels_fall_at_once_and_rise_late() {
    let thresholds = thresholds();
    assert_eq!(thresholds.next(Level::Plenty, 8 * MIB), Level::Plenty);
    assert_eq!(thresholds.next(Level::Plenty, 8 * MIB - 1), Level::Low);
    assert_eq!(thresholds.next(Level::Plenty, MIB), Level::Critical);
    assert_eq!(thresholds.next(Level::Low, 8 * MIB), Level::Low);
    assert_eq!(thresholds.next(Level::Low, 9 * MIB), Level::Plenty);
    assert_eq!(thresholds.next(Level::Critical, 2 * MIB), Level::Critical);
    assert_eq!(thresholds.next(Level::Critical, 3 * MIB), Level::Low);
    assert_eq!(thresholds.next(Level::Critical, 9 * MIB), Level::Plenty);
}

proptest! {
    #[test]
    fn a_second_look_at_the_same_room_changes_nothing(free in 0..20 * MIB, start in 0..3) {
        let start = [Level::Critical, Level::Low, Level::Plenty][start as usize];
        let once = thresholds().next(start, free);
        prop_assert_eq!(thresholds().next(once, free), once);
        let from_above = thresholds().next(Level::Plenty, free);
        prop_assert!(once <= from_above, "memory only ever lowers a level");
    }
}

#[test]
fn the_ballast_grows_is_released_and_returns() {
    let folder = tempfile::tempdir().unwrap();
    let device = Arc::new(Device {
        real: RealDisk::new(folder.path()),
        root: folder.path().to_owned(),
        size_bytes: AtomicU64::new(64 * MIB),
    });
    let disk: Arc<dyn Disk> = device.clone();
    let watch = SpaceWatch::new(disk.clone(), "ballast".into(), thresholds(), second(1)).unwrap();
    assert_eq!((watch.poll(second(1)).unwrap(), watch.ballast_bytes()), (None, 8 * MIB));
    for now in 2..5 {
        assert_eq!(watch.poll(second(now)).unwrap(), None);
    }
    assert_eq!((watch.ballast_bytes(), device.used()), (8 * MIB, 8 * MIB), "whole, and no more");
    drop(watch);
    let watch = SpaceWatch::new(disk, "ballast".into(), thresholds(), second(1)).unwrap();
    assert_eq!(watch.ballast_bytes(), 8 * MIB, "a ballast from before is taken over");

    // Somebody else fills the disk.
    device.size_bytes.store(9 * MIB, Ordering::Relaxed);
    assert_eq!(watch.poll(second(10)).unwrap(), Some(Level::Critical));
    assert!(watch.make_room(MIB).unwrap());
    assert_eq!(watch.ballast_bytes(), 8 * MIB, "a checkpoint that fits leaves the ballast alone");
    assert!(watch.make_room(5 * MIB).unwrap());
    assert_eq!((watch.ballast_bytes(), device.used()), (0, 0), "now it was needed");
    assert!(!watch.make_room(20 * MIB).unwrap());

    // Space returns.
    device.size_bytes.store(64 * MIB, Ordering::Relaxed);
    assert_eq!(watch.poll(second(20)).unwrap(), Some(Level::Plenty));
    assert_eq!(watch.poll(second(21)).unwrap(), None);
    assert_eq!(watch.ballast_bytes(), 8 * MIB);
}

#[test]
fn no_ballast_where_there_is_no_room_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let device = Device {
        real: RealDisk::new(folder.path()),
        root: folder.path().to_owned(),
        size_bytes: AtomicU64::new(20 * MIB),
    };
    let watch =
        SpaceWatch::new(Arc::new(device), "ballast".into(), thresholds(), second(1)).unwrap();
    assert_eq!(watch.poll(second(1)).unwrap(), None);
    assert_eq!((watch.level(), watch.ballast_bytes()), (Level::Plenty, 0));
}
