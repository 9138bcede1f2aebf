//! What a client must be told.

use std::net::SocketAddr;
use std::time::Duration;

/// How to reach a cluster: [`Options::new`], then what shall be otherwise.
///
/// ```
/// use std::time::Duration;
/// use kvd_client::Options;
///
/// let options = Options::new(["10.0.0.1:2379", "10.0.0.2:2379", "10.0.0.3:2379"])
///     .request_timeout(Duration::from_secs(10))
///     .connect_timeout(Duration::from_millis(500));
/// ```
///
/// There will be more of them: TLS and credentials come with the servers' authentication. Until then an endpoint that
/// begins with `https` is refused.
#[derive(Clone, Debug)]
#[non_exhaustive]
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

    /// Where to look for endpoints; those that were given, unless told otherwise.
    #[must_use]
    pub fn discovery(self, discovery: Discovery) -> Self {
        Self { discovery, ..self }
    }

    /// How often endpoints are looked for; 30 s.
    #[must_use]
    pub fn discovery_interval(self, discovery_interval: Duration) -> Self {
        Self { discovery_interval, ..self }
    }

    /// At most so long for one connection to be made; 2 s.
    #[must_use]
    pub fn connect_timeout(self, connect_timeout: Duration) -> Self {
        Self { connect_timeout, ..self }
    }

    /// At most so long for one call, attempts and pauses included; 5 s.
    #[must_use]
    pub fn request_timeout(self, request_timeout: Duration) -> Self {
        Self { request_timeout, ..self }
    }

    /// So long a read waits for an endpoint that lives before it asks another, doubled at every attempt; 1 s.
    #[must_use]
    pub fn attempt_timeout(self, attempt_timeout: Duration) -> Self {
        Self { attempt_timeout, ..self }
    }

    /// A call without an answer for so long makes sure that its endpoint lives; 300 ms.
    #[must_use]
    pub fn silence_after(self, silence_after: Duration) -> Self {
        Self { silence_after, ..self }
    }

    /// An endpoint that does not tell within this how it is, is taken for dead; 400 ms.
    #[must_use]
    pub fn silence_timeout(self, silence_timeout: Duration) -> Self {
        Self { silence_timeout, ..self }
    }

    /// How often a connection with calls under way is probed; 6 s. etcd ends connections that are probed more often
    /// than every 5 s.
    #[must_use]
    pub fn keep_alive_interval(self, keep_alive_interval: Duration) -> Self {
        Self { keep_alive_interval, ..self }
    }

    /// A probe unanswered for so long ends the connection; 6 s.
    #[must_use]
    pub fn keep_alive_timeout(self, keep_alive_timeout: Duration) -> Self {
        Self { keep_alive_timeout, ..self }
    }

    /// The DNS server to ask, instead of those that the system knows.
    #[must_use]
    pub fn name_server(self, name_server: SocketAddr) -> Self {
        Self { name_server: Some(name_server), ..self }
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
