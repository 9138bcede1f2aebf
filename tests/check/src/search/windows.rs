//! Windows of a long history, taken while it happens.
//!
//! A window is what happened from one revision up to another: all changes that the log has there, and reads
//! answered there. If the history is as its revisions say, so is this part of it. Reads of the past and without a
//! barrier are left out; so are some reads of a crowded window, which only makes it easier to explain.

use std::collections::HashMap;
use std::mem;

use crate::certificate::Certificate;
use crate::checker::Limits;
use crate::event::EventKind;
use crate::history::{OpId, Operation};
use crate::log::Change;
use crate::reply::{KeyValue, Reply};
use crate::request::{DeleteRequest, KeyRange, PutRequest, Request, Revision, TxnOp, TxnRequest};
use crate::violation::{Kind, Violation};

use super::{Counterexample, Fate, Step, Verdict, Window, search};

/// Takes windows and searches them.
#[derive(Debug)]
pub struct Windows {
    operations: usize,
    every: Revision,
    steps: u64,
    /// The window that is being taken.
    taking: Option<Taking>,
    searched: u64,
    given_up: u64,
}

/// A window while it is taken.
#[derive(Debug)]
struct Taking {
    /// It begins with the store at this revision.
    from: Revision,
    initial: Vec<KeyValue>,
    changes: Vec<Change>,
    /// Answered within it so far.
    answered: HashMap<OpId, Operation>,
    reads: usize,
}

impl Windows {
    /// As large and as many as the limits say.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self {
            operations: limits.window_operations,
            every: Revision::try_from(limits.window_every_revisions).unwrap_or(Revision::MAX),
            steps: limits.search_steps,
            taking: None,
            searched: 0,
            given_up: 0,
        }
    }

    /// Windows that were searched.
    #[must_use]
    pub fn searched(&self) -> u64 {
        self.searched
    }

    /// Windows whose search gave up.
    #[must_use]
    pub fn given_up(&self) -> u64 {
        self.given_up
    }

    /// An operation ended.
    pub fn ended(&mut self, certificate: &Certificate, operation: &Operation) {
        self.begin_first(certificate);
        let Some(taking) = &mut self.taking else { return };
        let Some((revision, reply)) = operation.answer() else { return };
        let read = !reply.wrote();
        let serializable = read && operation.request.is_serializable();
        if revision < taking.from || serializable || !is_of_now(&operation.request) {
            return;
        }
        if read && taking.reads >= self.operations / 2 {
            return;
        }
        taking.reads += usize::from(read);
        taking.answered.insert(operation.id, operation.clone());
    }

    /// The log has a new revision.
    ///
    /// # Errors
    /// The window that it ends cannot be explained.
    pub fn changed(&mut self, certificate: &Certificate, change: &Change) -> Result<(), Violation> {
        if self.operations == 0 {
            return Ok(());
        }
        self.begin_first(certificate);
        if self.taking.is_none() && change.revision % self.every == 0 {
            self.taking = Taking::at(certificate, change.revision);
            return Ok(());
        }
        let Some(taking) = &mut self.taking else { return Ok(()) };
        if change.revision > taking.from {
            taking.changes.push(change.clone());
        }
        // A while after its last revision most of what was answered of it is known.
        if taking.changes.len() > self.operations {
            return self.close(certificate);
        }
        Ok(())
    }

    /// All is over.
    ///
    /// # Errors
    /// The window that was begun cannot be explained.
    pub fn finish(&mut self, certificate: &Certificate) -> Result<(), Violation> {
        self.begin_first(certificate);
        self.close(certificate)
    }

    /// The first window begins with the empty store.
    fn begin_first(&mut self, certificate: &Certificate) {
        if self.operations > 0 && self.searched == 0 && self.taking.is_none() {
            self.taking = Taking::at(certificate, 1);
        }
    }

    fn close(&mut self, certificate: &Certificate) -> Result<(), Violation> {
        let Some(taking) = mem::take(&mut self.taking) else { return Ok(()) };
        self.searched += 1;
        match search(&taking.into_window(certificate, self.operations / 2), self.steps) {
            Verdict::Linearizable => Ok(()),
            Verdict::GaveUp => {
                self.given_up += 1;
                Ok(())
            }
            Verdict::NotLinearizable(Counterexample { order, stuck }) => {
                let text = format!("after {order:?}, none of {stuck:?} can come next");
                let violation = Violation::new(Kind::NotLinearizable, text);
                let shown = order.iter().chain(&stuck).filter_map(|op| certificate.operation(*op));
                Err(shown.fold(violation, Violation::with))
            }
        }
    }
}

