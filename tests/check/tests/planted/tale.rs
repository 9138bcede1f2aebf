//! A short history told by hand: a correct store, as long as nobody lies.

use kvd_check::model::{Store, evaluate};
use kvd_check::{
    Acquisition, Bytes, Caller, Checker, Compare, DeleteRequest, Event, EventKind, FinalRead,
    KeyRange, Kind, LeaseId, Limits, Member, Nanos, OpId, Outcome, PutRequest, RangeRequest,
    Refusal, Relation, Reply, Request, Response, Revision, Summary, Target, TxnOp, TxnRequest,
    Violation, WatchId, WatchRequest,
};

/// Nanoseconds of a second.
pub(crate) const SECOND: Nanos = 1_000_000_000;

/// A step of a tale.
const STEP: Nanos = 10_000_000;

/// A history while it is told; it goes straight to a checker.
pub(crate) struct Tale {
    pub(crate) checker: Checker,
    pub(crate) store: Store,
    pub(crate) log: Vec<Vec<Event>>,
    pub(crate) now: Nanos,
    pub(crate) hashes: [u64; 3],
    /// What one member has besides what the store has.
    pub(crate) stray: Option<kvd_check::KeyValue>,
    /// Witnesses that are told what happens.
    pub(crate) witnesses: Vec<Member>,
    told: Vec<Revision>,
}

impl Tale {
    /// Revisions 2 to 6: `a`, `b`, both at once, `b` deleted with a mark, `b` again.
    pub(crate) fn new() -> Self {
        let limits = Limits {
            serializable_monotone: true,
            lease_late: Some(SECOND),
            lease_ttl_least: Some(2),
            lease_fresh: SECOND / 2,
            ..Limits::usual()
        };
        let mut tale = Self {
            checker: Checker::new(limits),
            store: Store::default(),
            log: Vec::new(),
            now: 0,
            hashes: [7; 3],
            stray: None,
            witnesses: vec![1, 2, 3],
            told: vec![2; 3],
        };
        tale.ask(1, put("a", "v1"));
        tale.ask(2, put("b", "v2"));
        tale.ask(1, both("v3", "v4"));
        tale.ask(2, delete_marked("b", "v5"));
        tale.ask(1, put("b", "v6"));
        tale
    }

    pub(crate) fn step(&mut self) -> Nanos {
        self.now += STEP;
        self.now
    }

    pub(crate) fn revision(&self) -> Revision {
        self.store.state.revision()
    }

    /// A request is sent.
    pub(crate) fn begin(&mut self, client: u64, request: &Request) -> OpId {
        let at = self.step();
        self.checker.begin(at, Caller { client, member: 1 }, request.clone())
    }

    /// An outcome is told.
    pub(crate) fn end(&mut self, op: OpId, outcome: Outcome) {
        let at = self.step();
        self.checker.end(at, op, outcome);
    }

    /// The store does a request, whoever asked.
    pub(crate) fn serve(&mut self, request: &Request) -> Outcome {
        match self.store.step(request) {
            Ok(effect) => {
                let (revision, reply) = (self.revision(), effect.reply);
                if !effect.events.is_empty() {
                    self.log.push(effect.events);
                }
                Outcome::Answered { revision, reply }
            }
            Err(refusal) => Outcome::Refused(refusal),
        }
    }

    /// Something happened in the log that the store's rules would not do.
    pub(crate) fn happen(&mut self, events: Vec<Event>) {
        self.store.state.apply(&events);
        self.log.push(events);
    }

    /// Sent, done, told, and seen by witnesses.
    pub(crate) fn ask(&mut self, client: u64, request: Request) -> Outcome {
        self.ask_lied(client, request, |outcome| outcome)
    }

    /// The same with another outcome told than the true one.
    pub(crate) fn ask_lied(
        &mut self,
        client: u64,
        request: Request,
        lie: impl FnOnce(Outcome) -> Outcome,
    ) -> Outcome {
        let op = self.begin(client, &request);
        let outcome = self.serve(&request);
        self.end(op, lie(outcome.clone()));
        self.witness();
        outcome
    }

    /// The same with another reply, at the true revision.
    pub(crate) fn ask_with(&mut self, request: Request, reply: Reply) {
        self.ask_lied(1, request, |outcome| match outcome {
            Outcome::Answered { revision, .. } => Outcome::Answered { revision, reply },
            other => other,
        });
    }

    /// Answered what is true of the store at a revision.
    pub(crate) fn ask_as_of(&mut self, client: u64, request: Request, revision: Revision) {
        let op = self.begin(client, &request);
        let view = self.store.state.at(revision).expect("it is kept");
        let reply = evaluate(view, &request).expect("it can be answered").reply;
        self.end(op, Outcome::Answered { revision, reply });
    }

    /// Witnesses are told what they were not told yet, revision by revision.
    pub(crate) fn witness(&mut self) {
        let at = self.step();
        for member in self.witnesses.clone() {
            let place = usize::try_from(member - 1).expect("a member");
            for revision in self.told[place]..=self.revision() {
                let events = self.change(revision).to_vec();
                self.checker.witness(member, &[Response::events(at, revision, events)]);
            }
            self.told[place] = self.revision() + 1;
        }
    }

    /// One witness is told something else.
    pub(crate) fn witness_told(&mut self, member: Member, events: Vec<Event>) {
        let at = self.step();
        let revision = events.last().map_or(0, |event| event.kv.mod_revision);
        self.checker.witness(member, &[Response::events(at, revision, events)]);
    }

