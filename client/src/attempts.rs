//! The rules by which a call is tried again.
//!
//! | failure of an attempt | a read, or a mutation with an id | any other write |
//! |---|---|---|
//! | not connected, or the server proposed nothing | tried elsewhere | tried elsewhere |
//! | connection broken, server gave up waiting | tried elsewhere | `Unknown` |
//! | endpoint silent | tried elsewhere | `Unknown` |
//! | refused | returned | returned |
//!
//! All of it ends with the caller's deadline (behaviour.md §14; reliability.md: never retry a write
//! that may have happened). Slow is not silent: who waits for long asks the endpoint whether it lives, and goes on
//! waiting if it does. The same request is never under way to two members: an attempt is given up before the next.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use tracing::Instrument;

use crate::balance::{Endpoint, Failing};
use crate::client::Client;
use crate::error::{Error, Verdict, describe, is_worth_reading_again, judge, refusal};
use crate::once::{self, Refused, Ticket};

/// Largest answer that is taken, in bytes; etcd's client and server have the same limit
/// (behaviour.md §10.1).
pub(crate) const ANSWER_BYTES_MAX: usize = i32::MAX as usize;

/// What etcd's own clients say when the deadline has passed.
const NO_ANSWER: &str = "context deadline exceeded";

/// Who waits for long asks this often at least whether the endpoint lives.
const QUIET_MAX: Duration = Duration::from_secs(1);

/// Pause before a request goes on in another session: a server that knows none must not be asked without end.
const SESSION_PAUSE: Duration = Duration::from_millis(25);

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
    /// Once, if it has an id.
    Mutates,
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

    /// A call that may carry an id. Without one it is as [`Call::writes`].
    pub(crate) const fn mutates(name: &'static str) -> Self {
        Self { name, effect: Effect::Mutates }
    }

    /// A call that must not be repeated unless the first one certainly did nothing.
    pub(crate) const fn writes(name: &'static str) -> Self {
        Self { name, effect: Effect::Writes }
    }
}

impl<A> End<A> {
    fn status(&self) -> Option<&Status> {
        match self {
            Self::Answered(Err(status)) => Some(status),
            _ => None,
        }
    }

    fn reason(&self) -> String {
        match self {
            Self::Answered(Err(status)) => describe(status),
            Self::Silent | Self::Answered(Ok(_)) => "the endpoint is silent".to_owned(),
            Self::TooLong => NO_ANSWER.to_owned(),
        }
    }
}

/// What is known of a call that is not over.
struct Story {
    deadline: Instant,
    /// It may be sent again though it may have been carried out.
    may_repeat: bool,
    ticket: Option<Ticket>,
    attempts: u32,
    /// Why an attempt to change something may have been carried out.
    doubt: Option<String>,
    /// What the last attempt met with.
    last: String,
}

impl Story {
    /// There is no time left.
    fn give_up(self) -> Error {
        match self.doubt {
            Some(reason) => Error::Unknown { reason },
            None => Error::Unavailable { last: self.last },
        }
    }

    /// A server refused. Of an earlier attempt that says nothing: that one may still be under way.
    fn refused(&self, error: Error) -> Error {
        match &self.doubt {
            Some(reason) => Error::Unknown { reason: format!("{reason}; then {error}") },
            None => error,
        }
    }
}

