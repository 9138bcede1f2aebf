//! The replicated state: applied entry by entry by one writer, read through [`View`]s by everyone else.
//!
//! What [`State::apply`] does depends on the state and the entry alone: no clock, no randomness, no
//! configuration (invariant 1). Nothing is durable here: [`State::checkpoint`] says what a checkpoint must write.

mod check;
mod commands;
mod leases;
mod open;
mod requests;

use std::sync::{Arc, Weak};

use bytes::Bytes;

use self::commands::Done;
use self::leases::lease_row;
use crate::checkpoint::{Checkpoint, CheckpointStore, Meta, Table};
use crate::codec::{decode_proposal, encode_lease};
use crate::command::{Command, Entry, Membership};
use crate::ids::{LogId, Revision};
use crate::mvcc::Shared;
use crate::mvcc::compact::{self, Sweep};
use crate::outcome::{Applied, Fatal, Response};
use crate::sessions::Sessions;
use crate::snapshot::Capture;
use crate::tables::{Rows, Tables};
use crate::view::{Mark, StateHash, View, ViewParts};

pub use crate::mvcc::compact::CompactProgress;

/// What the state may use of this member; changes nothing that is replicated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Bytes of blocks kept in memory beside those not yet durable.
    pub cache_bytes: usize,
}

impl Options {
    /// 32 MiB of blocks (hazard D2).
    pub const DEFAULT: Self = Self { cache_bytes: 32 << 20 };
}

/// See the module.
#[derive(Debug)]
pub struct State {
    shared: Arc<Shared>,
    applied: LogId,
    membership: Arc<(Option<LogId>, Membership)>,
    revision: Revision,
    compacted: Option<Revision>,
    history_hash: u64,
    tables: Tables,
    sessions: Sessions,
    rows: Rows,
    /// Sequence of the last checkpoint handed out.
    sequence: u64,
    /// Physical compaction under way.
    sweep: Option<Sweep>,
    /// Marks of Views from before the last compaction.
    old_marks: Vec<Weak<Mark>>,
    view: View,
}

impl State {
    /// Opens the last checkpoint of a store, verifies it and rebuilds the key index.
    pub fn open(store: Arc<dyn CheckpointStore>, options: Options) -> Result<Self, Fatal> {
        open::open(store, options)
    }

    /// Applies one committed entry, in memory. Without `want_response` the answer's keys and values may be left
    /// out; whether it succeeds, and all it changes, is the same.
    ///
    /// After an error the state is void.
    pub fn apply(&mut self, entry: &Entry, want_response: bool) -> Result<Applied, Fatal> {
        if entry.log_id.index <= self.applied.index {
            let (at, applied) = (entry.log_id, self.applied);
            return Err(Fatal::Invariant(format!("entry {at} was applied before: at {applied}")));
        }
        if let Some(membership) = &entry.membership {
            self.set_membership(entry.log_id, membership);
        }
        let mut applied = self.told(entry.log_id, Done::nothing(Response::None));
        if let Some(bytes) = &entry.proposal {
            let proposal = decode_proposal(bytes.clone())
                .map_err(|error| Fatal::Entry { at: entry.log_id, reason: error.to_string() })?;
            applied = match proposal.request_id {
                Some(id) => self.once(entry.log_id, id, &proposal.command)?,
                None => {
                    let index = entry.log_id.index;
                    let done = self.perform(index, &proposal.command, want_response)?;
                    self.told(entry.log_id, done)
                }
            };
            let publishes = matches!(proposal.command, Command::Publish(_));
            applied.members_changed = publishes && applied.outcome.is_ok();
        }
        applied.members_changed |= entry.membership.is_some();
        self.applied = entry.log_id;
        Ok(applied)
    }

    /// What is told of the entry that did this.
    fn told(&self, log_id: LogId, done: Done) -> Applied {
        Applied {
            log_id,
            revision: self.revision,
            repeated: false,
            outcome: done.outcome,
            events: done.events,
            leases: done.leases,
            members_changed: false,
        }
    }

    /// Makes what was applied visible to readers.
    pub fn publish(&mut self) -> View {
        if self.view.parts.mark.compacted != self.compacted {
            self.old_marks.push(Arc::downgrade(&self.view.parts.mark));
        }
        self.view = self.picture();
        self.view.clone()
    }

    /// The picture published last.
    pub fn view(&self) -> View {
        self.view.clone()
    }

    /// The last entry applied.
    pub fn applied(&self) -> LogId {
        self.applied
    }

    /// The membership in force and the entry that brought it.
    pub fn membership(&self) -> &(Option<LogId>, Membership) {
        &self.membership
    }

