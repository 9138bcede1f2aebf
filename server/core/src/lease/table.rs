//! Which leases exist and which keys hang on them (behaviour.md 4).
//!
//! The table lives beside the key index under its lock, so a lease is read as it is *now*, not as of a View
//! (hazard D1). Attached keys are not stored: on open each key's newest change tells them (rule M14).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use crate::ids::{Index, LeaseId};

/// What was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTerms {
    /// Seconds to live.
    pub ttl_seconds: i64,
    /// The entry that granted it; tells two grants of one id apart (hazard A10).
    pub granted_at: Index,
    /// Seconds that were left when this was last noted; zero when all of them are (rule L16). Only who has no
    /// clock of its own goes by it: a member that starts, or takes another's state.
    pub remaining_seconds: i64,
}

/// What became of a lease: what the clocks of a member follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseChange {
    /// It was granted.
    Granted {
        /// Its id.
        id: LeaseId,
        /// What was granted.
        terms: LeaseTerms,
    },
    /// It has all of its time again.
    Renewed {
        /// Its id.
        id: LeaseId,
    },
    /// Its leader noted what it has left.
    Noted {
        /// Its id.
        id: LeaseId,
        /// Seconds left, rounded up.
        seconds: i64,
    },
    /// It was revoked or its time was up.
    Ended {
        /// Its id.
        id: LeaseId,
    },
}

/// A lease with its keys, as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseInfo {
    /// Its id.
    pub id: LeaseId,
    /// What was granted.
    pub terms: LeaseTerms,
    /// Keys attached to it, in order.
    pub keys: Vec<Bytes>,
}

/// All leases.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    leases: BTreeMap<LeaseId, Lease>,
}

#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) terms: LeaseTerms,
    pub(crate) keys: BTreeSet<Arc<[u8]>>,
}

impl Leases {
    pub(crate) fn get(&self, id: LeaseId) -> Option<&Lease> {
        self.leases.get(&id)
    }

    pub(crate) fn contains(&self, id: LeaseId) -> bool {
        self.leases.contains_key(&id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (LeaseId, &Lease)> {
        self.leases.iter().map(|(id, lease)| (*id, lease))
    }

    pub(crate) fn grant(&mut self, id: LeaseId, terms: LeaseTerms) {
        self.leases.insert(id, Lease { terms, keys: BTreeSet::new() });
    }

    pub(crate) fn get_mut(&mut self, id: LeaseId) -> Option<&mut Lease> {
        self.leases.get_mut(&id)
    }

    pub(crate) fn remove(&mut self, id: LeaseId) {
        self.leases.remove(&id);
    }

    /// Attaches a key; says whether the lease exists.
    pub(crate) fn attach(&mut self, id: LeaseId, key: Arc<[u8]>) -> bool {
        self.leases.get_mut(&id).is_some_and(|lease| {
            lease.keys.insert(key);
            true
        })
    }

    /// Detaches a key; nothing if it was not attached.
    pub(crate) fn detach(&mut self, id: LeaseId, key: &[u8]) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.keys.remove(key);
        }
    }

    pub(crate) fn info(&self, id: LeaseId) -> Option<LeaseInfo> {
        let lease = self.get(id)?;
        let keys = lease.keys.iter().map(|key| Bytes::copy_from_slice(key)).collect();
        Some(LeaseInfo { id, terms: lease.terms, keys })
    }
}
