//! When leases end by the clock of one member; what the clock says is passed in (rules L6, L8, L14, L15).
//!
//! Every member follows all leases, in the order in which entries are applied, so a new leader has nothing to
//! build. Promises: by these deadlines no lease ends before its time, counted from the last renewal that was
//! acknowledged, whoever leads and whoever led; and at most one election timeout after it, unless this member
//! started or took a snapshot since (then as late as what was noted of the time left is coarse).
//!
//! ```text
//! renewal proposed here    deadline = applied here + TTL
//! proposed by another      deadline = applied here + TTL + election timeout
//! started, snapshot        deadline = now + time noted as left + election timeout
//! another noted            deadline = that at most, counted from when the note was applied here
//! ```
//!
//! The election timeout that others add is what lets a leader renew a lease without the log: for so long after
//! it *proposed* a renewal that was committed. Every other member applied that renewal later than it was
//! proposed, so its deadline lies beyond all that the leader granted meanwhile.
//!
//! Does not know who leads, and proposes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use crate::ids::{Index, LeaseId};
use crate::lease::table::{LeaseChange, LeaseTerms};
use crate::mutants::{Mutant, active};

#[cfg(test)]
mod tests;

/// Time after which a lease that was to be ended and is still there is tried again (rule L14).
const RETRY_MS: u64 = 3_000;

/// See the module. Times are milliseconds since whatever the caller counts from.
#[derive(Debug)]
pub struct Deadlines {
    election_ms: u64,
    leases: BTreeMap<LeaseId, Due>,
    /// Every lease by its deadline, those that are being ended by when they are tried again.
    queue: BTreeSet<(u64, LeaseId)>,
    /// Leases that are being ended, with their place in the queue.
    ending: BTreeMap<LeaseId, u64>,
    /// Leases of which a renewal is on its way through the log: not to be ended meanwhile.
    renewing: BTreeSet<LeaseId>,
}

/// One lease; a million of them are in memory, so every field counts.
#[derive(Debug)]
struct Due {
    deadline: u64,
    /// Until when it may be renewed without the log.
    fresh_until: u64,
    granted_at: Index,
    ttl_seconds: i64,
}

/// How a lease stands at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// There is no such lease.
    Unknown,
    /// Its time is up, it is only not ended yet. It is never revived (rule L8).
    Overdue,
    /// It lives, and a renewal needs no entry.
    Fresh,
    /// It lives, and a renewal needs an entry.
    Due,
}

/// A lease whose time is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overdue {
    /// Which lease.
    pub id: LeaseId,
    /// Index of its grant.
    pub granted_at: Index,
}

/// What a lease has left at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// Which lease.
    pub id: LeaseId,
    /// Index of its grant.
    pub granted_at: Index,
    /// Seconds that were granted.
    pub ttl_seconds: i64,
    /// Milliseconds left, never more than were granted; negative where its time is up.
    pub left_ms: i64,
    /// It was renewed since this member leads, so a client keeps it alive.
    pub kept_alive: bool,
}

impl Left {
    /// Seconds left, cut off towards zero (rule L11).
    pub fn seconds(&self) -> i64 {
        self.left_ms / 1000
    }

    /// Seconds left, the begun one counted in full.
    pub fn seconds_up(&self) -> i64 {
        self.left_ms.max(0).unsigned_abs().div_ceil(1000).cast_signed()
    }
}

/// Leases and deadlines.
impl Deadlines {
    /// No leases yet.
    pub fn new(election: Duration) -> Self {
        Self {
            election_ms: up(election),
            leases: BTreeMap::new(),
            queue: BTreeSet::new(),
            ending: BTreeMap::new(),
            renewing: BTreeSet::new(),
        }
    }

