//! How long physical compaction has waited for somebody who still reads what it would remove (hazard B8).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kvd_core::ids::Revision;
use tokio::time::Instant;

use crate::limits::COMPACTION_BLOCKED_TOLD_AFTER;

/// The present wait; clones share it.
#[derive(Clone, Default)]
pub(crate) struct Pins {
    wait: Arc<Mutex<Option<Wait>>>,
}

struct Wait {
    since: Instant,
    is_told: bool,
}

impl Pins {
    /// It waits for a reader that began when history was compacted up to that revision; zero for never.
    pub(crate) fn blocked(&self, now: Instant, oldest: Revision) {
        let mut wait = self.lock();
        let wait = wait.get_or_insert(Wait { since: now, is_told: false });
        let waited = now - wait.since;
        if waited >= COMPACTION_BLOCKED_TOLD_AFTER && !std::mem::replace(&mut wait.is_told, true) {
            tracing::warn!(
                seconds = waited.as_secs(), begun_at = %oldest,
                "compaction frees nothing: somebody still reads history from before it, a transfer of a \
                 snapshot or a hash of all keys"
            );
        }
    }

    /// It goes on.
    pub(crate) fn released(&self) {
        *self.lock() = None;
    }

    /// How long it has waited; zero where it does not.
    pub(crate) fn waited(&self, now: Instant) -> Duration {
        self.lock().as_ref().map_or(Duration::ZERO, |wait| now - wait.since)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Wait>> {
        // A panic aborts the process; either way the content is whole.
        self.wait.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_counted_from_its_first_moment() {
        let (pins, begun) = (Pins::default(), Instant::now());
        let after = |seconds| begun + Duration::from_secs(seconds);
        assert_eq!(pins.waited(after(0)), Duration::ZERO);
        for (seconds, is_told) in [(10, false), (50, false), (70, true), (90, true)] {
            pins.blocked(after(seconds), Revision(0));
            assert_eq!(pins.lock().as_ref().map(|wait| wait.is_told), Some(is_told), "{seconds}");
        }
        assert_eq!(pins.waited(after(100)), Duration::from_secs(90));
        pins.released();
        assert_eq!(pins.waited(after(110)), Duration::ZERO);
    }
}
