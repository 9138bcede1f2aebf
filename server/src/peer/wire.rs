//! Between the peers' protobuf and the core's names.

use kvd_core::ids::{Index, LogId, MemberId, Term};
use kvd_proto::peer;

/// A log id on the wire.
pub(crate) fn to_log_id(id: LogId) -> peer::LogId {
    peer::LogId { term: id.term.0, node: id.node.0, index: id.index.0 }
}

/// A log id from the wire; index zero names nothing.
pub(crate) fn from_log_id(id: peer::LogId) -> Option<LogId> {
    (id.index > 0).then_some(LogId {
        term: Term(id.term),
        node: MemberId(id.node),
        index: Index(id.index),
    })
}
