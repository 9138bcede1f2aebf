//! What a request does to the store, and what it is answered: etcd's rules (behaviour.md 2, M1–M9) as one
//! pure function.

use std::collections::BTreeMap;

use crate::bytes::Bytes;
use crate::event::{Event, EventKind};
use crate::reply::{KeyValue, RangeReply, Refusal, Reply};
use crate::request::{
    Compare, DeleteRequest, KeyRange, LeaseId, PutRequest, RangeRequest, Relation, Request,
    Revision, Target, TxnOp, TxnRequest,
};
use crate::state::{State, View};

/// What a request did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    /// What it is answered.
    pub reply: Reply,
    /// What it changed, in order; nothing if it made no revision. `prev_kv` is always there.
    pub events: Vec<Event>,
}

/// Does a request to the store as it stands at one revision; changes are made at the next one.
/// Leases are not looked at, and what a lease request does is not told.
///
/// # Errors
/// It reads a revision that is not there yet, or is gone.
pub fn evaluate(view: View<'_>, request: &Request) -> Result<Effect, Refusal> {
    let mut work = Work { view, events: Vec::new() };
    let reply = match request {
        Request::Range(range) => Reply::Range(work.read(range)?),
        Request::Put(put) => work.put(put),
        Request::DeleteRange(delete) => work.delete(delete),
        Request::Txn(txn) => {
            let plan = Plan::of(view, txn);
            plan.check(view)?;
            work.run(&plan)?
        }
        Request::Compact { .. } => Reply::Compact,
        Request::LeaseGrant { ttl_seconds, .. } => Reply::LeaseGrant { ttl_seconds: *ttl_seconds },
        Request::LeaseRevoke { .. } => Reply::LeaseRevoke,
        Request::LeaseKeepAlive { .. } => Reply::LeaseKeepAlive { ttl_seconds: 0 },
    };
    Ok(Effect { reply, events: work.events })
}

/// The deletes that the end of a lease with these keys makes.
#[must_use]
pub fn lease_end(view: View<'_>, keys: &[Bytes]) -> Vec<Event> {
    let mut work = Work { view, events: Vec::new() };
    for key in keys {
        work.delete(&DeleteRequest { keys: KeyRange::one(key.clone()), prev_kv: false });
    }
    work.events
}

/// A transaction with its compares decided: they all look at the store before it (KV-T2).
struct Plan<'a> {
    succeeded: bool,
    ops: Vec<PlanOp<'a>>,
}

