//! Runs of hazards A1 to A3 that only show where two parts meet: state and checkpoint store, log and checkpoint,
//! data directory and log, log and a disk that fails or lies. Each would fail if the decision were not followed.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod store_common;

use std::io;
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use kvd_core::checkpoint::mem::MemStore;
use kvd_core::checkpoint::{Checkpoint, CheckpointStore, conformance};
use kvd_core::codec::encode_proposal;
use kvd_core::command::{
    Command, Compact, Entry, LeaseGrant, LeaseRevoke, Membership, Proposal, Put, RangeQuery,
    RevisionFilter, SortOrder, SortTarget,
};
use kvd_core::ids::{ClusterId, Incarnation, Index, LeaseId, LogId, MemberId, Revision, Term};
use kvd_core::range::KeyRange;
use kvd_core::state::{CompactProgress, Options as StateOptions, State};
use kvd_core::view::Access;
use kvd_storage::checkpointer::{Checkpointer, Gates, Step as CheckpointStep};
use kvd_storage::datadir::{DataDir, Identity};
use kvd_storage::fs::{Lie, Operation, SimDisk};
use kvd_storage::log::{Flusher, LogEntry, LogError, Options, RaftLog, Step};
use tempfile::TempDir;

use self::store_common::{copy, open};

// ---- A1: a checkpoint is all there or not at all ----

fn id(term: u64, index: u64) -> LogId {
    LogId { term: Term(term), node: MemberId(1), index: Index(index) }
}

/// A log of commands; the first entry founds the cluster.
fn history(commands: Vec<Command>) -> Vec<Entry> {
    let founding = Membership {
        voters: vec![[MemberId(1)].into()],
        nodes: [(MemberId(1), vec!["http://m1".to_owned()])].into(),
    };
    let founding = Entry { log_id: id(1, 1), proposal: None, membership: Some(founding) };
    let entries = (2..).zip(commands).map(|(index, command)| Entry {
        log_id: id(1, index),
        proposal: Some(encode_proposal(&Proposal::internal(command))),
        membership: None,
    });
    [founding].into_iter().chain(entries).collect()
}

fn put(key: &str, value: &str, lease: i64) -> Command {
    Command::Put(Put {
        key: Bytes::from(key.to_owned()),
        value: Bytes::from(value.to_owned()),
        lease: LeaseId(lease),
        prev_kv: false,
        ignore_value: false,
        ignore_lease: false,
    })
}

/// A state on a real store, whose machine loses power.
struct Machine {
    // Dropped in this order: sled writes into the folder while it closes.
    state: State,
    store: Arc<kvd_storage::sled_store::SledStore>,
    folder: TempDir,
}

impl Machine {
    fn start(folder: TempDir) -> Self {
        let store = Arc::new(open(&folder.path().join("state-1")).unwrap());
        let state = State::open(store.clone(), StateOptions::DEFAULT).unwrap();
        Self { state, store, folder }
    }

    /// What is on the disk at this moment, started again.
    fn crash(&self) -> Self {
        let folder = tempfile::tempdir().unwrap();
        copy(self.folder.path(), folder.path());
        Self::start(folder)
    }

    fn commit(&mut self) {
        let checkpoint = self.state.checkpoint();
        self.store.commit(&checkpoint).unwrap();
        self.state.checkpointed(&checkpoint.meta);
    }

    /// Rows are written and synced, then the power fails.
    fn commit_cut_before_meta(&mut self) -> Self {
        let checkpoint: Checkpoint = self.state.checkpoint();
        self.store.commit_without_meta(&checkpoint).unwrap();
        self.crash()
    }

    /// Applies what follows the applied entry; answers revision and outcome of each.
    fn apply(&mut self, log: &[Entry]) -> Vec<(Index, Revision, bool)> {
        let applied = self.state.applied().index;
        let rest = log.iter().filter(|entry| entry.log_id.index > applied);
        let told = rest.map(|entry| {
            let applied = self.state.apply(entry, true).unwrap();
            (applied.log_id.index, applied.revision, applied.outcome.is_ok())
        });
        let told = told.collect();
        self.state.publish();
        told
    }
}

