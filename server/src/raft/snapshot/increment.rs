//! Whether an increment continues this member's own history.
//!
//! The live hash of the result tells only of what is live. A past that differs and was overwritten since would go
//! unseen, and with the sender's history hash over it for ever. So the receiver goes on from its own history
//! hash, over every record it is sent, and must arrive at the sender's.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use kvd_core::checkpoint::Meta;
use kvd_core::ids::Revision;
use kvd_core::snapshot::history_after;
use kvd_core::view::View;

/// The revision that this member offered last to be built upon, with its history hash there; clones share it.
#[derive(Clone, Default)]
pub(super) struct Offer {
    made: Arc<Mutex<Option<(Revision, u64)>>>,
}

impl Offer {
    /// Offers a View's revision.
    pub(super) fn make(&self, own: &View) -> Revision {
        *self.lock() = Some((own.revision(), own.state_hash().history));
        own.revision()
    }

    /// The history up to a base, which must be what was offered.
    pub(super) fn history_upto(&self, base: Revision) -> Result<OwnHistory, String> {
        match *self.lock() {
            Some((offered, hash)) if offered == base => Ok(OwnHistory { hash }),
            offered => Err(format!("an increment to revision {base}, offered was {offered:?}")),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Revision, u64)>> {
        // A panic aborts the process; either way the content is whole.
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// This member's history, and what an increment adds to it.
pub(super) struct OwnHistory {
    hash: u64,
}

impl OwnHistory {
    /// Adds the records of the next block.
    pub(super) fn add(&mut self, block: &Bytes) -> Result<(), String> {
        self.hash = history_after(self.hash, block).map_err(|error| error.to_string())?;
        Ok(())
    }

    /// Whether it has become the sender's.
    pub(super) fn ensure_is(&self, sent: &Meta) -> Result<(), String> {
        if self.hash == sent.history_hash {
            return Ok(());
        }
        Err("the histories of sender and receiver differ before the increment".to_owned())
    }
}
