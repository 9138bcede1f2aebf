//! A member that was removed learns of it and stops (rule C4): by its own log, or, since nobody sends it entries any
//! more, by asking the others why it hears no leader.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use kvd_core::ids::MemberId;
use kvd_proto::peer::HelloRequest;

use super::Node;
use crate::peer::identity::PROTOCOL;
use crate::peer::pool::{Lane, within};
use crate::shutdown::Shutdown;

/// Gives the word once this member does not belong to the cluster any more.
pub(crate) async fn notice(node: Arc<Node>, shutdown: Shutdown) {
    let pause = Duration::from_millis(node.limits.election_ms);
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.begun() => return,
        }
        let own = node.own.member_id;
        let view = node.view();
        let nodes = &view.membership().1.nodes;
        if !nodes.is_empty() {
            node.proposer.peers.keep(|member| nodes.contains_key(&member));
        }
        let by_log = view.members().removed.contains(&own);
        if by_log || (node.leader().is_none() && ask(&node, pause).await) {
            tracing::warn!(member = %own, "this member was removed from the cluster and stops");
            node.removed.begin();
            return;
        }
    }
}

/// Before a member serves: without a leader it may be one that nobody tells that it is none any more.
pub(crate) async fn is_removed_before_ready(node: &Node) -> bool {
    let limit = Duration::from_millis(node.limits.election_ms);
    let removed = node.leader().is_none() && ask(node, limit).await;
    if removed {
        node.removed.begin();
    }
    removed
}

/// Whether any of the others says that this member was removed; that is final, so one suffices.
async fn ask(node: &Node, limit: Duration) -> bool {
    let view = node.view();
    let others = view.membership().1.nodes.iter().filter(|(id, _)| **id != node.own.member_id);
    let asked = others.map(|(id, urls)| is_removed(node, *id, urls, limit));
    join_all(asked).await.contains(&true)
}

async fn is_removed(node: &Node, other: MemberId, urls: &[String], limit: Duration) -> bool {
    let peers = &node.proposer.peers;
    let mut client = peers.client(other, urls, Lane::Calls);
    let hello = HelloRequest { protocol_major: PROTOCOL.0, protocol_minor: PROTOCOL.1 };
    let reply = within(limit, client.hello(peers.request(other, hello))).await;
    reply.is_ok_and(|reply| reply.removed)
}
