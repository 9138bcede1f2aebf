//! The standard health service: serving while the member is ready for traffic, not before and not while it
//! stops.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt, stream};
use kvd_proto::health as pb;
use kvd_proto::health::health_check_response::ServingStatus;
use kvd_proto::health::health_server::Health;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};

use crate::node::Node;
use crate::shutdown::Shutdown;

/// Serves health.
pub(crate) struct HealthService {
    node: Arc<Node>,
    shutdown: Shutdown,
}

impl HealthService {
    /// Serves the health of this node.
    pub(crate) fn new(node: Arc<Node>, shutdown: Shutdown) -> Self {
        Self { node, shutdown }
    }
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(
        &self,
        request: Request<pb::HealthCheckRequest>,
    ) -> Result<Response<pb::HealthCheckResponse>, Status> {
        // Only the server as a whole is known, as in etcd (behaviour.md 10.1).
        if !request.into_inner().service.is_empty() {
            return Err(Status::not_found("unknown service"));
        }
        let ready = self.node.is_ready() && !self.shutdown.is_begun();
        Ok(Response::new(answer(serving(ready))))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<pb::HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<pb::HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let shutdown = self.shutdown.clone();
        let stopping = async move { shutdown.begun().await };
        if !request.into_inner().service.is_empty() {
            let unknown = stream::iter([Ok(answer(ServingStatus::ServiceUnknown))]);
            let open = unknown.chain(stream::pending()).take_until(stopping);
            return Ok(Response::new(Box::pin(open)));
        }
        let changes =
            WatchStream::new(self.node.readiness()).map(|ready| Ok(answer(serving(ready))));
        let last = stream::iter([Ok(answer(ServingStatus::NotServing))]);
        let until_stop = changes.take_until(Box::pin(stopping)).chain(last);
        Ok(Response::new(Box::pin(until_stop)))
    }
}

fn serving(ready: bool) -> ServingStatus {
    if ready { ServingStatus::Serving } else { ServingStatus::NotServing }
}

fn answer(status: ServingStatus) -> pb::HealthCheckResponse {
    pb::HealthCheckResponse { status: status.into() }
}