    /// What a revision changed.
    pub(crate) fn change(&self, revision: Revision) -> &[Event] {
        &self.log[usize::try_from(revision - 2).expect("a revision of the log")]
    }

    /// A lease ends by itself.
    pub(crate) fn expire(&mut self, id: LeaseId) {
        let events = self.store.end_lease(id).expect("there is such a lease");
        self.log.push(events);
        self.witness();
    }

    /// A watch is sent these responses.
    pub(crate) fn watch(&mut self, request: WatchRequest, responses: Vec<Response>) -> WatchId {
        let at = self.step();
        let watch = self.checker.watch(at, request);
        for response in responses {
            self.checker.watch_response(watch, response);
        }
        watch
    }

    /// What a watch of everything, with what was before, is sent: one response for each revision.
    pub(crate) fn responses(&self, from: Revision) -> Vec<Response> {
        let all = from..=self.revision();
        all.map(|at| Response::events(self.now, at, self.change(at).to_vec())).collect()
    }

    /// A client was told that it holds the lock.
    pub(crate) fn hold(&mut self, client: u64, key: &str, create_revision: Revision) {
        let at = self.step();
        let caller = Caller { client, member: 1 };
        let (prefix, key, revision) = ("lock/".into(), key.into(), self.revision());
        let told = Acquisition { caller, prefix, key, create_revision, revision };
        self.checker.acquired(at, told);
    }

    /// The verdict, all members being read.
    pub(crate) fn finish(mut self) -> Result<Summary, Violation> {
        self.witness();
        let kvs = self.store.state.now().range(&KeyRange::all()).into_iter().cloned();
        let kvs: Vec<_> = kvs.collect();
        let revision = self.revision();
        let members = [1, 2, 3].into_iter().zip(self.hashes);
        let finals = members.map(|(member, hash)| {
            let stray = self.stray.iter().filter(|_| member == 3).cloned();
            let kvs = kvs.iter().cloned().chain(stray).collect();
            FinalRead { member, revision, hash, kvs }
        });
        let finals: Vec<FinalRead> = finals.collect();
        let at = self.now + STEP;
        self.checker.finish(at, &finals)
    }

    /// The verdict is this.
    pub(crate) fn is(self, kind: Kind) {
        match self.finish() {
            Ok(summary) => panic!("{kind:?} was not found: {summary:?}"),
            Err(violation) => assert_eq!(violation.kind, kind, "{violation}"),
        }
    }
}

pub(crate) fn put(key: &str, value: &str) -> Request {
    Request::Put(PutRequest::of(key, value))
}

pub(crate) fn put_prev(key: &str, value: &str) -> Request {
    Request::Put(PutRequest { prev_kv: true, ..PutRequest::of(key, value) })
}

pub(crate) fn put_leased(key: &str, value: &str, lease: LeaseId) -> Request {
    Request::Put(PutRequest { lease, ..PutRequest::of(key, value) })
}

pub(crate) fn grant(id: LeaseId, ttl_seconds: i64) -> Request {
    Request::LeaseGrant { id, ttl_seconds }
}

/// `a` and `b` at once.
pub(crate) fn both(one: &str, other: &str) -> Request {
    let puts = [PutRequest::of("a", one), PutRequest::of("b", other)];
    let success = puts.into_iter().map(TxnOp::Put).collect();
    Request::Txn(TxnRequest { success, ..TxnRequest::default() })
}

pub(crate) fn delete_marked(key: &str, mark: &str) -> Request {
    let delete = DeleteRequest { keys: KeyRange::one(key), prev_kv: true };
    let mark = PutRequest::of(format!("gone/{mark}"), mark);
    let success = vec![TxnOp::DeleteRange(delete), TxnOp::Put(mark)];
    Request::Txn(TxnRequest { success, ..TxnRequest::default() })
}

pub(crate) fn get(key: &str) -> Request {
    Request::Range(RangeRequest::of(KeyRange::one(key)))
}

pub(crate) fn get_at(key: &str, revision: Revision) -> Request {
    Request::Range(RangeRequest { revision, ..RangeRequest::of(KeyRange::one(key)) })
}

pub(crate) fn list_stale() -> Request {
    Request::Range(RangeRequest { serializable: true, ..RangeRequest::of(KeyRange::all()) })
}

/// Puts a key if this holds of another, else reads it.
pub(crate) fn put_if(of: &str, target: Target, key: &str, value: &str) -> Request {
    let result = Relation::Equal;
    let compares = vec![Compare { keys: KeyRange::one(of), target, result }];
    let success = vec![TxnOp::Put(PutRequest::of(key, value))];
    let failure = vec![TxnOp::Range(RangeRequest::of(KeyRange::one(key)))];
    Request::Txn(TxnRequest { compares, success, failure })
}

/// A put that makes this of a key.
pub(crate) fn event(
    key: &str,
    value: &str,
    at: Revision,
    created: Revision,
    version: i64,
) -> Event {
    let (key, value): (Bytes, Bytes) = (key.into(), value.into());
    let (create_revision, mod_revision, lease) = (created, at, 0);
    let kv = kvd_check::KeyValue { key, value, create_revision, mod_revision, version, lease };
    Event { kind: EventKind::Put, kv, prev_kv: None }
}

pub(crate) const NOT_PROPOSED: Outcome = Outcome::Refused(Refusal::NotProposed);
