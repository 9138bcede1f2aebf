//! Ids of members and clusters, as etcd derives them (behaviour.md 5.1), so that a manifest gives the same ids.

use std::collections::BTreeMap;

use kvd_core::ids::{ClusterId, Index, MemberId};
use sha1::{Digest, Sha1};

/// Id of a founding member: SHA-1 over its peer URLs, sorted and joined, and the cluster's token.
pub fn founding_member(peer_urls: &[String], token: &str) -> MemberId {
    let mut urls = peer_urls.to_vec();
    urls.sort();
    let mut hash = Sha1::new();
    for url in &urls {
        hash.update(url);
    }
    hash.update(token);
    MemberId(first_eight_bytes(&hash.finalize()))
}

/// Id of a member that is added later: the same with where the log was then instead of the token, so that a member
/// that comes back to its URLs is another one. etcd takes the second; the log goes no second twice.
pub fn added_member(peer_urls: &[String], at: Index) -> MemberId {
    founding_member(peer_urls, &at.to_string())
}

/// Id of a cluster: SHA-1 over its founding members' ids in ascending order.
pub fn cluster<'a>(founders: impl IntoIterator<Item = &'a MemberId>) -> ClusterId {
    let mut ids: Vec<u64> = founders.into_iter().map(|id| id.0).collect();
    ids.sort_unstable();
    let mut hash = Sha1::new();
    for id in ids {
        hash.update(id.to_be_bytes());
    }
    ClusterId(first_eight_bytes(&hash.finalize()))
}

/// The founding members of `--initial-cluster`, by id, with their peer URLs.
pub fn founders(
    initial_cluster: &BTreeMap<String, Vec<String>>,
    token: &str,
) -> BTreeMap<MemberId, Vec<String>> {
    initial_cluster.values().map(|urls| (founding_member(urls, token), urls.clone())).collect()
}

fn first_eight_bytes(digest: &[u8]) -> u64 {
    digest.iter().take(8).fold(0, |id, byte| id << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What etcd 3.5.16 prints for `--name default` on the default URLs and token.
    #[test]
    fn the_default_member_has_etcds_well_known_ids() {
        let member = founding_member(&["http://localhost:2380".to_owned()], "etcd-cluster");
        assert_eq!(member.to_string(), "8e9e05c52164694d");
        assert_eq!(cluster([&member]).to_string(), "cdf818194e3a8c32");
    }
}
