//! An answer: whether it can be true at its revision, and was known at its time.

use crate::history::OpId;
use crate::model::evaluate;
use crate::reply::{Refusal, Reply};
use crate::request::{Request, Revision, TxnOp};
use crate::violation::{Kind, Violation};

use super::Certificate;

/// What is wrong with a reply that must be another.
pub(super) fn differs(must: &Reply, is: &Reply) -> Option<Kind> {
    if must == is {
        return None;
    }
    Some(match (must, is) {
        (Reply::Range(_), Reply::Range(_)) => Kind::WrongRead,
        (Reply::Put { .. }, Reply::Put { .. }) => Kind::WrongPrevious,
        (Reply::DeleteRange { deleted, .. }, Reply::DeleteRange { deleted: told, .. }) => {
            if deleted == told { Kind::WrongPrevious } else { Kind::WrongReply }
        }
        (
            Reply::Txn { succeeded, replies },
            Reply::Txn { succeeded: told, replies: told_replies },
        ) => {
            if succeeded != told {
                return Some(Kind::WrongBranch);
            }
            let pairs = replies.iter().zip(told_replies);
            let first = pairs.into_iter().find_map(|(must, is)| differs(must, is));
            first.unwrap_or(Kind::WrongReply)
        }
        _ => Kind::WrongReply,
    })
}

/// Whether an answer is of the kind that was asked for.
fn fits(request: &Request, reply: &Reply) -> bool {
    matches!(
        (request, reply),
        (Request::Range(_), Reply::Range(_))
            | (Request::Put(_), Reply::Put { .. })
            | (Request::DeleteRange(_), Reply::DeleteRange { .. })
            | (Request::Txn(_), Reply::Txn { .. })
            | (Request::Compact { .. }, Reply::Compact)
            | (Request::LeaseGrant { .. }, Reply::LeaseGrant { .. })
            | (Request::LeaseRevoke { .. }, Reply::LeaseRevoke)
            | (Request::LeaseKeepAlive { .. }, Reply::LeaseKeepAlive { .. })
    )
}

impl Certificate {
    /// An operation was answered at a revision.
    pub(super) fn answered(&mut self, op: OpId, revision: Revision) -> Result<(), Violation> {
        self.was_known(op, revision)?;
        self.compaction_is_kept(op, revision)?;
        let entry = self.entry(op);
        let operation = &entry.operation;
        let (_, reply) = operation.answer().expect("it was answered");
        if !fits(&operation.request, reply) {
            let text = "an answer to another request";
            return Err(Violation::new(Kind::WrongReply, text).with(operation));
        }
        let caller = operation.caller;
        self.floors.tell(revision, Some(op));
        if self.entry(op).known.same_life {
            self.floors.tell_own(caller, revision);
        }
        let entry = self.entry(op);
        if !entry.wrote() {
            if revision > self.state.revision() {
                self.waiting.insert((revision, op));
                return Ok(());
            }
            return self.judge_read(op, revision);
        }
        match &entry.applied {
            Some((at, _)) if *at != revision => {
                let text = format!("it was acknowledged at {revision}, but made {at}");
                Err(Violation::new(Kind::LostWrite, text).with(&entry.operation))
            }
            Some(_) => {
                self.judge_reply(op)?;
                self.operations.resolve(op);
                Ok(())
            }
            None if revision > self.state.revision() => {
                self.waiting.insert((revision, op));
                Ok(())
            }
            None => self.claim(op, revision),
        }
    }

    /// Nothing newer was known before it was asked for.
    fn was_known(&self, op: OpId, revision: Revision) -> Result<(), Violation> {
        let entry = self.entry(op);
        let (operation, known) = (&entry.operation, entry.known);
        let request = &operation.request;
        let wrong = |kind, text: String, told| Err(self.shown_by(kind, text, told).with(operation));
        // A renewal's header is filled before the renewal is tried (behaviour.md H9).
        let fresh =
            !request.is_serializable() && !matches!(request, Request::LeaseKeepAlive { .. });
        if entry.wrote() && revision <= known.floor {
            let text =
                format!("it made {revision}, but {} was known when it was sent", known.floor);
            let writer = self.log.get(revision).and_then(|change| change.writer);
            let own = writer.is_none_or(|writer| writer == op);
            return wrong(if own { Kind::TimeTravel } else { Kind::LostWrite }, text, known.told);
        }
        if fresh && revision < known.floor {
            let text =
                format!("{} was known when it was sent, it was told {revision}", known.floor);
            return wrong(Kind::Stale, text, known.told);
        }
        if revision < known.own_floor && known.same_life && request.is_serializable() {
            let floor = known.own_floor;
            let text = format!("this client was told {floor} by this member before");
            return wrong(Kind::WentBack, text, None);
        }
        Ok(())
    }

