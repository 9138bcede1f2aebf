//! The way of a checkpoint from the applier to the live store: one checkpointer a state, replaced with it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kvd_core::checkpoint::{Checkpoint, CheckpointStore, Meta};
use kvd_core::ids::LogId;
use kvd_storage::checkpointer::{Checkpointer, Gates, Report, Step, Wake};
use kvd_storage::log::RaftLog;
use tokio::sync::mpsc;

use crate::fatal::FatalSignal;
use crate::threads::Threads;

/// How often a simulated checkpointer looks whether it can go on.
const LOOK: Duration = Duration::from_millis(10);

/// Up to where this member's log is durable: a checkpoint never goes beyond it (hazard A2).
pub(crate) type DurableLog = Arc<dyn Fn() -> Option<LogId> + Send + Sync>;

/// Whether so many bytes can be written.
pub(crate) type Room = Arc<dyn Fn(u64) -> bool + Send + Sync>;

/// Starts checkpointers and hands checkpoints to the present one; clones share it.
#[derive(Clone)]
pub(crate) struct CheckpointLane {
    inner: Arc<Inner>,
}

struct Inner {
    threads: Threads,
    durable_log: DurableLog,
    room: Room,
    /// Checkpoints that became durable, with the generation of their state.
    durable: mpsc::Sender<(u64, Meta)>,
    fatal: FatalSignal,
    present: Mutex<Option<Present>>,
    /// States so far: the next one's generation.
    generations: AtomicU64,
}

struct Present {
    generation: u64,
    checkpoints: SyncSender<Checkpoint>,
    wake: Arc<Wake>,
}

impl CheckpointLane {
    pub(crate) fn new(
        threads: Threads,
        durable_log: DurableLog,
        room: Room,
        durable: mpsc::Sender<(u64, Meta)>,
        fatal: FatalSignal,
    ) -> Self {
        let (present, generations) = (Mutex::new(None), AtomicU64::new(0));
        let inner = Inner { threads, durable_log, room, durable, fatal, present, generations };
        Self { inner: Arc::new(inner) }
    }

    /// Lets checkpoints go on as soon as the log is durable up to them.
    pub(crate) fn follow(&self, log: &RaftLog) {
        let lane = Arc::downgrade(&self.inner);
        log.on_durable_advance(Box::new(move |_log_id| {
            if let Some(inner) = lane.upgrade()
                && let Some(present) =
                    &*inner.present.lock().unwrap_or_else(PoisonError::into_inner)
            {
                present.wake.wake();
            }
        }));
    }

    /// Checkpoints go to this store from now on, under the generation that is answered; the first is zero.
    /// What the generation before has not committed is given up (hazard F29).
    ///
    /// To be called before the applier takes the state: a checkpoint of a generation that the lane does not
    /// know yet would be lost, and with it the rows that the next one does not repeat.
    pub(crate) fn replace(&self, store: Arc<dyn CheckpointStore>) -> std::io::Result<u64> {
        let generation = self.inner.generations.fetch_add(1, Ordering::Relaxed);
        let (checkpoints, inbox) = sync_channel(1);
        let wake = Arc::new(Wake::new());
        let checkpointer = Checkpointer::new(store, inbox, self.gates(generation));
        match self.inner.threads {
            Threads::Os => {
                let wake = Arc::clone(&wake);
                std::thread::Builder::new()
                    .name("checkpoint".to_owned())
                    .spawn(move || checkpointer.run(&wake))?;
            }
            Threads::Simulated => {
                tokio::spawn(step_regularly(checkpointer));
            }
        }
        let present = Present { generation, checkpoints, wake };
        let mut slot = self.inner.present.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = slot.replace(present) {
            before.wake.close();
        }
        Ok(generation)
    }

    /// Hands over a checkpoint; never blocks, for the applier has one on its way at most.
    pub(crate) fn send(&self, generation: u64, checkpoint: Checkpoint) {
        let slot = self.inner.present.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = match &*slot {
            Some(present) if present.generation == generation => {
                present.checkpoints.try_send(checkpoint).map_err(|error| error.to_string())
            }
            // The state was replaced meanwhile: its checkpoint is of no use.
            _ => Ok(()),
        };
        if let Err(error) = sent {
            self.inner.fatal.raise(format!("a checkpoint could not be handed over: {error}"));
        }
    }

    fn gates(&self, generation: u64) -> Gates {
        let (log, room) = (Arc::clone(&self.inner.durable_log), Arc::clone(&self.inner.room));
        let (durable, fatal) = (self.inner.durable.clone(), self.inner.fatal.clone());
        // It is tried again with every sync of the log: once is enough to say so.
        let is_told = AtomicBool::new(false);
        Gates {
            durable: Box::new(move || log()),
            room: Box::new(move |bytes| room(bytes)),
            report: Box::new(move |report| match report {
                Report::Durable(meta) => {
                    if is_told.swap(false, Ordering::Relaxed) {
                        tracing::info!("there is room for checkpoints again");
                    }
                    if durable.try_send((generation, meta)).is_err() {
                        fatal.raise("nobody follows durable checkpoints".to_owned());
                    }
                }
                Report::NoSpace => {
                    if !is_told.swap(true, Ordering::Relaxed) {
                        tracing::warn!(
                            "no room for a checkpoint; it is tried again until there is"
                        );
                    }
                }
                Report::Failed(error) => fatal.raise(error.to_string()),
            }),
        }
    }
}

async fn step_regularly(mut checkpointer: Checkpointer) {
    while checkpointer.step() != Step::Stopped {
        tokio::time::sleep(LOOK).await;
    }
}
