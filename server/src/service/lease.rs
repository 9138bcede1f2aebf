//! The Lease service (behaviour.md 4).

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{Stream, stream};
use kvd_core::command::{Command, LeaseGrant, LeaseRevoke};
use kvd_core::ids::LeaseId;
use kvd_core::outcome::Response as Answer;
use kvd_proto::etcdserverpb as pb;
use kvd_proto::etcdserverpb::lease_server::Lease;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tonic::{Request, Response, Status, Streaming};

use super::convert::header;
use super::{leader_loss, request_id, status};
use crate::node::{Node, Unavailable};
use crate::shutdown::Shutdown;

/// Bytes a lease costs against the quota (behaviour.md 6.4).
const GRANT_COST_BYTES: u64 = 64;

/// Serves Lease.
pub(crate) struct LeaseService {
    node: Arc<Node>,
    ids: Mutex<StdRng>,
    shutdown: Shutdown,
}

impl LeaseService {
    /// Serves Lease from this node; ids that clients leave open are drawn from this seed.
    pub(crate) fn new(node: Arc<Node>, seed: u64, shutdown: Shutdown) -> Self {
        Self { node, ids: Mutex::new(StdRng::seed_from_u64(seed)), shutdown }
    }

    /// The id asked for, or a random positive one (rule L1).
    fn id(&self, asked: i64) -> LeaseId {
        if asked != 0 {
            return LeaseId(asked);
        }
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        LeaseId(ids.random_range(1..=i64::MAX))
    }
}

#[tonic::async_trait]
impl Lease for LeaseService {
    async fn lease_grant(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        let request_id = request_id::of(request.metadata())?;
        let request = request.into_inner();
        let admitted = self.node.admit(request_id, GRANT_COST_BYTES).await;
        admitted.map_err(status::status)?;
        let limits = self.node.limits();
        let least_seconds = ttl_seconds_min(limits.election_ms, limits.heartbeat_ms);
        let grant =
            LeaseGrant { id: self.id(request.id), ttl_seconds: request.ttl.max(least_seconds) };
        let granted = self.node.request(request_id, Command::LeaseGrant(grant)).await;
        let applied = granted.map_err(status::status)?;
        let header = header(self.node.header(), applied.revision);
        match applied.outcome {
            Ok(Answer::LeaseGrant { id, ttl_seconds }) => {
                let error = String::new();
                let granted = pb::LeaseGrantResponse { header, id: id.0, ttl: ttl_seconds, error };
                Ok(request_id::answer(granted, applied.repeated))
            }
            _ => Err(status::wrong_answer()),
        }
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        let request_id = request_id::of(request.metadata())?;
        let revoke = LeaseRevoke { id: LeaseId(request.into_inner().id) };
        let revoked = self.node.request(request_id, Command::LeaseRevoke(revoke)).await;
        let applied = revoked.map_err(status::status)?;
        // An id that was another request's tells so here.
        let Ok(Answer::LeaseRevoke) = applied.outcome else { return Err(status::wrong_answer()) };
        let header = header(self.node.header(), applied.revision);
        Ok(request_id::answer(pb::LeaseRevokeResponse { header }, applied.repeated))
    }

    type LeaseKeepAliveStream =
        Pin<Box<dyn Stream<Item = Result<pb::LeaseKeepAliveResponse, Status>> + Send>>;

    async fn lease_keep_alive(
        &self,
        requests: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let wants_leader = leader_loss::is_wanted(requests.metadata());
        let (node, shutdown) = (Arc::clone(&self.node), self.shutdown.clone());
        let ended = async move {
            let lost = async {
                match wants_leader {
                    true => leader_loss::leader_lost(&node).await,
                    false => std::future::pending().await,
                }
            };
            tokio::select! {
                () = lost => Unavailable::NoLeader,
                () = shutdown.begun() => Unavailable::Stopped,
            }
        };
        let renewals = Renewals {
            node: Arc::clone(&self.node),
            requests: requests.into_inner(),
            ended: Box::pin(ended),
        };
        let answers = stream::unfold(Some(renewals), |renewals| async {
            let mut renewals = renewals?;
            let answer = renewals.next().await?;
            // An error is the last thing that is said (rule L9).
            let rest = answer.is_ok().then_some(renewals);
            Some((answer, rest))
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        let pb::LeaseTimeToLiveRequest { id, keys } = request.into_inner();
        let found = self.node.lease_time_to_live(LeaseId(id), keys).await;
        let found = found.map_err(status::status)?;
        let header = header(self.node.header(), self.node.view().revision());
        let response = match found {
            Some(found) => pb::LeaseTimeToLiveResponse {
                header,
                id,
                ttl: found.left_seconds,
                granted_ttl: found.granted_seconds,
                keys: found.keys,
            },
            // Rule L11.
            None => pb::LeaseTimeToLiveResponse { header, id, ttl: -1, ..Default::default() },
        };
        Ok(Response::new(response))
    }

    async fn lease_leases(
        &self,
        _request: Request<pb::LeaseLeasesRequest>,
    ) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        let leases = self.node.leases().await.map_err(status::status)?;
        let header = header(self.node.header(), self.node.view().revision());
        let leases = leases.into_iter().map(|id| pb::LeaseStatus { id: id.0 }).collect();
        Ok(Response::new(pb::LeaseLeasesResponse { header, leases }))
    }
}

/// One client's stream of renewals: one answer a request, in order. All of it goes with the client.
struct Renewals {
    node: Arc<Node>,
    requests: Streaming<pb::LeaseKeepAliveRequest>,
    /// Comes true when the stream must end, with the reason.
    ended: Pin<Box<dyn Future<Output = Unavailable> + Send>>,
}

impl Renewals {
    /// The next answer; `None` after the client's last request.
    async fn next(&mut self) -> Option<Result<pb::LeaseKeepAliveResponse, Status>> {
        let answer = async {
            let request = match self.requests.message().await {
                Ok(request) => request?,
                Err(status) => return Some(Err(status)),
            };
            // Before the renewal (rule H9).
            let header = header(self.node.header(), self.node.view().revision());
            let granted = self.node.lease_renew(LeaseId(request.id)).await;
            Some(granted.map_err(status::status).map(|ttl| pb::LeaseKeepAliveResponse {
                header,
                id: request.id,
                ttl,
            }))
        };
        tokio::select! {
            answer = answer => answer,
            reason = &mut self.ended => Some(Err(status::status(reason.into()))),
        }
    }
}

/// Seconds of the shortest lease: one and a half election timeouts, counted in whole heartbeats (rule L2).
fn ttl_seconds_min(election_ms: u64, heartbeat_ms: u64) -> i64 {
    let ticks = election_ms / heartbeat_ms.max(1);
    let least_ms = (ticks * heartbeat_ms).saturating_mul(3).div_ceil(2);
    i64::try_from(least_ms.div_ceil(1000)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rule L2.
    #[test]
    fn short_leases_are_raised_to_the_minimum() {
        assert_eq!(ttl_seconds_min(1000, 100), 2);
        assert_eq!(ttl_seconds_min(2000, 100), 3);
        assert_eq!(ttl_seconds_min(2099, 100), 3, "whole heartbeats");
        assert_eq!(ttl_seconds_min(50_000, 10_000), 75);
    }
}
