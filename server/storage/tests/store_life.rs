//! A checkpoint store through its life: syncs that are real, attempts that are counted, garbage that goes,
//! readers beside the writer, snapshots that arrive.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod store_common;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use bytes::Bytes;
use kvd_core::checkpoint::conformance::{block_id, checkpoint, content};
use kvd_core::checkpoint::{CheckpointStore, StoreError, Table};
use kvd_storage::receive::Receiver;
use kvd_storage::sled_store::{OpenError, SledStore, StoreOptions, is_opening, set_aside};

use self::store_common::{copy, open, options};

fn broken(dir: &Path) -> String {
    match open(dir) {
        Err(OpenError::Broken { reason }) => reason,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("{} opened", dir.display()),
    }
}

#[test]
fn every_commit_reaches_the_device_through_the_interposer() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("state-1")).unwrap();
    let before = kvd_syncshim::intercepted();
    store.commit(&checkpoint(1).row(Table::Lease, "7", "a").rows(1).build()).unwrap();
    let syncs = kvd_syncshim::intercepted() - before;
    assert!(syncs >= 2, "rows and meta are synced apart, {syncs} syncs");
    assert!(store.size_bytes().unwrap() > 0);
}

#[test]
fn two_attempts_that_never_ended_make_a_directory_broken() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("state-1");
    let store = open(&dir).unwrap();
    store.commit(&checkpoint(1).row(Table::Lease, "7", "a").rows(1).build()).unwrap();
    let before = content(&store).unwrap();
    drop(store);
    assert!(!dir.join("OPENING").exists(), "an attempt that ended well leaves no marker");

    fs::write(dir.join("OPENING"), "1\n").unwrap();
    let store = open(&dir).unwrap();
    assert_eq!(content(&store).unwrap(), before, "one attempt may die for other reasons");
    drop(store);
    fs::write(dir.join("OPENING"), "2\n").unwrap();
    assert!(broken(&dir).contains("attempts"));
    assert!(!is_opening());

    let aside = set_aside(&dir).unwrap();
    assert!(aside.ends_with("state-1.broken-1"));
    assert_eq!(open(&dir).unwrap().meta().unwrap(), None, "the name is free again");
    assert!(set_aside(&dir).unwrap().ends_with("state-1.broken-2"));
}

#[test]
fn a_lost_store_is_not_an_empty_one() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("state-1");
    let store = open(&dir).unwrap();
    store.commit(&checkpoint(1).rows(0).build()).unwrap();
    drop(store);
    fs::remove_file(dir.join("db")).unwrap();
    for entry in fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with("snap.") {
            fs::remove_file(path).unwrap();
        }
    }
    assert!(broken(&dir).contains("checkpoint 1 was committed"));
}

#[test]
fn blob_files_are_never_served() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("state-1");
    drop(open(&dir).unwrap());
    fs::create_dir_all(dir.join("blobs")).unwrap();
    fs::write(dir.join("blobs/1"), "x").unwrap();
    broken(&dir);
}

#[test]
fn a_full_device_is_seen_before_sled_sees_it() {
    let folder = tempfile::tempdir().unwrap();
    let free = Arc::new(AtomicU64::new(1 << 40));
    let options = StoreOptions {
        pace: Box::new(|_| {}),
        free_bytes: Box::new({
            let free = Arc::clone(&free);
            move || Ok(free.load(Ordering::Relaxed))
        }),
    };
    let store = SledStore::open(&folder.path().join("state-1"), options).unwrap();
    let checkpoint = checkpoint(1).block(2, vec![1; 100_000]).blocks(1).build();
    free.store(1 << 20, Ordering::Relaxed);
    assert!(matches!(store.commit(&checkpoint), Err(StoreError::NoSpace)));
    assert_eq!(store.meta().unwrap(), None);
    free.store(1 << 40, Ordering::Relaxed);
    store.commit(&checkpoint).unwrap();
    assert_eq!(content(&store).unwrap().blocks, checkpoint.blocks);
}

/// Room that ends in the middle of a commit: what was written must not show in the next one.
#[test]
fn a_commit_that_ran_out_of_room_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("state-1");
    let flushes = Arc::new(AtomicU64::new(0));
    let options = StoreOptions {
        pace: Box::new({
            let flushes = Arc::clone(&flushes);
            move |_| {
                flushes.fetch_add(1, Ordering::Relaxed);
            }
        }),
        free_bytes: Box::new({
            let flushes = Arc::clone(&flushes);
            move || Ok(if flushes.load(Ordering::Relaxed) == 1 { 0 } else { u64::MAX })
        }),
    };
    let store = SledStore::open(&dir, options).unwrap();
    let first = checkpoint(1)
        .block(1, vec![1; 2 << 20])
        .block(2, vec![2; 2 << 20])
        .row(Table::Lease, "7", "a")
        .blocks(2)
        .rows(1);
    assert!(matches!(store.commit(&first.build()), Err(StoreError::NoSpace)));
    assert_eq!(flushes.load(Ordering::Relaxed), 1, "it ended in the middle");
    flushes.store(2, Ordering::Relaxed);
    let second = checkpoint(1).row(Table::Lease, "8", "b").rows(1).build();
    store.commit(&second).unwrap();
    let expected = content(&store).unwrap();
    assert_eq!((expected.blocks.len(), expected.rows.len()), (0, 1));
    drop(store);
    assert_eq!(content(&open(&dir).unwrap()).unwrap(), expected);
}

