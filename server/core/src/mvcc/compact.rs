//! Compaction: the mark moves at once, what lies below it goes in small steps (rules KV-C2, M10, M11).
//!
//! A step touches a few keys of the index and marks their records dead, nothing else: files are rewritten
//! elsewhere (hazard C4). It never runs past a reader that may still read below the mark.

use std::sync::Arc;

use super::Shared;
use crate::command::Compact;
use crate::ids::Revision;
use crate::outcome::{Fatal, Rejection};

/// What one step of physical compaction achieved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompactProgress {
    /// Nothing is left to do.
    Done,
    /// Another step will find work.
    More,
    /// A View from before the last compaction is still alive; try again when it is gone. The oldest is from when
    /// history was compacted up to this revision; zero for never.
    Blocked(Revision),
}

/// Where physical compaction stands.
#[derive(Clone, Debug)]
pub(crate) struct Sweep {
    /// Keys up to this one are done.
    pub(crate) after: Option<Arc<[u8]>>,
}

/// Checks a compaction; a store that was never compacted counts as compacted at -1 (rule KV-C2).
pub(crate) fn check(
    compact: Compact,
    current: Revision,
    compacted: Option<Revision>,
) -> Result<Revision, Rejection> {
    let target = Revision(compact.revision);
    if target <= compacted.unwrap_or(Revision(-1)) {
        return Err(Rejection::Compacted);
    }
    if target > current {
        return Err(Rejection::FutureRevision);
    }
    Ok(target)
}

/// Compacts so many keys; `None` when the sweep is over.
pub(crate) fn step(
    shared: &Shared,
    sweep: Sweep,
    compacted: Revision,
    keys_max: usize,
) -> Result<Option<Sweep>, Fatal> {
    let mut dropped = Vec::new();
    let after = shared.write().index.compact_page(
        sweep.after.as_deref(),
        keys_max.max(1),
        compacted,
        &mut dropped,
    );
    let dead = dropped.iter().map(|version| (version.change(), version.place()));
    shared.history.forget(dead)?;
    Ok(after.map(|after| Sweep { after: Some(after) }))
}
