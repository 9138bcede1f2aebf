//! The log's contract, call by call, on the simulated disk and on a real one.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use bytes::Bytes;
use kvd_core::ids::{Index, LogId, MemberId, Term};
use kvd_storage::fs::{Disk, RealDisk, SimDisk};
use kvd_storage::log::{
    Flusher, LogEntry, LogError, OnDurable, Options, RaftLog, Step, Vote, spawn,
};

const DIR: &str = "member/wal";

fn options(segment_bytes: u64, tail_bytes: usize) -> Options {
    let mut nonce = 0;
    Options {
        segment_bytes,
        spares: 2,
        tail_bytes,
        frame_bytes_max: 2048,
        nonce: Box::new(move || {
            nonce += 0x1234_5678_9abc;
            nonce
        }),
    }
}

fn open(disk: &SimDisk, tail_bytes: usize) -> (RaftLog, Flusher) {
    try_open(disk, tail_bytes).unwrap()
}

fn try_open(disk: &SimDisk, tail_bytes: usize) -> Result<(RaftLog, Flusher), LogError> {
    RaftLog::open(Arc::new(disk.clone()), Path::new(DIR), options(8192, tail_bytes))
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId { term: Term(term), node: MemberId(1), index: Index(index) }
}

fn entries(term: u64, indexes: std::ops::RangeInclusive<u64>, bytes: usize) -> Vec<LogEntry> {
    indexes
        .map(|index| LogEntry {
            log_id: log_id(term, index),
            payload: Bytes::from(vec![index.to_le_bytes()[0]; bytes]),
        })
        .collect()
}

fn drive(flusher: &mut Flusher) {
    while flusher.step().unwrap() == Step::Worked {}
}

/// A callback that reports into a channel.
fn report() -> (OnDurable, mpsc::Receiver<io::Result<()>>) {
    let (sender, receiver) = mpsc::channel();
    // Not every test listens; the error of a closed channel says no more than that.
    (Box::new(move |result| drop(sender.send(result))), receiver)
}

fn append(log: &RaftLog, entries: Vec<LogEntry>) -> mpsc::Receiver<io::Result<()>> {
    let (on_durable, told) = report();
    log.append(entries, on_durable);
    told
}

fn read(log: &RaftLog, from: u64, to: u64) -> Vec<LogEntry> {
    log.read(Index(from), Index(to), usize::MAX).unwrap()
}

#[test]
fn an_entry_is_readable_at_once_and_told_when_durable() {
    let disk = SimDisk::new();
    let (log, mut flusher) = open(&disk, 1 << 20);
    let told = append(&log, entries(1, 1..=3, 10));
    assert_eq!(read(&log, 1, 4), entries(1, 1..=3, 10));
    assert_eq!(log.durable(), None);
    assert!(told.try_recv().is_err());
    drive(&mut flusher);
    told.try_recv().unwrap().unwrap();
    assert_eq!(log.durable(), Some(log_id(1, 3)));

    let (log, _flusher) = open(&disk.crash(1), 1 << 20);
    assert_eq!(log.state().last, Some(log_id(1, 3)));
    assert_eq!(read(&log, 0, 9), entries(1, 1..=3, 10));
}

#[test]
fn callbacks_run_in_the_order_of_the_calls() {
    let disk = SimDisk::new();
    let (log, mut flusher) = open(&disk, 1 << 20);
    let order = Arc::new(Mutex::new(Vec::new()));
    let note = |name: &'static str| -> OnDurable {
        let order = Arc::clone(&order);
        Box::new(move |result| {
            result.unwrap();
            order.lock().unwrap().push(name);
        })
    };
    log.append(entries(1, 1..=9, 900), note("append"));
    log.save_vote(Vote(Bytes::from_static(b"v")), note("vote"));
    log.truncate_after(Some(log_id(1, 9)), note("truncate nothing"));
    log.append(Vec::new(), note("append nothing"));
    log.truncate_after(Some(log_id(1, 4)), note("truncate"));
    drive(&mut flusher);
    let expected = ["append", "vote", "truncate nothing", "append nothing", "truncate"];
    assert_eq!(*order.lock().unwrap(), expected);
}