    /// What is compacted is not answered, and nothing else is compacted.
    fn compaction_is_kept(&self, op: OpId, revision: Revision) -> Result<(), Violation> {
        let entry = self.entry(op);
        let operation = &entry.operation;
        let compacted = entry.known.compacted;
        let wrong = |kind, text: String| Err(Violation::new(kind, text).with(operation));
        match &operation.request {
            Request::Compact { revision: to } if *to <= compacted && *to > 0 => {
                wrong(Kind::WrongReply, format!("{compacted} was compacted before"))
            }
            Request::Compact { revision: to } if *to > revision => {
                wrong(Kind::WrongReply, format!("at {revision} there was no revision {to}"))
            }
            // A member that asked nobody may not know of it yet.
            request if request.is_serializable() => Ok(()),
            request => {
                let taken =
                    matches!(operation.answer(), Some((_, Reply::Txn { succeeded: true, .. })));
                let read = revisions_read(request, Some(taken));
                match read.into_iter().find(|read| *read < compacted) {
                    Some(read) => {
                        let text = format!("{read} was read, but {compacted} was compacted before");
                        wrong(Kind::ReadBelowCompaction, text)
                    }
                    None => Ok(()),
                }
            }
        }
    }

    /// All that an answer's revision builds on was asked for before it was told.
    pub(super) fn was_asked(&self, op: OpId, revision: Revision) -> Result<(), Violation> {
        let operation = &self.entry(op).operation;
        let Some(change) = self.log.get(revision) else { return Ok(()) };
        if operation.ended.is_none_or(|ended| change.asked <= ended) {
            return Ok(());
        }
        let asked = change.asked;
        let text = format!("{revision}, or a revision before, was only asked for at {asked} ns");
        Err(self.shown_by(Kind::TimeTravel, text, change.writer).with(operation))
    }

    /// An answer that tells of no change, at a revision of the log.
    pub(super) fn judge_read(&mut self, op: OpId, revision: Revision) -> Result<(), Violation> {
        let entry = self.entry(op);
        let operation = &entry.operation;
        let (_, reply) = operation.answer().expect("it was answered");
        let wrong = |kind, text: String| Err(Violation::new(kind, text).with(operation));
        if let Some((made, _)) = &entry.applied {
            let text = format!("it was told that it changed nothing, but made {made}");
            return wrong(Kind::WrongReply, text);
        }
        self.was_asked(op, revision)?;
        match &operation.request {
            Request::LeaseRevoke { id } if !self.state.attached(*id).is_empty() => {
                let keys = self.state.attached(*id);
                return wrong(
                    Kind::LeaseState,
                    format!("lease {id} was revoked, but has {keys:?}"),
                );
            }
            Request::Range(_) | Request::Put(_) | Request::DeleteRange(_) | Request::Txn(_) => {
                let effect = self.state.at(revision).map(|view| evaluate(view, &operation.request));
                match effect {
                    None | Some(Err(Refusal::Compacted)) => self.counts.unjudged += 1,
                    Some(Err(refusal)) => {
                        return wrong(Kind::WrongRead, format!("it must be refused: {refusal:?}"));
                    }
                    Some(Ok(effect)) => {
                        let must = &effect.reply;
                        if let Some(kind) = differs(must, reply) {
                            return wrong(kind, format!("at {revision} it must be told {must:?}"));
                        }
                    }
                }
            }
            _ => {}
        }
        self.operations.resolve(op);
        Ok(())
    }

    /// An operation was refused for good.
    pub(super) fn refused(&mut self, op: OpId, refusal: Refusal) -> Result<(), Violation> {
        let entry = self.entry(op);
        let operation = &entry.operation;
        let wrong = |kind, text: String| Err(Violation::new(kind, text).with(operation));
        if let Some((made, _)) = &entry.applied {
            let text = format!("it was refused, but made {made}");
            return wrong(Kind::RefusedWriteHappened, text);
        }
        let read = revisions_read(&operation.request, None);
        match (refusal, &operation.request) {
            (Refusal::Compacted, Request::Compact { revision }) => {
                let asked = self.compactions.asked();
                if *revision > asked {
                    let text = format!("nobody asked to compact further than {asked}");
                    return wrong(Kind::NeverCompacted, text);
                }
            }
            (Refusal::Compacted, _) => {
                let asked = self.compactions.asked();
                if !read.iter().any(|read| *read < asked) {
                    let text = format!("nobody asked to compact further than {asked}");
                    return wrong(Kind::NeverCompacted, text);
                }
            }
            (Refusal::FutureRevision, request) if !request.is_serializable() => {
                let asked_for = match request {
                    Request::Compact { revision } => Some(*revision),
                    _ => read.into_iter().max(),
                };
                let floor = entry.known.floor;
                if asked_for.is_none_or(|revision| revision <= floor) {
                    let text = format!("there was {floor} when it was sent");
                    return wrong(Kind::NotInTheFuture, text);
                }
            }
            _ => {}
        }
        self.operations.resolve(op);
        Ok(())
    }
}

/// The past revisions that a request reads; of a transaction those of one branch, or of both.
fn revisions_read(request: &Request, succeeded: Option<bool>) -> Vec<Revision> {
    let past = |op: &TxnOp| match op {
        TxnOp::Range(range) if range.revision > 0 => Some(range.revision),
        _ => None,
    };
    match request {
        Request::Range(range) if range.revision > 0 => vec![range.revision],
        Request::Txn(txn) => {
            let success = txn.success.iter().filter(|_| succeeded != Some(false));
            let failure = txn.failure.iter().filter(|_| succeeded != Some(true));
            success.chain(failure).filter_map(past).collect()
        }
        _ => Vec::new(),
    }
}
