//! What clients ask of a watch stream.

use kvd_core::event::EventKind;
use kvd_core::ids::Revision;
use kvd_core::range::KeyRange;

/// A watch's number on its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WatchId(pub i64);

impl WatchId {
    /// Stands for every watch of a stream, and for one that was not created.
    pub const ALL: Self = Self(-1);
}

/// Which events are wanted, and how: watchers that agree in it are sent the same bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Interest {
    /// Of which keys.
    pub range: KeyRange,
    /// Leave puts out (rule W18).
    pub no_put: bool,
    /// Leave deletes out (rule W18).
    pub no_delete: bool,
    /// Send the key as it was before (rule W19).
    pub prev_kv: bool,
}

impl Interest {
    /// Whether an event of a key in the range is wanted.
    pub(crate) fn wants(&self, kind: EventKind) -> bool {
        match kind {
            EventKind::Put => !self.no_put,
            EventKind::Delete => !self.no_delete,
        }
    }
}

/// A watch to be created (rules W2 to W7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Create {
    /// What is watched.
    pub interest: Interest,
    /// From which revision on, that one included; `None` for what happens from now on.
    pub start: Option<Revision>,
    /// The number that the client wants it to have; `None` for the next free one.
    pub id: Option<WatchId>,
    /// Tell now and then how far it is, while nothing happens (rule W21).
    pub progress_notify: bool,
    /// Large responses may come in parts (behaviour.md 3.4).
    pub may_fragment: bool,
}
