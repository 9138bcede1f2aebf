//! Between openraft's messages and the peers' protobuf.

use kvd_proto::peer;
use openraft::impls::leader_id_adv::LeaderId;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest, VoteResponse,
};

use super::payload::{self, Malformed};
use super::types::{RaftEntry, RaftLogId, RaftVote, TypeConfig, log_id, raft_log_id};
use crate::peer::wire::{from_log_id, to_log_id};

pub(crate) fn to_ballot(vote: &RaftVote) -> peer::Ballot {
    peer::Ballot {
        term: vote.leader_id.term,
        node: vote.leader_id.node_id,
        committed: vote.committed,
    }
}

pub(crate) fn from_ballot(ballot: Option<peer::Ballot>) -> Result<RaftVote, Malformed> {
    let ballot = ballot.ok_or_else(|| Malformed::missing("vote"))?;
    Ok(RaftVote {
        leader_id: LeaderId { term: ballot.term, node_id: ballot.node },
        committed: ballot.committed,
    })
}

pub(crate) fn to_id(id: &RaftLogId) -> peer::LogId {
    to_log_id(log_id(id))
}

pub(crate) fn from_id(id: Option<peer::LogId>) -> Option<RaftLogId> {
    id.and_then(from_log_id).and_then(raft_log_id)
}

pub(crate) fn to_append(request: AppendEntriesRequest<TypeConfig>) -> peer::AppendRequest {
    peer::AppendRequest {
        vote: Some(to_ballot(&request.vote)),
        previous: request.prev_log_id.as_ref().map(to_id),
        entries: request
            .entries
            .iter()
            .map(|entry| peer::LogEntry {
                log_id: Some(to_id(&entry.log_id)),
                payload: payload::encode(&entry.payload),
            })
            .collect(),
        committed: request.leader_commit.as_ref().map(to_id),
    }
}

pub(crate) fn from_append(
    request: peer::AppendRequest,
) -> Result<AppendEntriesRequest<TypeConfig>, Malformed> {
    let entries = request.entries.into_iter().map(|entry| {
        let log_id = from_id(entry.log_id).ok_or_else(|| Malformed::missing("log id"))?;
        Ok(RaftEntry { log_id, payload: payload::decode(entry.payload)? })
    });
    Ok(AppendEntriesRequest {
        vote: from_ballot(request.vote)?,
        prev_log_id: from_id(request.previous),
        entries: entries.collect::<Result<_, Malformed>>()?,
        leader_commit: from_id(request.committed),
    })
}

pub(crate) fn to_append_reply(response: &AppendEntriesResponse<TypeConfig>) -> peer::AppendReply {
    use peer::append_reply::Result as Reply;
    let result = match response {
        AppendEntriesResponse::Success => Reply::Success(true),
        AppendEntriesResponse::PartialSuccess(upto) => {
            Reply::Partial(upto.as_ref().map(to_id).unwrap_or_default())
        }
        AppendEntriesResponse::Conflict => Reply::Conflict(true),
        AppendEntriesResponse::HigherVote(vote) => Reply::HigherVote(to_ballot(vote)),
    };
    peer::AppendReply { result: Some(result) }
}

pub(crate) fn from_append_reply(
    reply: peer::AppendReply,
) -> Result<AppendEntriesResponse<TypeConfig>, Malformed> {
    use peer::append_reply::Result as Reply;
    Ok(match reply.result.ok_or_else(|| Malformed::missing("result"))? {
        Reply::Success(_) => AppendEntriesResponse::Success,
        Reply::Partial(upto) => AppendEntriesResponse::PartialSuccess(from_id(Some(upto))),
        Reply::Conflict(_) => AppendEntriesResponse::Conflict,
        Reply::HigherVote(vote) => AppendEntriesResponse::HigherVote(from_ballot(Some(vote))?),
    })
}

pub(crate) fn to_vote(request: &VoteRequest<TypeConfig>, pre_vote: bool) -> peer::VoteRequest {
    peer::VoteRequest {
        vote: Some(to_ballot(&request.vote)),
        last: request.last_log_id.as_ref().map(to_id),
        leadership_transfer: request.leadership_transfer,
        pre_vote,
    }
}

pub(crate) fn from_vote(request: peer::VoteRequest) -> Result<VoteRequest<TypeConfig>, Malformed> {
    Ok(VoteRequest {
        vote: from_ballot(request.vote)?,
        last_log_id: from_id(request.last),
        leadership_transfer: request.leadership_transfer,
    })
}

pub(crate) fn to_vote_reply(response: &VoteResponse<TypeConfig>) -> peer::VoteReply {
    peer::VoteReply {
        vote: Some(to_ballot(&response.vote)),
        granted: response.vote_granted,
        last: response.last_log_id.as_ref().map(to_id),
    }
}

pub(crate) fn from_vote_reply(
    reply: peer::VoteReply,
) -> Result<VoteResponse<TypeConfig>, Malformed> {
    let vote = from_ballot(reply.vote)?;
    Ok(VoteResponse::new(vote, from_id(reply.last), reply.granted))
}

pub(crate) fn to_transfer(
    request: &TransferLeaderRequest<TypeConfig>,
) -> peer::TransferLeaderRequest {
    peer::TransferLeaderRequest {
        from: Some(to_ballot(request.from_leader())),
        to: *request.to_node_id(),
        last: request.last_log_id().map(to_id),
    }
}

pub(crate) fn from_transfer(
    request: peer::TransferLeaderRequest,
) -> Result<TransferLeaderRequest<TypeConfig>, Malformed> {
    let from = from_ballot(request.from)?;
    Ok(TransferLeaderRequest::new(from, request.to, from_id(request.last)))
}
