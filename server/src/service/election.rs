//! The Election service (behaviour.md 8).

use std::pin::Pin;

use futures_util::{Stream, stream};
use kvd_core::range::KeyRange;
use kvd_proto::v3electionpb as pb;
use kvd_proto::v3electionpb::election_server::Election;
use tonic::{Request, Response, Status};

use super::recipe::{Place, Recipes, Wish, first_created, plain, prefix, revision, under};

/// Serves Election.
pub(crate) struct ElectionService {
    recipes: Recipes,
}

impl ElectionService {
    /// Serves Election by these recipes.
    pub(crate) fn new(recipes: Recipes) -> Self {
        Self { recipes }
    }
}

/// The place that a caller proves to have.
fn place(leader: Option<pb::LeaderKey>) -> Result<Place, Status> {
    let leader = leader.ok_or_else(|| Status::unknown("\"leader\" field must be provided"))?;
    Ok(Place { header: None, key: leader.key, created: leader.rev, lease: leader.lease })
}

#[tonic::async_trait]
impl Election for ElectionService {
    async fn campaign(
        &self,
        request: Request<pb::CampaignRequest>,
    ) -> Result<Response<pb::CampaignResponse>, Status> {
        let pb::CampaignRequest { name, lease, value } = request.into_inner();
        let line = self.recipes.stand_in_line(Wish::Lead, name.clone(), lease, value);
        let Place { header, key, created, lease } = line.await?;
        let leader = Some(pb::LeaderKey { name, key, rev: created, lease });
        Ok(Response::new(pb::CampaignResponse { header, leader }))
    }

    async fn proclaim(
        &self,
        request: Request<pb::ProclaimRequest>,
    ) -> Result<Response<pb::ProclaimResponse>, Status> {
        let pb::ProclaimRequest { leader, value } = request.into_inner();
        let header = self.recipes.say(&place(leader)?, value).await.map_err(plain)?;
        Ok(Response::new(pb::ProclaimResponse { header }))
    }

    async fn leader(
        &self,
        request: Request<pb::LeaderRequest>,
    ) -> Result<Response<pb::LeaderResponse>, Status> {
        let first = first_created(&prefix(&request.into_inner().name));
        let found = self.recipes.range(first).await.map_err(plain)?;
        match found.kvs.into_iter().next() {
            Some(kv) => {
                Ok(Response::new(pb::LeaderResponse { header: found.header, kv: Some(kv) }))
            }
            None => Err(Status::unknown("election: no leader")),
        }
    }

    type ObserveStream = Pin<Box<dyn Stream<Item = Result<pb::LeaderResponse, Status>> + Send>>;

    async fn observe(
        &self,
        request: Request<pb::LeaderRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        let prefix = prefix(&request.into_inner().name);
        let observer = Observer { recipes: self.recipes.clone(), prefix, told: None };
        let leaders = stream::unfold(Some(observer), |observer| async {
            let mut observer = observer?;
            match observer.next().await {
                Ok(leader) => Some((Ok(leader), Some(observer))),
                Err(status) => Some((Err(plain(status)), None)),
            }
        });
        Ok(Response::new(Box::pin(leaders)))
    }

    async fn resign(
        &self,
        request: Request<pb::ResignRequest>,
    ) -> Result<Response<pb::ResignResponse>, Status> {
        let place = place(request.into_inner().leader)?;
        let resigned = self.recipes.delete_created(place.key, place.created);
        let header = resigned.await.map_err(plain)?.header;
        Ok(Response::new(pb::ResignResponse { header }))
    }
}

/// Follows who leads. What it tells is always read anew, so the latest always comes, and what was overtaken may
/// be left out (rule EL4).
struct Observer {
    recipes: Recipes,
    prefix: bytes::Bytes,
    /// When the key that was told last was changed last.
    told: Option<i64>,
}

impl Observer {
    async fn next(&mut self) -> Result<pb::LeaderResponse, Status> {
        loop {
            let found = self.recipes.range_in_time(&first_created(&self.prefix)).await?;
            let after = revision(found.header.as_ref()) + 1;
            match found.kvs.into_iter().next() {
                Some(kv) if self.told != Some(kv.mod_revision) => {
                    self.told = Some(kv.mod_revision);
                    return Ok(pb::LeaderResponse { header: found.header, kv: Some(kv) });
                }
                Some(kv) => self.recipes.changed(KeyRange::Key(kv.key), after, false).await?,
                None => self.recipes.changed(under(&self.prefix), after, false).await?,
            }
        }
    }
}
