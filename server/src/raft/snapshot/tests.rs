//! What installing waits for.

use std::path::Path;
use std::time::Duration;

use kvd_core::command::{Entry, Membership};
use kvd_core::ids::{Index, MemberId, Term};
use kvd_storage::fs::SimDisk;
use kvd_storage::log::{LogEntry, Options as LogOptions, Step};
use tokio::sync::mpsc;

use super::*;
use crate::fatal::FatalSignal;
use crate::lease_clock::LeaseClock;
use crate::stores::mem::MemStores;
use crate::threads::Threads;

fn id(term: u64, index: u64) -> LogId {
    LogId { term: Term(term), node: MemberId(1), index: Index(index) }
}

fn open(stores: &MemStores) -> State {
    State::open(stores.live(), Options::DEFAULT).unwrap()
}

/// A leader's state at entry 100 of term 4, as it is sent.
fn sent() -> Vec<Result<Bytes, String>> {
    let mut state = open(&MemStores::new());
    let membership = Membership {
        voters: vec![[MemberId(1)].into()],
        nodes: [(MemberId(1), vec!["http://m1".to_owned()])].into(),
    };
    let founding = Entry { log_id: id(1, 1), proposal: None, membership: Some(membership) };
    let blank = Entry { log_id: id(4, 100), proposal: None, membership: None };
    for entry in [founding, blank] {
        state.apply(&entry, false).unwrap();
    }
    state.publish();
    let mut capture = state.capture();
    std::iter::from_fn(|| next_chunk(&mut capture).unwrap()).map(Ok).collect()
}

/// Hazard A2: the leader's truncation of this member's log is on its way to the disk. With the received state
/// live before it, a power cut would leave a log whose end contradicts the state, and openraft would refuse it.
#[tokio::test]
async fn a_received_state_is_not_live_before_the_log_is_durable() {
    let log_options = LogOptions {
        segment_bytes: 64 << 10,
        spares: 1,
        tail_bytes: 1 << 20,
        frame_bytes_max: 32 << 10,
        nonce: Box::new(|| 7),
    };
    let disk = Arc::new(SimDisk::new());
    let (log, mut flusher) = RaftLog::open(disk, Path::new("wal"), log_options).unwrap();
    let entries = |term, indexes: std::ops::RangeInclusive<u64>| {
        indexes.map(|index| LogEntry { log_id: id(term, index), payload: Bytes::new() }).collect()
    };
    log.append(entries(3, 1..=105), Box::new(|durable| durable.unwrap()));
    while flusher.step().unwrap() == Step::Worked {}
    log.truncate_after(Some(id(3, 90)), Box::new(|durable| durable.unwrap()));

    // On one thread, so that what could happen does happen.
    let threads = Threads::Simulated;
    let stores = MemStores::new();
    let (durable, _noted) = mpsc::channel(4);
    let room = Arc::new(|_bytes| true);
    let lane = CheckpointLane::new(threads, Arc::new(|| None), room, durable, FatalSignal::new());
    lane.replace(stores.live()).unwrap();
    let leases = LeaseClock::new(Duration::from_secs(1));
    let send = Box::new(|_generation, _checkpoint| {});
    let fatal = Box::new(|reason| panic!("{reason}"));
    let samples = crate::samples::Samples::new(1024);
    let applier =
        Applier::start(threads, open(&stores), send, u64::MAX, fatal, leases, samples).unwrap();
    let readers = ReaderPool::start(threads).unwrap();
    let installer = Installer::new(Arc::new(stores.clone()), log, readers, Options::DEFAULT);
    let installer = installer.with_lane(lane);
    let chunks = futures_util::stream::iter(sent());
    let received = SnapshotData::Received(Box::new(installer.receive(chunks, None).await.unwrap()));
    let installing = tokio::spawn(async move {
        installer.install(&applier, &Checkpoints::new(None), received).await
    });
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert!(!installing.is_finished(), "installed before the log was durable");
    assert_eq!(stores.live().meta().unwrap(), None, "live before the log was durable");
    while flusher.step().unwrap() == Step::Worked {}
    assert_eq!(installing.await.unwrap().unwrap(), id(4, 100));
    assert_eq!(stores.live().meta().unwrap().map(|meta| meta.applied), Some(id(4, 100)));
}
