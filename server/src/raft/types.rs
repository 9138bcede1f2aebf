//! openraft's type parameters and the way between its names and ours.
//!
//! kvd's index is openraft's + 1, so that zero means "nothing" and the first entry is 1, as in etcd
//! (hazard A8). A log id keeps the leader's node: two leaders may exist in one term (hazard A9).

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use kvd_core::command::{Entry, Membership};
use kvd_core::ids::{Index, LogId, MemberId, Term};
use kvd_core::outcome::Applied;
use openraft::impls::TokioRuntime;
use openraft::impls::leader_id_adv::LeaderId;

use super::payload::Malformed;

openraft::declare_raft_types!(
    /// openraft's view of kvd.
    pub(crate) TypeConfig:
        D = Proposed,
        R = Applied,
        NodeId = u64,
        Node = PeerNode,
        Payload = Payload,
        AsyncRuntime = TokioRuntime,
);

pub(crate) type RaftLogId = openraft::LogId<LeaderId<u64, u64>>;
pub(crate) type RaftEntry = openraft::Entry<LeaderId<u64, u64>, Payload>;
pub(crate) type RaftMembership = openraft::Membership<u64, PeerNode>;
pub(crate) type RaftStoredMembership =
    openraft::StoredMembership<LeaderId<u64, u64>, u64, PeerNode>;
pub(crate) type RaftVote = openraft::impls::Vote<LeaderId<u64, u64>>;

/// An encoded proposal of the core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Proposed(pub(crate) Bytes);

impl fmt::Display for Proposed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// What openraft must know of a member before its own state does: where it listens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PeerNode {
    /// Peer URLs.
    pub(crate) peer_urls: Vec<String>,
}

/// What an entry carries: a proposal, a membership, both (one entry a change, hazard B4) or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Payload {
    /// An encoded proposal.
    pub(crate) proposal: Option<Bytes>,
    /// The membership it puts into force.
    pub(crate) membership: Option<RaftMembership>,
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.proposal, &self.membership) {
            (None, None) => write!(f, "blank"),
            (Some(proposal), None) => write!(f, "{} bytes", proposal.len()),
            (None, Some(membership)) => write!(f, "{membership}"),
            (Some(proposal), Some(membership)) => {
                write!(f, "{} bytes and {membership}", proposal.len())
            }
        }
    }
}

impl openraft::entry::RaftPayload for Payload {
    type D = Proposed;
    type NodeId = u64;
    type Node = PeerNode;

    fn blank() -> Self {
        Self::default()
    }

    fn with_normal(self, data: Proposed) -> Self {
        Self { proposal: Some(data.0), ..self }
    }

    fn with_membership(self, membership: RaftMembership) -> Self {
        Self { membership: Some(membership), ..self }
    }

    fn get_membership(&self) -> Option<RaftMembership> {
        self.membership.clone()
    }
}

/// Our name of an entry.
pub(crate) fn log_id(id: &RaftLogId) -> LogId {
    LogId {
        term: Term(id.leader_id.term),
        node: MemberId(id.leader_id.node_id),
        index: Index(id.index + 1),
    }
}

/// openraft's name of an entry; `None` for our "nothing".
pub(crate) fn raft_log_id(id: LogId) -> Option<RaftLogId> {
    let index = id.index.0.checked_sub(1)?;
    Some(RaftLogId::new(LeaderId { term: id.term.0, node_id: id.node.0 }, index))
}

/// Our picture of a membership.
pub(crate) fn membership(of: &RaftMembership) -> Membership {
    Membership {
        voters: of
            .get_joint_config()
            .iter()
            .map(|voters| voters.iter().map(|id| MemberId(*id)).collect())
            .collect(),
        nodes: of.nodes().map(|(id, node)| (MemberId(*id), node.peer_urls.clone())).collect(),
    }
}

/// openraft's picture of a membership; refused where a voter has no address.
pub(crate) fn raft_membership(of: &Membership) -> Result<RaftMembership, Malformed> {
    if of.voters.is_empty() {
        return Ok(RaftMembership::default());
    }
    let nodes: BTreeMap<_, _> = of
        .nodes
        .iter()
        .map(|(id, peer_urls)| (id.0, PeerNode { peer_urls: peer_urls.clone() }))
        .collect();
    let voters = of.voters.iter().map(|voters| voters.iter().map(|id| id.0).collect()).collect();
    RaftMembership::new(voters, nodes).map_err(|error| Malformed::because(error.to_string()))
}

/// A membership with the entry that brought it.
pub(crate) fn stored_membership(
    of: &(Option<LogId>, Membership),
) -> Result<RaftStoredMembership, Malformed> {
    Ok(RaftStoredMembership::new(of.0.and_then(raft_log_id), raft_membership(&of.1)?))
}

/// The entry as the core applies it.
pub(crate) fn entry(of: RaftEntry) -> Entry {
    Entry {
        log_id: log_id(&of.log_id),
        proposal: of.payload.proposal,
        membership: of.payload.membership.as_ref().map(membership),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hazard A9: two leaders may exist in one term; without the node their entries would look equal.
    #[test]
    fn an_entrys_name_keeps_its_leader() {
        let id = |term, node, index| LogId {
            term: Term(term),
            node: MemberId(node),
            index: Index(index),
        };
        for name in [id(3, 7, 1), id(3, 8, 1), id(4, 7, 9)] {
            assert_eq!(raft_log_id(name).map(|there| log_id(&there)), Some(name));
        }
        assert_ne!(raft_log_id(id(3, 7, 1)), raft_log_id(id(3, 8, 1)));
        assert_eq!(raft_log_id(id(3, 7, 0)), None, "openraft counts from zero, we from one");
    }
}
