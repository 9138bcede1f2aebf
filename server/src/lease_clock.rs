//! This member's clock of leases: the applier tells it what became of them, the node asks it what is left.
//!
//! Held for short sections only, so that the applier never waits for a reader (hazard B1). What was applied is
//! counted here before it is visible: who waits for a View knows that the clock has followed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kvd_core::ids::LeaseId;
use kvd_core::lease::deadlines::{Deadlines, Left, Overdue, Standing};
use kvd_core::lease::table::LeaseChange;
use kvd_core::mutants::{Mutant, active};
use kvd_core::view::View;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::limits::LEASE_PAGE;

/// See the module; clones share it.
#[derive(Clone)]
pub(crate) struct LeaseClock {
    inner: Arc<Inner>,
}

struct Inner {
    origin: Instant,
    counted: Mutex<Counted>,
    /// The next lease may end sooner than before.
    sooner: Notify,
}

struct Counted {
    deadlines: Deadlines,
    /// Who waits for the end of a lease whose time is up.
    waiting: BTreeMap<LeaseId, Vec<oneshot::Sender<()>>>,
}

/// A moment by this clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment(Duration);

impl LeaseClock {
    /// A clock without leases, of a member with this election timeout.
    pub(crate) fn new(election: Duration) -> Self {
        let deadlines = Deadlines::new(election);
        let counted = Mutex::new(Counted { deadlines, waiting: BTreeMap::new() });
        Self { inner: Arc::new(Inner { origin: Instant::now(), counted, sooner: Notify::new() }) }
    }

    /// Now.
    pub(crate) fn now(&self) -> Moment {
        let elapsed = self.inner.origin.elapsed();
        Moment(if active(Mutant::LeaseByWallClock) { elapsed * 3 / 2 } else { elapsed })
    }

    /// Takes up the leases of a state that was opened or received.
    pub(crate) fn load(&self, view: &View) {
        let leases = if active(Mutant::LeasesNotLoaded) { Vec::new() } else { view.leases() };
        let now = self.now().0;
        let mut counted = self.lock();
        counted.deadlines.load(leases, now);
        // Who waited looks again.
        let waiting = std::mem::take(&mut counted.waiting);
        drop(counted);
        drop(waiting);
        self.inner.sooner.notify_one();
    }

    /// Follows what was applied, in order; with each change whether this process proposed it.
    pub(crate) fn follow(&self, changes: impl ExactSizeIterator<Item = (LeaseChange, bool)>) {
        if changes.len() == 0 {
            return;
        }
        let now = self.now().0;
        let mut counted = self.lock();
        let before = counted.deadlines.next();
        for (change, proposed_here) in changes {
            counted.deadlines.follow(change, now, proposed_here);
            match change {
                // Their senders go, which is what they wait for: the lease ended, or lives again.
                LeaseChange::Ended { id }
                | LeaseChange::Renewed { id }
                | LeaseChange::Granted { id, .. } => {
                    counted.waiting.remove(&id);
                }
                LeaseChange::Noted { .. } => {}
            }
        }
        let next = counted.deadlines.next();
        drop(counted);
        if next.is_some() && before.is_none_or(|before| next < Some(before)) {
            self.inner.sooner.notify_one();
        }
    }

    /// When the next lease is to be ended.
    pub(crate) fn next(&self) -> Option<Instant> {
        let next = self.lock().deadlines.next()?;
        let next = if active(Mutant::LeaseByWallClock) { next * 2 / 3 } else { next };
        self.inner.origin.checked_add(next)
    }

    /// Returns when a lease may be to be ended sooner than [`LeaseClock::next`] said. For one task.
    pub(crate) async fn sooner(&self) {
        self.inner.sooner.notified().await;
    }

    /// See [`Deadlines::take_overdue`].
    pub(crate) fn take_overdue(&self, max: usize) -> Vec<Overdue> {
        let now = self.now().0;
        self.lock().deadlines.take_overdue(now, max)
    }

    /// Keeps of those that were taken the ones that may still be ended.
    pub(crate) fn retain_overdue(&self, taken: &mut Vec<Overdue>) {
        let now = self.now().0;
        let counted = self.lock();
        taken.retain(|overdue| counted.deadlines.is_overdue(*overdue, now));
    }

    /// How a lease stands for a renewal that arrived then.
    pub(crate) fn standing(&self, id: LeaseId, arrived: Moment) -> Standing {
        let now = self.now().0;
        self.lock().deadlines.standing(id, arrived.0, now)
    }

    /// See [`Deadlines::renew_fresh`].
    pub(crate) fn renew_fresh(&self, id: LeaseId, arrived: Moment) -> Option<i64> {
        let now = self.now().0;
        self.lock().deadlines.renew_fresh(id, arrived.0, now)
    }

    /// See [`Deadlines::begin_renewal`].
    pub(crate) fn begin_renewal(&self, id: LeaseId, now: Moment) -> bool {
        self.lock().deadlines.begin_renewal(id, now.0)
    }

    /// See [`Deadlines::end_renewal`].
    pub(crate) fn end_renewals(&self, ids: &[LeaseId], committed: Option<Moment>) {
        let mut counted = self.lock();
        for id in ids {
            counted.deadlines.end_renewal(*id, committed.map(|moment| moment.0));
        }
        drop(counted);
        // The time of one that was not renewed may be up by now.
        self.inner.sooner.notify_one();
    }

