//! Watch: streams of events, each exactly once and in order (behaviour.md 3).
//!
//! ```text
//!   applier ──feed──> hub ──offer──> outbox of each stream ──> client
//!                      │  ▲                 │
//!               behind │  │ found           │ room again
//!                      ▼  │                 ▼
//!                     catch-up: one scan of history for all who need it
//! ```
//!
//! The hub is told of every revision once, in order. It alone decides what a watcher is sent, and puts events,
//! answers and progress into one queue a stream.

mod catch_up;
mod classes;
mod hub;
mod lagging;
mod outbox;
mod request;
mod stream;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvd_core::ids::Revision;
use kvd_core::outcome::Fatal;
use kvd_core::view::{Access, ReadError, View};
use tokio::sync::{Notify, watch};

use self::catch_up::Manner;
use self::hub::{Delivering, Found, Hub};
use self::outbox::Waiting;
use crate::apply::Published;
use crate::fatal::FatalSignal;
use crate::feed::{Changes, Feed};
use crate::limits::{
    CATCH_UP_OFFER_BYTES, DELIVERIES_PER_TURN, WATCH_BYTES_MAX, WATCH_STREAM_BYTES_MIN,
};
use crate::threads::ReaderPool;

pub use self::hub::Counts;
pub use self::outbox::{Batch, Message};
pub use self::request::{Create, Interest, WatchId};
pub use self::stream::{WatchMessages, WatchStream};

/// All watches of a member.
pub(crate) struct Watches {
    hub: Mutex<Hub>,
    feed: Feed,
    published: Published,
    readers: ReaderPool,
    fatal: FatalSignal,
    waiting: Arc<Waiting>,
    /// How far the hub is.
    revision: watch::Sender<Revision>,
    /// Somebody is behind and could read.
    behind: Notify,
    is_running: AtomicBool,
}

impl Watches {
    pub(crate) fn new(
        feed: Feed,
        published: Published,
        readers: ReaderPool,
        fatal: FatalSignal,
    ) -> Self {
        let revision = published.view().revision();
        Self {
            hub: Mutex::new(Hub::new(revision)),
            feed,
            published,
            readers,
            fatal,
            waiting: Arc::default(),
            revision: watch::Sender::new(revision),
            behind: Notify::new(),
            is_running: AtomicBool::new(false),
        }
    }

    /// Starts to follow the store on this runtime, once.
    pub(crate) fn start(self: &Arc<Self>) {
        if self.is_running.swap(true, Ordering::Relaxed) {
            return;
        }
        let (follower, reader) = (Arc::clone(self), Arc::clone(self));
        tokio::spawn(async move { follower.follow().await });
        tokio::spawn(async move { reader.catch_up().await });
    }

    /// How many watch.
    pub(crate) fn counts(&self) -> Counts {
        self.hub().counts()
    }

    /// Waits until the hub knows everything that can be read here: a watch that is created then misses nothing
    /// and is sent nothing from before it (hazard B6).
    async fn up_to_date(&self) {
        let visible = self.published.view().revision();
        let mut revision = self.revision.subscribe();
        // The sender lives as long as this.
        let _reached = revision.wait_for(|revision| *revision >= visible).await;
    }

    async fn follow(&self) {
        loop {
            let slice = self.feed.next().await;
            match slice.changes {
                Some(changes) => {
                    if let Err(error) = self.deliver(changes).await {
                        self.fatal.raise(error.to_string());
                        return;
                    }
                    self.hub().reached(slice.revision);
                    // A feed that is never empty must not keep the others from their turn.
                    tokio::task::yield_now().await;
                }
                None => self.hub().gap(slice.revision),
            }
            self.tell();
        }
    }

