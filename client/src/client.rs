//! The client and the rules by which it tries again.
//!
//! | failure of an attempt | a read, or a mutation with a request id | any other write |
//! |---|---|---|
//! | not connected, or the server proposed nothing | tried elsewhere | tried elsewhere |
//! | connection broken, server gave up waiting | tried elsewhere | `Unknown` |
//! | endpoint silent | tried elsewhere | `Unknown` |
//! | refused | returned | returned |
//!
//! All of it ends with the caller's deadline (behaviour.md §14; reliability.md: never retry a write
//! that may have happened). Slow is not silent: who waits for long asks the endpoint whether it lives, and goes on
//! waiting if it does.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use tracing::Instrument;

use crate::balance::{Balance, Endpoint, Failing};
use crate::discover;
use crate::error::{Error, Verdict, describe, is_worth_reading_again, judge, refusal};
use crate::namespace::Namespace;
use crate::options::Options;
use crate::watch::Hub;

/// Largest answer that is taken, in bytes; etcd's client and server have the same limit
/// (behaviour.md §10.1).
pub(crate) const ANSWER_BYTES_MAX: usize = i32::MAX as usize;

/// What etcd's own clients say when the deadline has passed.
const NO_ANSWER: &str = "context deadline exceeded";

/// Who waits for long asks this often at least whether the endpoint lives.
const QUIET_MAX: Duration = Duration::from_secs(1);

/// A client of one cluster. Clones share its connections.
#[derive(Clone)]
pub struct Client {
    options: Arc<Options>,
    balance: Arc<Balance>,
    watches: Arc<Hub>,
    namespace: Namespace,
    request_timeout: Duration,
}

/// One of the calls there are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    name: &'static str,
    effect: Effect,
}

/// Whether sending a request twice could change more than sending it once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    Reads,
    Writes,
}

/// How an attempt ended.
enum End<A> {
    Answered(Result<Response<A>, Status>),
    /// The endpoint says nothing, not even that it lives.
    Silent,
    /// It lives, but took too long.
    TooLong,
}

impl Call {
    /// A call that changes nothing, or nothing more when it is repeated.
    pub(crate) const fn reads(name: &'static str) -> Self {
        Self { name, effect: Effect::Reads }
    }

    /// A call that must not be repeated unless the first one certainly did nothing.
    pub(crate) const fn writes(name: &'static str) -> Self {
        Self { name, effect: Effect::Writes }
    }
}

impl Client {
    /// Connects, and waits until one endpoint has answered, so that wrong addresses show here.
    pub async fn connect(options: Options) -> Result<Self, Error> {
        let found = discover::first(&options).await?;
        let client = Self::lazy(Options { endpoints: found, ..options })?;
        client.any_status().await?;
        Ok(client)
    }

    /// Connects at the first call, and looks for endpoints in the background. Must be called within a tokio runtime.
    pub fn lazy(options: Options) -> Result<Self, Error> {
        let balance = Balance::new(&options.endpoints, &options)?;
        discover::keep_looking(&balance, &options);
        Ok(Self::of(balance, options))
    }

    /// Of what there is already.
    pub(crate) fn of(balance: Arc<Balance>, options: Options) -> Self {
        let request_timeout = options.request_timeout;
        let (watches, namespace) = Default::default();
        Self { options: Arc::new(options), balance, watches, namespace, request_timeout }
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
        Instant::now() + self.request_timeout
    }

