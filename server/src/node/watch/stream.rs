//! One client's stream: requests in order on one side, messages in order on the other.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::Stream;

use super::Watches;
use super::hub::StreamKey;
use super::outbox::{Message, Outbox, Taken};
use super::request::{Create, WatchId};
use crate::feed;
use crate::node::Unavailable;

/// What a client asks goes in here. Requests are handled one after the other.
#[derive(Clone)]
pub struct WatchStream {
    watches: Arc<Watches>,
    outbox: Arc<Outbox>,
    key: StreamKey,
}

/// What it is sent comes out here. Dropping it ends its watches.
pub struct WatchMessages {
    stream: WatchStream,
    _events_are_kept: feed::Interest,
}

impl WatchStream {
    /// Opens a stream without watches.
    pub(crate) fn open(watches: &Arc<Watches>) -> (Self, WatchMessages) {
        let events_are_kept = watches.feed.interest();
        let outbox = Arc::new(Outbox::new(Arc::clone(&watches.waiting)));
        let key = watches.hub().open(Arc::clone(&outbox));
        let stream = Self { watches: Arc::clone(watches), outbox, key };
        let messages = WatchMessages { stream: stream.clone(), _events_are_kept: events_are_kept };
        (stream, messages)
    }

    /// Creates a watch, or says why not.
    pub async fn create(&self, create: Create) {
        self.outbox.room_for_answer().await;
        self.watches.up_to_date().await;
        self.watches.hub().create(self.key, create);
        self.watches.tell();
    }

    /// Answers a request for a watch that cannot be created.
    pub async fn refuse(&self, reason: &'static str) {
        self.outbox.room_for_answer().await;
        self.watches.up_to_date().await;
        self.watches.hub().refuse(self.key, reason);
    }

    /// Ends a watch.
    pub async fn cancel(&self, id: WatchId) {
        self.outbox.room_for_answer().await;
        self.watches.up_to_date().await;
        self.watches.hub().cancel(self.key, id);
    }

    /// Asks how far the stream is.
    pub async fn progress(&self) {
        self.watches.up_to_date().await;
        self.watches.hub().progress(self.key);
    }

    /// Tells how far quiet watches are that want to know it now and then.
    pub fn tick(&self) {
        self.watches.hub().tick(self.key);
    }

    /// A share of one that differs from stream to stream, so that not all do something at once.
    pub fn jitter(&self) -> f64 {
        let mixed = self.key.number().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        mixed as f64 / f64::from(u32::MAX)
    }

    /// Ends the stream behind what waits.
    pub fn end(&self, reason: Unavailable) {
        self.outbox.end(reason);
    }
}

impl Stream for WatchMessages {
    type Item = Result<Message, Unavailable>;

    fn poll_next(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Message, Unavailable>>> {
        let WatchStream { watches, outbox, key } = &self.stream;
        match outbox.poll_next(context) {
            Poll::Ready(Taken::Message(message, made_room)) => {
                if made_room {
                    watches.hub().drained(*key);
                    watches.behind.notify_one();
                }
                Poll::Ready(Some(Ok(message)))
            }
            Poll::Ready(Taken::Ended(reason)) => Poll::Ready(Some(Err(reason))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for WatchMessages {
    fn drop(&mut self) {
        self.stream.watches.hub().close(self.stream.key);
    }
}
