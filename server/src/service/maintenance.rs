//! The Maintenance service: status, alarms, the hashes of the whole state and of the key history.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use kvd_core::command::{AlarmChange, AlarmKind, Command};
use kvd_core::ids::{MemberId, Revision};
use kvd_core::outcome::Response as Answer;
use kvd_proto::etcdserverpb as pb;
use kvd_proto::etcdserverpb::maintenance_server::Maintenance;
use tonic::{Request, Response, Status};

use super::convert::header;
use super::convert::maintenance::{self as convert, AlarmAsked};
use super::status;
use crate::node::{Consistency, Node};

/// Serves Maintenance.
pub(crate) struct MaintenanceService {
    node: Arc<Node>,
}

/// Alarms as the store holds them.
type Alarms = Vec<(MemberId, AlarmKind)>;

impl MaintenanceService {
    /// Serves Maintenance from this node.
    pub(crate) fn new(node: Arc<Node>) -> Self {
        Self { node }
    }

    /// The alarms of a type; whose they are does not matter (behaviour.md 6.2).
    async fn list_alarms(&self, kind: Option<AlarmKind>) -> Result<(Alarms, Revision), Status> {
        let read = self.node.read(Consistency::Linearizable, move |view, _| {
            let wanted =
                view.alarms().iter().filter(|(_, one)| kind.is_none_or(|kind| kind == *one));
            Ok(Ok((wanted.copied().collect(), view.revision())))
        });
        read.await.map_err(status::status)
    }

    async fn change_alarm(&self, change: AlarmChange) -> Result<(Alarms, Revision), Status> {
        let applied = self.node.propose(Command::Alarm(change)).await.map_err(status::status)?;
        match applied.outcome {
            Ok(Answer::Alarm(alarms)) => Ok((alarms, applied.revision)),
            _ => Err(status::wrong_answer()),
        }
    }
}

#[tonic::async_trait]
impl Maintenance for MaintenanceService {
    async fn alarm(
        &self,
        request: Request<pb::AlarmRequest>,
    ) -> Result<Response<pb::AlarmResponse>, Status> {
        let asked = convert::alarm_asked(request.into_inner())
            .ok_or_else(|| Status::invalid_argument("no such alarm action or type"))?;
        let (alarms, revision) = match asked {
            AlarmAsked::List(kind) => self.list_alarms(kind).await?,
            AlarmAsked::Change(raise, member, kind) => {
                self.change_alarm(AlarmChange { raise, member, kind }).await?
            }
            AlarmAsked::Nothing => (Vec::new(), self.node.view().revision()),
        };
        let header = header(self.node.header(), revision);
        let alarms = alarms.into_iter().map(|(member, kind)| convert::alarm(member, kind));
        Ok(Response::new(pb::AlarmResponse { header, alarms: alarms.collect() }))
    }

    async fn status(
        &self,
        _request: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusResponse>, Status> {
        let view = self.node.view();
        let response = convert::status_response(&self.node.status(), view.alarms());
        Ok(Response::new(response))
    }

    async fn defragment(
        &self,
        _request: Request<pb::DefragmentRequest>,
    ) -> Result<Response<pb::DefragmentResponse>, Status> {
        Err(status::unserved("Defragment"))
    }

    async fn hash(
        &self,
        _request: Request<pb::HashRequest>,
    ) -> Result<Response<pb::HashResponse>, Status> {
        let view = self.node.view();
        let header = header(self.node.header(), view.revision());
        Ok(Response::new(pb::HashResponse { header, hash: view.state_hash().folded() }))
    }

    async fn hash_kv(
        &self,
        request: Request<pb::HashKvRequest>,
    ) -> Result<Response<pb::HashKvResponse>, Status> {
        let revision = request.into_inner().revision;
        let read = self.node.read(Consistency::Serializable, move |view, access| {
            Ok(view.hash_kv(revision, access)?.map(|hash| (hash, view.revision())))
        });
        let (hash, revision) = read.await.map_err(status::status)?;
        let header = header(self.node.header(), revision);
        Ok(Response::new(pb::HashKvResponse { header, ..convert::hash_kv_response(&hash) }))
    }

    type SnapshotStream = Pin<Box<dyn Stream<Item = Result<pb::SnapshotResponse, Status>> + Send>>;

    async fn snapshot(
        &self,
        _request: Request<pb::SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        Err(status::unserved("Snapshot"))
    }

    async fn move_leader(
        &self,
        request: Request<pb::MoveLeaderRequest>,
    ) -> Result<Response<pb::MoveLeaderResponse>, Status> {
        match self.node.move_leader(MemberId(request.into_inner().target_id)).await {
            // Without a header (rule H8).
            Ok(true) => Ok(Response::new(pb::MoveLeaderResponse { header: None })),
            Ok(false) => {
                Err(Status::unknown("etcdserver: request timed out, leader transfer took too long"))
            }
            Err(refused) => Err(Status::failed_precondition(format!("etcdserver: {refused}"))),
        }
    }

    async fn downgrade(
        &self,
        _request: Request<pb::DowngradeRequest>,
    ) -> Result<Response<pb::DowngradeResponse>, Status> {
        Err(status::unserved("Downgrade"))
    }
}
