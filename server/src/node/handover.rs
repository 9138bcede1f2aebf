//! Leadership given away: on request, or because this member stops.

use kvd_core::ids::MemberId;

use super::Node;
use super::request::MoveRefused;

impl Node {
    /// Hands leadership to a voter, for an operator (behaviour.md 6.5); whether that one leads now.
    ///
    /// # Errors
    /// Why the request is not served.
    pub async fn move_leader(&self, target: MemberId) -> Result<bool, MoveRefused> {
        if self.raft.own_leadership().is_none() {
            return Err(MoveRefused::NotLeader);
        }
        if target == self.own.member_id {
            return Ok(true);
        }
        let votes = self.view().membership().1.voters.iter().any(|set| set.contains(&target));
        if !votes || !self.raft.transfer_targets().contains(&target) {
            return Err(MoveRefused::BadTransferee);
        }
        Ok(self.raft.hand_over(target).await == Ok(target))
    }

    /// Lets nobody new in, and hands leadership to the voter that is furthest along (behaviour.md 10.6).
    pub async fn drain(&self) {
        self.ready.send_replace(false);
        if self.leader() != Some(self.own.member_id) {
            return;
        }
        let Some(target) = self.raft.transfer_targets().into_iter().next() else {
            return;
        };
        match self.raft.hand_over(target).await {
            Ok(leader) => tracing::info!(%leader, "leadership handed over"),
            Err(error) => tracing::warn!(%error, %target, "leadership was not handed over"),
        }
    }
}
