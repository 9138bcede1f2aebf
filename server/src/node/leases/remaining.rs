//! Notes in the log what leases have left, coarsely, so that a member that starts and leads does not give a
//! lease of a day another day (rule L16; kubernetes #65497).
//!
//! What a restart would assume may be off by a twentieth of the lease's time, or by ten seconds if that is
//! more; of a lease that a client keeps alive by half of its time, as each renewal makes the note void.

use std::time::Duration;

use kvd_core::codec;
use kvd_core::command::{Command, LeaseRemaining, Proposal, Remaining};
use kvd_core::ids::LeaseId;
use kvd_core::lease::deadlines::Left;
use kvd_core::view::View;

use super::Leases;
use crate::limits::{LEASE_REMAINING_LOOKED_AT_MAX, LEASE_REMAINING_PER_ENTRY_MAX};

/// Differences below this are never noted.
const COARSE_MIN: Duration = Duration::from_secs(10);

impl Leases {
    /// As leader, notes what some leases behind this one have left; answers behind which to go on.
    pub(super) async fn note_remaining(&self, behind: Option<LeaseId>) -> Option<LeaseId> {
        let leadership = self.parts.raft.own_leadership()?;
        let (candidates, reached) = self.candidates(behind);
        if candidates.is_empty() {
            return reached;
        }
        // A renewal by the leader before may be committed and not applied yet. After this it is.
        let Ok(Some(view)) = self.confirm(leadership).await else {
            return behind;
        };
        let left = candidates.iter().filter_map(|id| self.parts.clock.left(*id));
        let leases: Vec<Remaining> = left
            .filter(|left| is_off(&view, left))
            .map(|left| Remaining {
                id: left.id,
                granted_at: left.granted_at,
                seconds: left.seconds_up(),
            })
            .collect();
        if leases.is_empty() {
            return reached;
        }
        let command = Command::LeaseRemaining(LeaseRemaining { leases });
        let proposal = codec::encode_proposal(&Proposal::internal(command));
        match self.parts.raft.write_as(leadership, proposal).await {
            Ok(_applied) => reached,
            Err(error) => {
                tracing::debug!(?error, "what leases have left was not noted");
                behind
            }
        }
    }

    /// Leases that differ too much from what is noted, and the last one looked at; `None` after the last of all.
    fn candidates(&self, mut behind: Option<LeaseId>) -> (Vec<LeaseId>, Option<LeaseId>) {
        let view = self.parts.published.view();
        let (mut candidates, mut looked_at) = (Vec::new(), 0);
        loop {
            let page = self.parts.clock.page(behind);
            if page.is_empty() {
                return (candidates, None);
            }
            looked_at += page.len();
            for left in page {
                if candidates.len() == LEASE_REMAINING_PER_ENTRY_MAX {
                    return (candidates, behind);
                }
                if is_off(&view, &left) {
                    candidates.push(left.id);
                }
                behind = Some(left.id);
            }
            if looked_at >= LEASE_REMAINING_LOOKED_AT_MAX {
                return (candidates, behind);
            }
        }
    }
}

/// Whether a restart would give the lease much more time than it has.
fn is_off(view: &View, left: &Left) -> bool {
    let coarse_ms = coarse_ms(left);
    let granted_ms = left.ttl_seconds.saturating_mul(1000);
    // Most leases end here: they were renewed not long ago.
    if left.left_ms <= 0 || granted_ms.saturating_sub(left.left_ms) < coarse_ms {
        return false;
    }
    let terms = view.lease_terms(left.id).filter(|terms| terms.granted_at == left.granted_at);
    terms.is_some_and(|terms| {
        let noted_ms = match terms.remaining_seconds {
            0 => granted_ms,
            seconds => seconds.saturating_mul(1000),
        };
        noted_ms.saturating_sub(left.left_ms) >= coarse_ms
    })
}

fn coarse_ms(left: &Left) -> i64 {
    let part = if left.kept_alive { 2 } else { 20 };
    let least = i64::try_from(COARSE_MIN.as_millis()).unwrap_or(i64::MAX);
    (left.ttl_seconds.saturating_mul(1000) / part).max(least)
}

#[cfg(test)]
mod tests {
    use kvd_core::ids::Index;

    use super::*;

    #[test]
    fn the_coarser_the_longer() {
        let coarse = |ttl_seconds, kept_alive| {
            let (id, granted_at) = (LeaseId(1), Index(1));
            coarse_ms(&Left { id, granted_at, ttl_seconds, left_ms: 0, kept_alive })
        };
        assert_eq!(coarse(60, false), 10_000);
        assert_eq!(coarse(60, true), 30_000);
        assert_eq!(coarse(3600, false), 180_000);
        assert_eq!(coarse(9_000_000_000, true), 4_500_000_000_000);
    }
}
