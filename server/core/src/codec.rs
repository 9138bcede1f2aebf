//! The bytes of everything that leaves this process: proposals, answers, checkpoint rows.
//!
//! Every format starts with a version byte, is decoded for ever and is locked by golden bytes
//! (`tests/bytes.rs`). Decoding copies no key and no value: they become slices of the input. Nothing that comes
//! in is trusted: whatever is not an encoding gives a [`DecodeError`], never a panic.

mod outcome;
mod proposal;
mod query;
mod rows;
mod sessions;
pub(crate) mod wire;

use thiserror::Error;

pub use outcome::{decode_outcome, encode_outcome};
pub(crate) use proposal::{alarm_kind, alarm_number};
pub use proposal::{decode_proposal, encode_proposal};
pub(crate) use rows::{
    decode_change_key, decode_lease, decode_marks, decode_member, encode_change_key, encode_lease,
    encode_marks, encode_member,
};
pub use rows::{decode_membership, decode_meta, encode_membership, encode_meta};
pub(crate) use sessions::{
    decode_answer, decode_answer_key, decode_index, decode_session, encode_answer,
    encode_answer_key, encode_index, encode_session,
};

/// Why bytes are not an encoding of what was expected.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// It ends too early, or a length inside is larger than what is left.
    #[error("input ends too early")]
    Short,
    /// Bytes follow after the end.
    #[error("{bytes} bytes follow after the end")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// A format version that this build does not know.
    #[error("unknown format version {found}")]
    Version {
        /// The version byte.
        found: u8,
    },
    /// A number that stands for nothing.
    #[error("unknown {what} {found}")]
    Tag {
        /// What the number should name.
        what: &'static str,
        /// The number.
        found: u8,
    },
    /// A varint that is too long, too large or not in its shortest form.
    #[error("bad varint")]
    Varint,
    /// Text that is not UTF-8.
    #[error("text is not utf-8")]
    Text,
    /// Transactions nested deeper than allowed.
    #[error("transaction nested too deep")]
    Depth,
    /// A checksum does not match.
    #[error("checksum mismatch")]
    Checksum,
    /// Parts that contradict each other.
    #[error("contradicts itself: {0}")]
    Contradiction(&'static str),
}
