//! Commits checkpoints one after another: waits until the log covers them and there is room for them.
//!
//! A checkpoint is never ahead of this member's own durable log (hazard A2): its meta is written only when
//! the log is durable up to its index. A checkpoint that finds no room is kept and tried again; the store
//! never sees a full device (hazard B5). A store that failed ends the checkpointer: the member must stop.
//!
//! [`Checkpointer::step`] never waits; [`Checkpointer::run`] is the body of a thread around it.

use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use kvd_core::checkpoint::{Checkpoint, CheckpointStore, Meta, StoreError};
use kvd_core::ids::LogId;

/// Longest wait for the log or for room before looking again; a wake-up may come earlier.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The engine writes a page anew for most of its items, and moves pages about.
const WRITE_FACTOR: u64 = 4;
/// Room that a commit needs besides what it writes.
const SPARE_BYTES: u64 = 32 * 1024 * 1024;

/// What the checkpointer asks and tells the rest of the member.
pub struct Gates {
    /// Up to where the log is durable; `None` while it is empty.
    pub durable: Box<dyn Fn() -> Option<LogId> + Send>,
    /// Whether so many bytes can be written; may let go of a ballast to make it so.
    pub room: Box<dyn Fn(u64) -> bool + Send>,
    /// Told how each attempt ended.
    pub report: Box<dyn FnMut(Report) + Send>,
}

/// How an attempt to commit ended.
#[derive(Debug)]
pub enum Report {
    /// The checkpoint is durable: the log may be purged up to it.
    Durable(Meta),
    /// There is no room; it is tried again.
    NoSpace,
    /// The store failed; the member must stop.
    Failed(StoreError),
}

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing to do: no checkpoint has been handed over.
    Idle,
    /// The log is not durable up to the checkpoint yet.
    WaitsForLog,
    /// There is no room for the checkpoint yet.
    WaitsForSpace,
    /// A checkpoint was committed.
    Committed,
    /// Nobody can hand over another checkpoint, or the store failed.
    Stopped,
}

/// Drains checkpoints into a store.
pub struct Checkpointer {
    store: Arc<dyn CheckpointStore>,
    inbox: Receiver<Checkpoint>,
    pending: Option<Checkpoint>,
    gates: Gates,
    stopped: bool,
}

impl Checkpointer {
    /// Commits what arrives in `inbox`, a channel of one, to `store`.
    pub fn new(store: Arc<dyn CheckpointStore>, inbox: Receiver<Checkpoint>, gates: Gates) -> Self {
        Self { store, inbox, pending: None, gates, stopped: false }
    }

    /// Does what can be done now.
    pub fn step(&mut self) -> Step {
        if self.stopped {
            return Step::Stopped;
        }
        if self.pending.is_none() {
            match self.inbox.try_recv() {
                Ok(checkpoint) => self.pending = Some(checkpoint),
                Err(TryRecvError::Empty) => return Step::Idle,
                Err(TryRecvError::Disconnected) => return self.stop(),
            }
        }
        match self.pending.take() {
            Some(checkpoint) => self.attempt(checkpoint),
            None => Step::Idle,
        }
    }

    /// Steps until nobody can hand over another checkpoint, the store failed, or `wake` was closed.
    pub fn run(mut self, wake: &Wake) {
        while !wake.is_closed() {
            let seen = wake.seen();
            match self.step() {
                Step::Idle => match self.inbox.recv_timeout(LOOK_AGAIN) {
                    Ok(checkpoint) => self.pending = Some(checkpoint),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                },
                Step::WaitsForLog | Step::WaitsForSpace => wake.wait(seen, LOOK_AGAIN),
                Step::Committed => {}
                Step::Stopped => return,
            }
        }
    }

    fn attempt(&mut self, checkpoint: Checkpoint) -> Step {
        if (self.gates.durable)() < Some(checkpoint.meta.applied) {
            self.pending = Some(checkpoint);
            return Step::WaitsForLog;
        }
        if !(self.gates.room)(needed_bytes(&checkpoint)) {
            return self.wait_for_space(checkpoint);
        }
        match self.store.commit(&checkpoint) {
            Ok(()) => {
                (self.gates.report)(Report::Durable(checkpoint.meta));
                Step::Committed
            }
            Err(StoreError::NoSpace) => self.wait_for_space(checkpoint),
            Err(error) => {
                (self.gates.report)(Report::Failed(error));
                self.stop()
            }
        }
    }

    fn wait_for_space(&mut self, checkpoint: Checkpoint) -> Step {
        self.pending = Some(checkpoint);
        (self.gates.report)(Report::NoSpace);
        Step::WaitsForSpace
    }

    fn stop(&mut self) -> Step {
        self.stopped = true;
        Step::Stopped
    }
}

/// Room that must be there before a checkpoint is begun.
pub fn needed_bytes(checkpoint: &Checkpoint) -> u64 {
    let blocks = checkpoint.blocks.iter().map(|(_, block)| block.len() + 64);
    let rows = checkpoint
        .rows
        .iter()
        .map(|(_, id, row)| 2 * id.len() + row.as_ref().map_or(0, |row| row.len()) + 128);
    let bytes: usize = blocks.chain(rows).sum::<usize>() + checkpoint.freed.len() * 64;
    (bytes as u64).saturating_mul(WRITE_FACTOR).saturating_add(SPARE_BYTES)
}

/// Wakes a checkpointer that waits: the log became durable, room was made, or the member stops.
#[derive(Debug, Default)]
pub struct Wake {
    state: Mutex<WakeState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct WakeState {
    calls: u64,
    closed: bool,
}

impl Wake {
    /// Nobody has called yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Something that the checkpointer may wait for has changed.
    pub fn wake(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).calls += 1;
        self.changed.notify_all();
    }