#[test]
fn everything_survives_a_restart_across_segments() {
    let disk = SimDisk::new();
    let (log, mut flusher) = open(&disk, 2000);
    append(&log, entries(1, 1..=40, 700));
    log.save_vote(Vote(Bytes::from_static(b"vote")), report().0);
    log.truncate_after(Some(log_id(1, 30)), report().0);
    append(&log, entries(2, 31..=35, 700));
    log.save_committed(Some(log_id(1, 29)));
    drive(&mut flusher);
    flusher.step_after_idle().unwrap();
    let state = log.state();
    assert_eq!(state.last, Some(log_id(2, 35)));
    let all = [entries(1, 1..=30, 700), entries(2, 31..=35, 700)].concat();
    assert_eq!(read(&log, 1, 100), all);
    assert_eq!(log.read_tail(Index(1), Index(100), usize::MAX), None);
    assert_eq!((log.log_id_at(Index(1)), log.log_id_at(Index(100))), (None, None));
    assert_eq!(log.log_id_at(Index(35)), Some(all[34].log_id));
    assert_eq!(log.read_tail(Index(35), Index(100), usize::MAX).unwrap(), all[34..]);
    for seed in 0..4 {
        let (log, _flusher) = open(&disk.crash(seed), 2000);
        assert_eq!(log.state(), state);
        assert_eq!(read(&log, 1, 100), all);
        assert_eq!(log.read(Index(3), Index(9), 1500).unwrap(), all[2..4]);
        assert_eq!(log.read(Index(3), Index(9), 0).unwrap(), all[2..3]);
    }
}

#[test]
fn a_purge_recycles_segments_and_old_frames_do_not_come_back() {
    let disk = SimDisk::new();
    let (log, mut flusher) = open(&disk, 2000);
    for round in 0..30 {
        let first = round * 10 + 1;
        append(&log, entries(1, first..=first + 9, 600));
        drive(&mut flusher);
        log.purge(log_id(1, first + 7));
        drive(&mut flusher);
        assert!(log.bytes() <= 3 * 8192, "{} bytes left", log.bytes());
        let files = disk.list(Path::new(DIR)).unwrap().len();
        assert!(files <= 5, "{files} files");
        let (again, _) = open(&disk.crash(round), 2000);
        assert_eq!(again.state(), log.state());
        assert_eq!(read(&again, 0, 1000), entries(1, first + 8..=first + 9, 600));
    }
}

#[test]
fn what_lies_beyond_the_newest_bytes_is_counted_in_segments() {
    let disk = SimDisk::new();
    let (log, mut flusher) = open(&disk, 2000);
    append(&log, entries(1, 1..=40, 700));
    drive(&mut flusher);
    assert_eq!(log.beyond_newest(u64::MAX), Index(0), "nothing is older than all");
    assert_eq!(log.beyond_newest(0), Index(40), "everything is older than nothing");
    let kept = log.beyond_newest(2 * 8192);
    assert!(kept > Index(0) && kept < Index(40 - 16), "{kept} leaves less than asked for");
    log.purge(log_id(1, kept.0));
    drive(&mut flusher);
    assert!(log.bytes() >= 2 * 8192, "{} bytes are left", log.bytes());
}

#[test]
fn a_purge_beyond_the_last_entry_empties_the_log() {
    let disk = SimDisk::new();
    let (log, mut flusher) = open(&disk, 2000);
    append(&log, entries(1, 1..=20, 600));
    log.purge(log_id(5, 1000));
    assert_eq!(log.state().last, Some(log_id(5, 1000)));
    assert_eq!(read(&log, 0, 2000), []);
    let refused = append(&log, entries(5, 1000..=1000, 1));
    assert!(refused.try_recv().unwrap().is_err());
    append(&log, entries(5, 1001..=1002, 600));
    drive(&mut flusher);
    assert_eq!(log.durable(), Some(log_id(5, 1002)));
    let (again, _flusher) = open(&disk.crash(3), 2000);
    assert_eq!(again.state(), log.state());
    assert_eq!(read(&again, 0, 2000), entries(5, 1001..=1002, 600));
}