enum PlanOp<'a> {
    One(&'a TxnOp),
    Txn(Plan<'a>),
}

impl<'a> Plan<'a> {
    fn of(view: View<'_>, txn: &'a TxnRequest) -> Self {
        let succeeded = txn.compares.iter().all(|compare| holds(view, compare));
        let branch = if succeeded { &txn.success } else { &txn.failure };
        let ops = branch.iter().map(|op| match op {
            TxnOp::Txn(txn) => PlanOp::Txn(Self::of(view, txn)),
            op => PlanOp::One(op),
        });
        Self { succeeded, ops: ops.collect() }
    }

    /// Everything that can fail is looked at before anything is done (KV-T9).
    fn check(&self, view: View<'_>) -> Result<(), Refusal> {
        for op in &self.ops {
            match op {
                PlanOp::One(TxnOp::Range(range)) => {
                    readable(view, range.revision)?;
                }
                PlanOp::One(_) => {}
                PlanOp::Txn(plan) => plan.check(view)?,
            }
        }
        Ok(())
    }
}

/// Whether a condition holds for every key that it means.
fn holds(view: View<'_>, compare: &Compare) -> bool {
    let found = view.range(&compare.keys);
    let absent = KeyValue::default();
    if found.is_empty() {
        // Nothing compares with the value of an absent key, not even as different (KV-T7).
        let by_value = matches!(compare.target, Target::Value(_));
        return !by_value && relates(&absent, compare);
    }
    found.into_iter().all(|kv| relates(kv, compare))
}

fn relates(kv: &KeyValue, compare: &Compare) -> bool {
    let order = match &compare.target {
        Target::Value(value) => kv.value.cmp(value),
        Target::Version(version) => kv.version.cmp(version),
        Target::Create(revision) => kv.create_revision.cmp(revision),
        Target::Mod(revision) => kv.mod_revision.cmp(revision),
        Target::Lease(lease) => kv.lease.cmp(lease),
    };
    match compare.result {
        Relation::Equal => order.is_eq(),
        Relation::NotEqual => order.is_ne(),
        Relation::Greater => order.is_gt(),
        Relation::Less => order.is_lt(),
    }
}

/// The store at a revision that a read asks for; none if it asks for the newest.
fn readable(view: View<'_>, revision: Revision) -> Result<Option<View<'_>>, Refusal> {
    if revision <= 0 {
        return Ok(None);
    }
    if revision > view.revision() {
        return Err(Refusal::FutureRevision);
    }
    view.at(revision).map(Some).ok_or(Refusal::Compacted)
}

/// A request at work: the store before it, and what it did so far.
struct Work<'a> {
    view: View<'a>,
    events: Vec<Event>,
}

impl Work<'_> {
    fn next(&self) -> Revision {
        self.view.revision() + 1
    }

    fn run(&mut self, plan: &Plan<'_>) -> Result<Reply, Refusal> {
        let mut replies = Vec::new();
        for op in &plan.ops {
            replies.push(match op {
                PlanOp::One(TxnOp::Range(range)) => Reply::Range(self.read(range)?),
                PlanOp::One(TxnOp::Put(put)) => self.put(put),
                PlanOp::One(TxnOp::DeleteRange(delete)) => self.delete(delete),
                PlanOp::Txn(plan) => self.run(plan)?,
                PlanOp::One(TxnOp::Txn(_)) => unreachable!("a transaction within has its own plan"),
            });
        }
        Ok(Reply::Txn { succeeded: plan.succeeded, replies })
    }

    fn get(&self, key: &Bytes) -> Option<KeyValue> {
        match self.events.iter().rev().find(|event| event.kv.key == *key) {
            Some(event) => (event.kind == EventKind::Put).then(|| event.kv.clone()),
            None => self.view.get(key).cloned(),
        }
    }

    /// The keys as they are now, with what was written.
    fn range(&self, keys: &KeyRange) -> Vec<KeyValue> {
        if let Some(key) = keys.single() {
            return self.get(key).into_iter().collect();
        }
        let before = self.view.range(keys).into_iter();
        if self.events.is_empty() {
            return before.cloned().collect();
        }
        let mut merged: BTreeMap<Bytes, Option<KeyValue>> =
            before.map(|kv| (kv.key.clone(), Some(kv.clone()))).collect();
        for event in self.events.iter().filter(|event| keys.contains(&event.kv.key)) {
            let kv = (event.kind == EventKind::Put).then(|| event.kv.clone());
            merged.insert(event.kv.key.clone(), kv);
        }
        merged.into_values().flatten().collect()
    }

    fn read(&self, range: &RangeRequest) -> Result<RangeReply, Refusal> {
        let mut kvs = match readable(self.view, range.revision)? {
            Some(past) => past.range(&range.keys).into_iter().cloned().collect(),
            None => self.range(&range.keys),
        };
        let count = i64::try_from(kvs.len()).unwrap_or(i64::MAX);
        if range.count_only {
            return Ok(RangeReply { kvs: Vec::new(), more: false, count });
        }
        let more = range.limit > 0 && count > range.limit;
        if more {
            kvs.truncate(usize::try_from(range.limit).unwrap_or(usize::MAX));
        }
        if range.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value = Bytes::default());
        }
        Ok(RangeReply { kvs, more, count })
    }

    fn put(&mut self, put: &PutRequest) -> Reply {
        let before = self.get(&put.key);
        let revision = self.next();
        let kv = KeyValue {
            key: put.key.clone(),
            value: put.value.clone(),
            create_revision: before.as_ref().map_or(revision, |before| before.create_revision),
            mod_revision: revision,
            version: before.as_ref().map_or(1, |before| before.version + 1),
            lease: put.lease,
        };
        self.record(EventKind::Put, kv);
        Reply::Put { prev_kv: before.filter(|_| put.prev_kv) }
    }

    fn delete(&mut self, delete: &DeleteRequest) -> Reply {
        let gone = self.range(&delete.keys);
        let mod_revision = self.next();
        for kv in &gone {
            let key = kv.key.clone();
            self.record(EventKind::Delete, KeyValue { key, mod_revision, ..KeyValue::default() });
        }
        let deleted = i64::try_from(gone.len()).unwrap_or(i64::MAX);
        Reply::DeleteRange { deleted, prev_kvs: if delete.prev_kv { gone } else { Vec::new() } }
    }

    fn record(&mut self, kind: EventKind, kv: KeyValue) {
        let put = kind == EventKind::Put;
        let created = put && kv.create_revision == kv.mod_revision;
        // A watch looks at the revision before, not at earlier parts of this one (W19).
        let prev_kv = if created { None } else { self.view.get(&kv.key).cloned() };
        self.events.push(Event { kind, kv, prev_kv });
    }
}

