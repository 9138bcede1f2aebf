//! Who, within one process, uses a key of a session.
//!
//! A key under a lock's name belongs to a session; the store cannot tell two tasks of that session apart. Claims do:
//! the second waits here until the first is done.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

/// The keys of a session that are in use.
#[derive(Debug, Default)]
pub(super) struct Claims {
    taken: Mutex<BTreeSet<Bytes>>,
    freed: Notify,
}

/// The sole use of a key, until dropped.
#[derive(Debug)]
pub(super) struct Claim {
    claims: Arc<Claims>,
    key: Bytes,
}

impl Claims {
    /// Waits until nobody else uses the key.
    pub(super) async fn claim(self: &Arc<Self>, key: &Bytes) -> Claim {
        loop {
            // Before looking: what is freed in between is not missed.
            let freed = self.freed.notified();
            if let Some(claim) = self.try_claim(key) {
                return claim;
            }
            freed.await;
        }
    }

    /// Does not wait.
    pub(super) fn try_claim(self: &Arc<Self>, key: &Bytes) -> Option<Claim> {
        let is_new = self.taken.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone());
        is_new.then(|| Claim { claims: Arc::clone(self), key: key.clone() })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.taken.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
        self.claims.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    #[test]
    fn one_use_at_a_time() {
        let claims = Arc::<Claims>::default();
        let (key, other) = (Bytes::from_static(b"a"), Bytes::from_static(b"b"));
        let first = claims.try_claim(&key).unwrap();
        assert!(claims.try_claim(&key).is_none());
        assert!(claims.try_claim(&other).is_some());
        let mut context = Context::from_waker(Waker::noop());
        let mut second = pin!(claims.claim(&key));
        assert!(second.as_mut().poll(&mut context).is_pending());
        drop(first);
        assert!(second.as_mut().poll(&mut context).is_ready());
    }
}