#[test]
fn an_empty_log_takes_any_first_index_and_then_no_gap() {
    let disk = SimDisk::new();
    let (log, mut flusher) = open(&disk, 2000);
    append(&log, entries(1, 3..=4, 5));
    assert!(append(&log, entries(1, 6..=6, 5)).try_recv().unwrap().is_err());
    assert!(append(&log, entries(1, 4..=4, 5)).try_recv().unwrap().is_err());
    log.truncate_after(None, report().0);
    assert_eq!(log.state().last, None);
    append(&log, entries(2, 2..=3, 5));
    drive(&mut flusher);
    let (again, _flusher) = open(&disk.crash(3), 2000);
    assert_eq!(read(&again, 0, 9), entries(2, 2..=3, 5));
}

#[test]
fn committed_is_never_reported_beyond_the_last_entry() {
    let disk = SimDisk::new();
    let (log, _flusher) = open(&disk, 2000);
    log.save_committed(Some(log_id(1, 9)));
    assert_eq!(log.state().committed, None);
    append(&log, entries(1, 1..=3, 5));
    assert_eq!(log.state().committed, Some(log_id(1, 3)));
}

#[test]
fn an_entry_larger_than_a_segment_gets_one_of_its_own_size() {
    let disk = SimDisk::new();
    let (log, mut flusher) = open(&disk, 2000);
    let all = [entries(1, 1..=1, 10), entries(1, 2..=2, 50_000), entries(1, 3..=3, 10)].concat();
    append(&log, all.clone());
    drive(&mut flusher);
    assert_eq!(read(&log, 1, 4), all);
    let (again, mut flusher) = open(&disk.crash(3), 2000);
    assert_eq!(read(&again, 1, 4), all);
    again.purge(log_id(1, 3));
    append(&again, entries(1, 4..=20, 1000));
    drive(&mut flusher);
    let names = disk.list(Path::new(DIR)).unwrap();
    assert!(names.iter().all(|name| name.ends_with(".seg")), "{names:?}");
}

#[test]
fn durable_falls_at_once_when_entries_are_dropped() {
    let disk = SimDisk::new();
    let (log, mut flusher) = open(&disk, 2000);
    let advances = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&advances);
    log.on_durable_advance(Box::new(move |durable| seen.store(durable.index.0, Ordering::SeqCst)));
    append(&log, entries(3, 1..=5, 5));
    drive(&mut flusher);
    assert_eq!(advances.load(Ordering::SeqCst), 5);
    log.truncate_after(Some(log_id(3, 2)), report().0);
    append(&log, entries(4, 3..=9, 5));
    assert_eq!(log.durable(), Some(log_id(3, 2)));
    drive(&mut flusher);
    assert_eq!(log.durable(), Some(log_id(4, 9)));
    assert_eq!(advances.load(Ordering::SeqCst), 9);
}

#[test]
fn a_failed_sync_is_told_to_everyone_and_final() {
    for (syncs, writes) in [(1, 0), (0, 1)] {
        let disk = SimDisk::new();
        let (log, mut flusher) = open(&disk, 2000);
        append(&log, entries(1, 1..=2, 5));
        drive(&mut flusher);
        disk.fail_syncs(syncs, io::ErrorKind::Other);
        disk.fail_writes(writes, io::ErrorKind::Other);
        let first = append(&log, entries(1, 3..=3, 5));
        let second = append(&log, entries(1, 4..=40, 500));
        assert!(matches!(flusher.step(), Err(LogError::Io { .. })));
        assert!(first.try_recv().unwrap().is_err());
        assert!(second.try_recv().unwrap().is_err());
        assert!(append(&log, entries(1, 41..=41, 5)).try_recv().unwrap().is_err());
        assert!(matches!(flusher.step(), Err(LogError::Stopped(_))));
        assert_eq!(log.durable(), Some(log_id(1, 2)));

        // The process starts again without a power cut, reports what it finds, and only then the power goes.
        let killed = disk.kill();
        let (log, _flusher) = open(&killed, 2000);
        let reported = log.state();
        for seed in 0..20 {
            let (log, _flusher) = open(&killed.crash(seed), 2000);
            assert_eq!(log.state(), reported, "seed {seed}");
        }
    }
}

