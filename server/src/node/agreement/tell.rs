//! What members tell each other of their states, and how it looks on the wire.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use kvd_core::ids::{Index, MemberId, Revision};
use kvd_core::view::StateHash;
use kvd_proto::peer::{StateHashesReply, StateHashesRequest, StateSample};

use super::verdict::Told;
use crate::apply::Applier;
use crate::fence::Fence;
use crate::peer::pool::{Lane, Peers, within};
use crate::samples::Sample;

/// What every one of these members that answers in time tells of its state, and this one.
pub(crate) async fn hear(
    peers: &Peers,
    own: MemberId,
    members: BTreeMap<MemberId, Vec<String>>,
    applier: &Applier,
    fence: &Fence,
    limit: Duration,
) -> BTreeMap<MemberId, Told> {
    let others = members.into_iter().filter(|(id, _)| *id != own).collect();
    let mut told = ask(peers, others, limit).await;
    // After the others: a state that was replaced meanwhile is not compared any more.
    told.insert(own, Told { samples: applier.samples().all(), fenced: fence.is_raised() });
    told
}

/// Asks these members at once; who does not answer in time is left out.
pub(crate) async fn ask(
    peers: &Peers,
    members: Vec<(MemberId, Vec<String>)>,
    limit: Duration,
) -> BTreeMap<MemberId, Told> {
    let asked = members.iter().map(|(id, urls)| async move {
        let mut client = peers.client(*id, urls, Lane::Calls);
        let request = peers.request(*id, StateHashesRequest {});
        // A member that cannot say is silent, whatever the reason: a release from before this call, too.
        let reply = within(limit, client.state_hashes(request)).await.ok()?;
        Some((*id, told(reply)))
    });
    join_all(asked).await.into_iter().flatten().collect()
}

/// What this member answers.
pub(crate) fn reply(samples: &[Sample], fenced: bool) -> StateHashesReply {
    let samples = samples.iter().map(|sample| StateSample {
        index: sample.index.0,
        live: sample.hash.live,
        history: sample.hash.history,
        revision: sample.revision.0,
        compact_revision: sample.compacted.map_or(0, |compacted| compacted.0),
    });
    StateHashesReply { samples: samples.collect(), fenced }
}

fn told(reply: StateHashesReply) -> Told {
    let samples = reply.samples.into_iter().map(|sample| Sample {
        index: Index(sample.index),
        hash: StateHash { live: sample.live, history: sample.history },
        revision: Revision(sample.revision),
        compacted: Some(Revision(sample.compact_revision)).filter(|revision| revision.0 > 0),
    });
    Told { samples: samples.collect(), fenced: reply.fenced }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_what_is_heard() {
        let sample = |index, compacted| Sample {
            index: Index(index),
            hash: StateHash { live: u64::MAX - index, history: index << 40 },
            revision: Revision(7),
            compacted,
        };
        let samples = vec![sample(8, None), sample(16, Some(Revision(3)))];
        for fenced in [false, true] {
            assert_eq!(told(reply(&samples, fenced)), Told { samples: samples.clone(), fenced });
        }
    }
}
