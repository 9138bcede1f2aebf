//! Which leader this member heard from last, and when: openraft itself names a dead leader for ever
//! (hazard B3).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kvd_core::ids::{MemberId, Term};
use tokio::sync::watch;
use tokio::time::Instant;

/// A leader and its term.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Leadership {
    pub(crate) term: Term,
    pub(crate) leader: MemberId,
}

/// The last append or heartbeat of a leader.
#[derive(Clone)]
pub(crate) struct Heard {
    last: Arc<Mutex<Option<(Leadership, Instant)>>>,
    /// Changes when another leader is heard: who waits for one looks again.
    changed: watch::Sender<Option<Leadership>>,
}

impl Heard {
    pub(crate) fn new() -> Self {
        Self { last: Arc::default(), changed: watch::Sender::new(None) }
    }

    /// A leader sent something.
    pub(crate) fn note(&self, leadership: Leadership) {
        let now = Instant::now();
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((leadership, now));
        self.changed.send_if_modified(|known| {
            let another = *known != Some(leadership);
            *known = Some(leadership);
            another
        });
    }

    /// The leader heard within this time.
    pub(crate) fn within(&self, age_max: Duration) -> Option<Leadership> {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.filter(|(_, at)| at.elapsed() <= age_max).map(|(leadership, _)| leadership)
    }

    /// Tells when another leader is heard.
    pub(crate) fn changes(&self) -> watch::Receiver<Option<Leadership>> {
        self.changed.subscribe()
    }
}