    /// The store's revision and its compaction mark, published or not.
    pub fn marks(&self) -> (Revision, Option<Revision>) {
        (self.revision, self.compacted)
    }

    /// The continuous hashes after the last entry applied, published or not: two sums that are at hand.
    pub fn hash(&self) -> StateHash {
        let keys = self.shared.read().index.hash();
        StateHash { live: keys.wrapping_add(self.rows.hash()), history: self.history_hash }
    }

    /// What a checkpoint of this moment must write; the caller writes it elsewhere while apply goes on. One
    /// that failed for lack of room is tried again as it is: the next one does not repeat what it holds.
    pub fn checkpoint(&mut self) -> Checkpoint {
        self.sequence += 1;
        let part = self.shared.history.checkpoint(self.sequence);
        let mut rows = self.rows.take();
        rows.extend(part.rows);
        let meta = Meta {
            sequence: self.sequence,
            applied: self.applied,
            membership: (*self.membership).clone(),
            revision: self.revision,
            compacted: self.compacted,
            live_hash: self.hash().live,
            history_hash: self.history_hash,
            blocks: part.block_count,
            rows: self.rows.count() + part.row_count,
        };
        Checkpoint { meta, blocks: part.blocks, rows, freed: part.freed }
    }

    /// This moment, to be sent to somebody. What was applied must be published.
    pub fn capture(&self) -> Capture {
        let meta = Meta {
            sequence: 1,
            applied: self.applied,
            membership: (*self.membership).clone(),
            revision: self.revision,
            compacted: self.compacted,
            live_hash: self.hash().live,
            history_hash: self.history_hash,
            // The receiver counts what it stores.
            blocks: 0,
            rows: 0,
        };
        Capture::new(self.view.clone(), meta, self.all_rows())
    }

    /// The rows of all tables that are the same on all members.
    fn all_rows(&self) -> Vec<(Table, Bytes, Bytes)> {
        let mut rows = self.tables.rows();
        let keys = self.shared.read();
        let leases = keys.leases.iter();
        let leases =
            leases.map(|(id, lease)| (Table::Lease, lease_row(id), encode_lease(lease.terms)));
        rows.extend(leases);
        rows.extend(self.sessions.rows());
        rows
    }

    /// That checkpoint is durable: its blocks may leave memory, those it freed are forgotten.
    pub fn checkpointed(&mut self, meta: &Meta) {
        self.shared.history.checkpointed(meta.sequence);
    }

    /// One bounded step of physical compaction.
    pub fn compact_step(&mut self, keys_max: usize) -> Result<CompactProgress, Fatal> {
        let (Some(sweep), Some(compacted)) = (&self.sweep, self.compacted) else {
            return Ok(CompactProgress::Done);
        };
        self.old_marks.retain(|mark| mark.strong_count() > 0);
        let own = self.view.parts.mark.compacted;
        let pins = self.old_marks.iter().filter_map(Weak::upgrade).map(|mark| mark.compacted);
        if let Some(oldest) = pins.chain((own != self.compacted).then_some(own)).min() {
            return Ok(CompactProgress::Blocked(oldest.unwrap_or_default()));
        }
        self.sweep = compact::step(&self.shared, sweep.clone(), compacted, keys_max)?;
        Ok(if self.sweep.is_some() { CompactProgress::More } else { CompactProgress::Done })
    }

    /// Bytes of history that are not yet durable: what decides when to checkpoint.
    pub fn unsealed_bytes(&self) -> u64 {
        self.shared.history.unsealed_bytes()
    }

    /// Verifies every invariant of the state; takes time in proportion to it.
    pub fn check(&self) -> Result<(), Fatal> {
        check::check(self)
    }
}

impl State {
    fn set_membership(&mut self, log_id: LogId, membership: &Membership) {
        self.tables.set_membership(membership, &mut self.rows);
        self.membership = Arc::new((Some(log_id), membership.clone()));
    }

    fn picture(&self) -> View {
        let old = &self.view.parts.mark;
        let mark = match old.compacted == self.compacted {
            true => Arc::clone(old),
            false => Arc::new(Mark { compacted: self.compacted }),
        };
        let hash = self.hash();
        let keys = self.shared.read();
        let parts = ViewParts {
            shared: Arc::clone(&self.shared),
            mark,
            at: self.applied,
            revision: self.revision,
            membership: Arc::clone(&self.membership),
            tables: self.tables.clone(),
            hash,
            live_keys: keys.index.live_keys(),
            live_bytes: keys.index.bytes(),
            requests: self.sessions.counts(),
        };
        View { parts: Arc::new(parts) }
    }
}