    /// Delivers the events of a slice, a revision at a time.
    async fn deliver(&self, changes: Changes) -> Result<(), Fatal> {
        let Changes { revisions, before, .. } = changes;
        let ends = revisions.iter().scan(0, |end, events| {
            *end += events.len();
            Some(*end)
        });
        let ends: Vec<usize> = ends.collect();
        let mut delivering = Delivering::new(revisions.into_iter().flatten().collect());
        let wanted = {
            let hub = self.hub();
            let events = (0..ends.last().copied().unwrap_or(0)).filter(|at| {
                delivering.previous[*at].is_none() && hub.wants_prev(delivering.event(*at))
            });
            events.collect()
        };
        self.look_up(&mut delivering, &before, wanted).await?;
        let (mut start, mut since_turn) = (0, 0);
        for end in ends {
            // Who began to watch meanwhile may want more than was looked up.
            let delivered = loop {
                let delivered = self.hub().deliver(&mut delivering, start..end);
                match delivered {
                    Ok(delivered) => break delivered,
                    Err(unknown) => self.look_up(&mut delivering, &before, unknown).await?,
                }
            };
            start = end;
            since_turn += delivered;
            if since_turn >= DELIVERIES_PER_TURN {
                since_turn = 0;
                self.tell();
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    /// Looks up what events replaced: in memory, and what is not there on a reader thread, all at once.
    async fn look_up(
        &self,
        delivering: &mut Delivering,
        before: &View,
        mut wanted: Vec<usize>,
    ) -> Result<(), Fatal> {
        let mut failed = None;
        wanted.retain(|at| match before.previous(delivering.event(*at), Access::Memory) {
            Ok(previous) => {
                delivering.previous[*at] = Some(previous);
                false
            }
            Err(ReadError::Miss) => true,
            Err(ReadError::Fatal(fatal)) => {
                failed = Some(fatal);
                false
            }
        });
        if let Some(fatal) = failed {
            return Err(fatal);
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let events: Vec<_> = wanted.iter().map(|at| delivering.event(*at).clone()).collect();
        let view = before.clone();
        let read = self.readers.run(move || {
            let previous = events.iter().map(|event| view.previous(event, Access::Disk));
            previous.collect::<Result<Vec<_>, _>>()
        });
        match read.await {
            Some(Ok(found)) => {
                for (at, previous) in wanted.into_iter().zip(found) {
                    delivering.previous[at] = Some(previous);
                }
                Ok(())
            }
            Some(Err(error)) => Err(error.into_fatal()),
            // The process ends; what is not sent is read again elsewhere.
            None => std::future::pending().await,
        }
    }

    /// Reads history for who is behind, a scan at a time.
    async fn catch_up(&self) {
        loop {
            let wanted = self.hub().next_turn();
            if wanted.is_empty() {
                self.behind.notified().await;
                continue;
            }
            let view = self.published.view();
            let current = view.revision();
            let manner = self.manner(Access::Disk);
            let scan = self.readers.run(move || catch_up::scan(&view, wanted, manner));
            let Some(found) = scan.await else { return };
            match found {
                Ok(found) => self.found(found, current),
                Err(error) => return self.fatal.raise(error.into_fatal().to_string()),
            }
            tokio::task::yield_now().await;
        }
    }

    /// Hands over what history had. Meanwhile more happened: who lacks only that is given it while nothing
    /// more can, or it would never catch up with a store that is written to all the time.
    fn found(&self, found: Vec<Found>, current: Revision) {
        let mut hub = self.hub();
        for one in found {
            hub.found(one, current);
        }
        let near = hub.nearly_there();
        if near.is_empty() {
            return;
        }
        let view = self.published.view();
        let waiting: Vec<_> = near.iter().map(|one| (one.watcher, one.next)).collect();
        match catch_up::scan(&view, near, self.manner(Access::Memory)) {
            Ok(found) => {
                for one in found {
                    hub.found(one, view.revision());
                }
            }
            // Not in memory any more: another turn, with the device.
            Err(ReadError::Miss) => hub.not_read(waiting.into_iter()),
            Err(ReadError::Fatal(fatal)) => self.fatal.raise(fatal.to_string()),
        }
    }

    /// Offers less where much waits already.
    fn manner(&self, access: Access) -> Manner {
        let is_full = self.waiting.bytes() > WATCH_BYTES_MAX;
        let offer_bytes = if is_full { WATCH_STREAM_BYTES_MIN } else { CATCH_UP_OFFER_BYTES };
        Manner { access, offer_bytes }
    }

    /// Tells how far the hub is, and wakes who reads history.
    fn tell(&self) {
        let (revision, is_anyone_behind) = {
            let hub = self.hub();
            (hub.revision(), hub.is_anyone_behind())
        };
        self.revision.send_if_modified(|known| {
            let is_news = *known != revision;
            *known = revision;
            is_news
        });
        if is_anyone_behind {
            self.behind.notify_one();
        }
    }

    fn hub(&self) -> MutexGuard<'_, Hub> {
        self.hub.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
