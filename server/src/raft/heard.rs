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

    /// A leader sent something. What an older one sent may be noted only after the newer one was heard, for its
    /// answer waits for this member's disk; it changes nothing then.
    pub(crate) fn note(&self, leadership: Leadership) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|(known, _)| known > leadership) {
            return;
        }
        *last = Some((leadership, Instant::now()));
        drop(last);
        self.changed.send_if_modified(|known| {
            let another = known.is_none_or(|known| known < leadership);
            *known = (*known).max(Some(leadership));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_leader_is_not_heard_again() {
        let heard = Heard::new();
        let changes = heard.changes();
        let of = |term, leader| Leadership { term: Term(term), leader: MemberId(leader) };
        heard.note(of(5, 1));
        heard.note(of(6, 2));
        heard.note(of(5, 1));
        assert_eq!(heard.within(Duration::from_secs(60)), Some(of(6, 2)));
        assert_eq!(*changes.borrow(), Some(of(6, 2)));
        heard.note(of(6, 3));
        assert_eq!(heard.within(Duration::from_secs(60)), Some(of(6, 3)), "two of one term");
    }
}