    /// Sends a request until it is answered, refused, or may have been carried out.
    pub(crate) async fn call<Q, A, S, F>(&self, call: Call, request: Q, send: S) -> Result<A, Error>
    where
        Q: Clone,
        S: Fn(Channel, Request<Q>) -> F,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        Ok(self.call_at(call, request, send).await?.0)
    }

    /// The same, and which endpoint answered.
    pub(crate) async fn call_at<Q, A, S, F>(
        &self,
        call: Call,
        request: Q,
        send: S,
    ) -> Result<(A, Arc<Endpoint>), Error>
    where
        Q: Clone,
        S: Fn(Channel, Request<Q>) -> F,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let span = tracing::debug_span!("call", name = call.name);
        self.attempts(call.effect, request, send).instrument(span).await
    }

    async fn attempts<Q, A, S, F>(
        &self,
        effect: Effect,
        request: Q,
        send: S,
    ) -> Result<(A, Arc<Endpoint>), Error>
    where
        Q: Clone,
        S: Fn(Channel, Request<Q>) -> F,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let deadline = self.deadline();
        let mut last = String::from("no attempt was made");
        let mut attempts = 0;
        loop {
            let (endpoint, pause) = self.balance.pick();
            if !pause.is_zero() {
                if Instant::now() + pause >= deadline {
                    return Err(Error::Unavailable { last });
                }
                sleep(pause).await;
            }
            let mut attempt = Request::new(request.clone());
            attempt.set_timeout(deadline.saturating_duration_since(Instant::now()));
            let until = self.attempt_end(effect, attempts, deadline);
            let under_way = endpoint.begin();
            let end = self.watched(&endpoint, send(endpoint.channel(), attempt), until).await;
            if let End::Answered(Ok(answer)) = end {
                self.balance.succeeded(&endpoint);
                drop(under_way);
                return Ok((answer.into_inner(), endpoint));
            }
            let was_sent = !under_way.was_never_sent();
            drop(under_way);
            let reason = match &end {
                End::Answered(Err(status)) => describe(status),
                End::Silent | End::Answered(Ok(_)) => "the endpoint is silent".to_owned(),
                End::TooLong => NO_ANSWER.to_owned(),
            };
            tracing::debug!(endpoint = endpoint.name, reason, "an attempt failed");
            last = format!("{}: {reason}", endpoint.name);
            self.settle(effect, &endpoint, &end, was_sent)?;
            if Instant::now() >= deadline {
                return Err(Error::Unavailable { last });
            }
            attempts += 1;
        }
    }

    /// Waits for an answer, and makes sure meanwhile that the endpoint lives.
    async fn watched<A>(
        &self,
        endpoint: &Endpoint,
        answer: impl Future<Output = Result<Response<A>, Status>>,
        until: Instant,
    ) -> End<A> {
        let mut answer = pin!(answer);
        let mut quiet = self.options.silence_after;
        loop {
            let now = Instant::now();
            let next = now.checked_add(quiet).map_or(until, |next| next.min(until));
            if let Ok(answer) = timeout_at(next, answer.as_mut()).await {
                return End::Answered(answer);
            }
            let since = Instant::now();
            tokio::select! {
                biased;
                answer = answer.as_mut() => return End::Answered(answer),
                () = sleep_until(until) => return End::TooLong,
                health = endpoint.health(since) => if health.is_none() {
                    return End::Silent;
                },
            }
            quiet = quiet.saturating_mul(2).min(QUIET_MAX);
        }
    }

    /// Returns when the request may be tried again, and notes how the endpoint did.
    fn settle<A>(
        &self,
        effect: Effect,
        endpoint: &Arc<Endpoint>,
        end: &End<A>,
        was_sent: bool,
    ) -> Result<(), Error> {
        let status = match end {
            End::Answered(Err(status)) => Some(status),
            _ => None,
        };
        let verdict = match status {
            Some(status) => judge(status),
            None if was_sent => Verdict::MayBeDone,
            None => Verdict::NotDone,
        };
        if let (Verdict::Refused, Some(status)) = (&verdict, status) {
            self.balance.succeeded(endpoint);
            return Err(refusal(status));
        }
        let how = if matches!(end, End::Silent) { Failing::Silent } else { Failing::Spoke };
        self.balance.failed(endpoint, how);
        match (effect, status) {
            _ if verdict == Verdict::NotDone => Ok(()),
            (Effect::Writes, Some(status)) => Err(Error::Unknown { reason: describe(status) }),
            (Effect::Writes, None) => Err(Error::Unknown { reason: NO_ANSWER.to_owned() }),
            (Effect::Reads, Some(status)) if !is_worth_reading_again(status) => {
                Err(refusal(status))
            }
            (Effect::Reads, _) => Ok(()),
        }
    }

    /// A slow endpoint must not use up a read's whole deadline while there are others.
    fn attempt_end(&self, effect: Effect, attempts: u32, deadline: Instant) -> Instant {
        if effect == Effect::Writes || self.balance.is_alone() {
            return deadline;
        }
        let doubled = 2_u32.saturating_pow(attempts);
        let timeout = self.options.attempt_timeout.saturating_mul(doubled);
        Instant::now().checked_add(timeout).map_or(deadline, |end| end.min(deadline))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoints: Vec<String> = self.endpoints().collect();
        f.debug_struct("Client").field("endpoints", &endpoints).finish()
    }
}
