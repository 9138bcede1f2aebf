//! Leadership given to another member.

use std::cmp::Reverse;
use std::time::Duration;

use kvd_core::ids::MemberId;
use openraft::Instant as _;
use openraft::async_runtime::watch::WatchReceiver;

use super::{LOOK, Raft};

impl Raft {
    /// Voters other than this member that answered within an election timeout, those that have most of the log
    /// first. No other may be handed leadership: openraft stops to lead at once and never takes it back
    /// (hazard F31).
    pub(crate) fn transfer_targets(&self) -> Vec<MemberId> {
        let metrics = self.inner.metrics();
        let metrics = metrics.borrow_watched();
        let (Some(replication), Some(heartbeat)) = (&metrics.replication, &metrics.heartbeat)
        else {
            return Vec::new();
        };
        let age_max = Duration::from_millis(self.config.election_ms);
        let answered = |id| {
            let at = heartbeat.get(id).and_then(Option::as_ref);
            at.is_some_and(|at| at.elapsed() <= age_max)
        };
        let voters: Vec<u64> = metrics.membership_config.membership().voter_ids().collect();
        let mut targets: Vec<_> = replication
            .iter()
            .filter(|(id, matched)| {
                **id != self.config.member_id.0
                    && voters.contains(id)
                    && matched.is_some()
                    && answered(*id)
            })
            .map(|(id, matched)| (*matched, MemberId(*id)))
            .collect();
        targets.sort_by_key(|(matched, _)| Reverse(*matched));
        targets.into_iter().map(|(_, id)| id).collect()
    }

    /// Hands leadership over; returns at once.
    async fn transfer_to(&self, target: MemberId) -> Result<(), String> {
        self.inner.trigger().transfer_leader(target.0).await.map_err(|fatal| fatal.to_string())
    }

    /// Hands leadership to that member, and waits until somebody else leads: who does, or why nobody.
    pub(crate) async fn hand_over(&self, target: MemberId) -> Result<MemberId, String> {
        let mut changes = self.leadership_changes();
        self.transfer_to(target).await?;
        let handed_over = async {
            loop {
                match self.leader() {
                    Some(now) if now.leader != self.own_id() => return now.leader,
                    // A leader is heard before it is told.
                    _ => drop(tokio::time::timeout(LOOK, changes.changed()).await),
                }
            }
        };
        let limit = Duration::from_millis(self.config.election_ms);
        let in_time = tokio::time::timeout(limit, handed_over).await;
        in_time.map_err(|_elapsed| "it was not taken over in time".to_owned())
    }
}