impl Taking {
    fn at(certificate: &Certificate, from: Revision) -> Option<Self> {
        let initial = certificate.state().at(from)?.range(&KeyRange::all());
        let initial = initial.into_iter().cloned().collect();
        let (changes, answered) = (Vec::new(), HashMap::new());
        Some(Self { from, initial, changes, answered, reads: 0 })
    }

    /// Its first revisions, with what was answered there.
    fn into_window(mut self, certificate: &Certificate, revisions: usize) -> Window {
        self.changes.truncate(revisions.max(1));
        let to = self.changes.last().map_or(self.from, |change| change.revision);
        let mut window = Window { initial: self.initial, ..Window::default() };
        for change in &self.changes {
            let puts = change.events.iter().filter(|event| event.kind == EventKind::Put);
            window.puts.extend(puts.map(|event| event.kv.clone()));
            let writer = certificate.log().get(change.revision).and_then(|change| change.writer);
            let writer = writer.or(change.writer);
            let answered = writer.and_then(|op| self.answered.remove(&op));
            let known = writer.and_then(|op| certificate.operation(op));
            window.steps.push(match (answered, known) {
                (Some(operation), _) => answered_step(operation),
                (None, Some(operation)) => happened(operation),
                (None, None) => effects(change),
            });
        }
        let mut reads: Vec<Operation> = self.answered.into_values().collect();
        reads.sort_unstable_by_key(|operation| operation.id);
        let within = |operation: &Operation| {
            operation.answer().is_some_and(|(at, reply)| at <= to && !reply.wrote())
        };
        window.steps.extend(reads.into_iter().filter(within).map(answered_step));
        window
    }
}

/// Whether it asks for nothing but the keys as they are now.
fn is_of_now(request: &Request) -> bool {
    fn txn_of_now(txn: &TxnRequest) -> bool {
        txn.success.iter().chain(&txn.failure).all(|op| match op {
            TxnOp::Range(range) => range.revision == 0,
            TxnOp::Put(_) | TxnOp::DeleteRange(_) => true,
            TxnOp::Txn(txn) => txn_of_now(txn),
        })
    }
    match request {
        Request::Range(range) => range.revision == 0,
        Request::Put(_) | Request::DeleteRange(_) => true,
        Request::Txn(txn) => txn_of_now(txn),
        _ => false,
    }
}

fn answered_step(operation: Operation) -> Step {
    let Operation { id, begun, ended, request, outcome, .. } = operation;
    let reply = match outcome {
        crate::Outcome::Answered { reply, .. } => reply,
        _ => Reply::Compact,
    };
    let fate = Fate::Answered { reply, ended: ended.unwrap_or(u64::MAX) };
    Step { id: Some(id), begun, request, fate }
}

fn happened(operation: &Operation) -> Step {
    let Operation { id, begun, request, .. } = operation;
    Step { id: Some(*id), begun: *begun, request: request.clone(), fate: Fate::Happened }
}

/// What no client is known to have asked for, the end of a lease, or whose request is not kept any more: what it did
/// stands for it.
fn effects(change: &Change) -> Step {
    let done = change.events.iter().map(|event| match event.kind {
        EventKind::Put => {
            let put = PutRequest::of(event.kv.key.clone(), event.kv.value.clone());
            TxnOp::Put(PutRequest { lease: event.kv.lease, ..put })
        }
        EventKind::Delete => {
            let keys = KeyRange::one(event.kv.key.clone());
            TxnOp::DeleteRange(DeleteRequest { keys, prev_kv: false })
        }
    });
    let txn = TxnRequest { success: done.collect(), ..TxnRequest::default() };
    let fate = Fate::HappenedBefore(change.seen);
    Step { id: None, begun: 0, request: Request::Txn(txn), fate }
}
