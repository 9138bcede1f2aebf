//! What a change looks like to those who read it: a key with its value, and the event that a watcher sees.

use bytes::Bytes;

use crate::ids::{ChangeId, LeaseId, Revision};

/// A live key as one revision saw it (rule M4).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyValue {
    /// The key; never empty.
    pub key: Bytes,
    /// Revision of the first put of this life of the key.
    pub create_revision: Revision,
    /// Revision of the last put.
    pub mod_revision: Revision,
    /// Puts in this life of the key; 1 on create.
    pub version: i64,
    /// The value; may be empty.
    pub value: Bytes,
    /// Lease attached by the last put; zero when none.
    pub lease: LeaseId,
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// Created or overwritten.
    Put,
    /// Deleted, by a request or with its lease.
    Delete,
}

/// One change of one key, in the order of its [`ChangeId`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Put or delete.
    pub kind: EventKind,
    /// The key after the change; for a delete only `key` and `mod_revision` are set (rule M7).
    pub kv: KeyValue,
    /// Where the change stands in history.
    pub change: ChangeId,
    /// The change that this one replaced, where the key was live before.
    pub prev: Option<ChangeId>,
}
