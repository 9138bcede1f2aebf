//! Writes: admission, the way to the leader, and the wait until the answer is visible here.
//!
//! A proposal is tried again only while it is certain that no log saw it (hazard A7). The answer is given
//! after this member's own View has reached it, wherever it was proposed: whoever has the answer can read it
//! here, as in etcd, where the reply comes from the local apply (behaviour.md 10.4).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use kvd_core::codec;
use kvd_core::command::{Command, Proposal};
use kvd_core::ids::RequestId;
use kvd_core::members::{MemberChange, Rules};
use kvd_core::mutants::{Mutant, active};
use kvd_core::outcome::{Applied, Rejection};
use kvd_proto::peer::not_appended::Reason;
use kvd_proto::peer::propose_reply::Result as Reply;
use kvd_proto::peer::{ProposeReply, ProposeRequest};
use kvd_storage::space::Level;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout_at};
use tonic::Status;

use super::members;
use super::reads::Addresses;
use super::request::{RequestError, Unavailable};
use crate::apply::Published;
use crate::limits::{APPLY_GAP_MAX, PROPOSAL_BYTES_IN_FLIGHT_MAX};
use crate::peer::pool::{CallError, Lane, Peers, within};
use crate::raft::{Leadership, Raft, WriteError};

/// Pause before a proposal that no log saw is tried again, unless leadership changes sooner.
const RETRY: Duration = Duration::from_millis(10);

/// Proposes on behalf of this member's clients, and of the other members' when this one leads.
pub(crate) struct Proposer {
    pub(crate) raft: Raft,
    pub(crate) peers: Peers,
    pub(crate) published: Published,
    pub(crate) addresses: Arc<dyn Addresses>,
    /// Bytes of an encoded proposal at most; etcd's `--max-request-bytes`.
    pub(crate) request_bytes_max: usize,
    /// What is allowed of changes of the membership.
    pub(crate) rules: Rules,
    /// etcd's ReqTimeout: 5 s and two election timeouts (behaviour.md 10.4).
    pub(crate) timeout: Duration,
    /// Once another leads, the answer of the one before has so long to come, as when it handed leadership over. Without
    /// an end a write whose leader fell silent would wait for its whole timeout; its outcome is unknown either way.
    pub(crate) last_word: Duration,
    /// How much room this member's device has.
    pub(crate) space: watch::Receiver<Level>,
    pub(crate) in_flight: Semaphore,
    pub(crate) counters: Counters,
}

/// What metrics tell of proposals.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) pending: AtomicU64,
    pub(crate) failed: AtomicU64,
}

/// What the leader is asked for.
pub(super) enum Wanted {
    /// That an encoded proposal is applied.
    Proposal(Bytes),
    /// That the membership changes.
    Change(MemberChange),
}

/// How one attempt ended.
pub(super) enum Attempt {
    Applied(Applied),
    /// No log saw it.
    NotAppended,
    /// It may have happened.
    Unknown,
    Refused(Unavailable),
}

impl Proposer {
    /// The bytes that may be in flight at once.
    pub(crate) fn admission() -> Semaphore {
        Semaphore::new(PROPOSAL_BYTES_IN_FLIGHT_MAX)
    }

    /// Proposes a command and waits for its answer to be visible here; with an id it is applied once, however
    /// often it is proposed.
    pub(crate) async fn propose(
        &self,
        request_id: Option<RequestId>,
        command: Command,
    ) -> Result<Applied, RequestError> {
        let proposal = Proposal { request_id, ..Proposal::internal(command) };
        let proposal = codec::encode_proposal(&proposal);
        if proposal.len() > self.request_bytes_max {
            return Err(Rejection::RequestTooLarge.into());
        }
        self.counters.pending.fetch_add(1, Ordering::Relaxed);
        let result = self.propose_encoded(proposal).await;
        self.counters.pending.fetch_sub(1, Ordering::Relaxed);
        if result.is_err() {
            self.counters.failed.fetch_add(1, Ordering::Relaxed);
        }
        let applied = result?;
        match applied.outcome {
            Err(rejection) => Err(rejection.into()),
            Ok(_) => Ok(applied),
        }
    }

