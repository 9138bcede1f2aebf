//! The multi-version store: every change of every key, in order, and an index from keys into that order.
//!
//! ```text
//!            revision   2        3        4             5        6
//!   history             put a    put b    del a, put c  put a    compact(5)
//!                       2.0      3.0      4.0   4.1     5.0
//!
//!   index    a  ->  2.0  4.0†  5.0         at 3 it is 2.0; at 4 it is gone; at 5 it is 5.0, version 1
//!            b  ->  3.0
//!            c  ->  4.1
//! ```
//!
//! A write appends records to `history` and versions to `index`. A read picks, for each key, the newest
//! version at or below its revision, and fetches the record. Readers are never in the way: a version newer
//! than a reader's revision does not exist for it, so what is half applied stays invisible.

pub(crate) mod block;
pub(crate) mod compact;
pub(crate) mod hash;
pub(crate) mod history;
pub(crate) mod index;
pub(crate) mod range;
pub(crate) mod record;
pub(crate) mod tree;
pub mod txn;
pub(crate) mod write;

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use self::history::History;
use self::index::KeyIndex;
use crate::lease::table::Leases;

/// What lives behind one lock: the key index and, beside it, the leases (hazard D1).
#[derive(Debug, Default)]
pub(crate) struct Keys {
    pub(crate) index: KeyIndex,
    pub(crate) leases: Leases,
}

/// The store as the writer and all readers share it.
#[derive(Debug)]
pub(crate) struct Shared {
    keys: RwLock<Keys>,
    pub(crate) history: History,
}

impl Shared {
    pub(crate) fn new(history: History) -> Self {
        Self { keys: RwLock::default(), history }
    }

    /// A panic while the lock was held ends the process anyway, so poison carries no news.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Keys> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// For short slices only: readers wait meanwhile (hazard D4).
    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Keys> {
        self.keys.write().unwrap_or_else(PoisonError::into_inner)
    }
}
