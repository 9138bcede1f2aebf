//! The bytes of an answer: what a leader returns to the member that forwarded a request (hazard F15).
//!
//! Events stay behind: the forwarding member makes its own when it applies the entry.

use bytes::Bytes;

use super::DecodeError;
use super::proposal::{alarm_kind, alarm_number};
use super::wire::{Reader, Writer};
use crate::event::KeyValue;
use crate::ids::{LeaseId, MemberId, Revision};
use crate::limits::TXN_DEPTH_MAX;
use crate::outcome::{
    Applied, DeleteAnswer, OpAnswer, PutAnswer, RangeAnswer, Rejection, Response, TxnAnswer,
};

/// Version of the answer format.
const VERSION: u8 = 1;

/// Every refusal, at the place that is its number; append only.
const REJECTIONS: [Rejection; 26] = [
    Rejection::EmptyKey,
    Rejection::KeyNotFound,
    Rejection::ValueProvided,
    Rejection::LeaseProvided,
    Rejection::TooManyOperations,
    Rejection::DuplicateKey,
    Rejection::InvalidSortOption,
    Rejection::Compacted,
    Rejection::FutureRevision,
    Rejection::LeaseNotFound,
    Rejection::LeaseExists,
    Rejection::LeaseTtlTooLarge,
    Rejection::NoSpace,
    Rejection::Corrupt,
    Rejection::RequestTooLarge,
    Rejection::MemberNotFound,
    Rejection::RequestOutsideWindow,
    Rejection::SessionUnknown,
    Rejection::AnswerNotKept { revision: Revision(0) },
    Rejection::MemberExists,
    Rejection::PeerUrlsExist,
    Rejection::BadMemberUrls,
    Rejection::TooManyLearners,
    Rejection::NotLearner,
    Rejection::LearnerNotReady,
    Rejection::NotEnoughStarted,
];

/// Number of the refusal that carries a revision.
const ANSWER_NOT_KEPT: u8 = 18;

/// Encodes what an entry answered; what it changed stays behind.
pub fn encode_outcome(applied: &Applied) -> Bytes {
    let mut out = Writer::versioned(VERSION);
    out.log_id(applied.log_id);
    out.revision(applied.revision);
    out.flag(applied.repeated);
    match &applied.outcome {
        Ok(response) => write_response(&mut out, response),
        Err(rejection) => {
            out.u8(0);
            out.u8(rejection_number(rejection));
            if let Rejection::AnswerNotKept { revision } = rejection {
                out.revision(*revision);
            }
        }
    }
    out.finish()
}

/// Decodes what an entry answered, as an entry that changed nothing.
pub fn decode_outcome(input: Bytes) -> Result<Applied, DecodeError> {
    let mut input = Reader::versioned(input, VERSION)?;
    let log_id = input.log_id()?;
    let revision = input.revision()?;
    let repeated = input.flag("repeated")?;
    let outcome = match input.u8()? {
        0 => Err(read_rejection(&mut input)?),
        tag => Ok(read_response(&mut input, tag)?),
    };
    input.finish()?;
    Ok(Applied {
        log_id,
        revision,
        repeated,
        outcome,
        events: Vec::new(),
        leases: Vec::new(),
        members_changed: false,
    })
}

fn rejection_number(rejection: &Rejection) -> u8 {
    match rejection {
        Rejection::EmptyKey => 0,
        Rejection::KeyNotFound => 1,
        Rejection::ValueProvided => 2,
        Rejection::LeaseProvided => 3,
        Rejection::TooManyOperations => 4,
        Rejection::DuplicateKey => 5,
        Rejection::InvalidSortOption => 6,
        Rejection::Compacted => 7,
        Rejection::FutureRevision => 8,
        Rejection::LeaseNotFound => 9,
        Rejection::LeaseExists => 10,
        Rejection::LeaseTtlTooLarge => 11,
        Rejection::NoSpace => 12,
        Rejection::Corrupt => 13,
        Rejection::RequestTooLarge => 14,
        Rejection::MemberNotFound => 15,
        Rejection::RequestOutsideWindow => 16,
        Rejection::SessionUnknown => 17,
        Rejection::AnswerNotKept { .. } => ANSWER_NOT_KEPT,
        Rejection::MemberExists => 19,
        Rejection::PeerUrlsExist => 20,
        Rejection::BadMemberUrls => 21,
        Rejection::TooManyLearners => 22,
        Rejection::NotLearner => 23,
        Rejection::LearnerNotReady => 24,
        Rejection::NotEnoughStarted => 25,
    }
}

fn read_rejection(input: &mut Reader) -> Result<Rejection, DecodeError> {
    let found = input.u8()?;
    if found == ANSWER_NOT_KEPT {
        return Ok(Rejection::AnswerNotKept { revision: input.revision()? });
    }
    let rejection = REJECTIONS.get(usize::from(found));
    rejection.cloned().ok_or(DecodeError::Tag { what: "rejection", found })
}

