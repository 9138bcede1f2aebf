//! What was known when: the newest revision anybody was told of, and what was compacted.

use std::collections::{BTreeMap, HashMap};

use crate::history::{Caller, Member, OpId, Operation};
use crate::reply::Outcome;
use crate::request::{Request, Revision};

/// What was known when an operation began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    /// The newest revision anybody was told of.
    pub(super) floor: Revision,
    /// Who was told; none: a witness.
    pub(super) told: Option<OpId>,
    /// The newest revision that this client was told by this member.
    pub(super) own_floor: Revision,
    /// The member that is asked did not start again since.
    pub(super) same_life: bool,
    /// The newest compaction that was acknowledged.
    pub(super) compacted: Revision,
}

/// The newest revision anybody was told of.
#[derive(Debug)]
pub(super) struct Floors {
    newest: Revision,
    told: Option<OpId>,
    /// By caller, where reads without a barrier must not go back.
    own: Option<HashMap<Caller, Revision>>,
}

impl Floors {
    pub(super) fn new(monotone: bool) -> Self {
        Self { newest: 1, told: None, own: monotone.then(HashMap::new) }
    }

    pub(super) fn begin(&self, caller: Caller, compacted: Revision) -> Known {
        let own_floor = self.own.as_ref().and_then(|own| own.get(&caller)).copied().unwrap_or(1);
        Known { floor: self.newest, told: self.told, own_floor, same_life: true, compacted }
    }

    pub(super) fn tell(&mut self, revision: Revision, op: Option<OpId>) {
        if revision > self.newest {
            self.newest = revision;
            self.told = op;
        }
    }

    /// A member starts again, maybe with an older state.
    pub(super) fn restarted(&mut self, member: Member) {
        if let Some(own) = &mut self.own {
            own.retain(|caller, _| caller.member != member);
        }
    }

    pub(super) fn tell_own(&mut self, caller: Caller, revision: Revision) {
        if let Some(own) = &mut self.own {
            let floor = own.entry(caller).or_insert(1);
            *floor = revision.max(*floor);
        }
    }
}

/// Compactions: asked for, and acknowledged.
#[derive(Debug, Default)]
pub(super) struct Compactions {
    open: BTreeMap<OpId, Revision>,
    /// The newest that happened or may have.
    done: Revision,
    acknowledged: Revision,
}

impl Compactions {
    pub(super) fn begin(&mut self, id: OpId, request: &Request) {
        if let Request::Compact { revision } = request {
            self.open.insert(id, *revision);
        }
    }

    pub(super) fn end(&mut self, operation: &Operation) {
        let Some(revision) = self.open.remove(&operation.id) else { return };
        match operation.outcome {
            Outcome::Answered { .. } => {
                self.done = revision.max(self.done);
                self.acknowledged = revision.max(self.acknowledged);
            }
            Outcome::Unknown => self.done = revision.max(self.done),
            Outcome::Refused(_) => {}
        }
    }

    /// The newest that may have happened by now.
    pub(super) fn asked(&self) -> Revision {
        self.open.values().copied().fold(self.done, Revision::max)
    }

    /// The newest that certainly happened.
    pub(super) fn acknowledged(&self) -> Revision {
        self.acknowledged
    }
}
