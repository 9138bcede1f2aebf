//! The bytes of a proposal: what the log carries. Numbers are append only.

use bytes::Bytes;

use super::DecodeError;
use super::query::{read_query, write_query};
use super::wire::{Reader, Writer};
use crate::command::{
    Actor, AlarmChange, AlarmKind, ClusterVersion, Command, Compact, Compare, CompareOperator,
    CompareTarget, DeleteRange, LeaseExpire, LeaseGrant, LeaseRemaining, LeaseRenew, LeaseRevoke,
    Proposal, Publish, Put, Remaining, Txn, TxnOp,
};
use crate::ids::{Incarnation, Index, LeaseId, MemberId, RequestId};
use crate::limits::TXN_DEPTH_MAX;
use crate::range::KeyRange;

/// Version of the proposal format.
const VERSION: u8 = 1;

/// Encodes a proposal for the log.
pub fn encode_proposal(proposal: &Proposal) -> Bytes {
    let mut out = Writer::versioned(VERSION);
    out.option(proposal.request_id.as_ref(), |out, id| {
        // Random, so a varint would be longer.
        out.fixed_u64(id.client);
        out.u64(id.opened.0);
        out.u64(id.sequence);
        out.u64(id.settled);
    });
    out.option(proposal.actor.as_ref(), |out, actor| {
        out.bytes(actor.user.as_bytes());
        out.u64(actor.auth_revision);
    });
    write_command(&mut out, &proposal.command);
    out.finish()
}

/// Decodes a proposal; its keys and values are slices of the input.
pub fn decode_proposal(input: Bytes) -> Result<Proposal, DecodeError> {
    let mut input = Reader::versioned(input, VERSION)?;
    let request_id = input.option(|input| {
        Ok(RequestId {
            client: input.fixed_u64()?,
            opened: Index(input.u64()?),
            sequence: input.u64()?,
            settled: input.u64()?,
        })
    })?;
    let actor =
        input.option(|input| Ok(Actor { user: input.string()?, auth_revision: input.u64()? }))?;
    let command = read_command(&mut input)?;
    input.finish()?;
    Ok(Proposal { request_id, actor, command })
}

fn write_command(out: &mut Writer, command: &Command) {
    match command {
        Command::Put(put) => {
            out.u8(1);
            write_put(out, put);
        }
        Command::DeleteRange(delete) => {
            out.u8(2);
            write_delete(out, delete);
        }
        Command::Txn(txn) => {
            out.u8(3);
            write_txn(out, txn);
        }
        Command::Compact(compact) => {
            out.u8(4);
            out.i64(compact.revision);
        }
        Command::LeaseGrant(grant) => {
            out.u8(5);
            out.i64(grant.id.0);
            out.i64(grant.ttl_seconds);
        }
        Command::LeaseRevoke(revoke) => {
            out.u8(6);
            out.i64(revoke.id.0);
        }
        Command::LeaseExpire(expire) => {
            out.u8(7);
            out.i64(expire.id.0);
            out.u64(expire.granted_at.0);
        }
        Command::Alarm(alarm) => {
            out.u8(8);
            out.flag(alarm.raise);
            out.u64(alarm.member.0);
            out.u8(alarm_number(alarm.kind));
        }
        Command::Publish(publish) => {
            out.u8(9);
            out.u64(publish.member.0);
            out.bytes(publish.name.as_bytes());
            out.strings(&publish.client_urls);
            out.u64(publish.incarnation.0);
        }
        Command::ClusterVersion(version) => {
            out.u8(10);
            out.u64(version.major.into());
            out.u64(version.minor.into());
        }
        Command::LeaseRenew(renew) => {
            out.u8(11);
            out.u64(renew.ids.len() as u64);
            for id in &renew.ids {
                out.i64(id.0);
            }
        }
        Command::LeaseRemaining(remaining) => {
            out.u8(12);
            out.u64(remaining.leases.len() as u64);
            remaining.leases.iter().for_each(|lease| write_remaining(out, lease));
        }
        Command::ReserveSeat(member) => {
            out.u8(13);
            out.u64(member.0);
        }
    }
}