/// Hazard A1, first form: with its row overwritten before the meta, the replayed revoke would not find the
/// lease, delete nothing, and every later revision of this member would be one lower than elsewhere.
#[test]
fn a_revoke_behind_a_checkpoint_that_was_cut_is_applied_again() {
    let (grant, revoke) = (LeaseGrant { id: LeaseId(7), ttl_seconds: 60 }, LeaseId(7));
    let keys = ["a", "b", "c"].map(|key| put(key, "of the lease", 7));
    let mut commands = vec![Command::LeaseGrant(grant)];
    commands.extend(keys);
    let covered = commands.len() + 1;
    commands.push(Command::LeaseRevoke(LeaseRevoke { id: revoke }));
    commands.push(Command::LeaseGrant(grant));
    commands.push(put("d", "after", 7));
    let log = history(commands);

    let mut machine = Machine::start(tempfile::tempdir().unwrap());
    machine.apply(&log[..covered]);
    machine.commit();
    let told = machine.apply(&log);
    let mut survivor = machine.commit_cut_before_meta();
    assert_eq!(survivor.state.applied(), log[covered - 1].log_id, "the checkpoint before");
    assert_eq!(survivor.apply(&log), told);
    assert_eq!(survivor.state.view().state_hash(), machine.state.view().state_hash());
    // The sequence of the cut one is used again.
    survivor.commit();
    let again = survivor.crash();
    assert_eq!(again.state.view().state_hash(), machine.state.view().state_hash());
}

/// Hazard A1, second form: blocks that a compaction freed are there until a meta that knows of it is durable.
#[test]
fn history_below_a_compaction_that_was_cut_can_still_be_read() {
    let puts: Vec<Command> = (0..40).map(|n| put("k", &format!("{n:0>900}"), 0)).collect();
    let covered = puts.len() + 1;
    let mut commands = puts;
    commands.push(Command::Compact(Compact { revision: 40 }));
    let log = history(commands);

    let mut machine = Machine::start(tempfile::tempdir().unwrap());
    machine.apply(&log[..covered]);
    machine.commit();
    machine.apply(&log);
    while machine.state.compact_step(64).unwrap() == CompactProgress::More {}
    let mut survivor = machine.commit_cut_before_meta();
    let view = survivor.state.view();
    assert_eq!((view.revision(), view.compacted()), (Revision(41), None));
    for revision in 2..=41 {
        let query = RangeQuery {
            range: KeyRange::Key(Bytes::from_static(b"k")),
            revision: Some(Revision(revision)),
            limit: None,
            sort_target: SortTarget::Key,
            sort_order: SortOrder::None,
            keys_only: false,
            count_only: false,
            filter: RevisionFilter::default(),
        };
        let answer = view.range(&query, Access::Disk).unwrap().unwrap();
        assert_eq!(answer.kvs[0].value, format!("{:0>900}", revision - 2), "at {revision}");
    }
    drop(view);
    survivor.apply(&log);
    while survivor.state.compact_step(64).unwrap() == CompactProgress::More {}
    survivor.commit();
    assert_eq!(survivor.crash().state.view().compacted(), Some(Revision(40)));
}

// ---- A2: a checkpoint is never ahead of the member's own log ----

const WAL: &str = "member/wal";

fn open_log(disk: &SimDisk) -> Result<(RaftLog, Flusher), LogError> {
    let mut nonce = disk.syncs();
    let options = Options {
        segment_bytes: 8192,
        spares: 2,
        tail_bytes: 600,
        frame_bytes_max: 2048,
        nonce: Box::new(move || {
            nonce += 1;
            nonce.wrapping_mul(0x9e37_79b9_7f4a_7c15)
        }),
    };
    RaftLog::open(Arc::new(disk.clone()), Path::new(WAL), options)
}

fn entries(term: u64, indexes: std::ops::RangeInclusive<u64>, bytes: usize) -> Vec<LogEntry> {
    let payload = |index: u64| Bytes::from(vec![index.to_le_bytes()[0]; bytes]);
    indexes.map(|index| LogEntry { log_id: id(term, index), payload: payload(index) }).collect()
}

fn drive(flusher: &mut Flusher) {
    while flusher.step().unwrap() == Step::Worked {}
}

fn contents(log: &RaftLog) -> Result<Vec<LogEntry>, LogError> {
    log.read(Index(1), Index(u64::MAX), usize::MAX)
}

