//! Leases: granting and revoking (behaviour.md §4).

use kvd_proto::etcdserverpb::lease_client::LeaseClient;
use kvd_proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseRevokeRequest, LeaseRevokeResponse,
};

use crate::channel::{Client, Effect};
use crate::error::Error;

impl Client {
    /// Grants a lease of `ttl` seconds; `id` 0 lets the server choose the number.
    pub async fn lease_grant(&self, ttl: i64, id: i64) -> Result<LeaseGrantResponse, Error> {
        let send =
            |channel, request| async move { LeaseClient::new(channel).lease_grant(request).await };
        self.call(Effect::Writes, LeaseGrantRequest { ttl, id }, send).await
    }

    /// Ends a lease and deletes its keys.
    pub async fn lease_revoke(&self, id: i64) -> Result<LeaseRevokeResponse, Error> {
        let send =
            |channel, request| async move { LeaseClient::new(channel).lease_revoke(request).await };
        self.call(Effect::Writes, LeaseRevokeRequest { id }, send).await
    }
}
