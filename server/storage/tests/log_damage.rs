//! Damage and power cuts: every flipped bit and every cut of a small log, and random histories with crashes.
//! What was acknowledged is there afterwards, or opening refuses; it is never silently gone.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use kvd_core::ids::{Index, LogId, MemberId, Term};
use kvd_storage::fs::{Disk, OpenMode, SimDisk};
use kvd_storage::log::{
    Flusher, LogEntry, LogError, LogState, OnDurable, Options, RaftLog, Step, Vote,
};
use proptest::prelude::*;

const DIR: &str = "wal";

/// Nonces differ between all runs of one test, as random ones do.
fn open(
    disk: &SimDisk,
    bytes: u64,
    nonces: &Arc<AtomicU64>,
) -> Result<(RaftLog, Flusher), LogError> {
    let nonces = Arc::clone(nonces);
    let options = Options {
        segment_bytes: bytes,
        spares: 2,
        tail_bytes: 600,
        frame_bytes_max: 1500,
        nonce: Box::new(move || {
            nonces.fetch_add(1, Ordering::SeqCst).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        }),
    };
    RaftLog::open(Arc::new(disk.clone()), Path::new(DIR), options)
}

fn entry(term: u64, index: u64, bytes: usize) -> LogEntry {
    let log_id = LogId { term: Term(term), node: MemberId(1), index: Index(index) };
    let fill = (term * 31 + index).to_le_bytes()[0];
    LogEntry { log_id, payload: Bytes::from(vec![fill; bytes]) }
}

fn ignore() -> OnDurable {
    Box::new(|result| result.unwrap())
}

fn drive(flusher: &mut Flusher) {
    while flusher.step().unwrap() == Step::Worked {}
}

/// What a log holds, for comparison. The committed position is a hint and may fall behind.
fn content(log: &RaftLog) -> Result<(LogState, Vec<LogEntry>), LogError> {
    let entries = log.read(Index(0), Index(u64::MAX), usize::MAX)?;
    Ok((LogState { committed: None, ..log.state() }, entries))
}

/// A few frames over three segments, the first of which lives its second life.
fn small_log(nonces: &Arc<AtomicU64>) -> (SimDisk, (LogState, Vec<LogEntry>)) {
    let disk = SimDisk::new();
    let (log, mut flusher) = open(&disk, 2560, nonces).unwrap();
    for index in 1..=9 {
        log.append(vec![entry(1, index, 500)], ignore());
        drive(&mut flusher);
    }
    log.save_vote(Vote(Bytes::from_static(b"vote")), ignore());
    log.purge(entry(1, 6, 0).log_id);
    drive(&mut flusher);
    log.truncate_after(Some(entry(1, 8, 0).log_id), ignore());
    log.append(vec![entry(2, 9, 40), entry(2, 10, 700)], ignore());
    drive(&mut flusher);
    let content = content(&log).unwrap();
    (disk.crash(0), content)
}

fn segments(disk: &SimDisk) -> Vec<PathBuf> {
    let names = disk.list(Path::new(DIR)).unwrap();
    names.iter().map(|name| Path::new(DIR).join(name)).collect()
}

/// Opening refuses, or reading does, or all is as it was.
fn check_refused_or_whole(
    disk: &SimDisk,
    bytes: u64,
    nonces: &Arc<AtomicU64>,
    expected: &(LogState, Vec<LogEntry>),
    what: &str,
) -> bool {
    match open(disk, bytes, nonces).and_then(|(log, _flusher)| content(&log)) {
        Ok(found) => {
            assert_eq!(&found, expected, "{what}");
            false
        }
        Err(_) => true,
    }
}

#[test]
fn each_flipped_bit_is_refused_or_without_effect() {
    let nonces = Arc::new(AtomicU64::new(1));
    let (disk, expected) = small_log(&nonces);
    let (mut refused, mut harmless) = (0, 0);
    for path in segments(&disk) {
        for bit in 0..disk.file_len(&path).unwrap() * 8 {
            let rotten = disk.crash(0);
            rotten.flip_bit(&path, bit).unwrap();
            let what = format!("{} bit {bit}", path.display());
            if check_refused_or_whole(&rotten, 2560, &nonces, &expected, &what) {
                refused += 1;
            } else {
                harmless += 1;
            }
        }
    }
    assert!(refused > 20_000, "{refused} refused");
    assert!(harmless > 20_000, "{harmless} harmless");
}

