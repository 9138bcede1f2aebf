//! Applies one put with another value than everybody else: how tests make a state that differs.
//!
//! Such a state is sound in itself, as that of a member whose processor or memory erred once: every checksum and
//! every invariant holds, and only the comparison with the other members can tell.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use kvd_core::codec::{decode_proposal, encode_proposal};
use kvd_core::command::{Command, Entry, Put};

/// The value that the next put gets here; clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Forge {
    value: Arc<Mutex<Option<Bytes>>>,
}

impl Forge {
    /// From the next put on, once.
    pub(super) fn arm(&self, value: Bytes) {
        *self.value.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
    }

    /// The entry as it is to be applied.
    pub(super) fn pass(&self, entry: Entry) -> Entry {
        let mut armed = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(value) = armed.clone() else { return entry };
        let proposal = entry.proposal.clone().and_then(|bytes| decode_proposal(bytes).ok());
        let Some(mut proposal) = proposal else { return entry };
        let Command::Put(put) = proposal.command else { return entry };
        if put.ignore_value {
            return entry;
        }
        *armed = None;
        proposal.command = Command::Put(Put { value, ..put });
        Entry { proposal: Some(encode_proposal(&proposal)), ..entry }
    }
}
