//! openraft's own suite over our log and state machine: real formats, a simulated disk, stores in memory.

use std::path::Path;
use std::sync::Arc;

use kvd_core::ids::{LogId, Term};
use kvd_core::state::{Options as StateOptions, State};
use kvd_storage::fs::SimDisk;
use kvd_storage::log::{self, RaftLog};
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tokio::sync::mpsc;

use super::checkpoints::Checkpoints;
use super::log_store::LogStore;
use super::snapshot::Installer;
use super::state_machine::StateMachine;
use super::types::TypeConfig;
use crate::apply::Applier;
use crate::checkpoint_lane::CheckpointLane;
use crate::fatal::FatalSignal;
use crate::lease_clock::LeaseClock;
use crate::samples::Samples;
use crate::stores::Stores;
use crate::stores::mem::MemStores;
use crate::threads::{ReaderPool, Threads};

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine> for Builder {
    async fn build(&self) -> Result<((), LogStore, StateMachine), StorageError<TypeConfig>> {
        let mut nonce = 0;
        let options = log::Options {
            segment_bytes: 64 << 10,
            spares: 1,
            tail_bytes: 1 << 20,
            frame_bytes_max: 32 << 10,
            nonce: Box::new(move || {
                nonce += 1;
                nonce
            }),
        };
        let disk = Arc::new(SimDisk::new());
        let (log, flusher) = RaftLog::open(disk, Path::new("wal"), options).unwrap();
        log::spawn(flusher, |error| panic!("{error}")).unwrap();
        let stores: Arc<dyn Stores> = Arc::new(MemStores::new());
        let readers = ReaderPool::start(Threads::Os).unwrap();
        let state = State::open(stores.live(), StateOptions::DEFAULT).unwrap();

        let (durable, mut became_durable) = mpsc::channel(4);
        let fatal = FatalSignal::new();
        let room = Arc::new(|_bytes| true);
        // The suite applies entries that it never appended.
        let everything = LogId { term: Term(u64::MAX), ..LogId::default() };
        let durable_log = Arc::new(move || Some(everything));
        let lane = CheckpointLane::new(Threads::Os, durable_log, room, durable, fatal);
        lane.replace(stores.live()).unwrap();
        let send = lane.clone();
        let send = Box::new(move |generation, checkpoint| send.send(generation, checkpoint));
        let fatal = Box::new(|reason| panic!("{reason}"));
        let leases = LeaseClock::new(std::time::Duration::from_secs(1));
        let samples = Samples::new(u64::MAX);
        let applier =
            Applier::start(Threads::Os, state, send, u64::MAX, fatal, leases, samples).unwrap();
        let checkpoints = Checkpoints::new(None);
        let (follow, told) = (checkpoints.clone(), applier.clone());
        tokio::spawn(async move {
            while let Some((generation, meta)) = became_durable.recv().await {
                let _stopping = told.durable(generation, meta.clone()).await;
                follow.became_durable(generation, &meta);
            }
        });

        let installer = Installer::new(stores, log.clone(), readers.clone(), StateOptions::DEFAULT)
            .with_lane(lane);
        let state_machine = StateMachine::without_order(applier, checkpoints, installer);
        Ok(((), LogStore::new(log, readers), state_machine))
    }
}

#[tokio::test]
async fn openraft_agrees_with_our_storage() {
    Suite::test_all(Builder).await.unwrap();
}
