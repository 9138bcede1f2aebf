//! What waits to be sent on one watch stream: answers, events and progress in one order, so that progress
//! cannot overtake an event (rule W22). Bounded in bytes; one response always fits where nothing waits.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use kvd_core::ids::Revision;
use tokio::sync::Notify;

use super::request::WatchId;
use crate::limits::{
    WATCH_ANSWERS_MAX, WATCH_BYTES_MAX, WATCH_STREAM_BYTES_MAX, WATCH_STREAM_BYTES_MIN,
};
use crate::node::Unavailable;

/// Bytes that a message takes beside its events.
const MESSAGE_OVERHEAD: usize = 128;

/// Events in the wire form of `WatchResponse.events`, encoded once for all who watch them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The events, in order.
    pub events: Vec<Bytes>,
    /// Their bytes.
    pub bytes: usize,
}

impl Batch {
    pub(crate) fn new(events: Vec<Bytes>) -> Arc<Self> {
        let bytes = events.iter().map(Bytes::len).sum();
        Arc::new(Self { events, bytes })
    }
}

/// One thing to tell the client. The revision is the header's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A watch was created (rule W5).
    Created {
        /// Which.
        id: WatchId,
        /// The revision after which every event will come.
        revision: Revision,
    },
    /// A watch was not created (rule W3).
    Refused {
        /// The current revision.
        revision: Revision,
        /// Why, in etcd's words.
        reason: &'static str,
    },
    /// A watch ended because its client asked for that (rule W8).
    Canceled {
        /// Which.
        id: WatchId,
        /// The current revision.
        revision: Revision,
    },
    /// A watch ended because what it needs next was compacted (rule W24).
    Compacted {
        /// Which.
        id: WatchId,
        /// The compaction mark.
        mark: Revision,
    },
    /// Events of a watch.
    Events {
        /// Which.
        id: WatchId,
        /// Of the events, or the current one of the scan that found them (rules W15, W16).
        revision: Revision,
        /// The events.
        batch: Arc<Batch>,
        /// Whether the client takes it in parts.
        may_fragment: bool,
    },
    /// Everything up to the revision was sent (rules W20, W21).
    Progress {
        /// Of which watch; [`WatchId::ALL`] for the stream.
        id: WatchId,
        /// Up to where.
        revision: Revision,
    },
}

impl Message {
    fn is_answer(&self) -> bool {
        matches!(self, Self::Created { .. } | Self::Refused { .. } | Self::Canceled { .. })
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Events { batch, .. } => MESSAGE_OVERHEAD + batch.bytes,
            _ => MESSAGE_OVERHEAD,
        }
    }
}

/// Bytes that wait in all streams of a member.
#[derive(Debug, Default)]
pub(crate) struct Waiting(AtomicUsize);

impl Waiting {
    pub(crate) fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Outbox {
    inner: Mutex<Inner>,
    waiting: Arc<Waiting>,
    /// Told when there is room for another answer.
    room: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    queue: VecDeque<Message>,
    bytes: usize,
    /// Messages in the queue that answer a request.
    answers: usize,
    /// Something did not fit: whoever makes room tells.
    starved: bool,
    ended: Option<Unavailable>,
    reader: Option<Waker>,
}

/// What a reader of the queue got.
#[derive(Debug)]
pub(crate) enum Taken {
    /// The next message, and whether somebody waits for the room that there is now.
    Message(Message, bool),
    /// Nothing will follow.
    Ended(Unavailable),
}

impl Outbox {
    pub(crate) fn new(waiting: Arc<Waiting>) -> Self {
        Self { inner: Mutex::default(), waiting, room: Notify::new() }
    }

    /// Adds what a watcher is sent, if there is room for it.
    pub(crate) fn offer(&self, message: Message) -> bool {
        let mut inner = self.lock();
        if inner.ended.is_some() {
            // Nobody will take it.
            return true;
        }
        if !self.fits(&inner, message.bytes()) {
            inner.starved = true;
            return false;
        }
        self.push(inner, message);
        true
    }

    /// Whether there is room for more than the least.
    pub(crate) fn has_room(&self) -> bool {
        let mut inner = self.lock();
        let room = inner.bytes <= WATCH_STREAM_BYTES_MAX / 2 && self.fits(&inner, 0);
        inner.starved |= !room;
        room
    }

    /// Adds an answer to a request. The caller waited for room, so there is not more of them than requests
    /// that were read.
    pub(crate) fn answer(&self, message: Message) {
        let mut inner = self.lock();
        inner.answers += 1;
        self.push(inner, message);
    }

    /// Waits until the client took most answers that it asked for.
    pub(crate) async fn room_for_answer(&self) {
        while self.is_full_of_answers() {
            self.room.notified().await;
        }
    }

    fn is_full_of_answers(&self) -> bool {
        let inner = self.lock();
        inner.answers >= WATCH_ANSWERS_MAX && inner.ended.is_none()
    }

    /// Ends the stream behind what waits.
    pub(crate) fn end(&self, reason: Unavailable) {
        let mut inner = self.lock();
        inner.ended.get_or_insert(reason);
        wake(inner);
        self.room.notify_one();
    }

    /// The next message.
    pub(crate) fn poll_next(&self, context: &mut Context<'_>) -> Poll<Taken> {
        let mut inner = self.lock();
        let Some(message) = inner.queue.pop_front() else {
            if let Some(reason) = inner.ended {
                return Poll::Ready(Taken::Ended(reason));
            }
            let waker = context.waker();
            if inner.reader.as_ref().is_none_or(|known| !known.will_wake(waker)) {
                inner.reader = Some(waker.clone());
            }
            return Poll::Pending;
        };
        inner.bytes -= message.bytes();
        self.waiting.0.fetch_sub(message.bytes(), Ordering::Relaxed);
        if message.is_answer() {
            inner.answers = inner.answers.saturating_sub(1);
            self.room.notify_one();
        }
        let has_room = inner.starved && inner.bytes <= WATCH_STREAM_BYTES_MAX / 2;
        inner.starved &= !has_room;
        Poll::Ready(Taken::Message(message, has_room))
    }

    fn fits(&self, inner: &Inner, bytes: usize) -> bool {
        let own = inner.bytes + bytes;
        let all = self.waiting.0.load(Ordering::Relaxed) + bytes;
        let within = own <= WATCH_STREAM_BYTES_MAX
            && (own <= WATCH_STREAM_BYTES_MIN || all <= WATCH_BYTES_MAX);
        within || inner.queue.is_empty()
    }

    fn push(&self, mut inner: MutexGuard<'_, Inner>, message: Message) {
        inner.bytes += message.bytes();
        self.waiting.0.fetch_add(message.bytes(), Ordering::Relaxed);
        inner.queue.push_back(message);
        wake(inner);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        let bytes = self.lock().bytes;
        self.waiting.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Wakes the reader once the lock is free.
fn wake(mut inner: MutexGuard<'_, Inner>) {
    let reader = inner.reader.take();
    drop(inner);
    if let Some(reader) = reader {
        reader.wake();
    }
}