#[test]
fn each_cut_of_a_file_is_refused_or_without_effect() {
    let nonces = Arc::new(AtomicU64::new(1));
    let (disk, expected) = small_log(&nonces);
    let mut refused = 0;
    for path in segments(&disk) {
        for len in 0..disk.file_len(&path).unwrap() {
            let short = disk.crash(0);
            short.truncate(&path, len).unwrap();
            let what = format!("{} cut to {len}", path.display());
            refused += u64::from(check_refused_or_whole(&short, 2560, &nonces, &expected, &what));
        }
    }
    assert!(refused > 5_000, "{refused} refused");
}

/// A sector that reads as zeros looks like one that was never written. Only in the very last frame can that be
/// a torn write; everywhere else a whole frame behind it gives the loss away.
#[test]
fn a_lost_sector_is_refused_unless_it_can_be_a_torn_last_frame() {
    let nonces = Arc::new(AtomicU64::new(1));
    let disk = SimDisk::new();
    let (log, mut flusher) = open(&disk, 8192, &nonces).unwrap();
    // Six frames of one sector behind the head, all in one segment.
    for index in 1..=6 {
        log.append(vec![entry(1, index, 100)], ignore());
        drive(&mut flusher);
    }
    let (path, last_sector) = (segments(&disk)[0].clone(), 6);
    for sector in 0..=last_sector {
        let wiped = disk.crash(0);
        let file = wiped.open(&path, OpenMode::Write).unwrap();
        file.write_all_at(&[0; 512], sector * 512).unwrap();
        file.sync_data().unwrap();
        let opened = open(&wiped, 8192, &nonces);
        assert_eq!(opened.is_err(), sector < last_sector, "sector {sector}");
    }
}

/// One step of a history.
#[derive(Clone, Debug)]
enum Op {
    Append { count: u64, bytes: usize },
    Vote(u8),
    Truncate { back: u64 },
    Purge { ahead: u64 },
    Committed,
    Step,
    Drive,
    Idle,
    Restart,
    Crash { seed: u64, within_write: bool },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (1..5_u64, 0..900_usize).prop_map(|(count, bytes)| Op::Append { count, bytes }),
        1 => any::<u8>().prop_map(Op::Vote),
        2 => (0..6_u64).prop_map(|back| Op::Truncate { back }),
        2 => (0..12_u64).prop_map(|ahead| Op::Purge { ahead }),
        1 => Just(Op::Committed),
        4 => Just(Op::Step),
        3 => Just(Op::Drive),
        1 => Just(Op::Idle),
        1 => Just(Op::Restart),
        3 => (any::<u64>(), any::<bool>()).prop_map(|(seed, within_write)| Op::Crash { seed, within_write }),
    ]
}

/// The naive log: what each call makes of it.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    state: LogState,
    entries: Vec<LogEntry>,
}

/// All states since the acknowledged one, oldest first: after a crash the log must be in one of them.
struct History {
    states: Vec<Model>,
    acknowledged: Arc<Mutex<usize>>,
    term: u64,
}

impl History {
    fn now(&self) -> &Model {
        self.states.last().unwrap()
    }

    /// Notes a new state; the callback notes when it is acknowledged.
    fn push(&mut self, model: Model) -> OnDurable {
        self.states.push(model);
        let (at, acknowledged) = (self.states.len() - 1, Arc::clone(&self.acknowledged));
        Box::new(move |result| {
            if result.is_ok() {
                let mut acknowledged = acknowledged.lock().unwrap();
                assert!(*acknowledged <= at, "callbacks out of order");
                *acknowledged = at;
            }
        })
    }

    fn append(&mut self, log: &RaftLog, count: u64, bytes: usize) {
        let next = self.now().state.last.map_or(1, |last| last.index.0 + 1);
        let entries: Vec<_> =
            (next..next + count).map(|index| entry(self.term, index, bytes)).collect();
        // A crash between the frames of one append leaves a beginning of it.
        for entry in &entries[..entries.len() - 1] {
            let model = self.appended(entry);
            self.states.push(model);
        }
        let model = self.appended(entries.last().unwrap());
        let on_durable = self.push(model);
        log.append(entries, on_durable);
    }

    fn appended(&self, entry: &LogEntry) -> Model {
        let mut model = self.now().clone();
        model.state.last = Some(entry.log_id);
        model.entries.push(entry.clone());
        model
    }

