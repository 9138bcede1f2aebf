//! The Watch service: requests in, messages out; what is sent to whom is the node's business.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::Stream;
use kvd_proto::etcdserverpb as pb;
use pb::watch_request::RequestUnion;
use tokio::task::AbortHandle;
use tonic::{Request, Status, Streaming};

use super::convert::watch as convert;
use super::leader_loss::{self, leader_lost};
use super::watch_codec::Outgoing;
use super::{layers, status};
use crate::limits::GRPC_OVERHEAD_BYTES;
use crate::node::watch::{WatchMessages, WatchStream};
use crate::node::{Node, Unavailable};
use crate::shutdown::Shutdown;

/// Serves Watch.
pub(crate) struct WatchService {
    node: Arc<Node>,
    shutdown: Shutdown,
}

impl WatchService {
    /// Serves Watch from this node.
    pub(crate) fn new(node: Arc<Node>, shutdown: Shutdown) -> Self {
        Self { node, shutdown }
    }

    /// Opens a stream.
    pub(crate) fn open(&self, request: Request<Streaming<pb::WatchRequest>>) -> WatchResponses {
        let wants_leader = leader_loss::is_wanted(request.metadata());
        let (stream, messages) = self.node.watch();
        let failed = Arc::new(OnceLock::new());
        let client = Client {
            node: Arc::clone(&self.node),
            stream,
            failed: Arc::clone(&failed),
            wants_leader,
            shutdown: self.shutdown.clone(),
        };
        let driver = tokio::spawn(client.drive(request.into_inner())).abort_handle();
        let fragment_bytes =
            self.node.limits().request_bytes_max.saturating_add(GRPC_OVERHEAD_BYTES);
        let node = Arc::clone(&self.node);
        WatchResponses { node, messages, failed, parts: VecDeque::new(), fragment_bytes, driver }
    }
}

/// What a client asks, as it asks it.
struct Client {
    node: Arc<Node>,
    stream: WatchStream,
    /// Why no more can be read of what the client sends.
    failed: Arc<OnceLock<Status>>,
    wants_leader: bool,
    shutdown: Shutdown,
}

impl Client {
    async fn drive(self, requests: Streaming<pb::WatchRequest>) {
        let leader_lost = async {
            if self.wants_leader {
                leader_lost(&self.node).await;
            } else {
                std::future::pending().await
            }
        };
        tokio::select! {
            () = self.serve(requests) => {}
            () = self.tick() => {}
            () = leader_lost => self.stream.end(Unavailable::NoLeader),
            () = self.shutdown.begun() => self.stream.end(Unavailable::Stopped),
        }
    }

    /// Handles requests in order; returns when one cannot be read or the client broke off. One that only has nothing more to ask goes
    /// on to listen (rule W10).
    async fn serve(&self, mut requests: Streaming<pb::WatchRequest>) {
        loop {
            match requests.message().await {
                Ok(Some(request)) => {
                    self.handle(request).await;
                    // However many it has sent at once, others get their turn.
                    tokio::task::yield_now().await;
                }
                Ok(None) => std::future::pending().await,
                Err(status) => {
                    let _first = self.failed.set(layers::too_large(&status).unwrap_or(status));
                    return self.stream.end(Unavailable::Stopped);
                }
            }
        }
    }

    async fn handle(&self, request: pb::WatchRequest) {
        match request.request_union {
            Some(RequestUnion::CreateRequest(request)) => match convert::create(request) {
                Ok(create) => self.stream.create(create).await,
                Err(reason) => self.stream.refuse(reason).await,
            },
            Some(RequestUnion::CancelRequest(request)) => {
                self.stream.cancel(convert::watch_id(request.watch_id)).await;
            }
            Some(RequestUnion::ProgressRequest(_)) => self.stream.progress().await,
            // Rule W9.
            None => {}
        }
    }

    /// Tells quiet watches how far they are, for ever.
    async fn tick(&self) {
        let interval = self.node.limits().watch_progress_interval;
        let pause = interval + interval.mul_f64(self.stream.jitter() / 10.0);
        let mut ticks = tokio::time::interval(pause.max(Duration::from_millis(1)));
        ticks.tick().await;
        loop {
            ticks.tick().await;
            self.stream.tick();
        }
    }
}

/// What a client is sent.
pub(crate) struct WatchResponses {
    node: Arc<Node>,
    messages: WatchMessages,
    failed: Arc<OnceLock<Status>>,
    /// Of a response that was cut, what is still to be sent.
    parts: VecDeque<Outgoing>,
    /// Bytes of a response from which it may be cut (behaviour.md 3.4).
    fragment_bytes: usize,
    driver: AbortHandle,
}

impl Stream for WatchResponses {
    type Item = Result<Outgoing, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if let Some(part) = this.parts.pop_front() {
            return Poll::Ready(Some(Ok(part)));
        }
        let next = match ready!(Pin::new(&mut this.messages).poll_next(context)) {
            Some(Ok(message)) => {
                let header = this.node.header();
                this.parts = convert::responses(header, message, this.fragment_bytes);
                this.parts.pop_front().map(Ok)
            }
            Some(Err(reason)) => {
                let failed = this.failed.get().cloned();
                Some(Err(failed.unwrap_or_else(|| status::status(reason.into()))))
            }
            None => None,
        };
        Poll::Ready(next)
    }
}

impl Drop for WatchResponses {
    fn drop(&mut self) {
        self.driver.abort();
    }
}