/// Deleting and merging pages is when sled's leaves are fullest: no value may become a file (hazard C7).
#[test]
fn churn_of_chunked_blocks_leaves_no_blobs() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("state-1");
    let store = open(&dir).unwrap();
    let noise = |seed: u64, len: usize| -> Vec<u8> {
        let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x.to_le_bytes()[3]
        };
        (0..len).map(|_| next()).collect()
    };
    for sequence in 1..=20_u64 {
        let main = |sequence: u64, number: u64| (sequence * 100 + number).cast_signed();
        let mut draft = checkpoint(sequence);
        for number in 0..16 {
            let len = usize::try_from(100 + number * 1500).unwrap();
            draft = draft.block(main(sequence, number), noise(sequence * 31 + number, len));
            if sequence > 3 && number != 5 {
                draft = draft.free(main(sequence - 3, number), sequence - 3);
            }
        }
        let kept = if sequence > 3 { 16 * 3 + (sequence - 3) } else { 16 * sequence };
        store.commit(&draft.blocks(kept).build()).unwrap();
    }
    let blobs = fs::read_dir(dir.join("blobs")).map_or(0, Iterator::count);
    assert_eq!(blobs, 0);
    assert_eq!(content(&store).unwrap().blocks.len(), 16 * 3 + 17);
    drop(store);
    assert_eq!(content(&open(&dir).unwrap()).unwrap().blocks.len(), 16 * 3 + 17);
}

#[test]
fn readers_see_whole_checkpoints_while_one_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("state-1")).unwrap();
    let numbers = 0..40_u64;
    let draft = |sequence: u64| {
        let mut draft = checkpoint(sequence).blocks(1).rows(40);
        for number in numbers.clone() {
            draft = draft.row(Table::Lease, format!("{number}"), format!("{sequence}"));
        }
        draft.block(2, format!("{sequence}")).build()
    };
    store.commit(&draft(1)).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reads = 0;
            while !done.load(Ordering::Relaxed) || reads == 0 {
                let mut seen = std::collections::BTreeSet::new();
                store
                    .rows(&mut |_, _, row| {
                        seen.insert(row);
                        Ok(())
                    })
                    .unwrap();
                assert_eq!(seen.len(), 1, "rows of one checkpoint only");
                let meta = store.meta().unwrap().unwrap();
                // It may have been replaced since; if it is there, it is the right one.
                if let Some(block) = store.block(block_id(2, meta.sequence)).unwrap() {
                    assert_eq!(block, Bytes::from(meta.sequence.to_string()));
                }
                reads += 1;
            }
        });
        for sequence in 2..40 {
            store.commit(&draft(sequence)).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        reader.join().unwrap();
    });
}

#[test]
fn a_received_snapshot_counts_when_it_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("state-2");
    let meta = checkpoint(9).blocks(300).rows(2).build().meta;
    let fill = |dir: &Path, blocks: i64| {
        let mut receiver = Receiver::new(open(dir).unwrap()).unwrap();
        for main in 0..blocks {
            receiver.put_block(block_id(main, 4), &Bytes::from(vec![7; 9000])).unwrap();
        }
        receiver.put_row(Table::Lease, b"7", &Bytes::from("a")).unwrap();
        receiver.put_row(Table::Member, b"9", &Bytes::from("m")).unwrap();
        receiver
    };
    let store = fill(&dir, 300).finish(meta.clone()).unwrap();
    let received = content(&store).unwrap();
    assert_eq!((received.blocks.len(), received.rows.len()), (300, 2));
    assert_eq!(received.meta, Some(meta.clone()));
    let killed = folder.path().join("killed");
    copy(&dir, &killed);
    let store = open(&killed).unwrap();
    assert_eq!(content(&store).unwrap(), received);
    store.commit(&checkpoint(10).blocks(300).rows(1).delete(Table::Lease, "7").build()).unwrap();
    assert!(Receiver::new(store).is_err(), "only an empty store takes a snapshot");

    let short = fill(&folder.path().join("short"), 299).finish(meta.clone());
    assert!(matches!(short, Err(StoreError::Corrupt(_))));
    let mut twice = fill(&folder.path().join("twice"), 299);
    twice.put_block(block_id(5, 4), &Bytes::from("again")).unwrap();
    assert!(matches!(twice.finish(meta.clone()), Err(StoreError::Corrupt(_))));
    let mut later = fill(&folder.path().join("later"), 299);
    later.put_block(block_id(5, 10), &Bytes::from("of a later checkpoint")).unwrap();
    assert!(matches!(later.finish(meta), Err(StoreError::Corrupt(_))));

    let dropped = folder.path().join("dropped");
    drop(fill(&dropped, 50));
    assert_eq!(open(&dropped).unwrap().meta().unwrap(), None, "unfinished: nothing counts");
}

/// A joining member has its old store open while the new one is filled (hazard C7).
#[test]
fn two_stores_are_open_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let first = open(&folder.path().join("state-1")).unwrap();
    let second = SledStore::open(&folder.path().join("state-2"), options()).unwrap();
    first.commit(&checkpoint(1).block(2, "one").blocks(1).build()).unwrap();
    second.commit(&checkpoint(5).block(2, "two").blocks(1).build()).unwrap();
    assert_eq!(first.block(block_id(2, 1)).unwrap().unwrap(), "one");
    drop(first);
    assert_eq!(second.block(block_id(2, 5)).unwrap().unwrap(), "two");
}
