//! One endpoint: its address, the connection to it, and whether it lives.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use http::Uri;
use kvd_proto::etcdserverpb::StatusRequest;
use kvd_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use tokio::time::{Instant, timeout};
use tonic::transport::Channel;

use super::Health;
use super::link::{Link, Seen, connect};
use crate::error::Error;
use crate::options::Options;

/// Bytes of one answer that may be under way: 1 MiB fills a link of 1 Gbit/s at 8 ms.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// Bytes of all answers that may be under way.
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

/// An endpoint with a connection that is made at the first call and again when it breaks.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// As the caller wrote it.
    pub(crate) name: String,
    uri: Uri,
    options: Options,
    channel: Mutex<Channel>,
    link: Arc<Link>,
    in_flight: AtomicU32,
    examined: tokio::sync::Mutex<Option<Examined>>,
}

/// What an endpoint said last of itself.
#[derive(Clone, Copy, Debug)]
struct Examined {
    until: Instant,
    health: Option<Health>,
}

/// A call that is under way.
#[derive(Debug)]
pub(crate) struct InFlight<'a> {
    endpoint: &'a Endpoint,
    /// The connections when it began.
    link: Seen,
}

impl Endpoint {
    /// Connects to nothing yet, but must be called within a runtime.
    pub(crate) fn new(name: &str, options: &Options) -> Result<Self, Error> {
        let uri = parse(name)?;
        let link = Arc::new(Link::default());
        let channel = lazy(&uri, options, &link);
        Ok(Self {
            name: name.to_owned(),
            uri,
            options: options.clone(),
            channel: Mutex::new(channel),
            link,
            in_flight: AtomicU32::new(0),
            examined: tokio::sync::Mutex::new(None),
        })
    }

    /// Whether it has this address, however that was written.
    pub(crate) fn is_at(&self, uri: &Uri) -> bool {
        self.uri == *uri
    }

    /// Its connection.
    pub(crate) fn channel(&self) -> Channel {
        self.channel.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Closes the connection when the last call on it has ended; the next call makes another.
    pub(crate) fn disconnect(&self) {
        let fresh = lazy(&self.uri, &self.options, &self.link);
        *self.channel.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
    }

    /// Calls under way.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// A call begins.
    pub(crate) fn begin(&self) -> InFlight<'_> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight { endpoint: self, link: self.link.look() }
    }

    /// Asks how it is; without word within the timeout it is silent. Many who ask at once share an answer: one that
    /// came after `since`.
    pub(crate) async fn health(&self, since: Instant) -> Option<Health> {
        let mut examined = self.examined.lock().await;
        if let Some(last) = examined.filter(|last| last.until >= since) {
            return last.health;
        }
        let begun = Instant::now();
        let mut service = MaintenanceClient::new(self.channel());
        let asked = timeout(self.options.silence_timeout, service.status(StatusRequest {})).await;
        let health = match asked {
            Ok(Ok(status)) => {
                let status = status.into_inner();
                let (has_leader, is_learner) = (status.leader != 0, status.is_learner);
                Some(Health { has_leader, is_learner, round_trip: begun.elapsed() })
            }
            // A server's own words, whatever they say: it lives.
            Ok(Err(status)) if std::error::Error::source(&status).is_none() => {
                Some(Health { has_leader: false, is_learner: false, round_trip: begun.elapsed() })
            }
            Ok(Err(_)) | Err(_) => None,
        };
        *examined = Some(Examined { until: Instant::now(), health });
        health
    }
}

impl InFlight<'_> {
    /// Whether nothing of it can have been sent.
    pub(crate) fn was_never_sent(&self) -> bool {
        self.endpoint.link.was_down_since(self.link)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.endpoint.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

fn lazy(uri: &Uri, options: &Options, link: &Arc<Link>) -> Channel {
    let (link, connect_timeout) = (Arc::clone(link), options.connect_timeout);
    let connector =
        tower::service_fn(move |uri: Uri| connect(uri, connect_timeout, Arc::clone(&link)));
    Channel::builder(uri.clone())
        .http2_keep_alive_interval(options.keep_alive_interval)
        .keep_alive_timeout(options.keep_alive_timeout)
        // Servers of etcd punish probes on idle connections (behaviour.md §10.1).
        .keep_alive_while_idle(false)
        // Fixed: estimating windows takes probes, which such servers may count as well.
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .connect_with_connector_lazy(connector)
}

/// What an endpoint's name means.
pub(crate) fn parse(name: &str) -> Result<Uri, Error> {
    let invalid = |reason: &str| Error::InvalidEndpoint {
        endpoint: name.to_owned(),
        reason: reason.to_owned(),
    };
    address(name).map_err(invalid)
}

fn address(name: &str) -> Result<Uri, &'static str> {
    let address = match name.split_once("://") {
        None => name,
        Some(("http", address)) => address,
        Some(("https", _)) => return Err("TLS is not supported yet"),
        Some(("unix" | "unixs", _)) => return Err("unix sockets are not supported yet"),
        Some(_) => return Err("unknown scheme"),
    };
    let address = address.trim_end_matches('/');
    let uri: Uri = format!("http://{address}").parse().map_err(|_| "not a host and port")?;
    let named = uri.host().is_some_and(|host| !host.is_empty()) && uri.port_u16().is_some();
    if !named || uri.path() != "/" {
        return Err("not a host and port");
    }
    Ok(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_etcdctl_takes() {
        for name in ["127.0.0.1:2379", "http://127.0.0.1:2379", "http://localhost:2379/", "[::1]:1"]
        {
            assert!(parse(name).is_ok(), "{name}");
        }
        for name in
            ["", "http://", "https://a:1", "ftp://a:1", "a:b", "a", "a:1/x", "unix:///a", "a b"]
        {
            assert!(parse(name).is_err(), "{name}");
        }
    }
}