    fn truncate(&mut self, log: &RaftLog, back: u64) {
        let mut model = self.now().clone();
        let keep = model.entries.len().saturating_sub(usize::try_from(back).unwrap());
        model.entries.truncate(keep);
        model.state.last = model.entries.last().map(|entry| entry.log_id).or(model.state.purged);
        let last = model.state.last;
        // Another leader writes what follows.
        self.term += 1;
        let on_durable = self.push(model);
        log.truncate_after(last, on_durable);
    }

    fn purge(&mut self, log: &RaftLog, ahead: u64) {
        let mut model = self.now().clone();
        let first = model.state.purged.map_or(0, |purged| purged.index.0);
        let index = first + ahead;
        if ahead == 0 {
            return;
        }
        let held = model.entries.iter().find(|entry| entry.log_id.index.0 == index);
        let upto = held.map_or(entry(self.term, index, 0).log_id, |entry| entry.log_id);
        model.entries.retain(|entry| entry.log_id.index.0 > index);
        model.state.purged = Some(upto);
        model.state.last = model.entries.last().map(|entry| entry.log_id).or(Some(upto));
        self.states.push(model);
        log.purge(upto);
    }

    /// After a crash: one of the states since the acknowledged one, and nothing in between.
    fn check(&mut self, log: &RaftLog) {
        let (state, entries) = content(log).unwrap();
        assert_eq!(log.durable(), state.last);
        let found = Model { state, entries };
        let from = *self.acknowledged.lock().unwrap();
        let possible = self.states[from..].contains(&found);
        assert!(possible, "{found:?}\nis none of\n{:?}", &self.states[from..]);
        self.term += 1;
        self.states = vec![found];
        self.acknowledged = Arc::default();
    }
}

/// Lets the next sync be the moment of the power cut: the frame is written and not durable.
fn crash_within_write(disk: &SimDisk, flusher: &mut Flusher, seed: u64) -> SimDisk {
    let image: Arc<Mutex<Option<SimDisk>>> = Arc::default();
    let (at_sync, of) = (Arc::clone(&image), disk.clone());
    disk.on_sync(move || {
        at_sync.lock().unwrap().get_or_insert_with(|| of.crash(seed));
    });
    // The callbacks of this step come after the cut: they must not count.
    flusher.step().unwrap();
    let cut = image.lock().unwrap().take();
    cut.unwrap_or_else(|| disk.crash(seed))
}

fn run(ops: Vec<Op>) {
    let nonces = Arc::new(AtomicU64::new(1));
    let mut disk = SimDisk::new();
    let (mut log, mut flusher) = open(&disk, 4096, &nonces).unwrap();
    let mut history =
        History { states: vec![Model::default()], acknowledged: Arc::default(), term: 1 };
    for op in ops {
        match op {
            Op::Append { count, bytes } => history.append(&log, count, bytes),
            Op::Vote(vote) => {
                let mut model = history.now().clone();
                let vote = Vote(Bytes::from(vec![vote; 20]));
                model.state.vote = Some(vote.clone());
                log.save_vote(vote, history.push(model));
            }
            Op::Truncate { back } => history.truncate(&log, back),
            Op::Purge { ahead } => history.purge(&log, ahead),
            Op::Committed => log.save_committed(log.state().last),
            Op::Step => drop(flusher.step().unwrap()),
            Op::Drive => drive(&mut flusher),
            Op::Idle => drop(flusher.step_after_idle().unwrap()),
            Op::Restart | Op::Crash { .. } => {
                disk = match op {
                    Op::Crash { seed, within_write: true } => {
                        let acknowledged = *history.acknowledged.lock().unwrap();
                        let image = crash_within_write(&disk, &mut flusher, seed);
                        *history.acknowledged.lock().unwrap() = acknowledged;
                        image
                    }
                    Op::Crash { seed, .. } => disk.crash(seed),
                    _ => disk.kill(),
                };
                (log, flusher) = open(&disk, 4096, &nonces).unwrap();
                history.check(&log);
            }
        }
        let (state, entries) = content(&log).unwrap();
        assert_eq!(&Model { state, entries }, history.now(), "while running");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_acknowledged_survives_any_history(ops in prop::collection::vec(op(), 1..60)) {
        run(ops);
    }
}
