//! What the disk keeps, loses and does wrong.

use super::*;
use crate::fs::{Disk, DiskFile, OpenMode};
use crate::space::{Level, SpaceWatch, Thresholds};

const EIO: io::ErrorKind = io::ErrorKind::Other;

/// A disk with one durable file of so many bytes, each of them 1.
fn disk_with(name: &str, len: usize) -> (SimDisk, Arc<dyn DiskFile>) {
    let disk = SimDisk::new();
    let file = add(&disk, name, len);
    (disk, file)
}

fn add(disk: &SimDisk, name: &str, len: usize) -> Arc<dyn DiskFile> {
    let file = disk.open(Path::new(name), OpenMode::Create).unwrap();
    file.write_all_at(&vec![1; len], 0).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(Path::new("")).unwrap();
    file
}

fn content(disk: &SimDisk, name: &str) -> Vec<u8> {
    let file = disk.open(Path::new(name), OpenMode::Read).unwrap();
    read(&*file)
}

fn read(file: &dyn DiskFile) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    let read = file.read_at(&mut bytes, 0).unwrap();
    assert_eq!(read, bytes.len());
    bytes
}

fn kind<T>(result: io::Result<T>) -> io::ErrorKind {
    result.err().expect("it fails").kind()
}

/// Bits in which two contents differ.
fn distance(one: &[u8], other: &[u8]) -> u32 {
    assert_eq!(one.len(), other.len());
    one.iter().zip(other).map(|(one, other)| (one ^ other).count_ones()).sum()
}

#[test]
fn a_full_device_writes_what_fits_and_takes_more_when_there_is_room() {
    let (disk, file) = disk_with("a", 1000);
    disk.set_free(100);
    assert_eq!(disk.free_bytes().unwrap(), 100);
    file.write_all_at(&[2; 1000], 0).unwrap();
    assert_eq!(kind(file.write_all_at(&[3; 300], 900)), io::ErrorKind::StorageFull);
    assert_eq!(read(&*file), [vec![2; 900], vec![3; 200]].concat(), "a short write");
    assert_eq!(disk.free_bytes().unwrap(), 0);
    assert_eq!(kind(file.write_all_at(&[4], 2000)), io::ErrorKind::StorageFull);
    assert_eq!(kind(file.set_len(1101)), io::ErrorKind::StorageFull);
    assert_eq!(file.len().unwrap(), 1100, "what does not fit at all changes nothing");

    disk.set_free(50);
    assert_eq!(kind(file.reserve(1000, 500)), io::ErrorKind::StorageFull);
    assert_eq!((file.len().unwrap(), disk.free_bytes().unwrap()), (1150, 0));
    disk.set_capacity(Some(2000));
    file.reserve(1000, 500).unwrap();
    assert_eq!(read(&*file), [vec![2; 900], vec![3; 200], vec![0; 400]].concat());
}

#[test]
fn removing_a_file_gives_room_at_once_and_a_crash_keeps_the_capacity() {
    let (disk, _) = disk_with("a", 1000);
    let other = add(&disk, "b", 10);
    disk.set_capacity(Some(1010));
    assert_eq!(kind(other.write_all_at(&[1], 10)), io::ErrorKind::StorageFull);
    disk.remove_file(Path::new("a")).unwrap();
    assert_eq!(disk.free_bytes().unwrap(), 1000);
    other.write_all_at(&[1; 500], 10).unwrap();
    assert_eq!(disk.kill().free_bytes().unwrap(), 500);
    let back = (0..20)
        .map(|seed| disk.crash(seed))
        .find(|disk| disk.list(Path::new("")).unwrap().len() == 2);
    assert!(back.expect("the name may come back").free_bytes().unwrap() <= 500);
}

