//! The applier: the only writer of the state.
//!
//! It takes slices of committed entries, applies each, makes the result visible, then answers. Order is a
//! promise: state changed, View visible, watchers told, answer given; so whoever has the answer can read it on
//! this member. It never waits for a reader, a client or a watcher (hazard B1). Between slices it does bounded
//! steps of physical compaction and hands checkpoints to the checkpointer.

#[cfg(any(test, feature = "testing"))]
mod forge;
mod pins;
mod published;

use std::time::Duration;

use kvd_core::checkpoint::{Checkpoint, Meta};
use kvd_core::command::Entry;
use kvd_core::event::Event;
use kvd_core::ids::Index;
use kvd_core::limits::COMPACT_STEP_KEYS;
use kvd_core::mutants::{Mutant, active};
use kvd_core::outcome::{Applied, Fatal};
use kvd_core::snapshot::Capture;
use kvd_core::state::{CompactProgress, State};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use self::pins::Pins;
pub(crate) use self::published::Published;
use crate::feed::{Changes, Feed};
use crate::lease_clock::LeaseClock;
use crate::limits::{APPLY_SLICE_ENTRIES, CHECKPOINT_BYTES, UNSEALED_BYTES_MAX};
use crate::samples::Samples;
use crate::threads::{Threads, Worker, drop_aside, serve_queue};

/// Work that may wait for the applier; openraft has one batch in flight, checkpoints and ticks are few.
const QUEUE: usize = 64;

/// Answers one entry's proposer.
pub(crate) type Reply = Box<dyn FnOnce(Applied) + Send>;

/// What the applier is asked to do.
pub(crate) enum Work {
    /// Apply committed entries, in order.
    Entries(Vec<(Entry, Option<Reply>)>, oneshot::Sender<Result<(), String>>),
    /// Hand a checkpoint at the applied index to the checkpointer, unless one is on its way.
    Checkpoint(oneshot::Sender<Option<Meta>>),
    /// A checkpoint of the state with this generation became durable.
    Durable(u64, Meta),
    /// Hand out this moment, to be sent to somebody.
    Capture(oneshot::Sender<Capture>),
    /// Take another state, received as a snapshot, as this generation.
    Install(u64, Box<State>, oneshot::Sender<()>),
}

/// A handle to the applier; clones share it.
#[derive(Clone)]
pub(crate) struct Applier {
    queue: mpsc::Sender<Work>,
    published: Published,
    feed: Feed,
    samples: Samples,
    pins: Pins,
    #[cfg(any(test, feature = "testing"))]
    forge: forge::Forge,
}

/// Where the applier sends what must become durable, with the generation of the state: a state that was
/// replaced meanwhile has no use for the answer.
pub(crate) type SendCheckpoint = Box<dyn FnMut(u64, Checkpoint) + Send>;

impl Applier {
    /// Starts the applier on a state. `send_checkpoint` must not block; a checkpoint is cut after `entries_max`
    /// entries, or sooner; `fatal` is told why the member must stop; `leases` follows what becomes of leases;
    /// `samples` are for the comparison with other members.
    pub(crate) fn start(
        threads: Threads,
        mut state: State,
        send_checkpoint: SendCheckpoint,
        entries_max: u64,
        fatal: Box<dyn Fn(String) + Send>,
        leases: LeaseClock,
        samples: Samples,
    ) -> std::io::Result<Self> {
        let published = Published::new(state.publish());
        leases.load(&published.view());
        let (queue, work) = mpsc::channel(QUEUE);
        let (feed, pins) = (Feed::default(), Pins::default());
        #[cfg(any(test, feature = "testing"))]
        let forge = forge::Forge::default();
        let worker = ApplyWorker {
            threads,
            entries_max,
            checkpointed_at: state.applied().index,
            state,
            published: published.clone(),
            feed: feed.clone(),
            send_checkpoint,
            generation: 0,
            checkpoint_in_flight: false,
            held: None,
            compaction_blocked: false,
            void: false,
            fatal,
            leases,
            samples: samples.clone(),
            pins: pins.clone(),
            #[cfg(any(test, feature = "testing"))]
            forge: forge.clone(),
        };
        serve_queue(threads, "apply", work, worker)?;
        Ok(Self {
            queue,
            published,
            feed,
            samples,
            pins,
            #[cfg(any(test, feature = "testing"))]
            forge,
        })
    }