fn read_command(input: &mut Reader) -> Result<Command, DecodeError> {
    Ok(match input.u8()? {
        1 => Command::Put(read_put(input)?),
        2 => Command::DeleteRange(read_delete(input)?),
        3 => Command::Txn(read_txn(input, 1)?),
        4 => Command::Compact(Compact { revision: input.i64()? }),
        5 => {
            Command::LeaseGrant(LeaseGrant { id: LeaseId(input.i64()?), ttl_seconds: input.i64()? })
        }
        6 => Command::LeaseRevoke(LeaseRevoke { id: LeaseId(input.i64()?) }),
        7 => Command::LeaseExpire(LeaseExpire {
            id: LeaseId(input.i64()?),
            granted_at: Index(input.u64()?),
        }),
        8 => Command::Alarm(AlarmChange {
            raise: input.flag("alarm action")?,
            member: MemberId(input.u64()?),
            kind: alarm_kind(input.u8()?)?,
        }),
        9 => Command::Publish(Publish {
            member: MemberId(input.u64()?),
            name: input.string()?,
            client_urls: input.strings()?,
            incarnation: Incarnation(input.u64()?),
        }),
        10 => Command::ClusterVersion(ClusterVersion { major: input.u32()?, minor: input.u32()? }),
        11 => {
            Command::LeaseRenew(LeaseRenew { ids: input.list(|input| Ok(LeaseId(input.i64()?)))? })
        }
        12 => Command::LeaseRemaining(LeaseRemaining { leases: input.list(read_remaining)? }),
        13 => Command::ReserveSeat(MemberId(input.u64()?)),
        found => return Err(DecodeError::Tag { what: "command", found }),
    })
}

fn write_remaining(out: &mut Writer, lease: &Remaining) {
    out.i64(lease.id.0);
    out.u64(lease.granted_at.0);
    out.i64(lease.seconds);
}

fn read_remaining(input: &mut Reader) -> Result<Remaining, DecodeError> {
    let (id, granted_at) = (LeaseId(input.i64()?), Index(input.u64()?));
    Ok(Remaining { id, granted_at, seconds: input.i64()? })
}

/// The number of an alarm in every format of ours.
pub(crate) fn alarm_number(kind: AlarmKind) -> u8 {
    match kind {
        AlarmKind::NoSpace => 1,
        AlarmKind::Corrupt => 2,
    }
}

/// The alarm of that number.
pub(crate) fn alarm_kind(number: u8) -> Result<AlarmKind, DecodeError> {
    match number {
        1 => Ok(AlarmKind::NoSpace),
        2 => Ok(AlarmKind::Corrupt),
        found => Err(DecodeError::Tag { what: "alarm", found }),
    }
}

pub(super) fn write_range(out: &mut Writer, range: &KeyRange) {
    match range {
        KeyRange::Key(key) => {
            out.u8(0);
            out.bytes(key);
        }
        KeyRange::Between { start, end } => {
            out.u8(1);
            out.bytes(start);
            out.bytes(end);
        }
        KeyRange::From(start) => {
            out.u8(2);
            out.bytes(start);
        }
    }
}

pub(super) fn read_range(input: &mut Reader) -> Result<KeyRange, DecodeError> {
    match input.u8()? {
        0 => Ok(KeyRange::Key(input.bytes()?)),
        1 => Ok(KeyRange::Between { start: input.bytes()?, end: input.bytes()? }),
        2 => Ok(KeyRange::From(input.bytes()?)),
        found => Err(DecodeError::Tag { what: "key range", found }),
    }
}

const PREV_KV: u8 = 1;
const IGNORE_VALUE: u8 = 2;
const IGNORE_LEASE: u8 = 4;

fn write_put(out: &mut Writer, put: &Put) {
    let flags = u8::from(put.prev_kv) * PREV_KV
        + u8::from(put.ignore_value) * IGNORE_VALUE
        + u8::from(put.ignore_lease) * IGNORE_LEASE;
    out.u8(flags);
    out.bytes(&put.key);
    out.bytes(&put.value);
    out.i64(put.lease.0);
}