    async fn propose_encoded(&self, proposal: Bytes) -> Result<Applied, Unavailable> {
        self.check_gap()?;
        let deadline = Instant::now() + self.timeout;
        let _permit = timeout_at(deadline, self.permit(proposal.len()))
            .await
            .map_err(|_elapsed| Unavailable::TooManyRequests)??;
        self.until_visible(Wanted::Proposal(proposal), deadline).await
    }

    pub(super) async fn until_visible(
        &self,
        wanted: Wanted,
        deadline: Instant,
    ) -> Result<Applied, Unavailable> {
        let before = self.raft.leader();
        let applied = self.until_applied(&wanted, deadline).await?;
        if active(Mutant::AnswerBeforeVisible) {
            return Ok(applied);
        }
        // Visible on the leader; the answer waits until it is here too.
        match timeout_at(deadline, self.published.at_least(applied.log_id.index)).await {
            Ok(_view) => Ok(applied),
            Err(_elapsed) => Err(self.timed_out(before)),
        }
    }

    /// Until the leader applied it.
    pub(super) async fn until_applied(
        &self,
        wanted: &Wanted,
        deadline: Instant,
    ) -> Result<Applied, Unavailable> {
        let (before, mut changes) = (self.raft.leader(), self.raft.leadership_changes());
        loop {
            match timeout_at(deadline, self.attempt(wanted, deadline)).await {
                Ok(Attempt::Applied(applied)) => return Ok(applied),
                Ok(Attempt::Unknown) => return Err(Unavailable::TimeoutLeaderFail),
                Ok(Attempt::Refused(unavailable)) => return Err(unavailable),
                Ok(Attempt::NotAppended) => {}
                Err(_elapsed) => return Err(self.timed_out(before)),
            }
            if Instant::now() + RETRY >= deadline {
                return Err(Unavailable::DeadlineExceeded);
            }
            // A change of leadership is the usual reason to try again; the pause covers the others.
            let _sooner = tokio::time::timeout(RETRY, changes.changed()).await;
        }
    }

    async fn attempt(&self, wanted: &Wanted, deadline: Instant) -> Attempt {
        let Some(leadership) = self.raft.leader() else {
            return Attempt::NotAppended;
        };
        if leadership.leader != self.raft.own_id() {
            return self.forward(leadership, wanted, deadline).await;
        }
        match wanted {
            Wanted::Proposal(proposal) => self.raft.write(proposal.clone()).await.into(),
            Wanted::Change(change) => self.change_here(change).await,
        }
    }

    async fn forward(&self, leadership: Leadership, wanted: &Wanted, deadline: Instant) -> Attempt {
        let leader = leadership.leader;
        let urls = self.addresses.peer_urls(leader);
        let mut client = self.peers.client(leader, &urls, Lane::Calls);
        let limit = deadline.saturating_duration_since(Instant::now());
        let answer = async {
            match wanted {
                Wanted::Proposal(proposal) => {
                    let request = ProposeRequest { proposal: proposal.clone() };
                    within(limit, client.propose(self.peers.request(leader, request))).await
                }
                Wanted::Change(change) => {
                    let request = members::to_request(change);
                    within(limit, client.change_members(self.peers.request(leader, request))).await
                }
            }
        };
        let reply = tokio::select! {
            biased;
            reply = answer => reply,
            () = self.raft.superseded(leadership, self.last_word) => return Attempt::Unknown,
        };
        match reply {
            Ok(reply) => from_reply(reply),
            Err(CallError::NotSent(_) | CallError::Refused(_)) => Attempt::NotAppended,
            Err(CallError::NoAnswer(_)) if active(Mutant::ForwardRetried) => Attempt::NotAppended,
            Err(CallError::NoAnswer(_)) => Attempt::Unknown,
        }
    }

