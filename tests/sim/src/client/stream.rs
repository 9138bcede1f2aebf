//! One watch stream to one member, with any number of watches on it.

use std::time::Duration;

use kvd_check::WatchRequest;
use kvd_proto::etcdserverpb as pb;
use kvd_proto::etcdserverpb::watch_client::WatchClient;
use kvd_proto::etcdserverpb::watch_request::RequestUnion;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use crate::convert;
use crate::machine::CLIENT_PORT;
use crate::net::channel;

/// Requests that wait to be sent on a stream.
const REQUESTS: usize = 16;

/// How long a stream may take to be opened.
const OPENING: Duration = Duration::from_secs(2);

/// What is asked on a stream.
#[derive(Clone, Debug)]
pub enum Ask {
    /// A watch, by the number that its responses will have.
    Create {
        /// Its number.
        number: i64,
        /// What it asks for.
        request: WatchRequest,
        /// To be told now and then how far it is.
        progress_notify: bool,
    },
    /// How far all watches of the stream are.
    Progress,
}

impl Ask {
    fn message(&self) -> pb::WatchRequest {
        let union = match self {
            Self::Create { number, request, progress_notify } => {
                let mut create = convert::watch(request);
                (create.watch_id, create.progress_notify) = (*number, *progress_notify);
                RequestUnion::CreateRequest(create)
            }
            Self::Progress => RequestUnion::ProgressRequest(pb::WatchProgressRequest {}),
        };
        pb::WatchRequest { request_union: Some(union) }
    }
}

/// A stream.
pub struct Stream {
    requests: mpsc::Sender<pb::WatchRequest>,
    responses: Streaming<pb::WatchResponse>,
}

impl Stream {
    /// Opens a stream to a member, and asks all this on it at once.
    ///
    /// # Errors
    /// If the member does not answer, or refuses.
    pub async fn open(host: &str, asks: &[Ask]) -> Result<Self, Status> {
        let (requests, sent) = mpsc::channel(REQUESTS);
        for ask in asks {
            requests.try_send(ask.message()).map_err(|_full| Status::cancelled("too much"))?;
        }
        let mut client = WatchClient::new(channel(host, CLIENT_PORT));
        let sent = tokio_stream::wrappers::ReceiverStream::new(sent);
        let opened = tokio::time::timeout(OPENING, client.watch(sent)).await;
        let opened = opened.map_err(|_elapsed| Status::deadline_exceeded("no answer"))?;
        Ok(Self { requests, responses: opened?.into_inner() })
    }

    /// The next response.
    ///
    /// # Errors
    /// When the stream breaks.
    pub async fn next(&mut self) -> Result<Option<pb::WatchResponse>, Status> {
        self.responses.message().await
    }

    /// Asks for more.
    pub async fn ask(&self, ask: &Ask) {
        // A broken stream is noticed where it is read.
        let _broken = self.requests.send(ask.message()).await;
    }
}
