//! The bytes of a checkpoint's meta and table rows.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::DecodeError;
use super::wire::{Reader, Writer};
use crate::checkpoint::Meta;
use crate::command::Membership;
use crate::ids::{ChangeId, Incarnation, Index, LogId, MemberId, Revision};
use crate::lease::table::LeaseTerms;
use crate::tables::Member;

/// Version of the formats of this file.
const VERSION: u8 = 1;

/// Encodes a membership with the id of the entry that put it into force.
pub fn encode_membership(membership: &(Option<LogId>, Membership)) -> Bytes {
    let mut out = Writer::versioned(VERSION);
    write_membership(&mut out, membership);
    out.finish()
}

/// Decodes a membership with the id of the entry that put it into force.
pub fn decode_membership(input: Bytes) -> Result<(Option<LogId>, Membership), DecodeError> {
    let mut input = Reader::versioned(input, VERSION)?;
    let membership = read_membership(&mut input)?;
    input.finish()?;
    Ok(membership)
}

/// Encodes a checkpoint's meta.
pub fn encode_meta(meta: &Meta) -> Bytes {
    let mut out = Writer::versioned(VERSION);
    out.u64(meta.sequence);
    out.log_id(meta.applied);
    write_membership(&mut out, &meta.membership);
    out.revision(meta.revision);
    out.option(meta.compacted, Writer::revision);
    out.fixed_u64(meta.live_hash);
    out.fixed_u64(meta.history_hash);
    out.u64(meta.blocks);
    out.u64(meta.rows);
    out.finish()
}

/// Decodes a checkpoint's meta.
pub fn decode_meta(input: Bytes) -> Result<Meta, DecodeError> {
    let mut input = Reader::versioned(input, VERSION)?;
    let meta = Meta {
        sequence: input.u64()?,
        applied: input.log_id()?,
        membership: read_membership(&mut input)?,
        revision: input.revision()?,
        compacted: input.option(Reader::revision)?,
        live_hash: input.fixed_u64()?,
        history_hash: input.fixed_u64()?,
        blocks: input.u64()?,
        rows: input.u64()?,
    };
    input.finish()?;
    Ok(meta)
}

fn write_membership(out: &mut Writer, (log_id, membership): &(Option<LogId>, Membership)) {
    out.option(*log_id, Writer::log_id);
    out.u64(membership.voters.len() as u64);
    for voters in &membership.voters {
        out.u64(voters.len() as u64);
        for voter in voters {
            out.u64(voter.0);
        }
    }
    out.u64(membership.nodes.len() as u64);
    for (member, urls) in &membership.nodes {
        out.u64(member.0);
        out.strings(urls);
    }
}

fn read_membership(input: &mut Reader) -> Result<(Option<LogId>, Membership), DecodeError> {
    let log_id = input.option(Reader::log_id)?;
    let voters = input.list(|input| {
        let voters = input.list(|input| input.u64().map(MemberId))?;
        Ok(voters.into_iter().collect::<BTreeSet<_>>())
    })?;
    let nodes = input.list(|input| Ok((MemberId(input.u64()?), input.strings()?)))?;
    let nodes = nodes.into_iter().collect::<BTreeMap<_, _>>();
    Ok((log_id, Membership { voters, nodes }))
}

/// Version of the row of a lease that has not all of its time left; one that has is still written as version 1.
/// One spelling a value: the live hash counts the bytes of rows.
const LEASE_VERSION_REMAINING: u8 = 2;

/// Row of a lease.
pub(crate) fn encode_lease(terms: LeaseTerms) -> Bytes {
    let full = terms.remaining_seconds == 0;
    let mut out = Writer::versioned(if full { VERSION } else { LEASE_VERSION_REMAINING });
    out.i64(terms.ttl_seconds);
    out.u64(terms.granted_at.0);
    if !full {
        out.i64(terms.remaining_seconds);
    }
    out.finish()
}

/// Reads the row of a lease.
pub(crate) fn decode_lease(input: Bytes) -> Result<LeaseTerms, DecodeError> {
    let mut input = Reader::new(input);
    let version = input.u8()?;
    if version != VERSION && version != LEASE_VERSION_REMAINING {
        return Err(DecodeError::Version { found: version });
    }
    let (ttl_seconds, granted_at) = (input.i64()?, Index(input.u64()?));
    let remaining_seconds = if version == VERSION { 0 } else { input.i64()? };
    input.finish()?;
    if version != VERSION && remaining_seconds <= 0 {
        return Err(DecodeError::Contradiction("a lease that notes no time left"));
    }
    Ok(LeaseTerms { ttl_seconds, granted_at, remaining_seconds })
}