    /// Answers a member that forwarded a proposal: only as leader, never forwarded again.
    ///
    /// One that this member cannot read is refused: once in the log it would stop every member that applies it,
    /// and its first byte may not mean what it seems to (a membership starts with one of its own).
    pub(crate) async fn serve(&self, request: ProposeRequest) -> Result<ProposeReply, Status> {
        let proposal = codec::decode_proposal(request.proposal.clone())
            .map_err(|error| Status::invalid_argument(format!("proposal: {error}")))?;
        if *self.space.borrow() <= Level::Low && proposal.command.grows() {
            return Ok(refusal(Reason::NoSpace));
        }
        let reply = match self.serve_here(request.proposal).await {
            Ok(applied) => Reply::Outcome(codec::encode_outcome(&applied)),
            Err(Served::NotAppended(reason)) => return Ok(refusal(reason)),
            Err(Served::Unknown) => Reply::Unknown(true),
        };
        Ok(ProposeReply { result: Some(reply) })
    }

    async fn serve_here(&self, proposal: Bytes) -> Result<Applied, Served> {
        self.check_gap().map_err(|_gap| Served::NotAppended(Reason::TooManyRequests))?;
        let _permit = self
            .permit(proposal.len())
            .await
            .map_err(|_stopping| Served::NotAppended(Reason::Stopped))?;
        self.raft.write(proposal).await.map_err(|error| match error {
            WriteError::NotAppended => Served::NotAppended(Reason::NotLeader),
            WriteError::Unknown | WriteError::Stopped => Served::Unknown,
        })
    }

    /// Too much accepted and not applied: more would only wait longer (behaviour.md 10.3).
    fn check_gap(&self) -> Result<(), Unavailable> {
        let gap = self.raft.last().0.saturating_sub(self.published.applied().0);
        if gap > APPLY_GAP_MAX { Err(Unavailable::TooManyRequests) } else { Ok(()) }
    }

    async fn permit(&self, bytes: usize) -> Result<tokio::sync::SemaphorePermit<'_>, Unavailable> {
        let bytes = u32::try_from(bytes.min(PROPOSAL_BYTES_IN_FLIGHT_MAX)).unwrap_or(u32::MAX);
        self.in_flight.acquire_many(bytes).await.map_err(|_closed| Unavailable::Stopped)
    }

    /// Which of etcd's three time-outs this one is (behaviour.md 9.1).
    fn timed_out(&self, before: Option<Leadership>) -> Unavailable {
        match (before, self.raft.leader()) {
            (_, None) => Unavailable::TimeoutConnectionLost,
            (before, now) if before != now => Unavailable::TimeoutLeaderFail,
            _ => Unavailable::Timeout,
        }
    }
}

/// Why a forwarded proposal has no outcome.
enum Served {
    NotAppended(Reason),
    Unknown,
}

impl From<Result<Applied, WriteError>> for Attempt {
    fn from(written: Result<Applied, WriteError>) -> Self {
        match written {
            Ok(applied) => Self::Applied(applied),
            Err(WriteError::NotAppended) => Self::NotAppended,
            Err(WriteError::Unknown) => Self::Unknown,
            Err(WriteError::Stopped) => Self::Refused(Unavailable::Stopped),
        }
    }
}

pub(super) fn refusal(reason: Reason) -> ProposeReply {
    let refusal = kvd_proto::peer::NotAppended { reason: reason.into() };
    ProposeReply { result: Some(Reply::NotAppended(refusal)) }
}

fn from_reply(reply: ProposeReply) -> Attempt {
    match reply.result {
        Some(Reply::Outcome(outcome)) => match codec::decode_outcome(outcome) {
            Ok(applied) => Attempt::Applied(applied),
            // It was applied, but what it answered cannot be read.
            Err(_malformed) => Attempt::Unknown,
        },
        Some(Reply::NotAppended(refusal)) => match refusal.reason() {
            Reason::NotLeader | Reason::Stopped => Attempt::NotAppended,
            Reason::TooManyRequests => Attempt::Refused(Unavailable::TooManyRequests),
            Reason::NoSpace => Attempt::Refused(Unavailable::NoSpace),
            Reason::Unhealthy => Attempt::Refused(Unavailable::Unhealthy),
            Reason::TooLarge => Attempt::Refused(Unavailable::Stopped),
        },
        Some(Reply::Unknown(_)) | None => Attempt::Unknown,
    }
}
