//! The client: its connections, and the clients that can be made of it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tonic::transport::Channel;

use crate::balance::{Balance, Endpoint};
use crate::discover;
use crate::error::Error;
use crate::namespace::Namespace;
use crate::once::Sessions;
use crate::options::Options;
use crate::watch::Hub;

/// A client of one cluster. Clones share its connections.
#[derive(Clone)]
pub struct Client {
    options: Arc<Options>,
    balance: Arc<Balance>,
    watches: Arc<Hub>,
    namespace: Namespace,
    /// Names for its requests, if it gives them any.
    sessions: Option<Arc<Sessions>>,
    request_timeout: Duration,
}

impl Client {
    /// Connects, and waits until one endpoint has answered, so that wrong addresses show here.
    pub async fn connect(options: Options) -> Result<Self, Error> {
        let found = discover::first(&options).await?;
        let client = Self::starting_at(&found, options)?;
        client.any_status().await?;
        Ok(client)
    }

    /// Connects at the first call, and looks for endpoints in the background. Must be called within a tokio runtime.
    pub fn lazy(options: Options) -> Result<Self, Error> {
        Self::starting_at(&options.endpoints.clone(), options)
    }

    fn starting_at(endpoints: &[String], options: Options) -> Result<Self, Error> {
        let balance = Balance::new(endpoints, &options)?;
        discover::keep_looking(&balance, &options);
        Ok(Self::of(balance, options))
    }

    /// Of what there is already.
    pub(crate) fn of(balance: Arc<Balance>, options: Options) -> Self {
        let request_timeout = options.request_timeout;
        let (watches, namespace, sessions) = Default::default();
        Self { options: Arc::new(options), balance, watches, namespace, sessions, request_timeout }
    }

    /// The same client with another deadline for its calls.
    #[must_use]
    pub fn with_timeout(&self, request_timeout: Duration) -> Self {
        Self { request_timeout, ..self.clone() }
    }

    /// A client to which the keys that begin with `prefix` are all there are, without the prefix. A namespace within
    /// a namespace is in both.
    #[must_use]
    pub fn within(&self, prefix: impl AsRef<[u8]>) -> Self {
        Self { namespace: self.namespace.within(prefix.as_ref()), ..self.clone() }
    }

    /// A client that asks `endpoint` alone, on the connection there is if it is one of this
    /// client's.
    pub fn at(&self, endpoint: &str) -> Result<Self, Error> {
        let known = self.balance.endpoints().into_iter().find(|known| known.name == endpoint);
        let endpoint = match known {
            Some(known) => known,
            None => Arc::new(Endpoint::new(endpoint, &self.options)?),
        };
        let balance = Balance::at(endpoint, &self.options)?;
        Ok(Self { balance, ..self.without_watches() })
    }

    /// The endpoints that the client knows now.
    pub fn endpoints(&self) -> impl Iterator<Item = String> + use<> {
        self.balance.endpoints().into_iter().map(|endpoint| endpoint.name.clone())
    }

    /// Goes on with these endpoints. Those that it had keep their connections.
    pub fn set_endpoints<E: Into<String>>(
        &self,
        endpoints: impl IntoIterator<Item = E>,
    ) -> Result<(), Error> {
        let names: Vec<String> = endpoints.into_iter().map(Into::into).collect();
        self.balance.replace(&names)
    }

    /// The channel that the next call would use, for services that this library does not wrap.
    /// Calls on it do not move to another endpoint.
    pub fn channel(&self) -> Channel {
        self.balance.pick().0.channel()
    }

    /// Its watches.
    pub(crate) fn hub(&self) -> &Hub {
        &self.watches
    }

    /// The same client with watches of its own.
    pub(crate) fn without_watches(&self) -> Self {
        Self { watches: Arc::default(), ..self.clone() }
    }

    /// The same client with names for its requests.
    pub(crate) fn with_sessions(&self, sessions: Arc<Sessions>) -> Self {
        Self { sessions: Some(sessions), ..self.clone() }
    }

    /// Names for its requests.
    pub(crate) fn sessions(&self) -> Option<&Sessions> {
        self.sessions.as_deref()
    }

    /// What it was told at the beginning.
    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    /// The part of the keys that it sees.
    pub(crate) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Its endpoints.
    pub(crate) fn balance(&self) -> &Arc<Balance> {
        &self.balance
    }

    /// How long a call may take.
    pub(crate) fn request_timeout(&self) -> Duration {
        self.request_timeout
    }

    /// When a call that begins now must have ended.
    pub(crate) fn deadline(&self) -> Instant {
        let now = Instant::now();
        // A deadline that no clock can show is none.
        now.checked_add(self.request_timeout).unwrap_or(now + Duration::from_secs(1 << 30))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoints: Vec<String> = self.endpoints().collect();
        f.debug_struct("Client").field("endpoints", &endpoints).finish()
    }
}
