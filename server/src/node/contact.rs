//! Which members answer, as their leader sees it: said when it changes, not at each heartbeat.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kvd_core::ids::MemberId;

use super::Node;
use crate::shutdown::Shutdown;

/// As leader, says who has become silent and who is back.
pub(crate) async fn tell_silence(node: Arc<Node>, shutdown: Shutdown) {
    let pause = Duration::from_millis(node.limits.election_ms);
    let mut silent = BTreeSet::new();
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.begun() => return,
        }
        let now = node.silent_members();
        for member in now.difference(&silent) {
            tracing::warn!(%member, "this member does not answer");
        }
        if node.raft.own_leadership().is_some() {
            for member in silent.difference(&now) {
                tracing::info!(%member, "this member answers again, or is none any more");
            }
        }
        silent = now;
    }
}

impl Node {
    /// Members that this leader has not heard for an election timeout; none where it does not lead.
    fn silent_members(&self) -> BTreeSet<MemberId> {
        if self.raft.own_leadership().is_none() {
            return BTreeSet::new();
        }
        let (view, seen) = (self.view(), self.raft.seen());
        let members = view.membership().1.nodes.keys().copied();
        members.filter(|member| !seen.connected.contains(member)).collect()
    }
}