/// Hazard A2 as it stands there: a follower has durable, uncommitted entries of term 3; the leader of term 4
/// replaces them; they are applied before this member's own sync. Whenever the power fails, the checkpoint's
/// entry is in the log.
#[test]
fn whenever_the_power_fails_the_log_holds_the_checkpoints_entry() {
    let mut waited = 0;
    for moment in 0..6 {
        let disk = SimDisk::new();
        let (log, mut flusher) = open_log(&disk).unwrap();
        log.append(entries(3, 1..=105, 20), Box::new(|result| result.unwrap()));
        drive(&mut flusher);
        log.truncate_after(Some(id(3, 90)), Box::new(|_cut| {}));
        log.append(entries(4, 91..=100, 500), Box::new(|_cut| {}));
        let store = Arc::new(MemStore::new());
        let mut checkpoint = conformance::checkpoint(1).build();
        checkpoint.meta.applied = id(4, 100);
        let (send, inbox) = sync_channel(1);
        send.send(checkpoint).unwrap();
        let durable = log.clone();
        let gates = Gates {
            durable: Box::new(move || durable.durable()),
            room: Box::new(|_bytes| true),
            report: Box::new(|_report| {}),
        };
        let mut checkpointer = Checkpointer::new(store.clone(), inbox, gates);
        for _ in 0..moment {
            waited += u32::from(checkpointer.step() == CheckpointStep::WaitsForLog);
            flusher.step().unwrap();
        }
        checkpointer.step();
        for seed in 0..20 {
            let (log, _flusher) = open_log(&disk.crash(seed)).unwrap();
            let Some(meta) = store.crash().meta().unwrap() else { continue };
            let applied = meta.applied;
            let found = log.read(applied.index, applied.index.next(), usize::MAX).unwrap();
            let found = found.first().map(|entry| entry.log_id);
            assert_eq!(found, Some(applied), "moment {moment} seed {seed}: {:?}", log.state());
        }
    }
    assert!(waited > 3, "the checkpoint came first {waited} times");
}

// ---- A3: what was read is what is there ----

/// Hazard A3.4: CURRENT was renamed, but the process died before its folder was synced. What a start then
/// goes by is what a power cut leaves, once the log is open.
#[test]
fn the_state_that_a_start_goes_by_outlives_a_power_cut() {
    let root = Path::new("somewhere");
    let identity =
        Identity { cluster: ClusterId(1), member: MemberId(2), incarnation: Incarnation(3) };
    let disk = SimDisk::new();
    let start = |disk: &SimDisk| DataDir::open(Arc::new(disk.clone()), root).unwrap();
    let mut data_dir = start(&disk);
    data_dir.create(identity).unwrap();
    data_dir.switch(1).unwrap();
    // The first sync of the folder is for the state's own name.
    let dying = disk.clone();
    let failing = move |data_dir: &mut DataDir| {
        dying.on_sync({
            let dying = dying.clone();
            move || dying.fail(&[Operation::SyncDir], "member", 1, io::ErrorKind::Other)
        });
        data_dir.switch(2)
    };
    assert!(failing(&mut data_dir).is_err());
    let killed = disk.kill();
    let (before, _log) = (start(&killed).state(), open_log(&killed).unwrap());
    assert!(before.as_ref().unwrap().ends_with("state-2"), "renamed, not synced: {before:?}");
    for seed in 0..20 {
        assert_eq!(start(&killed.crash(seed)).state(), before, "seed {seed}");
    }
}

