//! The service by which clients open sessions for requests with an id (`proto/kvd/session.proto`).

use std::sync::Arc;

use kvd_core::limits::REQUEST_WINDOW;
use kvd_proto::session as pb;
use kvd_proto::session::sessions_server::Sessions;
use tonic::{Request, Response, Status};

use super::status;
use crate::node::{Consistency, Node};

/// Serves Sessions.
pub(crate) struct SessionsService {
    node: Arc<Node>,
}

impl SessionsService {
    /// Serves Sessions from this node.
    pub(crate) fn new(node: Arc<Node>) -> Self {
        Self { node }
    }
}

#[tonic::async_trait]
impl Sessions for SessionsService {
    /// Whatever was forgotten before the call is forgotten at or below the index that this answers: an entry of
    /// a request with it can only come later.
    async fn open(
        &self,
        _request: Request<pb::OpenRequest>,
    ) -> Result<Response<pb::OpenReply>, Status> {
        let at = self.node.read(Consistency::Linearizable, |view, _access| Ok(Ok(view.at().index)));
        let opened = at.await.map_err(status::status)?.0;
        Ok(Response::new(pb::OpenReply { opened, window: REQUEST_WINDOW }))
    }
}