fn write_response(out: &mut Writer, response: &Response) {
    match response {
        Response::None => out.u8(1),
        Response::Put(answer) => {
            out.u8(2);
            write_put(out, answer);
        }
        Response::DeleteRange(answer) => {
            out.u8(3);
            write_delete(out, answer);
        }
        Response::Txn(answer) => {
            out.u8(4);
            write_txn(out, answer);
        }
        Response::Compact => out.u8(5),
        Response::LeaseGrant { id, ttl_seconds } => {
            out.u8(6);
            out.i64(id.0);
            out.i64(*ttl_seconds);
        }
        Response::LeaseRevoke => out.u8(7),
        Response::Alarm(alarms) => {
            out.u8(8);
            out.u64(alarms.len() as u64);
            for (member, kind) in alarms {
                out.u64(member.0);
                out.u8(alarm_number(*kind));
            }
        }
        Response::LeaseRenew(granted) => {
            out.u8(9);
            out.u64(granted.len() as u64);
            for seconds in granted {
                out.i64(*seconds);
            }
        }
    }
}

fn read_response(input: &mut Reader, tag: u8) -> Result<Response, DecodeError> {
    Ok(match tag {
        1 => Response::None,
        2 => Response::Put(read_put(input)?),
        3 => Response::DeleteRange(read_delete(input)?),
        4 => Response::Txn(read_txn(input, 1)?),
        5 => Response::Compact,
        6 => Response::LeaseGrant { id: LeaseId(input.i64()?), ttl_seconds: input.i64()? },
        7 => Response::LeaseRevoke,
        8 => Response::Alarm(
            input.list(|input| Ok((MemberId(input.u64()?), alarm_kind(input.u8()?)?)))?,
        ),
        9 => Response::LeaseRenew(input.list(Reader::i64)?),
        found => return Err(DecodeError::Tag { what: "response", found }),
    })
}

fn write_kv(out: &mut Writer, kv: &KeyValue) {
    out.bytes(&kv.key);
    out.revision(kv.create_revision);
    out.revision(kv.mod_revision);
    out.i64(kv.version);
    out.bytes(&kv.value);
    out.i64(kv.lease.0);
}

fn read_kv(input: &mut Reader) -> Result<KeyValue, DecodeError> {
    Ok(KeyValue {
        key: input.bytes()?,
        create_revision: input.revision()?,
        mod_revision: input.revision()?,
        version: input.i64()?,
        value: input.bytes()?,
        lease: LeaseId(input.i64()?),
    })
}

fn write_kvs(out: &mut Writer, kvs: &[KeyValue]) {
    out.u64(kvs.len() as u64);
    for kv in kvs {
        write_kv(out, kv);
    }
}

fn write_put(out: &mut Writer, answer: &PutAnswer) {
    out.option(answer.prev_kv.as_ref(), write_kv);
}

fn read_put(input: &mut Reader) -> Result<PutAnswer, DecodeError> {
    Ok(PutAnswer { prev_kv: input.option(read_kv)? })
}

fn write_delete(out: &mut Writer, answer: &DeleteAnswer) {
    out.i64(answer.deleted);
    write_kvs(out, &answer.prev_kvs);
}

fn read_delete(input: &mut Reader) -> Result<DeleteAnswer, DecodeError> {
    Ok(DeleteAnswer { deleted: input.i64()?, prev_kvs: input.list(read_kv)? })
}

fn write_range(out: &mut Writer, answer: &RangeAnswer) {
    write_kvs(out, &answer.kvs);
    out.flag(answer.more);
    out.i64(answer.count);
}

fn read_range(input: &mut Reader) -> Result<RangeAnswer, DecodeError> {
    Ok(RangeAnswer { kvs: input.list(read_kv)?, more: input.flag("more")?, count: input.i64()? })
}

fn write_txn(out: &mut Writer, answer: &TxnAnswer) {
    out.flag(answer.succeeded);
    out.revision(answer.revision);
    out.u64(answer.responses.len() as u64);
    for response in &answer.responses {
        match response {
            OpAnswer::Range(answer, revision) => {
                out.u8(1);
                out.revision(*revision);
                write_range(out, answer);
            }
            OpAnswer::Put(answer, revision) => {
                out.u8(2);
                out.revision(*revision);
                write_put(out, answer);
            }
            OpAnswer::DeleteRange(answer, revision) => {
                out.u8(3);
                out.revision(*revision);
                write_delete(out, answer);
            }
            OpAnswer::Txn(answer) => {
                out.u8(4);
                write_txn(out, answer);
            }
        }
    }
}

fn read_txn(input: &mut Reader, depth: usize) -> Result<TxnAnswer, DecodeError> {
    if depth > TXN_DEPTH_MAX {
        return Err(DecodeError::Depth);
    }
    Ok(TxnAnswer {
        succeeded: input.flag("succeeded")?,
        revision: input.revision()?,
        responses: input.list(|input| read_op(input, depth))?,
    })
}

fn read_op(input: &mut Reader, depth: usize) -> Result<OpAnswer, DecodeError> {
    Ok(match input.u8()? {
        1 => {
            let revision = input.revision()?;
            OpAnswer::Range(read_range(input)?, revision)
        }
        2 => {
            let revision = input.revision()?;
            OpAnswer::Put(read_put(input)?, revision)
        }
        3 => {
            let revision = input.revision()?;
            OpAnswer::DeleteRange(read_delete(input)?, revision)
        }
        4 => OpAnswer::Txn(read_txn(input, depth + 1)?),
        found => return Err(DecodeError::Tag { what: "operation answer", found }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rejection_stands_at_its_number() {
        for (number, rejection) in REJECTIONS.iter().enumerate() {
            assert_eq!(usize::from(rejection_number(rejection)), number);
        }
    }
}