fn read_put(input: &mut Reader) -> Result<Put, DecodeError> {
    let flags = input.u8()?;
    if flags & !(PREV_KV | IGNORE_VALUE | IGNORE_LEASE) != 0 {
        return Err(DecodeError::Tag { what: "put flags", found: flags });
    }
    Ok(Put {
        prev_kv: flags & PREV_KV != 0,
        ignore_value: flags & IGNORE_VALUE != 0,
        ignore_lease: flags & IGNORE_LEASE != 0,
        key: input.bytes()?,
        value: input.bytes()?,
        lease: LeaseId(input.i64()?),
    })
}

fn write_delete(out: &mut Writer, delete: &DeleteRange) {
    out.flag(delete.prev_kv);
    write_range(out, &delete.range);
}

fn read_delete(input: &mut Reader) -> Result<DeleteRange, DecodeError> {
    Ok(DeleteRange { prev_kv: input.flag("prev_kv")?, range: read_range(input)? })
}

fn write_txn(out: &mut Writer, txn: &Txn) {
    out.u64(txn.compares.len() as u64);
    for compare in &txn.compares {
        write_compare(out, compare);
    }
    for branch in [&txn.success, &txn.failure] {
        out.u64(branch.len() as u64);
        for op in branch {
            write_op(out, op);
        }
    }
}

fn read_txn(input: &mut Reader, depth: usize) -> Result<Txn, DecodeError> {
    if depth > TXN_DEPTH_MAX {
        return Err(DecodeError::Depth);
    }
    Ok(Txn {
        compares: input.list(read_compare)?,
        success: input.list(|input| read_op(input, depth))?,
        failure: input.list(|input| read_op(input, depth))?,
    })
}

fn write_op(out: &mut Writer, op: &TxnOp) {
    match op {
        TxnOp::Range(query) => {
            out.u8(1);
            write_query(out, query);
        }
        TxnOp::Put(put) => {
            out.u8(2);
            write_put(out, put);
        }
        TxnOp::DeleteRange(delete) => {
            out.u8(3);
            write_delete(out, delete);
        }
        TxnOp::Txn(txn) => {
            out.u8(4);
            write_txn(out, txn);
        }
    }
}

fn read_op(input: &mut Reader, depth: usize) -> Result<TxnOp, DecodeError> {
    match input.u8()? {
        1 => read_query(input).map(TxnOp::Range),
        2 => read_put(input).map(TxnOp::Put),
        3 => read_delete(input).map(TxnOp::DeleteRange),
        4 => read_txn(input, depth + 1).map(TxnOp::Txn),
        found => Err(DecodeError::Tag { what: "operation", found }),
    }
}

fn write_compare(out: &mut Writer, compare: &Compare) {
    write_range(out, &compare.range);
    out.u8(match compare.operator {
        CompareOperator::Equal => 0,
        CompareOperator::Greater => 1,
        CompareOperator::Less => 2,
        CompareOperator::NotEqual => 3,
        CompareOperator::Unknown => 4,
    });
    let (number, given) = match &compare.target {
        CompareTarget::Version(given) => (0, *given),
        CompareTarget::Create(given) => (1, *given),
        CompareTarget::Mod(given) => (2, *given),
        CompareTarget::Lease(given) => (4, *given),
        CompareTarget::Unknown => return out.u8(5),
        CompareTarget::Value(given) => {
            out.u8(3);
            return out.bytes(given);
        }
    };
    out.u8(number);
    out.i64(given);
}

fn read_compare(input: &mut Reader) -> Result<Compare, DecodeError> {
    let range = read_range(input)?;
    let operator = match input.u8()? {
        0 => CompareOperator::Equal,
        1 => CompareOperator::Greater,
        2 => CompareOperator::Less,
        3 => CompareOperator::NotEqual,
        4 => CompareOperator::Unknown,
        found => return Err(DecodeError::Tag { what: "compare operator", found }),
    };
    let target = match input.u8()? {
        0 => CompareTarget::Version(input.i64()?),
        1 => CompareTarget::Create(input.i64()?),
        2 => CompareTarget::Mod(input.i64()?),
        3 => CompareTarget::Value(input.bytes()?),
        4 => CompareTarget::Lease(input.i64()?),
        5 => CompareTarget::Unknown,
        found => return Err(DecodeError::Tag { what: "compare target", found }),
    };
    Ok(Compare { range, operator, target })
}
