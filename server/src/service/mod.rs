//! The gRPC services of the client port: etcd's, and one of ours. Each converts, calls the node and converts back; none
//! decides.

pub(crate) mod convert;
pub(crate) mod layers;
mod learner;
pub(crate) mod methods;

mod cluster;
mod election;
mod health;
mod kv;
mod leader_loss;
mod lease;
mod lock;
mod maintenance;
mod observe;
pub(crate) mod peer;
mod range_stream;
mod recipe;
mod request_id;
mod sessions;
pub(crate) mod status;
mod watch;
pub(crate) mod watch_codec;

use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use kvd_proto::etcdserverpb::cluster_server::ClusterServer;
use kvd_proto::etcdserverpb::kv_server::KvServer;
use kvd_proto::etcdserverpb::lease_server::LeaseServer;
use kvd_proto::etcdserverpb::maintenance_server::MaintenanceServer;
use kvd_proto::health::health_server::HealthServer;
use kvd_proto::peer::peer_server::PeerServer;
use kvd_proto::session::sessions_server::SessionsServer;
use kvd_proto::v3electionpb::election_server::ElectionServer;
use kvd_proto::v3lockpb::lock_server::LockServer;
use tonic::service::Routes;

use self::cluster::ClusterService;
use self::election::ElectionService;
use self::health::HealthService;
use self::kv::KvService;
use self::layers::Layer;
use self::lease::LeaseService;
use self::lock::LockService;
use self::maintenance::MaintenanceService;
use self::peer::PeerService;
use self::recipe::Recipes;
use self::sessions::SessionsService;
use self::watch::WatchService;
use self::watch_codec::WatchServer;
use crate::limits::{GRPC_OVERHEAD_BYTES, PEER_MESSAGE_BYTES_MAX};
use crate::metrics::Metrics;
use crate::node::Node;
use crate::node::peer_side::PeerSide;
use crate::shutdown::Shutdown;

/// Sets the lease ids that recipes draw apart from those of the Lease service.
const RECIPES: u64 = 1 << 63;

/// The services of the client port as one router, which also answers every path that it does not know.
/// Lease ids that clients leave open are drawn from `seed`.
pub fn router(node: Arc<Node>, metrics: Arc<Metrics>, shutdown: Shutdown, seed: u64) -> Router {
    metrics.prepare_grpc(methods::METHODS);
    let shutdown = until_end_of_service(&node, shutdown);
    let received_max = node.limits().request_bytes_max.saturating_add(GRPC_OVERHEAD_BYTES);
    let kv = KvServer::new(KvService::new(Arc::clone(&node)));
    let lease = LeaseServer::new(LeaseService::new(Arc::clone(&node), seed, shutdown.clone()));
    let cluster = ClusterServer::new(ClusterService::new(Arc::clone(&node)));
    let maintenance = MaintenanceServer::new(MaintenanceService::new(Arc::clone(&node)));
    node.serve_watches();
    let watch = WatchService::new(Arc::clone(&node), shutdown.clone());
    let recipes = Recipes::new(Arc::clone(&node), seed ^ RECIPES, shutdown.clone());
    let lock = LockServer::new(LockService::new(recipes.clone()));
    let election = ElectionServer::new(ElectionService::new(recipes));
    let sessions = SessionsServer::new(SessionsService::new(Arc::clone(&node)));
    let health = HealthServer::new(HealthService::new(Arc::clone(&node), shutdown));
    Routes::default()
        .add_service(kv.max_decoding_message_size(received_max))
        .add_service(WatchServer::new(watch, received_max))
        .add_service(lease.max_decoding_message_size(received_max))
        .add_service(cluster.max_decoding_message_size(received_max))
        .add_service(maintenance.max_decoding_message_size(received_max))
        .add_service(lock.max_decoding_message_size(received_max))
        .add_service(election.max_decoding_message_size(received_max))
        .add_service(sessions.max_decoding_message_size(received_max))
        .add_service(health.max_decoding_message_size(received_max))
        .into_axum_router()
        .layer(from_fn_with_state(Layer { node, metrics }, layers::grpc))
}

/// Streams end when the member stops, and when its state turns out to be wrong.
fn until_end_of_service(node: &Arc<Node>, shutdown: Shutdown) -> Shutdown {
    let (end, fence) = (Shutdown::new(), node.fence().clone());
    let ended = end.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = shutdown.begun() => {}
            () = fence.raised() => {}
        }
        ended.begin();
    });
    end
}

/// The peer port's service.
pub fn peer_router(peer_side: Arc<PeerSide>) -> Router {
    let service = PeerServer::new(PeerService::new(peer_side))
        .max_decoding_message_size(PEER_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(PEER_MESSAGE_BYTES_MAX);
    Routes::new(service).into_axum_router()
}