impl Client {
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
        let mut story = self.begin(effect).await?;
        loop {
            let (endpoint, pause) = self.balance().pick();
            if !pause.is_zero() {
                if Instant::now() + pause >= story.deadline {
                    return Err(story.give_up());
                }
                sleep(pause).await;
            }
            let mut attempt = Request::new(request.clone());
            attempt.set_timeout(story.deadline.saturating_duration_since(Instant::now()));
            if let Some(ticket) = &story.ticket {
                ticket.mark(&mut attempt);
            }
            let until = self.attempt_end(&story);
            let under_way = endpoint.begin();
            let end = self.watched(&endpoint, send(endpoint.channel(), attempt), until).await;
            if let End::Answered(Ok(answer)) = end {
                self.balance().succeeded(&endpoint);
                drop(under_way);
                return Ok((answer.into_inner(), endpoint));
            }
            let was_sent = !under_way.was_never_sent();
            drop(under_way);
            let reason = end.reason();
            tracing::debug!(endpoint = endpoint.name, reason, "an attempt failed");
            story.last = format!("{}: {reason}", endpoint.name);
            self.settle(&mut story, effect, &endpoint, &end, was_sent).await?;
            if Instant::now() >= story.deadline {
                return Err(story.give_up());
            }
            story.attempts += 1;
        }
    }

    async fn begin(&self, effect: Effect) -> Result<Story, Error> {
        let deadline = self.deadline();
        let mut story = Story {
            deadline,
            may_repeat: effect == Effect::Reads,
            ticket: None,
            attempts: 0,
            doubt: None,
            last: String::from("no attempt was made"),
        };
        if let (Effect::Mutates, Some(sessions)) = (effect, self.sessions()) {
            let ticket = timeout_at(deadline, self.ticket(sessions)).await;
            story.ticket = Some(ticket.map_err(|_| Error::Unavailable {
                last: "too many requests are open in this session".to_owned(),
            })?);
            story.may_repeat = true;
        }
        Ok(story)
    }

    /// Waits for an answer, and makes sure meanwhile that the endpoint lives.
    async fn watched<A>(
        &self,
        endpoint: &Endpoint,
        answer: impl Future<Output = Result<Response<A>, Status>>,
        until: Instant,
    ) -> End<A> {
        // Apart, or every future that awaits a call would be some kilobytes larger.
        let mut answer = Box::pin(answer);
        // Where there is nowhere else to go, giving up sooner would gain nothing.
        if self.balance().is_alone() {
            let answered = timeout_at(until, answer).await;
            return answered.map_or(End::TooLong, End::Answered);
        }
        let mut quiet = self.options().silence_after;
        loop {
            let now = Instant::now();
            let next = now.checked_add(quiet).map_or(until, |next| next.min(until));
            if let Ok(answer) = timeout_at(next, answer.as_mut()).await {
                return End::Answered(answer);
            }
            self.balance().ask_around();
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
    async fn settle<A>(
        &self,
        story: &mut Story,
        effect: Effect,
        endpoint: &Arc<Endpoint>,
        end: &End<A>,
        was_sent: bool,
    ) -> Result<(), Error> {
        let verdict = match end.status() {
            Some(status) => judge(status),
            None if was_sent => Verdict::MayBeDone,
            None => Verdict::NotDone,
        };
        if let (Verdict::Refused, Some(status)) = (&verdict, end.status()) {
            self.balance().succeeded(endpoint);
            return self.refused(story, status).await;
        }
        match end {
            // Who gives up at its own deadline knows nothing against an endpoint that lives.
            End::TooLong if Instant::now() >= story.deadline => {}
            End::Silent => self.balance().failed(endpoint, Failing::Silent),
            _ => self.balance().failed(endpoint, Failing::Spoke),
        }
        match (effect, end.status()) {
            _ if verdict == Verdict::NotDone => {}
            (Effect::Reads, Some(status)) if !is_worth_reading_again(status) => {
                return Err(refusal(status));
            }
            (Effect::Reads, _) => {}
            _ if story.may_repeat => story.doubt = Some(end.reason()),
            _ => return Err(Error::Unknown { reason: end.reason() }),
        }
        Ok(())
    }

    /// Only of an id that the server forgot is there more to try than what it says.
    async fn refused(&self, story: &mut Story, status: &Status) -> Result<(), Error> {
        match (once::refused(status), story.ticket.take(), self.sessions()) {
            (Some(Refused::Done(revision)), Some(_), _) => Err(Error::AnswerLost { revision }),
            (Some(Refused::Over), Some(old), Some(sessions)) if story.doubt.is_none() => {
                let another = Box::pin(self.another_ticket(sessions, &old));
                let in_time = timeout_at(story.deadline, another).await;
                story.ticket = Some(in_time.map_err(|_| Error::Unavailable {
                    last: "no session was opened in time".to_owned(),
                })??);
                sleep(SESSION_PAUSE).await;
                Ok(())
            }
            _ => Err(story.refused(refusal(status))),
        }
    }

    /// A slow endpoint must not use up a read's whole deadline while there are others.
    fn attempt_end(&self, story: &Story) -> Instant {
        let deadline = story.deadline;
        if !story.may_repeat || self.balance().is_alone() {
            return deadline;
        }
        let doubled = 2_u32.saturating_pow(story.attempts);
        let timeout = self.options().attempt_timeout.saturating_mul(doubled);
        Instant::now().checked_add(timeout).map_or(deadline, |end| end.min(deadline))
    }
}
