//! Watches: many of them on one stream (behaviour.md §3).
//!
//! Promises that every answer of the server is told once, in its order, as what it is: a creation,
//! events, progress or an end, and that an end keeps etcd's identity. A stream lives and dies with
//! its endpoint. Whoever wants to go on elsewhere creates the watch again, one revision after the
//! last event that was seen; nothing here stands in the way of a handle that does so by itself.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use kvd_proto::etcdserverpb::watch_client::WatchClient;
use kvd_proto::etcdserverpb::watch_request::RequestUnion;
use kvd_proto::etcdserverpb::{
    WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status, Streaming};

use crate::attempts::{ANSWER_BYTES_MAX, Call};
use crate::balance::Endpoint;
use crate::client::Client;
use crate::error::{Error, Verdict, describe, judge, refusal};
use crate::etcd_error::EtcdError;

/// Requests that wait to be sent; more make their callers wait.
const REQUESTS_MAX: usize = 16;

/// Asks a server to end the stream rather than fall silent when it has lost its leader.
const REQUIRE_LEADER: &str = "hasleader";

impl Client {
    /// Opens a stream with its first watch. The answers begin with that watch's creation. The stream speaks the wire as
    /// it is: it goes to one endpoint, and keys are those of the whole store, also in a client of a part of them.
    ///
    /// A server says nothing on a stream without watches, not even that it is open: hence the first
    /// watch here.
    pub async fn watch_stream(&self, first: WatchCreateRequest) -> Result<WatchStream, Error> {
        let send = |channel, first: Request<WatchCreateRequest>| async move {
            let (requests, queue) = mpsc::channel(REQUESTS_MAX);
            let first = RequestUnion::CreateRequest(first.into_inner());
            let sent = requests.try_send(WatchRequest { request_union: Some(first) });
            sent.map_err(|_| Status::internal("a new queue has room"))?;
            // A request of its own: the deadline is that of the opening, not of the watches.
            let mut stream = Request::new(ReceiverStream::new(queue));
            stream.metadata_mut().insert(REQUIRE_LEADER, MetadataValue::from_static("true"));
            let mut service = WatchClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
            let answers = service.watch(stream).await?.into_inner();
            Ok(Response::new((requests, answers)))
        };
        let opened = self.call_at(Call::reads("watch_stream"), first, send).await?;
        let ((requests, answers), endpoint) = opened;
        Ok(WatchStream {
            endpoint,
            requests,
            answers,
            to_release: VecDeque::new(),
            released: BTreeSet::new(),
        })
    }
}

/// An open stream of watches. Dropping it ends them all.
#[derive(Debug)]
pub struct WatchStream {
    endpoint: Arc<Endpoint>,
    requests: mpsc::Sender<WatchRequest>,
    answers: Streaming<WatchResponse>,
    /// Watches that the server ended for compaction; it keeps their numbers until told to forget
    /// them, and answers no request for progress before.
    to_release: VecDeque<i64>,
    /// Watches whose numbers the server was told to forget; its word on that concerns nobody.
    released: BTreeSet<i64>,
}

/// What the server says about the watches of a stream.
#[derive(Clone, Debug, PartialEq)]
pub enum WatchAnswer {
    /// The oldest watch that was not answered yet exists now, under the number in the message.
    Created(WatchResponse),
    /// Something happened.
    Events(WatchResponse),
    /// The watch has seen everything up to the revision in the header; so have all watches of the
    /// stream if the number in the message is -1.
    Progress(WatchResponse),
    /// There will be no more of this watch.
    Ended {
        /// Why.
        reason: WatchEnd,
        /// The message as it came. If `created` is set, the watch is the oldest that was not
        /// answered yet, and it never existed.
        response: WatchResponse,
    },
}

/// Why a watch ended.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WatchEnd {
    /// History that the watch needs is gone.
    #[error("{}", EtcdError::Compacted)]
    Compacted {
        /// The oldest revision that can be watched from.
        revision: i64,
    },
    /// The server refused, in these words.
    #[error("{0}")]
    Refused(String),
    /// As was asked for.
    #[error("{}", EtcdError::WatchCanceled)]
    Cancelled,
}

impl WatchEnd {
    /// The refusal, if etcd has a name for it. Some come wrapped in a sentence about their code.
    pub fn etcd(&self) -> Option<EtcdError> {
        match self {
            Self::Compacted { .. } => Some(EtcdError::Compacted),
            Self::Cancelled => Some(EtcdError::WatchCanceled),
            Self::Refused(reason) => {
                let text = reason.split_once(" desc = ").map_or(reason.as_str(), |(_, text)| text);
                EtcdError::from_text(text)
            }
        }
    }
}