    /// The member stops: a checkpoint that still waits is given up.
    pub fn close(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.changed.notify_all();
    }

    fn is_closed(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).closed
    }

    fn seen(&self) -> u64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).calls
    }

    /// Waits for a call after `seen`, and no longer than `limit`.
    fn wait(&self, seen: u64, limit: Duration) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let quiet = |state: &mut WakeState| state.calls == seen && !state.closed;
        // Whether it was a call or the limit does not matter: the caller looks again.
        drop(self.changed.wait_timeout_while(state, limit, quiet));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
    use std::thread;

    use kvd_core::checkpoint::conformance;
    use kvd_core::checkpoint::mem::{Fault, MemStore};
    use kvd_core::ids::{Index, MemberId, Term};

    use super::*;

    struct Scene {
        store: Arc<MemStore>,
        durable: Arc<Mutex<Option<LogId>>>,
        room: Arc<Mutex<bool>>,
        send: SyncSender<Checkpoint>,
        reports: Receiver<Report>,
        checkpointer: Checkpointer,
    }

    fn scene() -> Scene {
        let store = Arc::new(MemStore::new());
        let (durable, room) = (Arc::new(Mutex::new(None)), Arc::new(Mutex::new(true)));
        let (send, inbox) = sync_channel(1);
        let (report, reports) = channel();
        let gates = Gates {
            durable: Box::new({
                let durable = Arc::clone(&durable);
                move || *durable.lock().unwrap()
            }),
            room: Box::new({
                let room = Arc::clone(&room);
                move |bytes| bytes > SPARE_BYTES && *room.lock().unwrap()
            }),
            report: Box::new(move |message| report.send(message).unwrap()),
        };
        let checkpointer = Checkpointer::new(store.clone(), inbox, gates);
        Scene { store, durable, room, send, reports, checkpointer }
    }

    fn draft(sequence: u64) -> Checkpoint {
        let id = sequence.to_string();
        let row = kvd_core::checkpoint::Table::Lease;
        conformance::checkpoint(sequence).row(row, id, "row").rows(sequence).build()
    }

    fn log_id(term: u64, index: u64) -> Option<LogId> {
        Some(LogId { term: Term(term), node: MemberId(9), index: Index(index) })
    }

    #[test]
    fn a_checkpoint_is_never_ahead_of_the_durable_log() {
        let mut scene = scene();
        assert_eq!(scene.checkpointer.step(), Step::Idle);
        scene.send.send(draft(1)).unwrap();
        assert_eq!(scene.checkpointer.step(), Step::WaitsForLog);
        // An older term's entries at higher indexes do not cover it.
        *scene.durable.lock().unwrap() = log_id(1, 500);
        assert_eq!(scene.checkpointer.step(), Step::WaitsForLog);
        *scene.durable.lock().unwrap() = log_id(2, 99);
        assert_eq!(scene.checkpointer.step(), Step::WaitsForLog);
        assert_eq!(scene.store.commits(), 0);
        *scene.durable.lock().unwrap() = log_id(2, 100);
        assert_eq!(scene.checkpointer.step(), Step::Committed);
        let report = scene.reports.try_recv().unwrap();
        assert!(matches!(report, Report::Durable(meta) if meta == draft(1).meta));
        assert_eq!(scene.store.meta().unwrap(), Some(draft(1).meta));
    }

    #[test]
    fn a_full_device_delays_a_checkpoint() {
        let mut scene = scene();
        *scene.durable.lock().unwrap() = log_id(2, 100);
        *scene.room.lock().unwrap() = false;
        scene.send.send(draft(1)).unwrap();
        assert_eq!(scene.checkpointer.step(), Step::WaitsForSpace);
        assert!(matches!(scene.reports.try_recv().unwrap(), Report::NoSpace));
        *scene.room.lock().unwrap() = true;
        scene.store.fail_next(Fault::NoSpace);
        assert_eq!(scene.checkpointer.step(), Step::WaitsForSpace, "the store has the last word");
        assert_eq!(scene.checkpointer.step(), Step::Committed);
    }

    #[test]
    fn a_failed_store_ends_it() {
        let mut scene = scene();
        *scene.durable.lock().unwrap() = log_id(2, 100);
        scene.store.fail_next(Fault::Failed);
        scene.send.send(draft(1)).unwrap();
        assert_eq!(scene.checkpointer.step(), Step::Stopped);
        assert!(matches!(scene.reports.try_recv().unwrap(), Report::Failed(_)));
        assert_eq!(scene.checkpointer.step(), Step::Stopped, "for good");
    }

    #[test]
    fn the_thread_wakes_and_ends() {
        let Scene { store, durable, send, reports, checkpointer, .. } = scene();
        let wake = Arc::new(Wake::new());
        let thread = thread::spawn({
            let wake = Arc::clone(&wake);
            move || checkpointer.run(&wake)
        });
        send.send(draft(1)).unwrap();
        *durable.lock().unwrap() = log_id(2, 200);
        wake.wake();
        assert!(matches!(reports.recv().unwrap(), Report::Durable(_)));
        send.send(draft(2)).unwrap();
        assert!(matches!(reports.recv().unwrap(), Report::Durable(_)));
        // The third one waits for a log that never comes, until the member stops.
        send.send(draft(3)).unwrap();
        wake.close();
        thread.join().unwrap();
        assert_eq!(store.commits(), 2);
    }
}
