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

use self::hub::{Delivering, Hub};
use self::outbox::Waiting;
use crate::apply::Published;
use crate::fatal::FatalSignal;
use crate::feed::{Changes, Feed};
use crate::limits::DELIVERIES_PER_TURN;
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
            Some(Err(ReadError::Fatal(fatal))) => Err(fatal),
            Some(Err(ReadError::Miss)) => {
                Err(Fatal::Invariant("a read of the device missed a block".to_owned()))
            }
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
            let Some(found) = self.readers.run(move || catch_up::scan(&view, wanted)).await else {
                return;
            };
            match found {
                Ok(found) => {
                    let mut hub = self.hub();
                    for one in found {
                        hub.found(one, current);
                    }
                }
                Err(error) => {
                    self.fatal.raise(error.to_string());
                    return;
                }
            }
            tokio::task::yield_now().await;
        }
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