    /// Takes up the leases of a state that was opened or received: nobody here knows when they were renewed.
    pub fn load(&mut self, leases: impl IntoIterator<Item = (LeaseId, LeaseTerms)>, now: Duration) {
        let renewing = std::mem::take(&mut self.renewing);
        *self = Self { renewing, ..Self::new(Duration::from_millis(self.election_ms)) };
        for (id, terms) in leases {
            let left = match terms.remaining_seconds {
                0 => terms.ttl_seconds,
                noted => noted,
            };
            let deadline = after(now, left).saturating_add(self.election_ms);
            self.insert(id, terms, deadline);
        }
    }

    /// Follows an entry that was applied now; `proposed_here` if this process proposed it.
    pub fn follow(&mut self, change: LeaseChange, now: Duration, proposed_here: bool) {
        let no_slack = proposed_here || active(Mutant::LeaseWithoutSlack);
        let slack = if no_slack { 0 } else { self.election_ms };
        match change {
            LeaseChange::Granted { id, terms } => {
                self.remove(id);
                self.insert(id, terms, after(now, terms.ttl_seconds).saturating_add(slack));
            }
            LeaseChange::Renewed { id } => {
                if let Some(due) = self.leases.get_mut(&id) {
                    let deadline = after(now, due.ttl_seconds).saturating_add(slack);
                    if !proposed_here {
                        // Its proposer adds no slack, and knows nothing of what is renewed here.
                        due.fresh_until = 0;
                        self.renewing.remove(&id);
                    }
                    self.set_deadline(id, deadline);
                }
            }
            // Who noted it counts better than the note says.
            LeaseChange::Noted { .. } if proposed_here => {}
            LeaseChange::Noted { id, seconds } => {
                let noted = after(now, seconds).saturating_add(slack);
                if self.leases.get(&id).is_some_and(|due| noted < due.deadline) {
                    self.set_deadline(id, noted);
                }
            }
            LeaseChange::Ended { id } => self.remove(id),
        }
    }

    /// How many leases there are.
    pub fn count(&self) -> usize {
        self.leases.len()
    }

    /// What a lease has left; `None` if there is none.
    pub fn left(&self, id: LeaseId, now: Duration) -> Option<Left> {
        self.leases.get(&id).map(|due| due.left(id, now))
    }

    /// What so many leases behind this one have left, by id.
    pub fn page(&self, behind: Option<LeaseId>, max: usize, now: Duration) -> Vec<Left> {
        let start = behind.map_or(Bound::Unbounded, Bound::Excluded);
        let leases = self.leases.range((start, Bound::Unbounded));
        leases.take(max).map(|(id, due)| due.left(*id, now)).collect()
    }

    fn insert(&mut self, id: LeaseId, terms: LeaseTerms, deadline: u64) {
        let LeaseTerms { ttl_seconds, granted_at, .. } = terms;
        self.leases.insert(id, Due { deadline, fresh_until: 0, granted_at, ttl_seconds });
        self.queue.insert((deadline, id));
    }

    fn remove(&mut self, id: LeaseId) {
        if let Some(due) = self.leases.remove(&id) {
            let place = self.ending.remove(&id).unwrap_or(due.deadline);
            self.queue.remove(&(place, id));
        }
    }

    /// Whatever was under way to end it is void.
    fn set_deadline(&mut self, id: LeaseId, deadline: u64) {
        if let Some(due) = self.leases.get_mut(&id) {
            let place = self.ending.remove(&id).unwrap_or(due.deadline);
            due.deadline = deadline;
            self.queue.remove(&(place, id));
            self.queue.insert((deadline, id));
        }
    }
}

/// Ending leases.
impl Deadlines {
    /// When the next lease is to be ended, or tried again.
    pub fn next(&self) -> Option<Duration> {
        // Not more are on their way through the log than one entry renews.
        let (place, _) = self.queue.iter().find(|(_, id)| !self.renewing.contains(id))?;
        Some(Duration::from_millis(*place))
    }

