//! The apiserver's leases: one for many events, a new one for each round of a master's
//! (kube-apiserver.md §7).

use std::time::Duration;

use tokio::time::Instant;

use super::store::{Store, Written};

/// How long one lease is given to objects, and to how many.
#[derive(Clone, Copy, Debug)]
pub struct Reuse {
    /// Seconds that objects live.
    pub ttl: i64,
    /// Time for which it is given out.
    pub time: Duration,
    /// Objects that may share it.
    pub objects: u64,
}

impl Reuse {
    /// What kube-apiserver does with events: an hour and at most 60 s more.
    pub const EVENTS: Self = Self { ttl: 3660, time: Duration::from_secs(60), objects: 1000 };
}

/// Gives out leases and reuses them.
#[derive(Debug)]
pub struct Leases {
    reuse: Reuse,
    now: Option<(i64, Instant, u64)>,
    /// Granted in all.
    pub granted: u64,
}

impl Leases {
    /// One by this rule.
    pub fn new(reuse: Reuse) -> Self {
        Self { reuse, now: None, granted: 0 }
    }

    /// The lease of the next object.
    pub async fn next(&mut self, store: &Store) -> Result<i64, Written> {
        if let Some((lease, since, objects)) = &mut self.now
            && since.elapsed() < self.reuse.time
            && *objects < self.reuse.objects
        {
            *objects += 1;
            return Ok(*lease);
        }
        let lease = store.grant(self.reuse.ttl).await?;
        self.granted += 1;
        self.now = Some((lease, Instant::now(), 1));
        Ok(lease)
    }

    /// Forgets a lease that the store does not know any more.
    pub fn forget(&mut self) {
        self.now = None;
    }
}
