//! Streams whose clients asked to be told when there is no leader (rule W29).

use std::time::Duration;

use crate::node::Node;

/// Looks without a leader, an election timeout apart, after which the stream ends.
const LOOKS: u32 = 3;

/// Returns once this member has been without a leader for a while.
pub(crate) async fn leader_lost(node: &Node) {
    let pause = Duration::from_millis(node.limits().election_ms);
    let mut without = 0;
    while without < LOOKS {
        tokio::time::sleep(pause).await;
        without = if node.leader().is_none() { without + 1 } else { 0 };
    }
}