    /// What is applied from now on, for watchers.
    pub(crate) fn feed(&self) -> &Feed {
        &self.feed
    }

    /// What the state was like at indexes that all members sample.
    pub(crate) fn samples(&self) -> &Samples {
        &self.samples
    }

    /// How long physical compaction has waited for a reader of what it would remove.
    pub(crate) fn compaction_waited(&self) -> Duration {
        self.pins.waited(Instant::now())
    }

    /// The next put is applied with this value instead of its own.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn forge_next_put(&self, value: bytes::Bytes) {
        self.forge.arm(value);
    }

    /// What everybody may see.
    pub(crate) fn published(&self) -> &Published {
        &self.published
    }

    /// Applies committed entries; returns when they are visible and answered.
    pub(crate) async fn apply(&self, entries: Vec<(Entry, Option<Reply>)>) -> Result<(), String> {
        let (done, applied) = oneshot::channel();
        self.send(Work::Entries(entries, done)).await?;
        applied.await.map_err(|_closed| stopped())?
    }

    /// Asks for a checkpoint; returns its meta once it was handed over, `None` if one is on its way.
    pub(crate) async fn checkpoint(&self) -> Result<Option<Meta>, String> {
        let (done, meta) = oneshot::channel();
        self.send(Work::Checkpoint(done)).await?;
        meta.await.map_err(|_closed| stopped())
    }

    /// Tells that a checkpoint became durable.
    pub(crate) async fn durable(&self, generation: u64, meta: Meta) -> Result<(), String> {
        self.send(Work::Durable(generation, meta)).await
    }

    /// This moment, to be sent to somebody.
    pub(crate) async fn capture(&self) -> Result<Capture, String> {
        let (done, capture) = oneshot::channel();
        self.send(Work::Capture(done)).await?;
        capture.await.map_err(|_closed| stopped())
    }

    /// Replaces the state by one that was received; its checkpoints carry this generation.
    pub(crate) async fn install(&self, generation: u64, state: State) -> Result<(), String> {
        let (done, installed) = oneshot::channel();
        self.send(Work::Install(generation, Box::new(state), done)).await?;
        installed.await.map_err(|_closed| stopped())
    }

    async fn send(&self, work: Work) -> Result<(), String> {
        self.queue.send(work).await.map_err(|_closed| stopped())
    }
}

fn stopped() -> String {
    "the applier has stopped".to_owned()
}

struct ApplyWorker {
    threads: Threads,
    /// Entries between two checkpoints at most; etcd's `--snapshot-count`.
    entries_max: u64,
    /// Index of the last checkpoint that was cut.
    checkpointed_at: Index,
    state: State,
    published: Published,
    feed: Feed,
    send_checkpoint: SendCheckpoint,
    /// Which state this is; the first is zero.
    generation: u64,
    /// One checkpoint at a time: the next is cut when this one is durable.
    checkpoint_in_flight: bool,
    /// openraft's batch that counts as applied once the checkpoint on its way is durable: until then no more
    /// come. Its proposers have their answers.
    held: Option<oneshot::Sender<Result<(), String>>>,
    /// A reader still uses what compaction would remove; tried again after the next work.
    compaction_blocked: bool,
    /// Applying or compacting failed: the state may hold half an entry, and nothing may come of it any more,
    /// a checkpoint least of all.
    void: bool,
    fatal: Box<dyn Fn(String) + Send>,
    leases: LeaseClock,
    samples: Samples,
    pins: Pins,
    #[cfg(any(test, feature = "testing"))]
    forge: forge::Forge,
}

