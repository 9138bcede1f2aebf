//! Operations that still matter: open, waiting for the log, unknown; and some that just were.

use std::collections::{BTreeSet, HashMap, VecDeque};

use crate::bytes::Bytes;
use crate::event::{Event, EventKind};
use crate::history::{Caller, Member, Nanos, OpId, Operation};
use crate::reply::{Outcome, Reply};
use crate::request::{Request, Revision, TxnOp, TxnRequest};
use crate::spread::BySpread;
use crate::violation::{Kind, Violation};

use super::time::Known;

/// Resolved operations that are kept to show them in a violation, at most.
const RESOLVED_MAX: usize = 300;

/// An operation with what is known of it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) operation: Operation,
    /// What was known when it began.
    pub(super) known: Known,
    /// The revision that it made, and what it must be answered if that can be told.
    pub(super) applied: Option<(Revision, Option<Reply>)>,
    /// Nothing more will be learned of it.
    resolved: bool,
}

impl Entry {
    /// Whether its client was told that it changed keys.
    pub(super) fn wrote(&self) -> bool {
        self.operation.answer().is_some_and(|(_, reply)| reply.wrote())
    }
}

/// All of them.
#[derive(Debug)]
pub(super) struct Operations {
    entries: HashMap<OpId, Entry, BySpread>,
    next: u64,
    open: BTreeSet<OpId>,
    /// Whose put a key and value are.
    marks: HashMap<(Bytes, Bytes), OpId, BySpread>,
    /// May have changed something, or may yet, without a put to know it by.
    unmarked: BTreeSet<OpId>,
    /// Oldest first.
    resolved: VecDeque<OpId>,
    resolved_max: usize,
}

impl Operations {
    pub(super) fn new(kept: usize) -> Self {
        Self {
            entries: HashMap::default(),
            next: 0,
            open: BTreeSet::new(),
            marks: HashMap::default(),
            unmarked: BTreeSet::new(),
            resolved: VecDeque::new(),
            resolved_max: kept.min(RESOLVED_MAX),
        }
    }

    pub(super) fn next_id(&self) -> OpId {
        OpId(self.next)
    }

    pub(super) fn get(&self, op: OpId) -> Option<&Entry> {
        self.entries.get(&op)
    }

    pub(super) fn get_mut(&mut self, op: OpId) -> Option<&mut Entry> {
        self.entries.get_mut(&op)
    }

    pub(super) fn begin(
        &mut self,
        at: Nanos,
        caller: Caller,
        request: Request,
        known: Known,
    ) -> Result<OpId, Violation> {
        let id = self.next_id();
        self.next += 1;
        let operation =
            Operation { id, caller, begun: at, ended: None, request, outcome: Outcome::Unknown };
        let (marks, entries) = (&mut self.marks, &self.entries);
        let mut alike = None;
        operation.request.each_put(&mut |put| {
            let before = marks.insert((put.key.clone(), put.value.clone()), id);
            let before = before.filter(|before| *before != id).and_then(|op| entries.get(&op));
            alike = before.filter(|before| !before.resolved).or(alike);
        });
        if let Some(before) = alike {
            let text = "two writes at once put the same value to the same key";
            let violation = Violation::new(Kind::Misuse, text);
            return Err(violation.with(&before.operation).with(&operation));
        }
        if may_write_unmarked(&operation.request) {
            self.unmarked.insert(id);
        }
        self.open.insert(id);
        self.entries.insert(id, Entry { operation, known, applied: None, resolved: false });
        Ok(id)
    }

    pub(super) fn end(&mut self, at: Nanos, op: OpId, outcome: Outcome) -> Result<(), Violation> {
        if !self.open.remove(&op) {
            let text = format!("operation {} ends, but is not open", op.0);
            return Err(Violation::new(Kind::Misuse, text));
        }
        if outcome != Outcome::Unknown {
            self.unmarked.remove(&op);
        }
        let entry = self.entries.get_mut(&op).expect("open operations are known");
        entry.operation.ended = Some(at);
        entry.operation.outcome = outcome;
        Ok(())
    }

    /// Nobody knows which life of this member will have answered what is open.
    pub(super) fn restarted(&mut self, member: Member) {
        for op in &self.open {
            if let Some(entry) = self.entries.get_mut(op)
                && entry.operation.caller.member == member
            {
                entry.known.same_life = false;
            }
        }
    }

    /// Nothing more will be learned of it; it is kept for a while.
    pub(super) fn resolve(&mut self, op: OpId) {
        let Some(entry) = self.entries.get_mut(&op) else { return };
        if std::mem::replace(&mut entry.resolved, true) {
            return;
        }
        self.unmarked.remove(&op);
        self.resolved.push_back(op);
        while self.resolved.len() > self.resolved_max {
            let gone = self.resolved.pop_front().and_then(|op| self.entries.remove(&op));
            let Some(Entry { operation, .. }) = gone else { continue };
            let marks = &mut self.marks;
            operation.request.each_put(&mut |put| {
                let mark = (put.key.clone(), put.value.clone());
                if marks.get(&mark) == Some(&operation.id) {
                    marks.remove(&mark);
                }
            });
        }
    }

    /// Whose put stands in these events.
    pub(super) fn writer_of(&self, events: &[Event]) -> Option<OpId> {
        let put = events.iter().find(|event| event.kind == EventKind::Put)?;
        let mark = (put.kv.key.clone(), put.kv.value.clone());
        self.marks.get(&mark).copied()
    }

    /// Open ones and those of unknown outcome that may have deleted without a put.
    pub(super) fn unmarked(&self) -> impl Iterator<Item = &Entry> {
        self.unmarked.iter().filter_map(|op| self.entries.get(op))
    }

    /// The least that an open operation may still be answered of.
    pub(super) fn oldest_floor(&self) -> Option<Revision> {
        let first = self.open.first().and_then(|op| self.entries.get(op));
        first.map(|entry| entry.known.floor)
    }
}

/// Whether it may delete and not put.
fn may_write_unmarked(request: &Request) -> bool {
    match request {
        Request::DeleteRange(_) => true,
        Request::Txn(txn) => txn_unmarked(txn),
        _ => false,
    }
}

fn txn_unmarked(txn: &TxnRequest) -> bool {
    [&txn.success, &txn.failure].into_iter().any(|branch| {
        let marked = branch.iter().any(|op| matches!(op, TxnOp::Put(_)));
        let deletes = branch.iter().any(|op| match op {
            TxnOp::DeleteRange(_) => true,
            TxnOp::Txn(txn) => txn_unmarked(txn),
            TxnOp::Range(_) | TxnOp::Put(_) => false,
        });
        deletes && !marked
    })
}
