//! The KV service: convert, ask the node, convert. Decides nothing.

use std::sync::Arc;

use kvd_core::command::Command;
use kvd_core::ids::RequestId;
use kvd_core::outcome::{Applied, Rejection, Response as Answer};
use kvd_proto::etcdserverpb as pb;
use kvd_proto::etcdserverpb::kv_server::Kv;
use tonic::{Request, Response, Status};

use super::convert::{header, kv as convert};
use super::range_stream::{self, RangeStream};
use super::{learner, request_id, status};
use crate::node::{Consistency, Node, RequestError};

/// Serves KV.
pub(crate) struct KvService {
    node: Arc<Node>,
}

impl KvService {
    /// Serves KV from this node.
    pub(crate) fn new(node: Arc<Node>) -> Self {
        Self { node }
    }

    /// A transaction without writes: it needs no log (rule KV-T12).
    async fn read_txn(
        &self,
        consistency: Consistency,
        txn: kvd_core::command::Txn,
    ) -> Result<Response<pb::TxnResponse>, Status> {
        let read = self.node.read(consistency, move |view, access| view.txn(&txn, access));
        let answer = read.await.map_err(status::status)?;
        let header = header(self.node.header(), answer.revision);
        Ok(Response::new(pb::TxnResponse { header, ..convert::txn_response(answer) }))
    }

    /// A transaction through the log.
    async fn write_txn(
        &self,
        id: Option<RequestId>,
        txn: kvd_core::command::Txn,
    ) -> Result<Response<pb::TxnResponse>, Status> {
        let applied = self.propose(id, Command::Txn(txn)).await?;
        let header = self.written(&applied);
        match applied.outcome {
            Ok(Answer::Txn(answer)) => {
                let response = pb::TxnResponse { header, ..convert::txn_response(answer) };
                Ok(request_id::answer(response, applied.repeated))
            }
            _ => Err(status::wrong_answer()),
        }
    }

    async fn propose(&self, id: Option<RequestId>, command: Command) -> Result<Applied, Status> {
        self.node.request(id, command).await.map_err(status::status)
    }

    /// Quota before anything else, validation included (behaviour.md 6.4).
    async fn admit(&self, id: Option<RequestId>, cost_bytes: u64) -> Result<(), Status> {
        self.node.admit(id, cost_bytes).await.map_err(status::status)
    }

    /// The header of a write's answer (rules H3, H6, H12).
    fn written(&self, applied: &Applied) -> Option<pb::ResponseHeader> {
        header(self.node.header(), applied.revision)
    }
}

#[tonic::async_trait]
impl Kv for KvService {
    async fn range(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Response<pb::RangeResponse>, Status> {
        let request = request.into_inner();
        let consistency = consistency(request.serializable);
        learner::may_read(&self.node, consistency)?;
        let query = convert::range_query(request).map_err(status::rejected)?;
        let read = self.node.read(consistency, move |view, access| {
            Ok(view.range(&query, access)?.map(|answer| (answer, view.revision())))
        });
        let (answer, revision) = read.await.map_err(status::status)?;
        // The store's revision, not the one asked for (rule H4).
        let header = header(self.node.header(), revision);
        Ok(Response::new(pb::RangeResponse { header, ..convert::range_response(answer) }))
    }

    type RangeStreamStream = RangeStream;

    async fn range_stream(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Response<RangeStream>, Status> {
        range_stream::open(Arc::clone(&self.node), request.into_inner()).map(Response::new)
    }

    async fn put(
        &self,
        request: Request<pb::PutRequest>,
    ) -> Result<Response<pb::PutResponse>, Status> {
        let id = request_id::of(request.metadata())?;
        let request = request.into_inner();
        self.admit(id, convert::put_cost(&request)).await?;
        let put = convert::put(request).map_err(status::rejected)?;
        let applied = self.propose(id, Command::Put(put)).await?;
        let header = self.written(&applied);
        match applied.outcome {
            Ok(Answer::Put(answer)) => {
                let response = pb::PutResponse { header, ..convert::put_response(answer) };
                Ok(request_id::answer(response, applied.repeated))
            }
            _ => Err(status::wrong_answer()),
        }
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        let id = request_id::of(request.metadata())?;
        let delete = convert::delete_range(request.into_inner()).map_err(status::rejected)?;
        let applied = self.propose(id, Command::DeleteRange(delete)).await?;
        let header = self.written(&applied);
        match applied.outcome {
            Ok(Answer::DeleteRange(answer)) => {
                let response = convert::delete_response(answer);
                let response = pb::DeleteRangeResponse { header, ..response };
                Ok(request_id::answer(response, applied.repeated))
            }
            _ => Err(status::wrong_answer()),
        }
    }

    async fn txn(
        &self,
        request: Request<pb::TxnRequest>,
    ) -> Result<Response<pb::TxnResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let read_only = convert::is_read_only(&request);
        let id = if read_only { None } else { request_id::of(&metadata)? };
        self.admit(id, convert::txn_cost(&request)).await?;
        let consistency = consistency(convert::is_serializable(&request));
        let txn = convert::txn(request, self.node.limits().txn_ops_max);
        let txn = txn.map_err(status::rejected)?;
        if read_only {
            self.read_txn(consistency, txn).await
        } else {
            self.write_txn(id, txn).await
        }
    }

    async fn compact(
        &self,
        request: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        let id = request_id::of(request.metadata())?;
        let request = request.into_inner();
        let physical = request.physical;
        let proposed = self.node.request(id, Command::Compact(convert::compact(request))).await;
        let compacted =
            matches!(&proposed, Ok(_) | Err(RequestError::Rejected(Rejection::Compacted)));
        // Waits for what is under way even where there was nothing left to do (rule KV-C3).
        if let (true, true, Some(revision)) = (physical, compacted, self.node.view().compacted()) {
            self.node.wait_physical(revision).await.map_err(status::status)?;
        }
        let applied = proposed.map_err(status::status)?;
        let Ok(Answer::Compact) = applied.outcome else { return Err(status::wrong_answer()) };
        let response = pb::CompactionResponse { header: self.written(&applied) };
        Ok(request_id::answer(response, applied.repeated))
    }
}

/// What a request's `serializable` asks for (rules KV-R13, KV-R14).
pub(super) fn consistency(serializable: bool) -> Consistency {
    if serializable { Consistency::Serializable } else { Consistency::Linearizable }
}
