//! Protobuf ⇄ core types, both ways, and nothing else; one file per proto service.
//!
//! Parsing is validation: what comes out of here cannot be wrong in form, and what is wrong is refused in
//! etcd's order. Knows nothing of the node and of gRPC codes.

pub(crate) mod cluster;
pub(crate) mod kv;
pub(crate) mod maintenance;
pub(crate) mod watch;

use kvd_core::ids::Revision;
use kvd_proto::etcdserverpb as pb;

use crate::node::Header;

/// The header of an answer made here, as of a revision (rules H1, H2).
pub(crate) fn header(header: Header, revision: Revision) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader {
        cluster_id: header.cluster_id.0,
        member_id: header.member_id.0,
        revision: revision.0,
        raft_term: header.term.0,
    })
}

/// The header of an operation inside a transaction: only the revision (rule H5).
pub(crate) fn op_header(revision: Revision) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader { revision: revision.0, ..pb::ResponseHeader::default() })
}
