//! What a watch sends.

use crate::history::{Member, Nanos};
use crate::reply::KeyValue;
use crate::request::{KeyRange, Revision};

/// Whether a key was put or deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// Put.
    Put,
    /// Deleted; its `kv` has only the key and the revision.
    Delete,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The key after it.
    pub kv: KeyValue,
    /// The key before it, where it was asked for and there.
    pub prev_kv: Option<KeyValue>,
}

impl Event {
    /// Whether the key was not there before, as clients tell it from the event alone.
    #[must_use]
    pub fn is_create(&self) -> bool {
        self.kind == EventKind::Put && self.kv.create_revision == self.kv.mod_revision
    }
}

/// One response of one watch. Without events, and neither created nor canceled, it tells of progress.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Response {
    /// When it came.
    pub at: Nanos,
    /// The revision in its header.
    pub revision: Revision,
    /// What happened, in order.
    pub events: Vec<Event>,
    /// It answers the request to watch.
    pub created: bool,
    /// The watch is over.
    pub canceled: bool,
    /// The watch is over because history before this revision is gone; else 0.
    pub compact_revision: Revision,
    /// The next response goes on with the same batch.
    pub fragment: bool,
}

impl Response {
    /// Events of a watch that goes on.
    #[must_use]
    pub fn events(at: Nanos, revision: Revision, events: Vec<Event>) -> Self {
        let (created, canceled, compact_revision, fragment) = (false, false, 0, false);
        Self { at, revision, events, created, canceled, compact_revision, fragment }
    }

    /// Nothing but progress up to a revision.
    #[must_use]
    pub fn progress(at: Nanos, revision: Revision) -> Self {
        Self::events(at, revision, Vec::new())
    }

    /// Whether it tells of progress only.
    #[must_use]
    pub fn is_progress(&self) -> bool {
        self.events.is_empty() && !self.created && !self.canceled
    }
}

/// Names a watch: its place among all that were opened, from 0 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WatchId(pub u64);

/// What a watch asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WatchRequest {
    /// Who is asked.
    pub member: Member,
    /// Changes of which keys.
    pub keys: KeyRange,
    /// From which revision on; 0 is from the next one on, told by the header of the response that says
    /// "created".
    pub start_revision: Revision,
    /// Leave out puts.
    pub no_put: bool,
    /// Leave out deletes.
    pub no_delete: bool,
    /// Tell what was there before.
    pub prev_kv: bool,
    /// A revision may be split over several responses.
    pub fragment: bool,
    /// The watch that this one goes on from: with it, both together must tell everything once.
    pub resumes: Option<WatchId>,
}

impl WatchRequest {
    /// Everything about these keys from a revision on.
    #[must_use]
    pub fn of(member: Member, keys: KeyRange, start_revision: Revision) -> Self {
        let (no_put, no_delete, prev_kv, fragment) = (false, false, false, false);
        let resumes = None;
        Self { member, keys, start_revision, no_put, no_delete, prev_kv, fragment, resumes }
    }
}
