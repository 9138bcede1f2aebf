//! Connections to the other members, made when first used and again when they broke.
//!
//! Each member has one connection a purpose ([`Lane`]): a snapshot must not delay entries, nor entries a
//! heartbeat. A call carries its deadline; nobody waits for a peer that does not answer.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use kvd_core::ids::{Incarnation, MemberId};
use kvd_proto::peer::peer_client::PeerClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::identity::{self, Identity};
use crate::config::Url;
use crate::limits::{PEER_CONNECT_TIMEOUT, PEER_MESSAGE_BYTES_MAX};
use crate::net::{BoxIo, Net};

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lane {
    /// Log entries.
    Entries,
    /// Heartbeats, votes.
    Heartbeats,
    /// Snapshots and fetched state.
    Snapshots,
    /// Forwarded requests and read indexes.
    Calls,
}

/// What this member's state says of a member.
type Told<T> = Box<dyn Fn(MemberId) -> Option<T> + Send + Sync>;

/// What this member knows of the others, once its state is open.
pub(crate) struct Directory {
    /// Under which incarnation one published itself.
    pub(crate) incarnation: Told<Incarnation>,
    /// Where one is reached now, which may be elsewhere than when a caller was told (rule C5).
    pub(crate) peer_urls: Told<Vec<String>>,
}

/// A connection with the addresses it was made for.
type Connection = (Vec<String>, Channel);

/// All connections of this member.
#[derive(Clone)]
pub(crate) struct Peers {
    inner: Arc<Inner>,
}

struct Inner {
    own: Identity,
    net: Arc<dyn Net>,
    /// Missing until this member's state is open.
    directory: OnceLock<Directory>,
    /// By member and purpose.
    channels: Mutex<BTreeMap<(MemberId, Lane), Connection>>,
}

/// How a call to a peer failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// Nothing was sent: no connection.
    #[error("no connection: {0}")]
    NotSent(String),
    /// The peer answered that it will not.
    #[error("refused: {0}")]
    Refused(String),
    /// It may have arrived.
    #[error("no answer: {0}")]
    NoAnswer(String),
}

impl Peers {
    pub(crate) fn new(own: Identity, net: Arc<dyn Net>) -> Self {
        let (directory, channels) = (OnceLock::new(), Mutex::default());
        Self { inner: Arc::new(Inner { own, net, directory, channels }) }
    }

    /// From now on requests are for the data directory that their receiver was published with (hazard A6), and go to
    /// where it is reached now.
    pub(crate) fn insist_on(&self, directory: Directory) {
        let _set_twice = self.inner.directory.set(directory);
    }

    /// Lets go of connections to who is no member any more.
    pub(crate) fn keep(&self, is_member: impl Fn(MemberId) -> bool) {
        let mut channels = self.inner.channels.lock().unwrap_or_else(PoisonError::into_inner);
        channels.retain(|(member, _), _| is_member(*member));
    }

    /// A client for one member and purpose, connected when first used.
    pub(crate) fn client(&self, to: MemberId, urls: &[String], lane: Lane) -> PeerClient<Channel> {
        let now = self.inner.directory.get().and_then(|known| (known.peer_urls)(to));
        let urls = now.as_deref().unwrap_or(urls);
        let mut channels = self.inner.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let channel = match channels.get(&(to, lane)) {
            Some((known, channel)) if known == urls => channel.clone(),
            _ => {
                let channel = connect_lazily(&self.inner.net, urls);
                channels.insert((to, lane), (urls.to_vec(), channel.clone()));
                channel
            }
        };
        drop(channels);
        client(channel)
    }

    /// A signed request.
    pub(crate) fn request<T>(&self, to: MemberId, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let known = self.inner.directory.get().and_then(|known| (known.incarnation)(to));
        identity::sign(&mut request, &self.inner.own, to, known);
        request
    }
}

/// A client of its own for somebody who belongs to no cluster yet, connected when first used.
pub(crate) fn stranger(net: &Arc<dyn Net>, urls: &[String]) -> PeerClient<Channel> {
    client(connect_lazily(net, urls))
}

fn client(channel: Channel) -> PeerClient<Channel> {
    PeerClient::new(channel)
        .max_decoding_message_size(PEER_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(PEER_MESSAGE_BYTES_MAX)
}

fn connect_lazily(net: &Arc<dyn Net>, urls: &[String]) -> Channel {
    let net = Arc::clone(net);
    let urls: Arc<[Url]> = urls.iter().filter_map(|url| Url::parse(url).ok()).collect();
    let connector = tower::service_fn(move |_uri: http::Uri| {
        let (net, urls) = (Arc::clone(&net), Arc::clone(&urls));
        async move { connect_any(&*net, &urls).await.map(TokioIo::new) }
    });
    // The URI names nobody: the connector knows the addresses.
    Endpoint::from_static("http://member")
        .connect_timeout(PEER_CONNECT_TIMEOUT)
        .http2_keep_alive_interval(Duration::from_secs(2))
        .keep_alive_timeout(Duration::from_secs(2))
        .initial_stream_window_size(Some(4 << 20))
        .initial_connection_window_size(Some(8 << 20))
        .connect_with_connector_lazy(connector)
}

/// Connects to the first address that accepts.
async fn connect_any(net: &dyn Net, urls: &[Url]) -> io::Result<BoxIo> {
    let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, "no usable peer URL");
    for url in urls {
        match net.connect(url.host.clone(), url.port).await {
            Ok(io) => return Ok(io),
            Err(error) => last = error,
        }
    }
    Err(last)
}

impl CallError {
    /// Sorts a failed call by what the peer may have seen of it.
    pub(crate) fn from_status(status: &Status) -> Self {
        let mut source = status.source();
        while let Some(error) = source {
            if error.is::<tonic::ConnectError>() {
                return Self::NotSent(format!("{status}: {error}"));
            }
            source = error.source();
        }
        match status.code() {
            tonic::Code::FailedPrecondition | tonic::Code::InvalidArgument => {
                Self::Refused(status.message().to_owned())
            }
            _ => Self::NoAnswer(status.to_string()),
        }
    }
}

/// Waits for an answer, but not beyond the deadline.
pub(crate) async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, CallError> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(CallError::from_status(&status)),
        Err(_elapsed) => Err(CallError::NoAnswer(format!("nothing within {limit:?}"))),
    }
}
