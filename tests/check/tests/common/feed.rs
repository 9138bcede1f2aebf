//! A recorded history, as a checker is told of it.

use kvd_check::certificate::Certificate;
use kvd_check::search::{Fate, Step, Window};
use kvd_check::{
    Acquisition, Caller, Checker, Event, EventKind, FinalRead, History, Limits, Member, Nanos,
    OpId, Operation, Outcome, Request, Response, Revision, Summary, Violation, WatchId,
    WatchRequest,
};

use super::MS;

/// One thing that a checker is told.
#[derive(Clone, Debug)]
pub(crate) enum Feed {
    /// A request is sent; operations are numbered in this order.
    Begin(Nanos, Caller, Request),
    /// Its outcome is known.
    End(Nanos, OpId, Outcome),
    /// A witness is told something.
    Witness(Member, Response),
    /// A watch is opened; watches are numbered in this order.
    Watch(Nanos, WatchRequest),
    /// It is sent something.
    Sent(WatchId, Response),
    /// It is over.
    WatchEnd(Nanos, WatchId),
    /// A lock is held.
    Acquired(Nanos, Acquisition),
    /// The store was healthy.
    Healthy(Nanos, Nanos),
}

/// A whole history, in the order of time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recorded {
    /// What happened.
    pub(crate) feeds: Vec<Feed>,
    /// What members have at the end.
    pub(crate) finals: Vec<FinalRead>,
    /// When it was over.
    pub(crate) ended: Nanos,
    /// What each revision from 2 on changed.
    pub(crate) log: Vec<Vec<Event>>,
}

/// What generated histories keep to.
pub(crate) fn limits() -> Limits {
    Limits {
        revisions_kept: 10_000,
        serializable_monotone: true,
        lease_late: Some(2_000 * MS),
        lease_ttl_least: Some(1),
        lease_fresh: 0,
        window_operations: 0,
        window_every_revisions: 1,
        search_steps: 0,
    }
}

impl Recorded {
    /// One more thing happened.
    pub(crate) fn push(&mut self, feed: Feed) {
        self.feeds.push(feed);
    }

    /// What a checker says of it.
    pub(crate) fn check(&self, limits: Limits) -> Result<Summary, Violation> {
        let mut checker = Checker::new(limits);
        self.feeds.iter().cloned().for_each(|feed| tell(&mut checker, feed));
        checker.finish(self.ended, &self.finals)
    }

    /// What the certificate alone says of it.
    pub(crate) fn certify(&self) -> Result<Certificate, Violation> {
        let mut certificate = Certificate::new(10_000, false);
        for feed in &self.feeds {
            match feed.clone() {
                Feed::Begin(at, caller, request) => {
                    certificate.begin(at, caller, request)?;
                }
                Feed::End(at, op, outcome) => certificate.end(at, op, outcome)?,
                Feed::Witness(member, response) => {
                    certificate.witness(member, &response)?;
                }
                _ => {}
            }
        }
        certificate.finish()?;
        Ok(certificate)
    }

    /// Its operations.
    pub(crate) fn history(&self) -> History {
        let mut history = History::new();
        for feed in &self.feeds {
            match feed.clone() {
                Feed::Begin(at, caller, request) => drop(history.begin(at, caller, request)),
                Feed::End(at, op, outcome) => history.end(at, op, outcome),
                _ => {}
            }
        }
        history
    }

    /// All of it as one window of a search. `resolved`: what the log says of unknown outcomes is used.
    pub(crate) fn window(&self, resolved: bool) -> Window {
        let mut window = Window::default();
        let puts = self.log.iter().flatten().filter(|event| event.kind == EventKind::Put);
        window.puts = puts.map(|event| event.kv.clone()).collect();
        for operation in self.history().operations() {
            if let Some(step) = step(operation, &window, resolved) {
                window.steps.push(step);
            }
        }
        // What no client deleted, leases did.
        for (revision, events) in (2..).zip(&self.log) {
            if let Some(step) = self.lease_end(revision, events) {
                window.steps.push(step);
            }
        }
        window
    }

    fn lease_end(&self, revision: Revision, events: &[Event]) -> Option<Step> {
        let deletes_only = events.iter().all(|event| event.kind == EventKind::Delete);
        let answered = |feed: &Feed| match feed {
            Feed::End(_, _, Outcome::Answered { revision: at, reply }) => {
                *at == revision && reply.wrote()
            }
            _ => false,
        };
        if !deletes_only || self.feeds.iter().any(answered) {
            return None;
        }
        let deletes = events.iter().map(|event| {
            let keys = kvd_check::KeyRange::one(event.kv.key.clone());
            kvd_check::TxnOp::DeleteRange(kvd_check::DeleteRequest { keys, prev_kv: false })
        });
        let success = deletes.collect();
        let request = Request::Txn(kvd_check::TxnRequest { success, ..Default::default() });
        Some(Step { id: None, begun: 0, request, fate: Fate::Happened })
    }
}

/// Tells a checker of one thing.
pub(crate) fn tell(checker: &mut Checker, feed: Feed) {
    match feed {
        Feed::Begin(at, caller, request) => drop(checker.begin(at, caller, request)),
        Feed::End(at, op, outcome) => checker.end(at, op, outcome),
        Feed::Witness(member, response) => checker.witness(member, &[response]),
        Feed::Watch(at, request) => drop(checker.watch(at, request)),
        Feed::Sent(watch, response) => checker.watch_response(watch, response),
        Feed::WatchEnd(at, watch) => checker.watch_end(at, watch),
        Feed::Acquired(at, told) => checker.acquired(at, told),
        Feed::Healthy(from, to) => checker.healthy(from, to),
    }
}

/// An operation as a search sees it; none if it says nothing of keys as they are now.
fn step(operation: &Operation, window: &Window, resolved: bool) -> Option<Step> {
    let Operation { id, begun, ended, request, outcome, .. } = operation.clone();
    let fate = match outcome {
        Outcome::Answered { reply, .. } => Fate::Answered { reply, ended: ended? },
        Outcome::Refused(_) => return None,
        Outcome::Unknown if !request.may_write() => return None,
        Outcome::Unknown => {
            let made = |put: &&kvd_check::PutRequest| {
                window.puts.iter().any(|kv| kv.key == put.key && kv.value == put.value)
            };
            match (resolved, request.puts().iter().any(made)) {
                (true, true) => Fate::Happened,
                (true, false) => return None,
                (false, _) => Fate::Open,
            }
        }
    };
    let past = matches!(&request, Request::Range(range) if range.revision > 0);
    let of_keys = matches!(
        request,
        Request::Range(_) | Request::Put(_) | Request::DeleteRange(_) | Request::Txn(_)
    );
    let reads_stale = request.is_serializable();
    (of_keys && !past && !reads_stale).then_some(Step { id: Some(id), begun, request, fate })
}