impl WatchStream {
    /// Asks for one more watch on the stream. Creations are answered in the order of the requests.
    pub async fn create(&self, request: WatchCreateRequest) -> Result<(), Error> {
        self.send(RequestUnion::CreateRequest(request)).await
    }

    /// Asks for the end of a watch; answered by [`WatchAnswer::Ended`] if there is such a watch.
    pub async fn cancel(&self, watch_id: i64) -> Result<(), Error> {
        self.send(RequestUnion::CancelRequest(WatchCancelRequest { watch_id })).await
    }

    /// Asks how far the watches are. Not answered while one of them is behind.
    pub async fn request_progress(&self) -> Result<(), Error> {
        self.send(RequestUnion::ProgressRequest(WatchProgressRequest {})).await
    }

    /// The next answer; `None` when the server closed the stream. Loses nothing when it is dropped
    /// before it is done.
    pub async fn next(&mut self) -> Result<Option<WatchAnswer>, Error> {
        loop {
            self.release();
            let message = self.answers.message().await.map_err(|status| stream_error(&status))?;
            let Some(response) = message else { return Ok(None) };
            if let Some(answer) = self.judge(response) {
                return Ok(Some(answer));
            }
        }
    }

    /// Where requests go, to be sent while answers are waited for.
    pub(super) fn requests(&self) -> mpsc::Sender<WatchRequest> {
        self.requests.clone()
    }

    /// Where it leads to.
    pub(super) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    fn judge(&mut self, response: WatchResponse) -> Option<WatchAnswer> {
        let id = response.watch_id;
        if response.canceled && !response.created && self.released.remove(&id) {
            return None;
        }
        let answer = answer(response);
        if matches!(answer, WatchAnswer::Ended { reason: WatchEnd::Compacted { .. }, .. }) {
            self.to_release.push_back(id);
        }
        Some(answer)
    }

    /// Never waits: whoever waits to send does not read. What finds no room is tried again with the next answer.
    fn release(&mut self) {
        while let Some(&watch_id) = self.to_release.front() {
            let cancel = RequestUnion::CancelRequest(WatchCancelRequest { watch_id });
            match self.requests.try_send(WatchRequest { request_union: Some(cancel) }) {
                Ok(()) => drop(self.released.insert(watch_id)),
                Err(TrySendError::Full(_)) => return,
                // The answers end with the reason.
                Err(TrySendError::Closed(_)) => {}
            }
            self.to_release.pop_front();
        }
    }

    async fn send(&self, request: RequestUnion) -> Result<(), Error> {
        let sent = self.requests.send(WatchRequest { request_union: Some(request) }).await;
        sent.map_err(|_| Error::Unavailable { last: "the watch stream has ended".to_owned() })
    }
}

fn answer(response: WatchResponse) -> WatchAnswer {
    if response.canceled {
        let reason = match (response.compact_revision, response.cancel_reason.as_str()) {
            (0, "") => WatchEnd::Cancelled,
            (0, reason) => WatchEnd::Refused(reason.to_owned()),
            (revision, _) => WatchEnd::Compacted { revision },
        };
        return WatchAnswer::Ended { reason, response };
    }
    if response.created {
        return WatchAnswer::Created(response);
    }
    // A part of a revision may come without events only by mistake; progress is never a part.
    if response.events.is_empty() && !response.fragment {
        return WatchAnswer::Progress(response);
    }
    WatchAnswer::Events(response)
}

/// A stream that broke can be opened elsewhere; one that was refused would be refused again.
fn stream_error(status: &Status) -> Error {
    if judge(status) == Verdict::Refused {
        return refusal(status);
    }
    EtcdError::from_text(status.message())
        .map_or_else(|| Error::Unavailable { last: describe(status) }, Error::Etcd)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(response: WatchResponse) -> WatchEnd {
        match answer(WatchResponse { canceled: true, ..response }) {
            WatchAnswer::Ended { reason, .. } => reason,
            other => panic!("{other:?} is no end"),
        }
    }

    #[test]
    fn an_end_keeps_its_identity() {
        let compacted = ended(WatchResponse { compact_revision: 7, ..Default::default() });
        assert_eq!(compacted, WatchEnd::Compacted { revision: 7 });
        assert_eq!(compacted.to_string(), EtcdError::Compacted.text());
        let denied = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
        let denied = ended(WatchResponse { cancel_reason: denied.into(), ..Default::default() });
        assert_eq!(denied.etcd(), Some(EtcdError::PermissionDenied));
        assert_eq!(ended(WatchResponse::default()), WatchEnd::Cancelled);
    }
}
