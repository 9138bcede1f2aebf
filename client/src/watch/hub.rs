//! Watches that go on by themselves: all those of a client share one stream.
//!
//! The stream is opened again, at another endpoint if need be, when it ends, when its endpoint is silent, and when the
//! client goes to another endpoint; every watch then goes on one revision after the last that was handed on. A watch
//! whose reader is slow is taken from the stream until there is room: it delays no other, and nothing is lost.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use kvd_proto::etcdserverpb::WatchCreateRequest;
use kvd_proto::mvccpb::Event;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout_at;
use tokio_stream::Stream;

use super::stream::WatchEnd;
use super::task::Task;
use crate::client::Client;
use crate::error::Error;
use crate::namespace::Namespace;

/// Orders that wait.
const ORDERS_MAX: usize = 64;

/// What a watch tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// What happened: all events of one or more revisions, in their order.
    Events {
        /// The last of these revisions.
        revision: i64,
        /// In the order of their revisions.
        events: Vec<Event>,
    },
    /// Nothing happened up to this revision that was not told.
    Progress {
        /// A revision of the store.
        revision: i64,
    },
    /// The history that comes next was compacted away: read the keys anew, and watch from there. The watch is over.
    Resync {
        /// The oldest revision that can still be watched from.
        compacted: i64,
    },
}

/// A watch that goes on by itself, as a [`Stream`]. Dropping it ends it.
///
/// It ends after [`Update::Resync`], and after an error: the server refused to go on.
#[derive(Debug)]
pub struct Watch {
    updates: mpsc::Receiver<Result<Update, WatchEnd>>,
    orders: mpsc::Sender<Order>,
    created_at: i64,
    namespace: Namespace,
}

/// The watches of a client; made with the client, at work while there are any.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    orders: Mutex<Option<mpsc::Sender<Order>>>,
}

/// What the hub's task is asked for.
#[derive(Debug)]
pub(super) enum Order {
    Watch { request: WatchCreateRequest, ready: oneshot::Sender<Result<Ready, Error>> },
    Progress,
}

/// A watch that exists.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) updates: mpsc::Receiver<Result<Update, WatchEnd>>,
    pub(super) created_at: i64,
}

impl Client {
    /// Watches keys until dropped: every revision once, in order, across members and their failures. Answers when a
    /// server has created the watch.
    ///
    /// `start_revision` 0 begins with the next revision. `watch_id` and `fragment` are the client's own affair.
    pub async fn watch(&self, request: WatchCreateRequest) -> Result<Watch, Error> {
        let namespace = self.namespace().clone();
        let request = namespace.watch(WatchCreateRequest { fragment: false, ..request });
        loop {
            let (ready, made) = oneshot::channel();
            let orders = self.hub().orders(self);
            let order = Order::Watch { request: request.clone(), ready };
            let deadline = self.deadline();
            let late = |_| Error::Unavailable { last: "no watch was created in time".to_owned() };
            // A hub that was about to end takes no orders any more; the next one does.
            let taken = timeout_at(deadline, orders.send(order)).await.map_err(late)?;
            if taken.is_ok()
                && let Ok(made) = timeout_at(deadline, made).await.map_err(late)?
            {
                let Ready { updates, created_at } = made?;
                return Ok(Watch { updates, orders, created_at, namespace });
            }
        }
    }
}

impl Watch {
    /// The next update; `None` after the last.
    pub async fn next(&mut self) -> Option<Result<Update, WatchEnd>> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// The revision of the server when it created the watch: what is older was there before.
    #[must_use]
    pub fn created_at(&self) -> i64 {
        self.created_at
    }

    /// Asks the server how far it is; [`Update::Progress`] follows soon unless something else does.
    pub fn request_progress(&self) {
        // Does not wait: whoever waits here does not read. Where many orders wait, one of them may be as good.
        let _taken = self.orders.try_send(Order::Progress);
    }
}

impl Stream for Watch {
    type Item = Result<Update, WatchEnd>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut update = ready!(self.updates.poll_recv(cx));
        if let Some(Ok(Update::Events { events, .. })) = &mut update {
            self.namespace.happened(events);
        }
        Poll::Ready(update)
    }
}

impl Hub {
    /// Where orders go; a task is started to take them if there is none.
    fn orders(&self, client: &Client) -> mpsc::Sender<Order> {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        match &*orders {
            Some(known) if !known.is_closed() => known.clone(),
            _ => {
                let (sender, queue) = mpsc::channel(ORDERS_MAX);
                *orders = Some(sender.clone());
                // All clones' watches are its, whatever deadlines they have.
                let usual = client.options().request_timeout;
                tokio::spawn(Task::new(client.without_watches().with_timeout(usual), queue).run());
                sender
            }
        }
    }
}