/// A whole store: keys, leases, what is compacted. For tests that need a correct one.
#[derive(Clone, Debug, Default)]
pub struct Store {
    /// Its keys.
    pub state: State,
    /// Its leases, with their seconds to live.
    pub leases: BTreeMap<LeaseId, i64>,
    /// History before this is gone; 0 before the first compaction.
    pub compacted: Revision,
}

impl Store {
    /// Does a request. Answers what the store would, with what changed.
    ///
    /// # Errors
    /// Why the store would refuse it.
    pub fn step(&mut self, request: &Request) -> Result<Effect, Refusal> {
        match request {
            Request::Compact { revision } if *revision <= self.compacted => {
                return Err(Refusal::Compacted);
            }
            Request::Compact { revision } if *revision > self.state.revision() => {
                return Err(Refusal::FutureRevision);
            }
            Request::Compact { revision } => {
                self.compacted = *revision;
                self.state.forget_before(*revision);
            }
            Request::LeaseGrant { id, .. } if self.leases.contains_key(id) => {
                return Err(Refusal::LeaseExists);
            }
            Request::LeaseGrant { id, ttl_seconds } => drop(self.leases.insert(*id, *ttl_seconds)),
            Request::LeaseRevoke { id } => {
                let events = self.end_lease(*id).ok_or(Refusal::LeaseNotFound)?;
                return Ok(Effect { reply: Reply::LeaseRevoke, events });
            }
            Request::LeaseKeepAlive { id } => {
                let ttl_seconds = self.leases.get(id).copied().unwrap_or(0);
                let reply = Reply::LeaseKeepAlive { ttl_seconds };
                return Ok(Effect { reply, events: Vec::new() });
            }
            _ => {}
        }
        let effect = evaluate(self.state.now(), request)?;
        let missing =
            |event: &Event| event.kv.lease != 0 && !self.leases.contains_key(&event.kv.lease);
        if effect.events.iter().any(missing) {
            return Err(Refusal::LeaseNotFound);
        }
        self.apply(&effect.events);
        Ok(effect)
    }

    /// A lease is over, revoked or expired; what that deleted, or none if there was no such lease.
    pub fn end_lease(&mut self, id: LeaseId) -> Option<Vec<Event>> {
        self.leases.remove(&id)?;
        let events = lease_end(self.state.now(), &self.state.attached(id));
        self.apply(&events);
        Some(events)
    }

    fn apply(&mut self, events: &[Event]) {
        if !events.is_empty() {
            self.state.apply(events);
        }
    }
}

#[cfg(test)]
mod tests;
