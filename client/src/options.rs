//! What a client must be told.

use std::net::SocketAddr;
use std::time::Duration;

/// How to reach a cluster. [`Options::new`] takes what etcd's own command line takes.
#[derive(Clone, Debug)]
pub struct Options {
    /// `host:port` or `http://host:port`, one for each member that may be asked.
    pub endpoints: Vec<String>,
    /// Where to look for endpoints beside these.
    pub discovery: Discovery,
    /// Endpoints are looked for this often; sooner when that failed.
    pub discovery_interval: Duration,
    /// The DNS server to ask, instead of those that the system knows.
    pub name_server: Option<SocketAddr>,
    /// At most so long for one connection to be made.
    pub connect_timeout: Duration,
    /// At most so long for one call, attempts and pauses included.
    pub request_timeout: Duration,
    /// A read waits so long for an endpoint that lives before it asks another; doubled at every attempt.
    pub attempt_timeout: Duration,
    /// A call without an answer for so long makes sure that its endpoint lives.
    pub silence_after: Duration,
    /// An endpoint that does not tell within this how it is, is taken for dead.
    pub silence_timeout: Duration,
    /// A connection with calls under way is probed this often.
    pub keep_alive_interval: Duration,
    /// A probe unanswered for so long ends the connection.
    pub keep_alive_timeout: Duration,
}

impl Options {
    /// The timeouts are etcdctl's, but for the probes' interval: etcd's servers end connections
    /// that are probed more often than every 5 s (behaviour.md §10.1).
    pub fn new<E: Into<String>>(endpoints: impl IntoIterator<Item = E>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            discovery: Discovery::Fixed,
            discovery_interval: Duration::from_secs(30),
            name_server: None,
            connect_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_secs(5),
            attempt_timeout: Duration::from_secs(1),
            silence_after: Duration::from_millis(300),
            silence_timeout: Duration::from_millis(400),
            keep_alive_interval: Duration::from_secs(6),
            keep_alive_timeout: Duration::from_secs(6),
        }
    }
}

/// Which endpoints there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Discovery {
    /// Those that were given.
    #[default]
    Fixed,
    /// Every address, A and AAAA, of the names that were given.
    Addresses,
    /// Those that the SRV records of a domain name: `_etcd-client._tcp.<domain>`, or with a name
    /// `_etcd-client-<name>._tcp.<domain>`, as etcdctl looks for them. None need be given.
    Service {
        /// The domain.
        domain: String,
        /// Part of the service's name.
        name: Option<String>,
    },
    /// Where the members say that clients reach them. Those that were given count until one has answered, and again
    /// when none does.
    Members,
}
