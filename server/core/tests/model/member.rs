//! One member of the core: its state, its store, and what it does at times of its own.

use std::sync::Arc;

use kvd_core::checkpoint::mem::{Fault, MemStore};
use kvd_core::checkpoint::{Checkpoint, CheckpointStore};
use kvd_core::command::Entry;
use kvd_core::outcome::Applied;
use kvd_core::state::{CompactProgress, Options, State};

use super::steps::Step;
use super::world::agree;

/// See the module.
pub(crate) struct Member {
    pub(crate) state: State,
    store: Arc<MemStore>,
    options: Options,
    want_response: bool,
    /// Taken, not yet written.
    checkpoint: Option<Checkpoint>,
}

impl Member {
    pub(crate) fn new(want_response: bool, cache_bytes: usize) -> Self {
        let store = Arc::new(MemStore::new());
        let options = Options { cache_bytes };
        let state = State::open(Arc::clone(&store) as Arc<dyn CheckpointStore>, options).unwrap();
        Self { state, store, options, want_response, checkpoint: None }
    }

    pub(crate) fn apply(&mut self, entry: &Entry) -> Result<Applied, String> {
        let applied = self.state.apply(entry, self.want_response).map_err(|f| f.to_string())?;
        self.state.publish();
        Ok(applied)
    }

    pub(crate) fn sweep(&mut self, keys_max: usize) -> Result<CompactProgress, String> {
        self.state.compact_step(keys_max).map_err(|fatal| fatal.to_string())
    }

    /// What a member does by itself.
    pub(crate) fn care(
        &mut self,
        step: &Step,
        log: &[Entry],
        applied: &[Applied],
    ) -> Result<(), String> {
        match step {
            Step::Sweep { keys_max, .. } => self.sweep(*keys_max).map(|_| ()),
            Step::Checkpoint { .. } => {
                if self.checkpoint.is_none() {
                    self.checkpoint = Some(self.state.checkpoint());
                }
                Ok(())
            }
            Step::Write { full_once, .. } => self.write(*full_once),
            Step::Crash { .. } => self.crash(log, applied),
            _ => self.state.check().map_err(|fatal| fatal.to_string()),
        }
    }

    fn write(&mut self, full_once: bool) -> Result<(), String> {
        let Some(checkpoint) = self.checkpoint.take() else {
            return Ok(());
        };
        if full_once {
            self.store.fail_next(Fault::NoSpace);
            let refused = self.store.commit(&checkpoint);
            agree(refused.is_err(), &"no space", &refused)?;
        }
        self.store.commit(&checkpoint).map_err(|error| error.to_string())?;
        self.state.checkpointed(&checkpoint.meta);
        Ok(())
    }

    fn crash(&mut self, log: &[Entry], applied: &[Applied]) -> Result<(), String> {
        self.store = Arc::new(self.store.crash());
        self.checkpoint = None;
        let store = Arc::clone(&self.store) as Arc<dyn CheckpointStore>;
        self.state = State::open(store, self.options).map_err(|fatal| fatal.to_string())?;
        let from = self.state.applied().index.0;
        let covered = usize::try_from(from).unwrap();
        for (entry, before) in log.iter().zip(applied).skip(covered) {
            let again = self.apply(entry)?;
            let same = (&again.events, again.revision) == (&before.events, before.revision);
            agree(same, before, &again)?;
        }
        Ok(())
    }
}