    /// Takes so many leases whose time is up, the earliest first. Each comes again if it is still there after
    /// three seconds.
    pub fn take_overdue(&mut self, now: Duration, max: usize) -> Vec<Overdue> {
        let now = down(now);
        let due = self.queue.iter().take_while(|(place, _)| *place <= now);
        let taken: Vec<_> =
            due.filter(|(_, id)| !self.renewing.contains(id)).take(max).copied().collect();
        let retry = now.saturating_add(RETRY_MS);
        let mut overdue = Vec::with_capacity(taken.len());
        for (place, id) in taken {
            self.queue.remove(&(place, id));
            self.queue.insert((retry, id));
            self.ending.insert(id, retry);
            overdue.extend(self.leases.get(&id).map(|due| due.overdue(id)));
        }
        overdue
    }

    /// Whether what was taken may still be ended: neither ended nor renewed since.
    pub fn is_overdue(&self, overdue: Overdue, now: Duration) -> bool {
        let due = self.leases.get(&overdue.id);
        due.is_some_and(|due| due.granted_at == overdue.granted_at && due.deadline <= down(now))
            && !self.renewing.contains(&overdue.id)
    }
}

/// Renewals, where this member leads.
impl Deadlines {
    /// How a lease stands for a renewal that arrived then.
    pub fn standing(&self, id: LeaseId, arrived: Duration, now: Duration) -> Standing {
        match self.leases.get(&id) {
            None => Standing::Unknown,
            Some(due) if due.deadline <= down(now) => Standing::Overdue,
            Some(due) if down(arrived) < due.fresh_until => Standing::Fresh,
            Some(_) => Standing::Due,
        }
    }

    /// Renews without the log a lease that is fresh, for a renewal that arrived before a majority confirmed who
    /// leads; answers the seconds granted.
    pub fn renew_fresh(&mut self, id: LeaseId, arrived: Duration, now: Duration) -> Option<i64> {
        if self.standing(id, arrived, now) != Standing::Fresh {
            return None;
        }
        let due = self.leases.get(&id)?;
        let (ttl_seconds, deadline) = (due.ttl_seconds, due.deadline);
        self.set_deadline(id, deadline.max(after(arrived, ttl_seconds)));
        Some(ttl_seconds)
    }

    /// A renewal is to go through the log; false where the time is up, and it must not. Until
    /// [`Deadlines::end_renewal`] the lease is not ended.
    pub fn begin_renewal(&mut self, id: LeaseId, now: Duration) -> bool {
        let lives = self.leases.get(&id).is_none_or(|due| due.deadline > down(now));
        if lives {
            self.renewing.insert(id);
        }
        lives
    }

    /// That renewal came to its end; `committed` with when it was proposed, if it is certain that it happened.
    pub fn end_renewal(&mut self, id: LeaseId, committed: Option<Duration>) {
        // Another leader's entry came after it: what this one renewed without the log would be unknown there.
        let is_newest = self.renewing.remove(&id);
        if let (true, Some(proposed), Some(due)) = (is_newest, committed, self.leases.get_mut(&id))
        {
            due.fresh_until = down(proposed).saturating_add(self.election_ms);
        }
    }
}

impl Due {
    fn overdue(&self, id: LeaseId) -> Overdue {
        Overdue { id, granted_at: self.granted_at }
    }

    fn left(&self, id: LeaseId, now: Duration) -> Left {
        let (deadline, now) = (self.deadline.cast_signed(), down(now).cast_signed());
        // What others add for the election is no time of the lease.
        let left_ms = deadline.saturating_sub(now).min(self.ttl_seconds.saturating_mul(1000));
        Left {
            id,
            granted_at: self.granted_at,
            ttl_seconds: self.ttl_seconds,
            left_ms,
            kept_alive: self.fresh_until != 0,
        }
    }
}

/// So many seconds later, rounded up: never early.
fn after(now: Duration, seconds: i64) -> u64 {
    let seconds = u64::try_from(seconds).unwrap_or(0);
    up(now).saturating_add(seconds.saturating_mul(1000))
}

fn up(time: Duration) -> u64 {
    let whole = down(time);
    whole.saturating_add(u64::from(Duration::from_millis(whole) < time))
}

fn down(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
