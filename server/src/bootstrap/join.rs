//! How a new member learns its ids: from any member of the cluster that it is to join (rule C12).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use kvd_core::ids::{ClusterId, MemberId};
use kvd_proto::peer::{MembersReply, MembersRequest};
use tokio::time::{Instant, sleep};

use super::StartError;
use crate::net::Net;
use crate::peer::pool::{stranger, within};

/// How long one member has to answer.
const ANSWER: Duration = Duration::from_millis(1500);

/// How long a member that fits nowhere looks again: who is asked may hear of it only later.
const PATIENCE: Duration = Duration::from_secs(10);

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(250);

const NOBODY: &str = "no member that --initial-cluster names tells who belongs to the cluster: start this one when a \
                      majority serves";

/// Who belongs to the cluster, for a member of it that starts again, if somebody tells at once: the ids of members that
/// came later than the cluster do not follow from the flags.
pub async fn members_now(
    net: &Arc<dyn Net>,
    named: &BTreeMap<String, Vec<String>>,
    cluster_id: ClusterId,
) -> Option<BTreeMap<MemberId, Vec<String>>> {
    let replies = join_all(named.values().map(|urls| ask(net, urls))).await;
    let own = replies.into_iter().flatten().filter(|reply| reply.cluster_id == cluster_id.0);
    let newest = own.max_by_key(|reply| reply.applied)?;
    let members = newest.members.into_iter();
    Some(members.map(|member| (MemberId(member.member_id), member.peer_urls)).collect())
}

/// What a new member is in the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// Its own id.
    pub member_id: MemberId,
    /// All members, with their peer URLs.
    pub members: BTreeMap<MemberId, Vec<String>>,
}

/// Finds this member, by its peer URLs, in a cluster that it was added to; `named` are the members that its flags name.
///
/// # Errors
/// One line that says why it fits nowhere, and what to do.
pub async fn join(
    net: &Arc<dyn Net>,
    named: &BTreeMap<String, Vec<String>>,
    own_urls: &[String],
) -> Result<Joined, StartError> {
    let others: Vec<_> = named.values().filter(|urls| !is_same(urls, own_urls)).collect();
    let end = Instant::now() + PATIENCE;
    loop {
        let replies = join_all(others.iter().map(|urls| ask(net, urls))).await;
        // Who has applied most knows best.
        let newest = replies.into_iter().flatten().max_by_key(|reply| reply.applied);
        let found = newest.ok_or_else(|| NOBODY.to_owned());
        match found.and_then(|reply| find(reply, named, own_urls)) {
            Ok(joined) => return Ok(joined),
            Err(reason) if Instant::now() >= end => return Err(StartError::Cluster(reason)),
            Err(_) => {}
        }
        sleep(PAUSE).await;
    }
}

async fn ask(net: &Arc<dyn Net>, urls: &[String]) -> Option<MembersReply> {
    within(ANSWER, stranger(net, urls).members(MembersRequest {})).await.ok()
}

fn find(
    reply: MembersReply,
    named: &BTreeMap<String, Vec<String>>,
    own_urls: &[String],
) -> Result<Joined, String> {
    let own = reply.members.iter().find(|member| is_same(&member.peer_urls, own_urls));
    let Some(own) = own else {
        return Err(format!(
            "the cluster has no member with the peer URLs {}: add it first, with `member add`",
            own_urls.join(",")
        ));
    };
    if own.started {
        return Err(format!(
            "member {:x} has already been bootstrapped with another data directory: restore that \
             directory, or remove the member from the cluster and add it anew",
            own.member_id
        ));
    }
    let (id, members) = (own.member_id, reply.members.iter());
    let members: BTreeMap<_, _> =
        members.map(|member| (MemberId(member.member_id), member.peer_urls.clone())).collect();
    let set = |urls: &Vec<String>| urls.iter().cloned().collect::<BTreeSet<_>>();
    let (there, here) = (members.values().map(set), named.values().map(set));
    if there.collect::<BTreeSet<_>>() != here.collect::<BTreeSet<_>>() {
        let shown: Vec<_> = members.values().map(|urls| urls.join(",")).collect();
        return Err(format!(
            "--initial-cluster names {} members, but the cluster has {}, at {}: name just these",
            named.len(),
            members.len(),
            shown.join(" and ")
        ));
    }
    Ok(Joined { cluster_id: ClusterId(reply.cluster_id), member_id: MemberId(id), members })
}

fn is_same(one: &[String], other: &[String]) -> bool {
    one.iter().collect::<BTreeSet<_>>() == other.iter().collect::<BTreeSet<_>>()
}

#[cfg(test)]
mod tests {
    use kvd_proto::peer::MemberInfo;

    use super::*;

    fn url(name: &str) -> Vec<String> {
        vec![format!("http://{name}:2380")]
    }

    fn reply(members: &[(&str, bool)]) -> MembersReply {
        let info = |(at, (name, started)): (usize, &(&str, bool))| MemberInfo {
            member_id: at as u64 + 1,
            peer_urls: url(name),
            started: *started,
        };
        MembersReply {
            cluster_id: 7,
            applied: 1,
            members: members.iter().enumerate().map(info).collect(),
        }
    }

    #[test]
    fn a_member_must_fit_the_cluster() {
        let named: BTreeMap<_, _> = ["a", "b"].map(|name| (name.to_owned(), url(name))).into();
        let found = |members: &[(&str, bool)]| find(reply(members), &named, &url("b"));
        let joined = found(&[("a", true), ("b", false)]).expect("it fits");
        assert_eq!((joined.cluster_id, joined.member_id), (ClusterId(7), MemberId(2)));
        let refused = |members: &[(&str, bool)], why: &str| {
            let refused = found(members).expect_err("it does not fit");
            assert!(refused.contains(why), "{refused}");
        };
        refused(&[("a", true)], "add it first");
        refused(&[("a", true), ("b", true)], "already been bootstrapped");
        refused(&[("a", true), ("b", false), ("c", true)], "the cluster has 3");
        refused(&[("c", true), ("b", false)], "name just these");
    }
}
