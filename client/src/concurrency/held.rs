//! What a holder has: a token first, then the lock.

use std::fmt;

use bytes::Bytes;

use super::error::Error;
use super::line::Place;
use crate::txn::Txn;

/// A number that is greater for each holder of a lock than for all before: the revision at which the holder's key was
/// created.
///
/// Give it along with everything that is done under the lock. Whatever is protected remembers the greatest token it
/// has seen and refuses a lesser one: so a holder that was replaced without noticing does no harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FencingToken(i64);

impl FencingToken {
    pub(super) fn new(revision: i64) -> Self {
        Self(revision)
    }

    /// As a number, to be written down or sent.
    #[must_use]
    pub fn number(self) -> i64 {
        self.0
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Something that is held: a lock, a share of one, a permit. **Dropping it gives it back in the background**;
/// [`Held::unlock`] does so and tells when it is done.
#[derive(Debug)]
#[must_use = "what is dropped is given back"]
pub struct Held {
    place: Place,
}

impl Held {
    pub(super) fn new(place: Place) -> Self {
        Self { place }
    }

    /// What to give to the resource that is protected.
    #[must_use]
    pub fn token(&self) -> FencingToken {
        FencingToken(self.place.created())
    }

    /// The key that holds it.
    #[must_use]
    pub fn key(&self) -> &Bytes {
        self.place.key()
    }

    /// Adds the condition that this is still held: the transaction does not succeed once it is lost, whatever this
    /// process believes. For transactions that write; one without operations may be answered by a member that is
    /// behind.
    pub fn guard(&self, txn: Txn) -> Txn {
        txn.when(self.place.is_there())
    }

    /// Not known to be lost: the session's lease lives by this machine's clock. A hint for turning back early, not a
    /// permission.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.place.life().is_held()
    }

    /// Ends when the session is lost, or may be, and when the key was deleted.
    pub async fn lost(&self) {
        tokio::select! {
            () = self.place.life().lost() => {}
            // Whoever cannot be told any more must take it for lost.
            _gone = Box::pin(self.place.gone()) => {}
        }
    }

    /// Gives it back. Goes on in the background when this is dropped before it is done.
    pub async fn unlock(self) -> Result<(), Error> {
        self.place.leave().await
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }
}
