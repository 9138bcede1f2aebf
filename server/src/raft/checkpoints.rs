//! What is known of this member's checkpoints: the last two that are durable, and who waits for the next.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvd_core::checkpoint::Meta;
use kvd_core::ids::{Index, LogId, Revision};
use tokio::sync::watch;

use crate::apply::Applier;

/// A shared record of durable checkpoints; clones share it.
#[derive(Clone)]
pub(crate) struct Checkpoints {
    inner: Arc<Inner>,
}

struct Inner {
    marks: Mutex<Marks>,
    /// Applied entry of the last durable checkpoint.
    durable: watch::Sender<Option<LogId>>,
}

#[derive(Default)]
struct Marks {
    /// Which state the marks speak of; the first is zero.
    generation: u64,
    last: Option<Meta>,
    previous: Option<LogId>,
    /// What the snapshot is that openraft will ask for.
    reported: Option<Meta>,
}

impl Checkpoints {
    /// Starts from what the store holds. Nothing before it is kept for a second checkpoint.
    pub(crate) fn new(last: Option<Meta>) -> Self {
        let applied = last.as_ref().map(|meta| meta.applied);
        let marks = Marks { generation: 0, last, previous: applied, reported: None };
        Self {
            inner: Arc::new(Inner {
                marks: Mutex::new(marks),
                durable: watch::Sender::new(applied),
            }),
        }
    }

    /// The last durable checkpoint.
    pub(crate) fn last(&self) -> Option<Meta> {
        self.lock().last.clone()
    }

    /// The entry up to which the log may go, as far as checkpoints are concerned: the one before the last
    /// (hazard A8), so that a broken checkpoint has one to fall back to.
    pub(crate) fn purgeable(&self) -> Option<LogId> {
        self.lock().previous
    }

    /// A checkpoint became durable; answers whether it is one of the present state. The applier must have been
    /// told before, or whoever is woken by this finds it still busy with the last one, and waits for ever.
    pub(crate) fn became_durable(&self, generation: u64, meta: &Meta) -> bool {
        let mut marks = self.lock();
        if marks.generation != generation {
            // Its store was replaced while it was being written.
            return false;
        }
        marks.previous = marks.last.as_ref().map(|last| last.applied);
        marks.last = Some(meta.clone());
        drop(marks);
        self.inner.durable.send_replace(Some(meta.applied));
        true
    }

    /// Openraft is about to be told of the last durable checkpoint: the snapshot it asks for is that one, not a
    /// new one, or each would bring about the next.
    pub(crate) fn report(&self) {
        let mut marks = self.lock();
        marks.reported = marks.last.clone();
    }

    /// A received state was installed: it is the last checkpoint and there is none before it (hazard A8).
    pub(crate) fn installed(&self, generation: u64, meta: &Meta) {
        let mut marks = self.lock();
        let (last, previous) = (Some(meta.clone()), Some(meta.applied));
        *marks = Marks { generation, last, previous, reported: None };
        drop(marks);
        self.inner.durable.send_replace(Some(meta.applied));
    }

    /// The checkpoint that openraft is to be told of, once.
    pub(crate) fn take_reported(&self) -> Option<Meta> {
        self.lock().reported.take()
    }

    /// Has checkpoints made until one at this index or later is durable.
    pub(crate) async fn durable_at(&self, applier: &Applier, index: Index) -> Result<Meta, String> {
        let mut durable = self.inner.durable.subscribe();
        loop {
            // Seen before it is looked at: what becomes durable from here on ends the wait below.
            durable.borrow_and_update();
            if let Some(meta) = self.last().filter(|meta| meta.applied.index >= index) {
                return Ok(meta);
            }
            applier.checkpoint().await?;
            durable.changed().await.map_err(|_closed| "the member is stopping".to_owned())?;
        }
    }

    /// Returns once a durable checkpoint covers a compaction that is applied here already.
    pub(crate) async fn compacted_to(
        &self,
        applier: &Applier,
        revision: Revision,
    ) -> Result<(), String> {
        let meta = self.durable_at(applier, applier.published().applied()).await?;
        if meta.compacted >= Some(revision) {
            return Ok(());
        }
        Err(format!("revision {revision} is not compacted"))
    }

    fn lock(&self) -> MutexGuard<'_, Marks> {
        // A panic aborts the process; either way the content is whole.
        self.inner.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use kvd_core::checkpoint::conformance;

    use super::*;

    #[test]
    fn a_replaced_states_checkpoint_counts_for_nothing() {
        let meta = |sequence| conformance::checkpoint(sequence).rows(0).build().meta;
        let checkpoints = Checkpoints::new(None);
        assert!(checkpoints.became_durable(0, &meta(1)));
        checkpoints.installed(1, &meta(3));
        assert!(!checkpoints.became_durable(0, &meta(2)), "written when it was replaced");
        assert_eq!(checkpoints.last(), Some(meta(3)));
        assert_eq!(checkpoints.purgeable(), Some(meta(3).applied));
        assert!(checkpoints.became_durable(1, &meta(4)));
        assert_eq!(checkpoints.purgeable(), Some(meta(3).applied), "the one before the last");
    }
}
