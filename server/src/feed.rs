//! What was applied, on its way to the watchers: from the applier, which never waits, to the hub.
//!
//! Bounded in bytes. What does not fit, or happened while nobody watched, is not kept: the hub is told how far
//! it missed out, and its watchers read that part from history (hazard B1).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvd_core::event::Event;
use kvd_core::ids::Revision;
use kvd_core::view::View;
use tokio::sync::Notify;

use crate::limits::FEED_BYTES_MAX;

/// Bytes that an event takes beside its key and value.
const EVENT_OVERHEAD: usize = 160;

/// What one slice of entries did.
pub(crate) struct Slice {
    /// The store's revision after it.
    pub(crate) revision: Revision,
    /// The events of each revision in order, or nothing where they were not kept.
    pub(crate) changes: Option<Changes>,
}

/// Events with the means to look at what they replaced.
pub(crate) struct Changes {
    /// One list a revision.
    pub(crate) revisions: Vec<Vec<Event>>,
    /// The View before them: it keeps compaction from what they replaced.
    pub(crate) before: View,
    bytes: usize,
}

impl Changes {
    /// Changes with the View that was published before them.
    pub(crate) fn new(revisions: Vec<Vec<Event>>, before: View) -> Self {
        let size = |event: &Event| EVENT_OVERHEAD + event.kv.key.len() + event.kv.value.len();
        let bytes = revisions.iter().flatten().map(size).sum();
        Self { revisions, before, bytes }
    }
}

/// The way from the applier to the hub; clones share it.
#[derive(Clone, Default)]
pub(crate) struct Feed {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    more: Notify,
    /// Who is interested; without anybody events are not kept.
    watching: AtomicUsize,
}

#[derive(Default)]
struct Queue {
    slices: VecDeque<Slice>,
    bytes: usize,
}

/// While it lives, events are kept.
pub(crate) struct Interest(Feed);

impl Drop for Interest {
    fn drop(&mut self) {
        self.0.shared.watching.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Feed {
    /// Has events kept from now on.
    pub(crate) fn interest(&self) -> Interest {
        self.shared.watching.fetch_add(1, Ordering::Relaxed);
        // What went before is told at once: who joins waits for the hub to be up to date.
        self.shared.more.notify_one();
        Interest(self.clone())
    }

    /// Whether events are to be kept.
    pub(crate) fn is_watched(&self) -> bool {
        self.shared.watching.load(Ordering::Relaxed) > 0
    }

    /// Adds what was applied. Never waits: what does not fit is given up, together with what waits before it.
    pub(crate) fn push(&self, revision: Revision, changes: Option<Changes>) {
        let mut queue = self.lock();
        let bytes = changes.as_ref().map_or(0, |changes| changes.bytes);
        // A slice holds a View: it must not wait for somebody to be interested again.
        let is_held = changes.is_some();
        let is_gap_after_gap =
            changes.is_none() && queue.slices.back().is_some_and(|last| last.changes.is_none());
        if queue.bytes + bytes > FEED_BYTES_MAX && !queue.slices.is_empty() {
            *queue = Queue::default();
            queue.slices.push_back(Slice { revision, changes: None });
        } else if is_gap_after_gap {
            if let Some(last) = queue.slices.back_mut() {
                last.revision = revision;
            }
        } else {
            queue.bytes += bytes;
            queue.slices.push_back(Slice { revision, changes });
        }
        drop(queue);
        if is_held || self.is_watched() {
            self.shared.more.notify_one();
        }
    }

    /// The next slice, in order.
    pub(crate) async fn next(&self) -> Slice {
        loop {
            if let Some(slice) = self.take() {
                return slice;
            }
            self.shared.more.notified().await;
        }
    }

    fn take(&self) -> Option<Slice> {
        let mut queue = self.lock();
        let slice = queue.slices.pop_front()?;
        queue.bytes -= slice.changes.as_ref().map_or(0, |changes| changes.bytes);
        Some(slice)
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use kvd_core::checkpoint::mem::MemStore;
    use kvd_core::event::{EventKind, KeyValue};
    use kvd_core::ids::ChangeId;
    use kvd_core::state::{Options, State};

    use super::*;

    fn changes(revision: i64, bytes: usize) -> Option<Changes> {
        let view = State::open(Arc::new(MemStore::new()), Options::DEFAULT).unwrap().view();
        let main = Revision(revision);
        let kv = KeyValue { value: Bytes::from(vec![0; bytes]), ..KeyValue::default() };
        let change = ChangeId { main, sub: 0 };
        let event = Event { kind: EventKind::Put, kv, change, prev: None };
        Some(Changes::new(vec![vec![event]], view))
    }

    #[tokio::test]
    async fn what_does_not_fit_is_told_as_a_gap() {
        let feed = Feed::default();
        let _watching = feed.interest();
        feed.push(Revision(2), changes(2, FEED_BYTES_MAX / 2));
        feed.push(Revision(3), changes(3, FEED_BYTES_MAX / 2));
        feed.push(Revision(4), changes(4, 1));
        let gap = feed.next().await;
        assert!(gap.changes.is_none() && gap.revision == Revision(3));
        let after = feed.next().await;
        assert!(after.changes.is_some() && after.revision == Revision(4));
        assert_eq!(feed.lock().bytes, 0);
    }

    #[tokio::test]
    async fn one_slice_always_fits() {
        let feed = Feed::default();
        let _watching = feed.interest();
        feed.push(Revision(2), changes(2, 2 * FEED_BYTES_MAX));
        assert!(feed.next().await.changes.is_some());
    }

    #[tokio::test]
    async fn gaps_come_as_one() {
        let feed = Feed::default();
        for revision in 2..100 {
            feed.push(Revision(revision), None);
        }
        assert_eq!(feed.next().await.revision, Revision(99));
        assert!(feed.take().is_none());
    }
}