/// A disk that fails once, at whatever: the log ends, tells everyone, and a restart finds all that was told.
#[test]
fn one_failed_operation_of_any_kind_loses_nothing() {
    use Operation::{Open, Read, Remove, Rename, Sync, SyncDir, Write};
    let mut ended = 0;
    for operation in [Open, Read, Write, Sync, Rename, Remove, SyncDir] {
        for after in 0..12 {
            let disk = SimDisk::new();
            let (log, mut flusher) = open_log(&disk).unwrap();
            let told = Arc::new(Mutex::new(0));
            for index in 1..=60 {
                if index == 5 * after {
                    disk.fail(&[operation], "wal", 1, io::ErrorKind::Other);
                }
                let told = Arc::clone(&told);
                log.append(
                    entries(1, index..=index, 700),
                    Box::new(move |result| {
                        if result.is_ok() {
                            *told.lock().unwrap() = index;
                        }
                    }),
                );
                if index % 7 == 0 {
                    log.purge(id(1, index - 5));
                }
                if flusher.step().is_err() {
                    break;
                }
            }
            ended += u32::from(flusher.step().is_err());
            disk.heal();
            let told = *told.lock().unwrap();
            for disk in [disk.kill(), disk.crash(after)] {
                let (log, _flusher) = open_log(&disk).unwrap();
                let state = log.state();
                let what = format!("{operation:?} after {after}: told of {told}, found {state:?}");
                assert!(state.last.map_or(0, |last| last.index.0) >= told, "{what}");
                let first = state.purged.map_or(0, |purged| purged.index.0) + 1;
                let last = state.last.map_or(0, |last| last.index.0);
                assert_eq!(contents(&log).unwrap(), entries(1, first..=last, 700), "{what}");
            }
        }
    }
    assert!(ended > 20, "only {ended} runs met their failure");
}

/// A device that drops or misplaces a write and says nothing is found out at the next start. Only the last
/// frame's loss looks like a write that was never told of; nothing can tell them apart.
#[test]
fn a_write_that_the_disk_lost_or_misplaced_is_refused() {
    let (mut refused, mut frames) = (0, 0);
    for lie in [Lie::LosesWrite, Lie::MisdirectsWrite] {
        for lied_at in 1..=8 {
            for seed in 0..8 {
                let disk = SimDisk::new();
                let (log, mut flusher) = open_log(&disk).unwrap();
                for index in 1..=8 {
                    if index == lied_at {
                        disk.lie(lie, "wal", 0..1, seed);
                    }
                    log.append(entries(1, index..=index, 300), Box::new(|told| told.unwrap()));
                    flusher.step().unwrap();
                }
                frames += 1;
                let what = format!("{lie:?} at {lied_at}, seed {seed}");
                let opened = open_log(&disk.crash(seed));
                match opened.and_then(|(log, _flusher)| contents(&log)) {
                    Err(LogError::Damaged { .. } | LogError::Missing { .. }) => refused += 1,
                    Err(error) => panic!("{what}: {error}"),
                    Ok(found) if lied_at == 8 => {
                        assert!(found == entries(1, 1..=7, 300), "{what}: {found:?}");
                    }
                    Ok(found) => assert_eq!(found, entries(1, 1..=8, 300), "{what}"),
                }
            }
        }
    }
    assert!(refused * 10 > frames * 7, "{refused} of {frames} were refused");
}

/// A bit that turns on its way from the medium: opening refuses, or reads what was written; so does reading
/// entries that left memory.
#[test]
fn a_read_that_rots_never_gives_other_entries() {
    let disk = SimDisk::new();
    let (log, mut flusher) = open_log(&disk).unwrap();
    let expected = entries(1, 1..=30, 400);
    for index in 1..=30 {
        log.append(entries(1, index..=index, 400), Box::new(|told| told.unwrap()));
        drive(&mut flusher);
    }
    let mut refused = 0;
    for seed in 0..100 {
        disk.lie(Lie::ReadsOther, "wal", 0..1, seed);
        match contents(&log) {
            Ok(found) => assert_eq!(found, expected, "reading, seed {seed}"),
            Err(_refused) => refused += 1,
        }
        disk.heal();
        // Opening reads each head, each segment, and the last frame, which it writes again.
        let (image, at) = (disk.crash(seed), seed % 20);
        image.lie(Lie::ReadsOther, "wal", at..at + 1, seed);
        let opened = open_log(&image);
        image.heal();
        match opened.and_then(|(log, _flusher)| contents(&log)) {
            Ok(found) => assert_eq!(found, expected, "read {at} of opening, seed {seed}"),
            Err(_refused) => refused += 1,
        }
        match open_log(&image).and_then(|(log, _flusher)| contents(&log)) {
            Ok(found) => assert_eq!(found, expected, "after read {at} of opening, seed {seed}"),
            Err(error) => panic!("after read {at} of opening, seed {seed}: {error}"),
        }
    }
    assert!(refused > 50, "{refused} refused");
}
