//! Bytes of an entry's payload and of a vote, as the log and the peers carry them.
//!
//! A proposal is stored as it is: its first byte is the version of the core's codec, below 0x80. Nothing is an
//! empty payload. A membership starts with 0x80, then its length (u32, little endian), its bytes, and the
//! proposal, if any. The common case is therefore never copied.

use bytes::{BufMut, Bytes, BytesMut};
use kvd_core::codec;
use openraft::impls::leader_id_adv::LeaderId;

use super::types::{self, Payload, RaftVote};

/// First byte of a payload that changes the membership.
const MEMBERSHIP: u8 = 0x80;

/// Version of the vote's bytes.
const VOTE_VERSION: u8 = 1;

/// Why bytes are not what they should be.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Malformed(String);

impl Malformed {
    /// A message lacks what it must have.
    pub(crate) fn missing(what: &str) -> Self {
        Self(format!("{what} is missing"))
    }

    /// For a reason found elsewhere.
    pub(crate) fn because(reason: String) -> Self {
        Self(reason)
    }
}

/// Bytes of a payload.
pub(crate) fn encode(payload: &Payload) -> Bytes {
    let proposal = payload.proposal.clone().unwrap_or_default();
    let Some(membership) = &payload.membership else {
        return proposal;
    };
    let membership = codec::encode_membership(&(None, types::membership(membership)));
    let mut bytes = BytesMut::with_capacity(5 + membership.len() + proposal.len());
    bytes.put_u8(MEMBERSHIP);
    bytes.put_u32_le(u32::try_from(membership.len()).expect("a membership is a few kilobytes"));
    bytes.put_slice(&membership);
    bytes.put_slice(&proposal);
    bytes.freeze()
}

/// The payload of bytes.
pub(crate) fn decode(mut bytes: Bytes) -> Result<Payload, Malformed> {
    if bytes.first() != Some(&MEMBERSHIP) {
        return Ok(Payload { proposal: Some(bytes).filter(|b| !b.is_empty()), membership: None });
    }
    let len: [u8; 4] = bytes
        .get(1..5)
        .and_then(|len| len.try_into().ok())
        .ok_or_else(|| Malformed("membership entry ends in its head".into()))?;
    let end = usize::try_from(u32::from_le_bytes(len))
        .ok()
        .and_then(|len| len.checked_add(5))
        .filter(|end| *end <= bytes.len())
        .ok_or_else(|| Malformed("membership entry ends early".into()))?;
    let proposal = bytes.split_off(end);
    let (_names_no_entry, membership) = codec::decode_membership(bytes.slice(5..))
        .map_err(|error| Malformed(format!("membership entry: {error}")))?;
    Ok(Payload {
        proposal: Some(proposal).filter(|b| !b.is_empty()),
        membership: Some(types::raft_membership(&membership)?),
    })
}

/// Bytes of a vote.
pub(crate) fn encode_vote(vote: &RaftVote) -> Bytes {
    let mut bytes = BytesMut::with_capacity(18);
    bytes.put_u8(VOTE_VERSION);
    bytes.put_u64_le(vote.leader_id.term);
    bytes.put_u64_le(vote.leader_id.node_id);
    bytes.put_u8(u8::from(vote.committed));
    bytes.freeze()
}

/// The vote of bytes.
pub(crate) fn decode_vote(bytes: &[u8]) -> Result<RaftVote, Malformed> {
    let malformed = || Malformed("stored vote is malformed".into());
    let (&[version], rest) = bytes.split_first_chunk::<1>().ok_or_else(malformed)?;
    let (term, rest) = rest.split_first_chunk::<8>().ok_or_else(malformed)?;
    let (node, rest) = rest.split_first_chunk::<8>().ok_or_else(malformed)?;
    let &[committed @ (0 | 1)] = rest else {
        return Err(malformed());
    };
    if version != VOTE_VERSION {
        return Err(Malformed(format!("vote of format {version} is newer than this program")));
    }
    Ok(RaftVote {
        leader_id: LeaderId { term: u64::from_le_bytes(*term), node_id: u64::from_le_bytes(*node) },
        committed: committed == 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::{PeerNode, RaftMembership};

    fn both() -> Payload {
        let nodes = [(7_u64, PeerNode { peer_urls: vec!["http://a:1".into()] })];
        Payload {
            proposal: Some(Bytes::from_static(&[1, 2, 3])),
            membership: Some(
                RaftMembership::new(
                    vec![[7_u64].into()],
                    nodes.into_iter().collect::<std::collections::BTreeMap<_, _>>(),
                )
                .unwrap(),
            ),
        }
    }

    #[test]
    fn every_payload_comes_back() {
        let both = both();
        let proposal = Payload { membership: None, ..both.clone() };
        let membership = Payload { proposal: None, ..both.clone() };
        for payload in [Payload::default(), proposal, membership, both] {
            assert_eq!(decode(encode(&payload)).unwrap(), payload);
        }
    }

    #[test]
    fn a_cut_membership_is_refused() {
        let whole = encode(&Payload { proposal: None, ..both() });
        for len in 1..whole.len() {
            assert!(decode(whole.slice(..len)).is_err(), "cut at {len}");
        }
    }

    #[test]
    fn the_votes_bytes_are_a_promise() {
        let vote = RaftVote { leader_id: LeaderId { term: 2, node_id: 0x0102 }, committed: true };
        let bytes = encode_vote(&vote);
        assert_eq!(
            bytes.as_ref(),
            [1, 2, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 1],
            "format of stored votes"
        );
        assert_eq!(decode_vote(&bytes).unwrap(), vote);
        assert!(decode_vote(&bytes[..17]).is_err());
    }
}
