//! The lease that holds what somebody took: the caller's own, or one that is granted for the call (rule LK1).

use std::time::Duration;

use kvd_core::ids::LeaseId;
use kvd_proto::etcdserverpb as pb;
use kvd_proto::etcdserverpb::lease_server::Lease as _;
use tokio::task::AbortHandle;
use tonic::{Request, Status};

use super::Recipes;

/// Seconds of a lease that is granted for a call.
const TTL_SECONDS: i64 = 60;

/// How often such a lease is kept alive, while its call waits.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// A lease in use by one call. After it nobody keeps alive what was granted for it: what the call took lapses
/// unless its client does.
pub(super) struct Session {
    pub(super) lease: i64,
    kept_alive: Option<AbortHandle>,
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(task) = &self.kept_alive {
            task.abort();
        }
    }
}

impl Recipes {
    /// The caller's lease, or where it names none, a new one.
    pub(super) async fn session(&self, lease: i64) -> Result<Session, Status> {
        if lease != 0 {
            return Ok(Session { lease, kept_alive: None });
        }
        let grant = pb::LeaseGrantRequest { ttl: TTL_SECONDS, id: 0 };
        let lease = self.lease.lease_grant(Request::new(grant)).await?.into_inner().id;
        let node = std::sync::Arc::clone(&self.node);
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(KEEP_ALIVE).await;
                // One that fails is followed by another in good time.
                if let Err(error) = node.lease_renew(LeaseId(lease)).await {
                    tracing::debug!(
                        lease,
                        ?error,
                        "the lease of a waiting call was not kept alive"
                    );
                }
            }
        });
        Ok(Session { lease, kept_alive: Some(task.abort_handle()) })
    }
}
