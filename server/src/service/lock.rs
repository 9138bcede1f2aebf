//! The Lock service (behaviour.md 8).

use bytes::Bytes;
use kvd_proto::v3lockpb as pb;
use kvd_proto::v3lockpb::lock_server::Lock;
use tonic::{Request, Response, Status};

use super::recipe::{Recipes, Wish, plain};

/// Serves Lock.
pub(crate) struct LockService {
    recipes: Recipes,
}

impl LockService {
    /// Serves Lock by these recipes.
    pub(crate) fn new(recipes: Recipes) -> Self {
        Self { recipes }
    }
}

#[tonic::async_trait]
impl Lock for LockService {
    async fn lock(
        &self,
        request: Request<pb::LockRequest>,
    ) -> Result<Response<pb::LockResponse>, Status> {
        let pb::LockRequest { name, lease } = request.into_inner();
        let held = self.recipes.stand_in_line(Wish::Lock, name, lease, Bytes::new()).await?;
        Ok(Response::new(pb::LockResponse { header: held.header, key: held.key }))
    }

    async fn unlock(
        &self,
        request: Request<pb::UnlockRequest>,
    ) -> Result<Response<pb::UnlockResponse>, Status> {
        let deleted = self.recipes.delete(request.into_inner().key).await.map_err(plain)?;
        Ok(Response::new(pb::UnlockResponse { header: deleted.header }))
    }
}
