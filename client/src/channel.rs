//! The client and the rules by which it tries again.
//!
//! | failure of an attempt | a read | a write |
//! |---|---|---|
//! | not connected, or the server proposed nothing | tried elsewhere | tried elsewhere |
//! | connection broken, server gave up waiting | tried elsewhere | `Unknown` |
//! | endpoint silent | tried elsewhere | `Unknown` at the deadline |
//! | refused | returned | returned |
//!
//! All of it ends with the caller's deadline (behaviour.md §14; reliability.md: never retry a write
//! that may have happened).

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::endpoint::Endpoint;
use crate::error::{Error, Verdict, describe, is_worth_reading_again, judge, refusal};
use crate::options::Options;
use crate::picker::Picker;

/// Largest answer that is taken, in bytes; etcd's client and server have the same limit
/// (behaviour.md §10.1).
pub(crate) const ANSWER_BYTES_MAX: usize = i32::MAX as usize;

/// What etcd's own clients say when the deadline has passed.
const NO_ANSWER: &str = "context deadline exceeded";

/// A client of one cluster. Clones share its connections.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    request_timeout: Duration,
}

struct Shared {
    options: Options,
    endpoints: Vec<Endpoint>,
    picker: Mutex<Picker>,
}

/// Whether sending a request twice could change more than sending it once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    Reads,
    Writes,
}

impl Client {
    /// Connects, and waits until one endpoint has answered, so that wrong addresses show here.
    pub async fn connect(options: Options) -> Result<Self, Error> {
        let client = Self::lazy(options)?;
        client.any_status().await?;
        Ok(client)
    }

    /// Connects at the first call. Must be called within a tokio runtime.
    pub fn lazy(options: Options) -> Result<Self, Error> {
        let endpoints = options.endpoints.iter().map(|name| Endpoint::new(name, &options));
        let endpoints = endpoints.collect::<Result<Vec<_>, _>>()?;
        if endpoints.is_empty() {
            return Err(Error::NoEndpoints);
        }
        Ok(Self::of(options, endpoints))
    }

    fn of(options: Options, endpoints: Vec<Endpoint>) -> Self {
        let picker = Picker::new(endpoints.len(), rand::make_rng());
        let request_timeout = options.request_timeout;
        let shared = Shared { options, endpoints, picker: Mutex::new(picker) };
        Self { shared: Arc::new(shared), request_timeout }
    }

    /// The same client with another deadline for its calls.
    #[must_use]
    pub fn with_timeout(&self, request_timeout: Duration) -> Self {
        Self { shared: Arc::clone(&self.shared), request_timeout }
    }

    /// A client that asks `endpoint` alone, on the connection there is if it is one of this
    /// client's.
    pub fn at(&self, endpoint: &str) -> Result<Self, Error> {
        let known = self.shared.endpoints.iter().find(|known| known.name == endpoint);
        let endpoint = match known {
            Some(known) => known.clone(),
            None => Endpoint::new(endpoint, &self.shared.options)?,
        };
        let alone = Self::of(self.shared.options.clone(), vec![endpoint]);
        Ok(alone.with_timeout(self.request_timeout))
    }

    /// The endpoints, as they were given.
    pub fn endpoints(&self) -> impl Iterator<Item = &str> {
        self.shared.endpoints.iter().map(|endpoint| endpoint.name.as_str())
    }

    /// The connection that the next call would use, for services that this library does not wrap.
    /// Calls on it do not move to another endpoint.
    pub fn channel(&self) -> Channel {
        let (at, _) = self.picker().pick(Instant::now().into_std());
        self.shared.endpoints[at].channel.clone()
    }

    /// When a call that begins now must have ended.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.request_timeout
    }

    /// Sends a request until it is answered, refused, or may have been carried out.
    pub(crate) async fn call<Q, A, S, F>(
        &self,
        effect: Effect,
        request: Q,
        send: S,
    ) -> Result<A, Error>
    where
        Q: Clone,
        S: Fn(Channel, Request<Q>) -> F,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let deadline = self.deadline();
        let mut last = String::from("no attempt was made");
        let mut attempts = 0;
        loop {
            let (at, pause) = self.picker().pick(Instant::now().into_std());
            let start = Instant::now() + pause;
            if start >= deadline {
                return Err(Error::Unavailable { last });
            }
            sleep(pause).await;

            let endpoint = &self.shared.endpoints[at];
            let mut attempt = Request::new(request.clone());
            attempt.set_timeout(deadline.saturating_duration_since(Instant::now()));
            let until = self.attempt_end(effect, attempts, deadline);
            let answer = timeout_at(until, send(endpoint.channel.clone(), attempt)).await;
            let failure = match answer {
                Ok(Ok(answer)) => {
                    self.picker().succeeded(at);
                    return Ok(answer.into_inner());
                }
                Ok(Err(status)) => Some(status),
                Err(_) => None,
            };
            let reason = failure.as_ref().map_or_else(|| NO_ANSWER.to_owned(), describe);
            last = format!("{}: {reason}", endpoint.name);
            self.settle(effect, at, failure.as_ref())?;
            attempts += 1;
        }
    }

    /// Returns when the request may be tried again, and notes how the endpoint did. No status means
    /// that the endpoint was silent.
    fn settle(&self, effect: Effect, at: usize, failure: Option<&Status>) -> Result<(), Error> {
        let verdict = failure.map_or(Verdict::MayBeDone, judge);
        if let (Verdict::Refused, Some(status)) = (&verdict, failure) {
            self.picker().succeeded(at);
            return Err(refusal(status));
        }
        self.picker().failed(at, Instant::now().into_std());
        match (effect, failure) {
            _ if verdict == Verdict::NotDone => Ok(()),
            (Effect::Writes, Some(status)) => Err(Error::Unknown { reason: describe(status) }),
            (Effect::Writes, None) => Err(Error::Unknown { reason: NO_ANSWER.to_owned() }),
            (Effect::Reads, Some(status)) if !is_worth_reading_again(status) => {
                Err(refusal(status))
            }
            (Effect::Reads, _) => Ok(()),
        }
    }

    /// A silent endpoint must not use up a read's whole deadline while there are others.
    fn attempt_end(&self, effect: Effect, attempts: u32, deadline: Instant) -> Instant {
        if effect == Effect::Writes || self.shared.endpoints.len() == 1 {
            return deadline;
        }
        let doubled = 2_u32.saturating_pow(attempts);
        let timeout = self.shared.options.attempt_timeout.saturating_mul(doubled);
        Instant::now().checked_add(timeout).map_or(deadline, |end| end.min(deadline))
    }

    /// The picker has no state that a panic could leave half changed.
    fn picker(&self) -> MutexGuard<'_, Picker> {
        self.shared.picker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("endpoints", &self.shared.options.endpoints).finish()
    }
}
