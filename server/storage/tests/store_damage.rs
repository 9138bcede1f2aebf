//! Damage to a checkpoint directory: whatever bit is flipped and wherever a file is cut, opening it gives
//! exactly the committed content or an error; never less content, never older content.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod store_common;

use std::fs;
use std::panic;
use std::path::{Path, PathBuf};

use kvd_core::checkpoint::conformance::{Content, checkpoint, content};
use kvd_core::checkpoint::{CheckpointStore, StoreError, Table};
use kvd_storage::sled_store::is_opening;
use tempfile::TempDir;

use self::store_common::{copy, open};

/// Flipped bits tried in each file, beside every byte of short files.
const FLIPS: usize = 4000;
/// Places tried at which each file is cut.
const CUTS: usize = 300;

/// How the image came about.
#[derive(Clone, Copy, Debug)]
enum End {
    Killed,
    Closed,
}

/// A small store after a few checkpoints and its content.
fn image(folder: &Path, end: End) -> (PathBuf, Content) {
    let store = open(&folder.join("live")).unwrap();
    let first = checkpoint(1)
        .block(2, vec![7; 300])
        .block(9, vec![8; 7000])
        .row(Table::Lease, "7", "a")
        .row(Table::Lease, "8", "b")
        .row(Table::Member, "9", "m");
    store.commit(&first.blocks(2).rows(3).build()).unwrap();
    let second = checkpoint(2).block(20, "twenty").row(Table::Lease, "7", "A").free(2, 1);
    store.commit(&second.delete(Table::Lease, "8").blocks(2).rows(2).build()).unwrap();
    let third = checkpoint(3).block(30, vec![3; 500]).row(Table::Lease, "7", "AA");
    store.commit(&third.row(Table::Alarm, "1", "x").blocks(3).rows(3).build()).unwrap();
    let content = content(&store).unwrap();
    if matches!(end, End::Closed) {
        drop(store);
        drop(open(&folder.join("live")).unwrap());
    }
    let image = folder.join("image");
    copy(&folder.join("live"), &image);
    (image, content)
}

/// Opens a damaged copy; says whether it opened.
fn examine(dir: &Path, expected: &Content, what: &str) -> bool {
    let opened = panic::catch_unwind(|| open(dir)).expect("opening never panics");
    let Ok(store) = opened else {
        return false;
    };
    match content(&store) {
        Ok(found) => assert_eq!(&found, expected, "{what}: silently other content"),
        Err(StoreError::Corrupt(_) | StoreError::Failed(_)) => return false,
        Err(error) => panic!("{what}: {error}"),
    }
    true
}

/// A folder in memory where there is one: thousands of opens, and no power cut is played here.
fn scratch() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn quiet_while_opening() {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !is_opening() {
            print(info);
        }
    }));
}

/// Files of the image that hold something.
fn files(image: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(image).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.is_file()).collect();
    files.sort();
    files
}

/// Offsets of a file to damage: all of a short one, and of a long one as many as asked for, most of them
/// where something is written.
fn places(bytes: &[u8], count: usize) -> Vec<usize> {
    if bytes.len() <= count {
        return (0..bytes.len()).collect();
    }
    let written: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
    let step = (written.len() * 10 / (count * 9)).max(1);
    let mut places: Vec<usize> = written.into_iter().step_by(step).collect();
    places.extend((0..bytes.len()).step_by(bytes.len() * 10 / count));
    places
}

fn damage_everywhere(
    end: End,
    count: usize,
    damage: impl Fn(&[u8], usize) -> Vec<u8> + Sync,
    name: &str,
) -> (usize, usize) {
    quiet_while_opening();
    let folder = scratch();
    let (image, expected) = image(folder.path(), end);
    let sound = folder.path().join("sound");
    copy(&image, &sound);
    assert!(examine(&sound, &expected, "undamaged"), "the image itself is sound");
    let (mut sound, mut refused) = (0, 0);
    for file in files(&image) {
        let bytes = fs::read(&file).unwrap();
        for place in places(&bytes, count) {
            let scratch = tempfile::tempdir_in(folder.path()).unwrap();
            let dir = scratch.path().join("state");
            copy(&image, &dir);
            let target = dir.join(file.file_name().unwrap());
            fs::write(&target, damage(&bytes, place)).unwrap();
            let what = format!("{name} at byte {place} of {}", file.display());
            if examine(&dir, &expected, &what) { sound += 1 } else { refused += 1 }
        }
    }
    eprintln!("{name}, {end:?}: {sound} opened with all content, {refused} refused");
    (sound, refused)
}

fn flip(bytes: &[u8], place: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[place] ^= 1 << (place % 8);
    bytes
}

#[test]
fn no_flipped_bit_in_a_killed_store_loses_anything_silently() {
    let (sound, refused) = damage_everywhere(End::Killed, FLIPS, flip, "flipped bit");
    assert!(sound + refused >= FLIPS);
    assert!(refused > 0);
}

#[test]
fn no_flipped_bit_in_a_closed_store_loses_anything_silently() {
    let (sound, refused) = damage_everywhere(End::Closed, FLIPS, flip, "flipped bit");
    assert!(sound + refused >= FLIPS);
    assert!(refused > 0);
}

#[test]
fn no_cut_loses_anything_silently() {
    for end in [End::Killed, End::Closed] {
        let (_, refused) = damage_everywhere(end, CUTS, |bytes, len| bytes[..len].to_vec(), "cut");
        assert!(refused > 0);
    }
}
