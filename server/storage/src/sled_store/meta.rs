//! The meta of a checkpoint as bytes, with the store's own digest over the names it covers.
//!
//! The digest is the sum of the checksums of the names of all records the checkpoint covers. As each item's
//! checksum covers name and content, count and digest together pin the whole content: an older row that
//! turns up in place of a lost newer one does not pass.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, BufMut};
use crc32c::crc32c;
use kvd_core::checkpoint::Meta;
use kvd_core::command::Membership;
use kvd_core::ids::{Index, LogId, MemberId, Revision, Term};

const FORMAT: u8 = 1;

/// A committed meta and the digest of what it covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Covered {
    /// The meta as committed.
    pub(crate) meta: Meta,
    /// Sum of [`digest`] over the names of all records covered.
    pub(crate) digest: u64,
}

/// One record's share of the digest.
pub(crate) fn digest(name: &[u8]) -> u64 {
    u64::from(crc32c(name))
}

impl Covered {
    /// As bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        let meta = &self.meta;
        out.put_u8(FORMAT);
        out.put_u64(meta.sequence);
        put_log_id(&mut out, meta.applied);
        put_option(&mut out, meta.membership.0, put_log_id);
        put_membership(&mut out, &meta.membership.1);
        out.put_i64(meta.revision.0);
        put_option(&mut out, meta.compacted, |out, revision| out.put_i64(revision.0));
        out.put_u64(meta.live_hash);
        out.put_u64(meta.history_hash);
        out.put_u64(meta.blocks);
        out.put_u64(meta.rows);
        out.put_u64(self.digest);
        out
    }

    /// From bytes; `None` where they are not those of a meta.
    pub(crate) fn decode(mut bytes: &[u8]) -> Option<Self> {
        let input = &mut bytes;
        if input.try_get_u8().ok()? != FORMAT {
            return None;
        }
        let meta = Meta {
            sequence: input.try_get_u64().ok()?,
            applied: log_id(input)?,
            membership: (option(input, log_id)?, membership(input)?),
            revision: Revision(input.try_get_i64().ok()?),
            compacted: option(input, |input| input.try_get_i64().ok().map(Revision))?,
            live_hash: input.try_get_u64().ok()?,
            history_hash: input.try_get_u64().ok()?,
            blocks: input.try_get_u64().ok()?,
            rows: input.try_get_u64().ok()?,
        };
        let digest = input.try_get_u64().ok()?;
        bytes.is_empty().then_some(Self { meta, digest })
    }
}

fn put_option<T>(out: &mut Vec<u8>, value: Option<T>, put: impl FnOnce(&mut Vec<u8>, T)) {
    out.put_u8(u8::from(value.is_some()));
    if let Some(value) = value {
        put(out, value);
    }
}

fn put_log_id(out: &mut Vec<u8>, id: LogId) {
    out.put_u64(id.term.0);
    out.put_u64(id.node.0);
    out.put_u64(id.index.0);
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    out.put_u32(u32::try_from(len).expect("a membership has far less than 2^32 parts"));
}

fn put_membership(out: &mut Vec<u8>, membership: &Membership) {
    put_len(out, membership.voters.len());
    for set in &membership.voters {
        put_len(out, set.len());
        set.iter().for_each(|id| out.put_u64(id.0));
    }
    put_len(out, membership.nodes.len());
    for (id, urls) in &membership.nodes {
        out.put_u64(id.0);
        put_len(out, urls.len());
        for url in urls {
            put_len(out, url.len());
            out.put_slice(url.as_bytes());
        }
    }
}

fn option<T>(input: &mut &[u8], get: impl FnOnce(&mut &[u8]) -> Option<T>) -> Option<Option<T>> {
    match input.try_get_u8().ok()? {
        0 => Some(None),
        1 => get(input).map(Some),
        _ => None,
    }
}

fn log_id(input: &mut &[u8]) -> Option<LogId> {
    Some(LogId {
        term: Term(input.try_get_u64().ok()?),
        node: MemberId(input.try_get_u64().ok()?),
        index: Index(input.try_get_u64().ok()?),
    })
}

fn membership(input: &mut &[u8]) -> Option<Membership> {
    let mut voters = Vec::new();
    for _ in 0..input.try_get_u32().ok()? {
        let mut set = BTreeSet::new();
        for _ in 0..input.try_get_u32().ok()? {
            set.insert(MemberId(input.try_get_u64().ok()?));
        }
        voters.push(set);
    }
    let mut nodes = BTreeMap::new();
    for _ in 0..input.try_get_u32().ok()? {
        let id = MemberId(input.try_get_u64().ok()?);
        let mut urls = Vec::new();
        for _ in 0..input.try_get_u32().ok()? {
            let len = input.try_get_u32().ok()?;
            let (url, rest) = input.split_at_checked(usize::try_from(len).ok()?)?;
            urls.push(String::from_utf8(url.to_vec()).ok()?);
            *input = rest;
        }
        nodes.insert(id, urls);
    }
    Some(Membership { voters, nodes })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn covered() -> Covered {
        let id = |index| LogId { term: Term(1), node: MemberId(2), index: Index(index) };
        let membership = Membership {
            voters: vec![[MemberId(7)].into()],
            nodes: [(MemberId(7), vec!["u".to_owned()])].into(),
        };
        let meta = Meta {
            sequence: 3,
            applied: id(4),
            membership: (Some(id(1)), membership),
            revision: Revision(5),
            compacted: Some(Revision(2)),
            live_hash: 0x1111_1111_1111_1111,
            history_hash: 0x2222_2222_2222_2222,
            blocks: 8,
            rows: 9,
        };
        Covered { meta, digest: 10 }
    }

    #[test]
    fn a_meta_is_a_promise() {
        let hex = super::super::items::hex(&covered().encode());
        let golden = concat!(
            "01",
            "0000000000000003",                                   // Sequence.
            "000000000000000100000000000000020000000000000004",   // Applied.
            "01000000000000000100000000000000020000000000000001", // Entry of the membership.
            "00000001000000010000000000000007",                   // Voters.
            "000000010000000000000007000000010000000175",         // Nodes.
            "0000000000000005",                                   // Revision.
            "010000000000000002",                                 // Compacted.
            "1111111111111111",                                   // Live hash.
            "2222222222222222",                                   // History hash.
            "0000000000000008",                                   // Blocks.
            "0000000000000009",                                   // Rows.
            "000000000000000a",                                   // Digest.
        );
        assert_eq!(hex, golden);
        assert_eq!(Covered::decode(&covered().encode()), Some(covered()));
    }

    #[test]
    fn a_short_or_long_meta_is_refused() {
        let bytes = covered().encode();
        for len in 0..bytes.len() {
            assert_eq!(Covered::decode(&bytes[..len]), None);
        }
        assert_eq!(Covered::decode(&[bytes.as_slice(), b"x"].concat()), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(covered) = Covered::decode(&bytes) {
                prop_assert!(Covered::decode(&covered.encode()) == Some(covered));
            }
        }
    }
}