#[test]
fn a_full_disk_delays_and_never_loses() {
    let disk = SimDisk::new();
    let (log, mut flusher) = open(&disk, 2000);
    disk.set_capacity(Some(3 * 8192));
    let told = append(&log, entries(1, 1..=100, 700));
    for _ in 0..200 {
        flusher.step().unwrap();
    }
    assert!(told.try_recv().is_err(), "more was written than there is space for");
    assert_eq!(flusher.step().unwrap(), Step::Idle);
    disk.set_capacity(None);
    drive(&mut flusher);
    told.try_recv().unwrap().unwrap();
    let (again, _flusher) = open(&disk.crash(8), 2000);
    assert_eq!(read(&again, 1, 200), entries(1, 1..=100, 700));
}

#[test]
fn an_idle_flusher_writes_the_committed_position() {
    let disk = SimDisk::new();
    let (log, mut flusher) = open(&disk, 2000);
    append(&log, entries(1, 1..=3, 5));
    drive(&mut flusher);
    log.save_committed(Some(log_id(1, 2)));
    assert_eq!(flusher.step().unwrap(), Step::Idle);
    assert_eq!(flusher.step_after_idle().unwrap(), Step::Worked);
    assert_eq!(flusher.step_after_idle().unwrap(), Step::Idle);
    let (again, _flusher) = open(&disk.crash(8), 2000);
    assert_eq!(again.state().committed, Some(log_id(1, 2)));
}

#[test]
fn a_thread_serves_many_writers_on_a_real_disk() {
    let folder = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(folder.path()));
    let (log, flusher) =
        RaftLog::open(Arc::clone(&disk), Path::new(DIR), options(1 << 16, 1 << 14)).unwrap();
    let thread = spawn(flusher, |error| panic!("{error}")).unwrap();
    let told: Vec<_> =
        (1..=500).map(|index| append(&log, entries(1, index..=index, 300))).collect();
    for told in told {
        told.recv().unwrap().unwrap();
    }
    log.close();
    thread.join().unwrap();
    assert!(append(&log, entries(1, 501..=501, 1)).recv().unwrap().is_err());
    let (again, _flusher) = RaftLog::open(disk, Path::new(DIR), options(1 << 16, 1 << 14)).unwrap();
    assert_eq!(read(&again, 1, 600), entries(1, 1..=500, 300));
}

#[test]
fn a_waker_is_called_for_each_change() {
    let disk = SimDisk::new();
    let (log, _flusher) = open(&disk, 2000);
    let woken = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&woken);
    log.set_waker(Box::new(move || {
        seen.fetch_add(1, Ordering::SeqCst);
    }));
    append(&log, entries(1, 1..=1, 1));
    log.purge(log_id(1, 1));
    assert_eq!(woken.load(Ordering::SeqCst), 2);
}

/// A segment can end so near its end that not even a frame's header fits. Who waits without a record of its own,
/// as an install of a snapshot does, must not wait for the next record: it may be what the next one waits for.
#[test]
fn who_waits_without_a_record_is_told_in_a_full_segment_too() {
    for bytes in 1..600 {
        let disk = SimDisk::new();
        let (log, mut flusher) = open(&disk, 1 << 20);
        for index in 1..40 {
            append(&log, entries(1, index..=index, bytes));
            drive(&mut flusher);
            let told = append(&log, Vec::new());
            drive(&mut flusher);
            assert!(told.try_recv().is_ok(), "entry {index} of {bytes} bytes");
        }
    }
}