#[test]
fn a_watch_of_the_device_sees_it_fill() {
    let disk = SimDisk::new();
    let thresholds = Thresholds { low_bytes: 4000, critical_bytes: 1000 };
    let at = |seconds| std::time::Duration::from_secs(seconds);
    let watch =
        SpaceWatch::new(Arc::new(disk.clone()), "ballast".into(), thresholds, at(1)).unwrap();
    disk.set_free(20_000);
    assert_eq!((watch.poll(at(1)).unwrap(), watch.ballast_bytes()), (None, 4000));
    disk.set_free(3999);
    assert_eq!(watch.poll(at(2)).unwrap(), Some(Level::Low));
    disk.set_free(999);
    assert_eq!(watch.poll(at(3)).unwrap(), Some(Level::Critical));
    assert!(watch.make_room(4500).unwrap(), "the ballast is let go");
    assert_eq!(watch.poll(at(4)).unwrap(), Some(Level::Plenty));
    assert_eq!(thresholds.next(Level::Plenty, disk.free_bytes().unwrap()), Level::Plenty);
}

#[test]
fn operations_fail_by_kind_and_path_as_often_as_asked() {
    let (disk, one) = disk_with("one.seg", 600);
    let two = add(&disk, "two.tmp", 600);
    let denied = io::ErrorKind::PermissionDenied;
    let mut byte = [0];
    disk.fail(&[Operation::Read, Operation::Write], ".seg", 2, EIO);
    two.write_all_at(&[2], 0).unwrap();
    assert_eq!(kind(one.read_at(&mut byte, 0)), EIO);
    assert!(disk.is_to_fail());
    assert_eq!(kind(one.write_all_at(&[9], 0)), EIO);
    assert!(!disk.is_to_fail());
    assert_eq!((one.read_at(&mut byte, 0).unwrap(), byte), (1, [1]));

    disk.fail(&[Operation::Rename], "two", 1, denied);
    let (from, to) = (Path::new("two.tmp"), Path::new("three.seg"));
    assert_eq!(kind(disk.rename(from, to)), denied);
    disk.rename(from, to).unwrap();
    disk.fail(&[Operation::Write], "three", 1, EIO);
    assert_eq!(kind(two.set_len(0)), EIO, "an open file goes by its present name");

    disk.fail(&[Operation::Remove, Operation::Open], "three", 2, EIO);
    assert_eq!(kind(disk.remove_file(to)), EIO);
    assert_eq!(kind(disk.open(to, OpenMode::Read)), EIO);
    disk.fail(&[Operation::SyncDir], "", 1, EIO);
    disk.remove_file(to).unwrap();
    assert_eq!(kind(disk.sync_dir(Path::new(""))), EIO);
    assert!(
        (0..20).any(|seed| disk
            .crash(seed)
            .list(Path::new(""))
            .unwrap()
            .contains(&"two.tmp".to_owned()))
    );
    disk.fail_writes(u64::MAX, EIO);
    disk.fail_syncs(u64::MAX, EIO);
    disk.heal();
    one.write_all_at(&[5], 0).unwrap();
    one.sync_data().unwrap();
    assert_eq!(content(&disk.crash(1), "one.seg")[0], 5);
}

#[test]
fn after_a_failed_sync_a_later_one_says_ok_and_the_write_is_lost() {
    let (disk, file) = disk_with("a", 1024);
    file.write_all_at(&[2; 512], 0).unwrap();
    disk.fail(&[Operation::Sync], "a", 1, EIO);
    assert_eq!(kind(file.sync_data()), EIO);
    file.write_all_at(&[3; 512], 512).unwrap();
    file.sync_data().unwrap();
    assert_eq!(read(&*file), [[2; 512], [3; 512]].concat(), "the page cache has it");
    assert_eq!(content(&disk.kill(), "a"), [[2; 512], [3; 512]].concat());
    for seed in 0..10 {
        assert_eq!(content(&disk.crash(seed), "a"), [[1; 512], [3; 512]].concat());
    }
    file.write_all_at(&[2; 512], 0).unwrap();
    file.sync_data().unwrap();
    assert_eq!(content(&disk.crash(0), "a"), [[2; 512], [3; 512]].concat(), "written anew");
}

