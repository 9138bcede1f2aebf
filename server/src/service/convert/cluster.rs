//! The Cluster service's messages.

use kvd_core::ids::MemberId;
use kvd_core::outcome::Rejection;
use kvd_core::tables::{Member, Members};
use kvd_proto::etcdserverpb as pb;

use crate::config::Url;

/// The members in order of their ids (rule C1).
pub(crate) fn members(members: &Members) -> Vec<pb::Member> {
    members.present.iter().map(|(id, shown)| member(*id, shown)).collect()
}

/// Where a new member will be reached (rule C3).
pub(crate) fn peer_urls(given: Vec<String>) -> Result<Vec<String>, Rejection> {
    let are_urls = given.iter().all(|url| Url::parse(url).is_ok());
    if given.is_empty() || !are_urls { Err(Rejection::BadMemberUrls) } else { Ok(given) }
}

/// One member; one that has not started yet has neither name nor client URLs (rule C2).
fn member(id: MemberId, member: &Member) -> pb::Member {
    pb::Member {
        id: id.0,
        name: member.name.clone(),
        peer_ur_ls: member.peer_urls.clone(),
        client_ur_ls: member.client_urls.clone(),
        is_learner: member.is_learner,
    }
}