    /// What a lease has left; `None` if there is none.
    pub(crate) fn left(&self, id: LeaseId) -> Option<Left> {
        let now = self.now().0;
        self.lock().deadlines.left(id, now)
    }

    /// What so many leases behind this one have left, by id; a page at most.
    pub(crate) fn page(&self, behind: Option<LeaseId>) -> Vec<Left> {
        let now = self.now().0;
        self.lock().deadlines.page(behind, LEASE_PAGE, now)
    }

    /// All leases, those first that have the least time left (rule L13).
    pub(crate) fn by_time_left(&self) -> Vec<LeaseId> {
        let mut all: Vec<(i64, LeaseId)> = Vec::new();
        loop {
            let page = self.page(all.last().map(|(_, id)| *id));
            if page.is_empty() {
                break;
            }
            all.extend(page.iter().map(|left| (left.left_ms, left.id)));
        }
        all.sort_unstable();
        all.into_iter().map(|(_, id)| id).collect()
    }

    /// Returns when an overdue lease has ended, or its state was replaced; at once if it is not overdue.
    pub(crate) async fn ended(&self, id: LeaseId) {
        let ended = {
            let now = self.now().0;
            let mut counted = self.lock();
            // It may have been renewed since it was found overdue.
            if counted.deadlines.left(id, now).is_none_or(|left| left.left_ms > 0) {
                return;
            }
            let (sender, receiver) = oneshot::channel();
            let waiting = counted.waiting.entry(id).or_default();
            waiting.retain(|waiter| !waiter.is_closed());
            waiting.push(sender);
            receiver
        };
        // Nothing is ever sent: the sender goes with the lease.
        let _gone = ended.await;
    }

    fn lock(&self) -> MutexGuard<'_, Counted> {
        // A panic aborts the process, so the lock is never seen poisoned.
        self.inner.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use kvd_core::checkpoint::mem::MemStore;
    use kvd_core::codec::encode_proposal;
    use kvd_core::command::{Command, Entry, LeaseGrant, Proposal};
    use kvd_core::ids::{Index, LogId, MemberId, Term};
    use kvd_core::lease::table::LeaseTerms;
    use kvd_core::state::{Options, State};

    use super::*;

    fn granted(id: i64, ttl_seconds: i64) -> LeaseChange {
        let terms = LeaseTerms { ttl_seconds, granted_at: Index(1), remaining_seconds: 0 };
        LeaseChange::Granted { id: LeaseId(id), terms }
    }

    #[tokio::test]
    async fn a_sooner_deadline_wakes_and_an_end_does_too() {
        let clock = LeaseClock::new(Duration::from_secs(1));
        let begun = Instant::now();
        clock.follow([(granted(1, 100), true)].into_iter());
        clock.sooner().await;
        assert!(clock.next().unwrap() >= begun + Duration::from_secs(100));
        clock.follow([(granted(2, 200), true)].into_iter());
        assert!(clock.sooner().now_or_never().is_none(), "a later one does not wake");
        clock.follow([(granted(3, 0), true)].into_iter());
        clock.sooner().await;
        assert_eq!(clock.by_time_left(), [3, 1, 2].map(LeaseId));

        let mut waiting = Box::pin(clock.ended(LeaseId(3)));
        assert!(waiting.as_mut().now_or_never().is_none());
        clock.follow([(LeaseChange::Ended { id: LeaseId(3) }, true)].into_iter());
        waiting.await;
        clock.ended(LeaseId(3)).await;
    }

    /// A renewal that was on its way when the time was up.
    #[tokio::test]
    async fn who_waits_for_an_end_looks_again_when_the_lease_is_renewed() {
        let clock = LeaseClock::new(Duration::ZERO);
        clock.follow([(granted(1, 1), true)].into_iter());
        assert!(clock.ended(LeaseId(1)).now_or_never().is_some(), "it is not overdue");
        clock.follow([(granted(1, 0), true)].into_iter());
        let mut waiting = Box::pin(clock.ended(LeaseId(1)));
        assert!(waiting.as_mut().now_or_never().is_none());
        clock.follow([(LeaseChange::Renewed { id: LeaseId(1) }, true)].into_iter());
        waiting.await;
    }

    #[test]
    fn the_leases_of_a_state_are_taken_up() {
        let mut state = State::open(Arc::new(MemStore::new()), Options::DEFAULT).unwrap();
        let grant = Command::LeaseGrant(LeaseGrant { id: LeaseId(7), ttl_seconds: 100 });
        let log_id = LogId { term: Term(1), node: MemberId(1), index: Index(1) };
        let proposal = Some(encode_proposal(&Proposal::internal(grant)));
        state.apply(&Entry { log_id, proposal, membership: None }, false).unwrap();
        let clock = LeaseClock::new(Duration::from_secs(1));
        clock.follow([(granted(1, 100), true)].into_iter());
        clock.load(&state.publish());
        assert_eq!(clock.by_time_left(), [LeaseId(7)], "and no other is left");
    }

    #[test]
    fn pages_make_the_whole() {
        let clock = LeaseClock::new(Duration::from_secs(1));
        let count = i64::try_from(LEASE_PAGE).unwrap() * 2 + 3;
        for id in 0..count {
            clock.follow([(granted(id, count - id), false)].into_iter());
        }
        let all = clock.by_time_left();
        assert_eq!(all.len(), LEASE_PAGE * 2 + 3);
        assert_eq!((all[0], all[all.len() - 1]), (LeaseId(count - 1), LeaseId(0)));
    }
}
