//! The Lease service. Leases are granted and revoked through the log; renewal and lookup are not served yet.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::Stream;
use kvd_core::command::{Command, LeaseGrant, LeaseRevoke};
use kvd_core::ids::LeaseId;
use kvd_core::outcome::Response as Answer;
use kvd_proto::etcdserverpb as pb;
use kvd_proto::etcdserverpb::lease_server::Lease;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tonic::{Request, Response, Status, Streaming};

use super::convert::header;
use super::status;
use crate::node::Node;

/// Bytes a lease costs against the quota (behaviour.md 6.4).
const GRANT_COST_BYTES: u64 = 64;

/// Serves Lease.
pub(crate) struct LeaseService {
    node: Arc<Node>,
    ids: Mutex<StdRng>,
}

impl LeaseService {
    /// Serves Lease from this node; ids that clients leave open are drawn from this seed.
    pub(crate) fn new(node: Arc<Node>, seed: u64) -> Self {
        Self { node, ids: Mutex::new(StdRng::seed_from_u64(seed)) }
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
        let request = request.into_inner();
        self.node.admit(GRANT_COST_BYTES).await.map_err(status::status)?;
        let limits = self.node.limits();
        let least_seconds = ttl_seconds_min(limits.election_ms, limits.heartbeat_ms);
        let grant =
            LeaseGrant { id: self.id(request.id), ttl_seconds: request.ttl.max(least_seconds) };
        let granted = self.node.propose(Command::LeaseGrant(grant)).await;
        let applied = granted.map_err(status::status)?;
        let header = header(self.node.header(), applied.revision);
        match applied.outcome {
            Ok(Answer::LeaseGrant { id, ttl_seconds }) => {
                let error = String::new();
                Ok(Response::new(pb::LeaseGrantResponse {
                    header,
                    id: id.0,
                    ttl: ttl_seconds,
                    error,
                }))
            }
            _ => Err(status::wrong_answer()),
        }
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        let revoke = LeaseRevoke { id: LeaseId(request.into_inner().id) };
        let revoked = self.node.propose(Command::LeaseRevoke(revoke)).await;
        let applied = revoked.map_err(status::status)?;
        let header = header(self.node.header(), applied.revision);
        Ok(Response::new(pb::LeaseRevokeResponse { header }))
    }

    type LeaseKeepAliveStream =
        Pin<Box<dyn Stream<Item = Result<pb::LeaseKeepAliveResponse, Status>> + Send>>;

    async fn lease_keep_alive(
        &self,
        _requests: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        Err(status::unserved("LeaseKeepAlive"))
    }

    async fn lease_time_to_live(
        &self,
        _request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        Err(status::unserved("LeaseTimeToLive"))
    }

    async fn lease_leases(
        &self,
        _request: Request<pb::LeaseLeasesRequest>,
    ) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        Err(status::unserved("LeaseLeases"))
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