impl Worker<Work> for ApplyWorker {
    fn handle(&mut self, work: Work) {
        if self.void {
            // Who waits for an answer sees that the applier has stopped.
            return;
        }
        self.compaction_blocked = false;
        match work {
            Work::Entries(entries, done) => {
                let result = self.apply(entries).map_err(|error| self.end(&error));
                if !self.void && self.is_checkpoint_due() {
                    self.checkpoint();
                }
                let is_behind = self.state.unsealed_bytes() >= UNSEALED_BYTES_MAX;
                if !self.void && self.checkpoint_in_flight && is_behind {
                    self.held = Some(done);
                } else {
                    let _openraft_gone = done.send(result);
                }
            }
            Work::Checkpoint(done) => {
                let _asker_gone = done.send(self.checkpoint());
            }
            Work::Durable(generation, meta) if generation == self.generation => {
                self.state.checkpointed(&meta);
                self.checkpoint_in_flight = false;
                if self.held.is_some() {
                    self.checkpoint();
                }
                self.go_on();
            }
            Work::Durable(..) => {}
            Work::Capture(done) => {
                let _asker_gone = done.send(self.state.capture());
            }
            Work::Install(generation, state, done) => {
                let replaced = std::mem::replace(&mut self.state, *state);
                self.samples.clear();
                self.generation = generation;
                self.checkpointed_at = self.state.applied().index;
                self.checkpoint_in_flight = false;
                let view = self.state.publish();
                let revision = view.revision();
                self.leases.load(&view);
                self.published.publish(view);
                self.feed.push(revision, None);
                // Its index and its store take a while to let go of (hazard D12).
                drop_aside(self.threads, replaced);
                self.go_on();
                let _openraft_gone = done.send(());
            }
        }
    }

    /// Physical compaction, a few keys at a time.
    fn idle(&mut self) -> bool {
        if self.compaction_blocked || self.void {
            return false;
        }
        match self.state.compact_step(COMPACT_STEP_KEYS) {
            Ok(CompactProgress::Blocked(oldest)) => {
                self.compaction_blocked = true;
                self.pins.blocked(Instant::now(), oldest);
                false
            }
            Ok(progress) => {
                self.pins.released();
                progress == CompactProgress::More
            }
            Err(error) => {
                self.end(&error);
                false
            }
        }
    }
}

impl ApplyWorker {
    /// Takes more entries, if they were held off.
    fn go_on(&mut self) {
        if let Some(done) = self.held.take() {
            let _openraft_gone = done.send(Ok(()));
        }
    }

    /// Stops the member; tells why.
    fn end(&mut self, error: &Fatal) -> String {
        self.void = true;
        let reason = error.to_string();
        (self.fatal)(reason.clone());
        reason
    }

    fn apply(&mut self, mut entries: Vec<(Entry, Option<Reply>)>) -> Result<(), Fatal> {
        let mut entries = entries.drain(..).peekable();
        let mut answers = Vec::with_capacity(APPLY_SLICE_ENTRIES);
        let mut leases = Vec::new();
        while entries.peek().is_some() {
            let mut revisions = Vec::new();
            for (entry, reply) in entries.by_ref().take(APPLY_SLICE_ENTRIES) {
                #[cfg(any(test, feature = "testing"))]
                let entry = self.forge.pass(entry);
                let mut applied = self.state.apply(&entry, reply.is_some())?;
                self.samples.note(&self.state);
                let events = std::mem::take(&mut applied.events);
                if !events.is_empty() {
                    revisions.push(events);
                }
                // Who waits for an answer here proposed it here.
                leases.extend(applied.leases.drain(..).map(|change| (change, reply.is_some())));
                answers.extend(reply.map(|reply| (reply, applied)));
            }
            self.leases.follow(leases.drain(..));
            self.publish(revisions);
            for (reply, applied) in answers.drain(..) {
                reply(applied);
            }
        }
        Ok(())
    }