/// Row of a member.
pub(crate) fn encode_member(member: &Member) -> Bytes {
    let mut out = Writer::versioned(VERSION);
    out.bytes(member.name.as_bytes());
    out.strings(&member.peer_urls);
    out.strings(&member.client_urls);
    out.u8(match (member.is_learner, member.seat_reserved) {
        (false, false) => VOTER,
        (true, _) => LEARNER,
        (false, true) => SEAT_RESERVED,
    });
    out.option(member.incarnation, |out, incarnation| out.u64(incarnation.0));
    out.finish()
}

/// What part a member has, as its row says: append only.
const VOTER: u8 = 0;
const LEARNER: u8 = 1;
const SEAT_RESERVED: u8 = 2;

/// Reads the row of a member.
pub(crate) fn decode_member(input: Bytes) -> Result<Member, DecodeError> {
    let mut input = Reader::versioned(input, VERSION)?;
    let mut member = Member {
        name: input.string()?,
        peer_urls: input.strings()?,
        client_urls: input.strings()?,
        is_learner: false,
        seat_reserved: false,
        incarnation: None,
    };
    match input.u8()? {
        VOTER => {}
        LEARNER => member.is_learner = true,
        SEAT_RESERVED => member.seat_reserved = true,
        found => return Err(DecodeError::Tag { what: "part of a member", found }),
    }
    member.incarnation = input.option(|input| input.u64().map(Incarnation))?;
    input.finish()?;
    Ok(member)
}

/// A block's first change and sequence as a row's id: big-endian, so that rows sort as blocks do.
pub(crate) fn encode_change_key(first: ChangeId, sequence: u64) -> Bytes {
    let mut out = Writer::default();
    out.fixed_u64(first.main.0.cast_unsigned());
    out.fixed_u32(first.sub);
    out.fixed_u64(sequence);
    out.finish()
}

/// Reads a row's id that names a block.
pub(crate) fn decode_change_key(input: Bytes) -> Result<(ChangeId, u64), DecodeError> {
    let mut input = Reader::new(input);
    let main = Revision(input.fixed_u64()?.cast_signed());
    let first = ChangeId { main, sub: input.fixed_u32()? };
    let sequence = input.fixed_u64()?;
    input.finish()?;
    Ok((first, sequence))
}

/// Row of a block's dead records. No hash covers it, and a wrong mark would hide a change without a trace, so
/// it has a checksum of its own, over its id too.
pub(crate) fn encode_marks(id: &[u8], dead: u16) -> Bytes {
    let mut out = Writer::versioned(VERSION);
    out.u64(dead.into());
    out.fixed_u32(marks_crc(id, dead));
    out.finish()
}

/// Reads the row of a block's dead records.
pub(crate) fn decode_marks(id: &[u8], input: Bytes) -> Result<u16, DecodeError> {
    let mut input = Reader::versioned(input, VERSION)?;
    let dead = u16::try_from(input.u64()?).map_err(|_| DecodeError::Varint)?;
    let crc = input.fixed_u32()?;
    input.finish()?;
    if crc == marks_crc(id, dead) { Ok(dead) } else { Err(DecodeError::Checksum) }
}

fn marks_crc(id: &[u8], dead: u16) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(id), &dead.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Both versions of a lease's row, byte for byte; what is neither is refused.
    #[test]
    fn rows_of_leases_are_locked() {
        let full = LeaseTerms { ttl_seconds: 60, granted_at: Index(300), remaining_seconds: 0 };
        let half = LeaseTerms { remaining_seconds: 30, ..full };
        assert_eq!(hex(&encode_lease(full)), "0178ac02");
        assert_eq!(hex(&encode_lease(half)), "0278ac023c");
        for terms in [full, half] {
            assert_eq!(decode_lease(encode_lease(terms)), Ok(terms));
        }
        let refused = |bytes: &'static [u8]| decode_lease(Bytes::from_static(bytes)).unwrap_err();
        assert_eq!(refused(&[3, 0x78, 1]), DecodeError::Version { found: 3 });
        assert_eq!(refused(&[2, 0x78, 1]), DecodeError::Short);
        assert_eq!(refused(&[1, 0x78, 1, 2]), DecodeError::Trailing { bytes: 1 });
        assert!(matches!(refused(&[2, 0x78, 1, 0]), DecodeError::Contradiction(_)));
    }
}