#[test]
fn rot_turns_one_bit_of_what_lies_on_the_medium() {
    let (disk, _) = disk_with("dir.a", 700);
    add(&disk, "dir.b", 3000);
    let file = add(&disk, "other", 512);
    file.write_all_at(&[7; 512], 0).unwrap();
    assert_eq!(disk.rot("other", 1), None, "what is not synced does not lie there");
    assert_eq!(disk.rot("nowhere", 1), None);
    disk.flip_bit(Path::new("other"), 0).unwrap();
    let left: BTreeSet<u8> = (0..20).map(|seed| content(&disk.crash(seed), "other")[0]).collect();
    assert_eq!(left, BTreeSet::from([1 ^ 1, 7 ^ 1]), "kept or lost, the bit is flipped");
    let mut hit = BTreeSet::new();
    for seed in 0..50 {
        let image = disk.kill();
        let (path, bit) = image.rot("dir", seed).unwrap();
        assert_eq!(disk.kill().rot("dir", seed), Some((path.clone(), bit)), "the seed decides");
        let name = path.to_str().unwrap();
        for image in [image.crash(seed), image] {
            let now = content(&image, name);
            assert_eq!(distance(&now, &content(&disk, name)), 1);
            let at = usize::try_from(bit / 8).unwrap();
            assert_eq!(now[at], 1 ^ (1 << (bit % 8)));
        }
        hit.insert(path);
    }
    assert_eq!(hit.len(), 2);
}

#[test]
fn the_newest_that_rots_is_what_was_synced_last() {
    let (disk, file) = disk_with("dir.a", 3000);
    add(&disk, "dir.b", 3000);
    file.write_all_at(&[2; 512], 1024).unwrap();
    file.sync_data().unwrap();
    file.write_all_at(&[3; 512], 0).unwrap();
    for seed in 0..20 {
        let (path, bit) = disk.kill().rot_newest("dir", seed).unwrap();
        assert_eq!((path.to_str(), bit / 8 / 512), (Some("dir.a"), 2));
    }
    assert_eq!(disk.rot_newest("nowhere", 1), None);
    // What was synced last is written over, and that is not synced.
    file.write_all_at(&[4; 512], 1024).unwrap();
    assert_eq!(disk.rot_newest("dir", 1), None);
}

#[test]
fn a_read_that_rots_is_wrong_once() {
    let (disk, file) = disk_with("a", 600);
    disk.lie(Lie::ReadsOther, "a", 0..1, 4);
    assert_eq!(distance(&read(&*file), &[1; 600]), 1);
    assert_eq!(read(&*file), [1; 600]);
    disk.lie(Lie::ReadsOther, "a", 1..3, 4);
    let wrong: Vec<u32> = (0..4).map(|_| distance(&read(&*file), &[1; 600])).collect();
    assert_eq!(wrong, [0, 1, 1, 0]);
}

#[test]
fn a_lost_write_shows_when_the_power_fails() {
    let (disk, file) = disk_with("a", 2048);
    file.sync_data().unwrap();
    disk.lie(Lie::LosesWrite, "a", 0..1, 4);
    file.sync_data().unwrap();
    file.write_all_at(&[2; 2048], 0).unwrap();
    file.sync_data().unwrap();
    assert_eq!(read(&*file), [2; 2048]);
    let left = content(&disk.crash(1), "a");
    let lost = left.chunks(512).filter(|sector| *sector == [1; 512]).count();
    let written = left.chunks(512).filter(|sector| *sector == [2; 512]).count();
    assert_eq!((lost, written), (1, 3));
    assert_eq!(content(&disk.crash(2), "a"), left);
}

#[test]
fn a_misdirected_write_is_missing_here_and_found_elsewhere() {
    let (disk, file) = disk_with("a", 2048);
    disk.lie(Lie::MisdirectsWrite, "a", 0..1, 4);
    file.write_all_at(&[2; 512], 512).unwrap();
    file.sync_data().unwrap();
    assert_eq!(read(&*file)[512..1024], [2; 512]);
    let left = content(&disk.crash(1), "a");
    assert_eq!(left[512..1024], [1; 512]);
    assert_eq!(left.chunks(512).filter(|sector| *sector == [2; 512]).count(), 1);
}