    /// Makes a slice visible, then tells the watchers of it.
    fn publish(&mut self, revisions: Vec<Vec<Event>>) {
        let before = self.state.view();
        let view = self.state.publish();
        let revision = view.revision();
        if active(Mutant::EventBeforeApply) {
            let published = self.published.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                published.publish(view);
            });
        } else {
            self.published.publish(view);
        }
        if !revisions.is_empty() {
            let changes = self.feed.is_watched().then(|| Changes::new(revisions, before));
            self.feed.push(revision, changes);
        }
    }

    fn is_checkpoint_due(&self) -> bool {
        let entries = self.state.applied().index.0 - self.checkpointed_at.0;
        self.state.unsealed_bytes() >= CHECKPOINT_BYTES || entries >= self.entries_max
    }

    fn checkpoint(&mut self) -> Option<Meta> {
        if self.checkpoint_in_flight {
            return None;
        }
        let mut checkpoint = self.state.checkpoint();
        if active(Mutant::ApplyTwice) {
            checkpoint.meta.applied.index.0 -= 1;
        }
        self.checkpointed_at = checkpoint.meta.applied.index;
        let meta = checkpoint.meta.clone();
        self.checkpoint_in_flight = true;
        (self.send_checkpoint)(self.generation, checkpoint);
        Some(meta)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use kvd_core::checkpoint::CheckpointStore;
    use kvd_core::checkpoint::mem::MemStore;
    use kvd_core::ids::{LogId, MemberId, Term};
    use kvd_core::state::Options;

    use super::*;
    use crate::limits::STATE_SAMPLES_KEPT;

    struct Scene {
        applier: Applier,
        checkpoints: std::sync::mpsc::Receiver<(u64, Checkpoint)>,
        reasons: std::sync::mpsc::Receiver<String>,
    }

    fn empty_state() -> State {
        let store: Arc<dyn CheckpointStore> = Arc::new(MemStore::new());
        State::open(store, Options::DEFAULT).unwrap()
    }

    fn scene(entries_max: u64) -> Scene {
        let (checkpoint, checkpoints) = std::sync::mpsc::channel();
        let (reason, reasons) = std::sync::mpsc::channel();
        let send = Box::new(move |generation, cut| checkpoint.send((generation, cut)).unwrap());
        let fatal = Box::new(move |text| reason.send(text).unwrap());
        let leases = LeaseClock::new(Duration::from_secs(1));
        let state = empty_state();
        let samples = Samples::new(4);
        let applier =
            Applier::start(Threads::Os, state, send, entries_max, fatal, leases, samples).unwrap();
        Scene { applier, checkpoints, reasons }
    }

    fn entry(index: u64, proposal: Option<&'static [u8]>) -> (Entry, Option<Reply>) {
        let log_id = LogId { term: Term(1), node: MemberId(1), index: Index(index) };
        let proposal = proposal.map(Bytes::from_static);
        (Entry { log_id, proposal, membership: None }, None)
    }

    #[tokio::test]
    async fn nothing_comes_of_a_state_that_failed() {
        let scene = scene(1);
        let refused = scene.applier.apply(vec![entry(1, None), entry(2, Some(&[0xff]))]).await;
        assert!(refused.is_err());
        assert!(!scene.reasons.recv().unwrap().is_empty());
        assert!(scene.applier.checkpoint().await.is_err(), "not even when asked for");
        assert!(scene.applier.capture().await.is_err());
        assert!(scene.checkpoints.try_recv().is_err(), "and it was due");
    }

    #[tokio::test]
    async fn whoever_waits_for_an_index_is_woken_by_it() {
        let scene = scene(u64::MAX);
        let published = scene.applier.published().clone();
        let waiting = tokio::spawn({
            let published = published.clone();
            async move { published.at_least(Index(2)).await.at().index }
        });
        scene.applier.apply(vec![entry(1, None)]).await.unwrap();
        scene.applier.apply(vec![entry(2, None), entry(3, None)]).await.unwrap();
        assert!(waiting.await.unwrap() >= Index(2));
        assert_eq!(published.at_least(Index(3)).await.at().index, Index(3));
    }

    /// Whatever slices and batches the entries come in.
    #[tokio::test]
    async fn a_sample_is_taken_at_every_index_that_is_due() {
        let scene = scene(u64::MAX);
        let batch = |from, to| (from..=to).map(|index| entry(index, None)).collect();
        scene.applier.apply(batch(1, 3)).await.unwrap();
        assert_eq!(scene.applier.samples().all(), []);
        let last = 4 * (STATE_SAMPLES_KEPT as u64 + 3) + 1;
        scene.applier.apply(batch(4, last)).await.unwrap();
        let indexes: Vec<u64> =
            scene.applier.samples().all().iter().map(|sample| sample.index.0).collect();
        let kept: Vec<u64> = (4..=last / 4).map(|number| 4 * number).collect();
        assert_eq!(indexes, kept, "the newest");

        let (done, installed) = oneshot::channel();
        let install = Work::Install(1, Box::new(empty_state()), done);
        scene.applier.send(install).await.unwrap();
        installed.await.unwrap();
        assert_eq!(scene.applier.samples().all(), [], "of a state that was replaced");
    }
}
