//! Sends one request to one member, and says what became of it.

use std::error::Error as _;
use std::time::Duration;

use kvd_check::{Caller, Outcome, Refusal, Reply, Request};
use kvd_proto::etcdserverpb as pb;
use kvd_proto::etcdserverpb::kv_client::KvClient;
use kvd_proto::etcdserverpb::lease_client::LeaseClient;
use rand::RngExt;
use rand::rngs::StdRng;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::{Scene, member};
use crate::convert;
use crate::machine::CLIENT_PORT;
use crate::net::channel;

/// A client's connections.
pub struct Asker {
    scene: Scene,
    client: u64,
    members: Vec<Channel>,
    /// The member that is asked next.
    at: usize,
}

impl Asker {
    /// A client with a number that no other has.
    #[must_use]
    pub fn new(scene: &Scene, client: u64, rng: &mut StdRng) -> Self {
        let members = scene.members.iter().map(|name| channel(name, CLIENT_PORT)).collect();
        let at = rng.random_range(0..scene.members.len());
        Self { scene: scene.clone(), client, members, at }
    }

    /// A client that asks this member.
    #[must_use]
    pub fn at(scene: &Scene, client: u64, at: usize) -> Self {
        let members = scene.members.iter().map(|name| channel(name, CLIENT_PORT)).collect();
        Self { scene: scene.clone(), client, members, at }
    }

    /// Asks, and goes to another member when that helped nothing, or now and then.
    pub async fn ask(&mut self, rng: &mut StdRng, request: Request) -> Outcome {
        let outcome = self.ask_here(rng, request).await;
        let in_vain = matches!(outcome, Outcome::Unknown | Outcome::Refused(Refusal::NotProposed));
        if in_vain || rng.random_bool(0.05) {
            self.at = rng.random_range(0..self.members.len());
        }
        outcome
    }

    /// Asks the member that it asked last.
    pub async fn ask_here(&mut self, rng: &mut StdRng, request: Request) -> Outcome {
        // Few have patience for as long as a member may have none to name a leader.
        let patient = rng.random_bool(0.15);
        let limit_ms = if patient { 3000..7000 } else { 300..3000 };
        let limit = Duration::from_millis(rng.random_range(limit_ms));
        let caller = Caller { client: self.client, member: member(self.at) };
        let op = self.scene.record.begin(caller, &request);
        let answer = send(self.members[self.at].clone(), &request, limit);
        let outcome = match tokio::time::timeout(limit, answer).await {
            Ok(Ok((header, reply))) => Outcome::Answered { revision: header.revision, reply },
            Ok(Err(status)) => classify(&status),
            Err(_elapsed) => Outcome::Unknown,
        };
        self.scene.record.end(op, outcome.clone());
        outcome
    }
}

/// What a refusal says of the call. Only what can never happen any more is said to be refused.
fn classify(status: &Status) -> Outcome {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return Outcome::Refused(Refusal::NotProposed);
        }
        source = error.source();
    }
    let refusal = match (status.code(), status.message()) {
        (Code::OutOfRange, text) if text.contains("compacted") => Refusal::Compacted,
        (Code::OutOfRange, text) if text.contains("future") => Refusal::FutureRevision,
        (Code::NotFound, text) if text.contains("lease") => Refusal::LeaseNotFound,
        (Code::FailedPrecondition, text) if text.contains("lease already exists") => {
            Refusal::LeaseExists
        }
        (Code::ResourceExhausted, _) => Refusal::NotProposed,
        // A member that cannot say, or a connection that broke.
        (
            Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Unknown
            | Code::Internal,
            _,
        ) => return Outcome::Unknown,
        (code, text) => panic!("no request here may be answered with {code:?}: {text}"),
    };
    Outcome::Refused(refusal)
}

async fn send(
    member: Channel,
    request: &Request,
    limit: Duration,
) -> Result<(pb::ResponseHeader, Reply), Status> {
    let mut kv = KvClient::new(member.clone());
    let mut lease = LeaseClient::new(member);
    let (header, reply) = match request {
        Request::Range(request) => {
            let answer = kv.range(timed(convert::range(request), limit)).await?.into_inner();
            (answer.header, Some(Reply::Range(convert::range_reply(&answer))))
        }
        Request::Put(request) => {
            let answer = kv.put(timed(convert::put(request), limit)).await?.into_inner();
            (answer.header, Some(convert::put_reply(&answer)))
        }
        Request::DeleteRange(request) => {
            let answer = kv.delete_range(timed(convert::delete(request), limit)).await?;
            let answer = answer.into_inner();
            (answer.header, Some(convert::delete_reply(&answer)))
        }
        Request::Txn(request) => {
            let answer = kv.txn(timed(convert::txn(request), limit)).await?.into_inner();
            (answer.header, convert::txn_reply(&answer))
        }
        Request::Compact { revision } => {
            let request = pb::CompactionRequest { revision: *revision, physical: false };
            (kv.compact(timed(request, limit)).await?.into_inner().header, Some(Reply::Compact))
        }
        Request::LeaseGrant { id, ttl_seconds } => {
            let request = pb::LeaseGrantRequest { id: *id, ttl: *ttl_seconds };
            let answer = lease.lease_grant(timed(request, limit)).await?.into_inner();
            (answer.header, Some(Reply::LeaseGrant { ttl_seconds: answer.ttl }))
        }
        Request::LeaseRevoke { id } => {
            let request = timed(pb::LeaseRevokeRequest { id: *id }, limit);
            (lease.lease_revoke(request).await?.into_inner().header, Some(Reply::LeaseRevoke))
        }
        Request::LeaseKeepAlive { id } => {
            let request = tokio_stream::once(pb::LeaseKeepAliveRequest { id: *id });
            let mut answers = lease.lease_keep_alive(timed(request, limit)).await?.into_inner();
            let answer = answers.message().await?.unwrap_or_default();
            (answer.header, Some(Reply::LeaseKeepAlive { ttl_seconds: answer.ttl }))
        }
    };
    match (header, reply) {
        (Some(header), Some(reply)) => Ok((header, reply)),
        _ => Err(Status::internal("an answer with a part missing")),
    }
}

/// A request that tells the member how long its client waits.
pub fn timed<T>(message: T, limit: Duration) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(limit);
    request
}
