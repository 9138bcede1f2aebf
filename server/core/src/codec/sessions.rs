//! The bytes of rows about sessions: terms, remembered answers, the floor.

use bytes::Bytes;

use super::DecodeError;
use super::decode_outcome;
use super::wire::{Reader, Writer};
use crate::ids::Index;
use crate::sessions::{Answer, SessionTerms};

/// Version of the formats of this file.
const VERSION: u8 = 1;

/// Row of a session; its answers have rows of their own.
pub(crate) fn encode_session(terms: SessionTerms) -> Bytes {
    let mut out = Writer::versioned(VERSION);
    out.u64(terms.opened.0);
    out.u64(terms.settled);
    out.u64(terms.used.0);
    out.finish()
}

/// Reads the row of a session.
pub(crate) fn decode_session(input: Bytes) -> Result<SessionTerms, DecodeError> {
    let mut input = Reader::versioned(input, VERSION)?;
    let terms = SessionTerms {
        opened: Index(input.u64()?),
        settled: input.u64()?,
        used: Index(input.u64()?),
    };
    input.finish()?;
    Ok(terms)
}

/// A client and a request's number as a row's id: big-endian, so that rows sort as they do.
pub(crate) fn encode_answer_key(client: u64, sequence: u64) -> Bytes {
    let mut out = Writer::default();
    out.fixed_u64(client);
    out.fixed_u64(sequence);
    out.finish()
}

/// Reads a row's id that names a request.
pub(crate) fn decode_answer_key(input: Bytes) -> Result<(u64, u64), DecodeError> {
    let mut input = Reader::new(input);
    let (client, sequence) = (input.fixed_u64()?, input.fixed_u64()?);
    input.finish()?;
    Ok((client, sequence))
}

/// Row of a remembered answer.
pub(crate) fn encode_answer(answer: &Answer) -> Bytes {
    let mut out = Writer::versioned(VERSION);
    match answer {
        Answer::Kept(outcome) => {
            out.u8(1);
            out.bytes(outcome);
        }
        Answer::NotKept(revision) => {
            out.u8(2);
            out.revision(*revision);
        }
    }
    out.finish()
}

/// Reads the row of a remembered answer. What is kept is the outcome of a success, whole and readable, or the
/// member that is asked for it years later would have to stop then.
pub(crate) fn decode_answer(input: Bytes) -> Result<Answer, DecodeError> {
    let mut input = Reader::versioned(input, VERSION)?;
    let answer = match input.u8()? {
        1 => {
            // A copy: a slice would keep all of what was read from the store in memory.
            let outcome = Bytes::copy_from_slice(&input.bytes()?);
            let first = decode_outcome(outcome.clone())?;
            if first.outcome.is_err() || first.repeated {
                return Err(DecodeError::Contradiction("a remembered answer of nothing applied"));
            }
            Answer::Kept(outcome)
        }
        2 => Answer::NotKept(input.revision()?),
        found => return Err(DecodeError::Tag { what: "remembered answer", found }),
    };
    input.finish()?;
    Ok(answer)
}

/// Row of a single index.
pub(crate) fn encode_index(index: Index) -> Bytes {
    let mut out = Writer::versioned(VERSION);
    out.u64(index.0);
    out.finish()
}

/// Reads the row of a single index.
pub(crate) fn decode_index(input: Bytes) -> Result<Index, DecodeError> {
    let mut input = Reader::versioned(input, VERSION)?;
    let index = Index(input.u64()?);
    input.finish()?;
    Ok(index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{LogId, Revision};
    use crate::outcome::{Applied, Rejection, Response};

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn outcome(outcome: Result<Response, Rejection>) -> Bytes {
        super::super::encode_outcome(&Applied {
            log_id: LogId::default(),
            revision: Revision(2),
            repeated: false,
            outcome,
            events: Vec::new(),
            leases: Vec::new(),
            members_changed: false,
        })
    }

    /// Byte for byte; what is none of them is refused.
    #[test]
    fn rows_of_sessions_are_locked() {
        let terms = SessionTerms { opened: Index(300), settled: 2, used: Index(301) };
        assert_eq!(hex(&encode_session(terms)), "01ac0202ad02");
        assert_eq!(decode_session(encode_session(terms)), Ok(terms));
        assert_eq!(hex(&encode_index(Index(300))), "01ac02");
        assert_eq!(decode_index(encode_index(Index(300))), Ok(Index(300)));
        let key = encode_answer_key(1, 2);
        assert_eq!(hex(&key), "00000000000000010000000000000002");
        assert_eq!(decode_answer_key(key), Ok((1, 2)));
        let kept = Answer::Kept(outcome(Ok(Response::LeaseRevoke)));
        assert_eq!(hex(&encode_answer(&kept)), "01010701000000040007");
        let lost = Answer::NotKept(Revision(300));
        assert_eq!(hex(&encode_answer(&lost)), "0102d804");
        for answer in [kept, lost] {
            assert_eq!(decode_answer(encode_answer(&answer)), Ok(answer));
        }
    }

    #[test]
    fn answers_that_cannot_be_are_refused() {
        let refused = encode_answer(&Answer::Kept(outcome(Err(Rejection::NoSpace))));
        assert!(matches!(decode_answer(refused), Err(DecodeError::Contradiction(_))));
        let torn = encode_answer(&Answer::Kept(Bytes::from_static(&[1, 0])));
        assert_eq!(decode_answer(torn), Err(DecodeError::Short));
        let other = decode_answer(Bytes::from_static(&[1, 3, 0]));
        assert!(matches!(other, Err(DecodeError::Tag { found: 3, .. })));
        let long = decode_session(Bytes::from_static(&[1, 1, 1, 2, 0]));
        assert_eq!(long, Err(DecodeError::Trailing { bytes: 1 }));
    }
}
