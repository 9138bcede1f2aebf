//! Changes of the membership, and what the leader sees of those in it.

use std::collections::BTreeMap;
use std::time::Duration;

use kvd_core::command::{Command, Membership, Proposal};
use kvd_core::ids::{LogId, MemberId};
use kvd_core::members::{Plan, Seen};
use kvd_core::{codec, outcome};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::raft::{ClientWriteResponse, Precondition};
use openraft::{ChangeMembers, Instant as _};

use super::types::{self, Payload, PeerNode, TypeConfig};
use super::{Raft, WriteError};

type Answer =
    Result<ClientWriteResponse<TypeConfig>, RaftError<TypeConfig, ClientWriteError<TypeConfig>>>;

impl Raft {
    /// Puts a membership into force by one entry (hazard B4), if the one in force is still the one that it was planned
    /// from, and a majority holds an entry of this leader's. Answers after it was applied here.
    pub(crate) async fn change_membership(
        &self,
        from: &(Option<LogId>, Membership),
        plan: Plan,
    ) -> Result<outcome::Applied, WriteError> {
        let unchanged = Precondition::LastMembershipLogId {
            last_membership_log_id: from.0.and_then(types::raft_log_id),
        };
        let moved = moved(&from.1, &plan.membership);
        let answer = if moved.is_empty() {
            let Ok(membership) = types::raft_membership(&plan.membership) else {
                return Err(WriteError::NotAppended);
            };
            let payload = Payload { proposal: plan.command.map(encode), membership: None };
            self.inner.append_membership(membership, payload, [unchanged]).await
        } else {
            let nodes = ChangeMembers::SetNodes(moved);
            self.inner.change_membership_if(nodes, true, [unchanged]).await
        };
        sorted(answer)
    }

    /// What this leader sees of the members; nothing where it does not lead.
    pub(crate) fn seen(&self) -> Seen {
        let metrics = self.inner.metrics();
        let metrics = metrics.borrow_watched();
        let own = self.config.member_id;
        let (Some(replication), Some(heartbeat)) = (&metrics.replication, &metrics.heartbeat)
        else {
            return Seen::default();
        };
        let age_max = Duration::from_millis(self.config.election_ms);
        let answered = heartbeat
            .iter()
            .filter(|(_, at)| at.as_ref().is_some_and(|at| at.elapsed() <= age_max));
        let last = metrics.last_log_index.unwrap_or_default();
        // Rule C6, in whole numbers.
        let in_sync = replication.iter().filter(|(_, matched)| {
            let part = |index: u64, tenths| index.saturating_mul(tenths);
            matched.as_ref().is_some_and(|matched| part(matched.index, 10) >= part(last, 9))
        });
        let id = |id: &u64| MemberId(*id);
        let mut seen = Seen {
            connected: answered.map(|(member, _)| id(member)).collect(),
            in_sync: in_sync.map(|(member, _)| id(member)).collect(),
        };
        // Who had everything and is gone would cost the others their majority.
        seen.in_sync.retain(|member| seen.connected.contains(member));
        seen.connected.insert(own);
        seen.in_sync.insert(own);
        seen
    }

    /// How many entries of this leader's log a member that answers still lacks.
    pub(crate) fn lag(&self, member: MemberId) -> Option<u64> {
        let metrics = self.inner.metrics();
        let metrics = metrics.borrow_watched();
        let matched = metrics.replication.as_ref()?.get(&member.0)?.as_ref()?.index;
        Some(metrics.last_log_index?.saturating_sub(matched))
    }
}

fn encode(command: Command) -> bytes::Bytes {
    codec::encode_proposal(&Proposal::internal(command))
}

/// Members that are reached elsewhere than before: openraft takes such a change by another call than the others.
fn moved(before: &Membership, after: &Membership) -> BTreeMap<u64, PeerNode> {
    let nodes = after.nodes.iter();
    let moved = nodes.filter(|(id, urls)| before.nodes.get(id).is_some_and(|known| known != *urls));
    moved.map(|(id, urls)| (id.0, PeerNode { peer_urls: urls.clone() })).collect()
}

/// All of these refuse before the log saw anything, and pass: another change on its way, a leader that is too new,
/// a membership that is no longer the one that was planned from.
fn sorted(answer: Answer) -> Result<outcome::Applied, WriteError> {
    match answer {
        Ok(response) => Ok(response.data),
        Err(RaftError::APIError(
            ClientWriteError::ForwardToLeader(_)
            | ClientWriteError::ChangeMembershipError(_)
            | ClientWriteError::PreconditionFailed(_),
        )) => Err(WriteError::NotAppended),
        Err(RaftError::Fatal(openraft::errors::Fatal::Stopped)) => Err(WriteError::Stopped),
        Err(_) => Err(WriteError::Unknown),
    }
}
