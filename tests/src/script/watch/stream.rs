//! One stream of watches as its client holds it: what was read, and what is not printed yet.

use std::collections::VecDeque;

use futures_util::stream;
use kvd_proto::etcdserverpb as pb;
use kvd_proto::etcdserverpb::watch_client::WatchClient;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::check::Checker;
use super::is_manual_progress;

/// Requests that may wait for the connection to take them.
const REQUESTS_MAX: usize = 16;
/// Responses read ahead: few, so that a script that does not read makes the server wait.
const RESPONSES_MAX: usize = 1;

/// A stream, with a task that carries its responses to it.
pub(in crate::script) struct Stream {
    /// `None` once the client has closed its side.
    requests: Option<mpsc::Sender<pb::WatchRequest>>,
    responses: mpsc::Receiver<Received>,
    /// Read but not printed, in the order in which they came.
    inbox: VecDeque<pb::WatchResponse>,
    /// Periodic progress responses since the last one that was printed; only newer ones count.
    notices: Vec<pb::WatchResponse>,
    checker: Checker,
    /// Answers that may still come to progress requests that were sent again too early.
    surplus: usize,
    end: Option<Result<(), Status>>,
    carrier: AbortHandle,
}

/// A response, or how the stream ended.
type Received = Result<pb::WatchResponse, Option<Status>>;

impl Stream {
    /// Starts the call. It is not awaited: etcd answers it only with its first response.
    pub(in crate::script) fn open(runtime: &Runtime, channel: Channel, has_leader: bool) -> Self {
        let (requests, waiting) = mpsc::channel(REQUESTS_MAX);
        let (sender, responses) = mpsc::channel(RESPONSES_MAX);
        let carrier = runtime.spawn(carry(channel, has_leader, waiting, sender));
        Self {
            requests: Some(requests),
            responses,
            inbox: VecDeque::new(),
            notices: Vec::new(),
            checker: Checker::default(),
            surplus: 0,
            end: None,
            carrier: carrier.abort_handle(),
        }
    }

    /// Sends one request.
    pub(super) async fn send(&mut self, request: pb::WatchRequest) -> Result<(), String> {
        self.checker.sent(&request);
        let requests = self.requests.as_ref().ok_or("the client has closed its side")?;
        requests.send(request).await.map_err(|_| format!("the stream ended: {:?}", self.end))
    }

    /// Closes the client's side.
    pub(super) fn half_close(&mut self) {
        self.requests = None;
    }

    /// Reads until the inbox has `enough`.
    pub(super) async fn until(
        &mut self,
        enough: impl Fn(&VecDeque<pb::WatchResponse>) -> bool,
    ) -> Result<(), String> {
        while !enough(&self.inbox) {
            let received = self.responses.recv().await;
            self.take_in(received);
            if let Some(end) = &self.end {
                return Err(format!("the stream ended: {end:?}, unread: {:?}", self.inbox));
            }
        }
        Ok(())
    }

    /// Reads until a periodic progress response of this watch says this revision or a later one.
    pub(super) async fn notified(
        &mut self,
        watch_id: i64,
        revision: i64,
    ) -> Result<pb::WatchResponse, String> {
        loop {
            let wanted = |notice: &pb::WatchResponse| {
                let at = notice.header.as_ref().map_or(0, |header| header.revision);
                notice.watch_id == watch_id && at >= revision
            };
            if let Some(at) = self.notices.iter().position(wanted) {
                return Ok(self.notices.swap_remove(at));
            }
            let received = self.responses.recv().await;
            self.take_in(received);
            if let Some(end) = &self.end {
                return Err(format!("the stream ended: {end:?}"));
            }
        }
    }

    /// The first response in the inbox that is `wanted`.
    pub(super) fn take_first(
        &mut self,
        wanted: impl Fn(&pb::WatchResponse) -> bool,
    ) -> Option<pb::WatchResponse> {
        let at = self.inbox.iter().position(wanted)?;
        self.inbox.remove(at)
    }

    /// All responses in the inbox that are `wanted`.
    pub(super) fn take_all(
        &mut self,
        wanted: impl Fn(&pb::WatchResponse) -> bool,
    ) -> Vec<pb::WatchResponse> {
        let (taken, left) = self.inbox.drain(..).partition(|response| wanted(response));
        self.inbox = left;
        taken.into()
    }

    /// What the checks found since this was last asked.
    pub(super) fn take_wrong(&mut self) -> Vec<String> {
        self.checker.take_wrong()
    }

    /// As many answers to progress requests may still come, and mean nothing.
    pub(super) fn expect_surplus(&mut self, requests: usize) {
        self.surplus += requests;
    }

    /// Checks that nothing came that was not printed.
    pub(super) fn finish(&mut self) -> Result<(), String> {
        while let Ok(received) = self.responses.try_recv() {
            self.take_in(Some(received));
        }
        let wrong = self.take_wrong();
        if self.inbox.is_empty() && wrong.is_empty() {
            return Ok(());
        }
        Err(format!("not printed: {:?} {wrong:?}", self.inbox))
    }

    fn take_in(&mut self, received: Option<Received>) {
        let response = match received {
            Some(Ok(response)) => response,
            Some(Err(end)) => return self.end = Some(end.map_or(Ok(()), Err)),
            None => {
                self.end.get_or_insert(Ok(()));
                return;
            }
        };
        self.checker.received(&response);
        let silent = !response.created && !response.canceled && response.events.is_empty();
        if silent && self.surplus > 0 && is_manual_progress(&response) {
            self.surplus -= 1;
        } else if silent && !is_manual_progress(&response) {
            self.notices.retain(|notice| notice.watch_id != response.watch_id);
            self.notices.push(response);
        } else {
            self.inbox.push_back(response);
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.carrier.abort();
    }
}

/// Makes the call and passes on what comes, then how it ended.
async fn carry(
    channel: Channel,
    has_leader: bool,
    waiting: mpsc::Receiver<pb::WatchRequest>,
    sender: mpsc::Sender<Received>,
) {
    let requests = stream::unfold(waiting, async |mut waiting| {
        let request = waiting.recv().await?;
        Some((request, waiting))
    });
    let mut request = Request::new(requests);
    if has_leader {
        request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
    }
    let mut client = WatchClient::new(channel).max_decoding_message_size(usize::MAX);
    let pass_on = async {
        let mut responses = client.watch(request).await?.into_inner();
        while let Some(response) = responses.message().await? {
            if sender.send(Ok(response)).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    let end = pass_on.await.err();
    // Who closed the stream does not wait for its end.
    let _ = sender.send(Err(end)).await;
}
