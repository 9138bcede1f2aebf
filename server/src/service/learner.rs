//! What a member without a vote serves: what needs no leader (rule C10).

use tonic::Status;

use crate::metrics::GrpcMethod;
use crate::node::{Consistency, Node};

/// Methods that a learner serves; of the first two only what is serializable.
const SERVED: [(&str, &[&str]); 3] = [
    ("etcdserverpb.KV", &["Range", "RangeStream"]),
    ("etcdserverpb.Maintenance", &["Status", "Snapshot"]),
    ("grpc.health.v1.Health", &["Check", "Watch"]),
];

/// Refuses what a learner does not serve.
pub(super) fn answers(node: &Node, method: &GrpcMethod) -> Result<(), Status> {
    let served = |(service, names): &(&str, &[&str])| {
        *service == method.service && names.contains(&method.name)
    };
    if !SERVED.iter().any(served) && node.is_learner() { Err(refusal()) } else { Ok(()) }
}

/// Refuses a read for which a learner would have to ask the leader.
pub(super) fn may_read(node: &Node, consistency: Consistency) -> Result<(), Status> {
    let asks = consistency == Consistency::Linearizable;
    if asks && node.is_learner() { Err(refusal()) } else { Ok(()) }
}

fn refusal() -> Status {
    Status::failed_precondition("etcdserver: rpc not supported for learner")
}
