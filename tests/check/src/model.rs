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
        Request::Txn(txn) => work.run(txn)?,
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

/// Whether a condition holds for every key that it means.
fn holds(view: View<'_>, compare: &Compare) -> bool {
    if let Some(key) = compare.keys.single() {
        return view.get(key).map_or_else(|| absent_relates(compare), |kv| relates(kv, compare));
    }
    let found = view.range(&compare.keys);
    if found.is_empty() {
        return absent_relates(compare);
    }
    found.into_iter().all(|kv| relates(kv, compare))
}

/// Nothing compares with the value of an absent key, not even as different (KV-T7).
fn absent_relates(compare: &Compare) -> bool {
    let by_value = matches!(compare.target, Target::Value(_));
    !by_value && relates(&KeyValue::default(), compare)
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

    /// All compares look at the store before it, those of a transaction within too (KV-T2): so does the view.
    /// What fails does nothing at all (KV-T9): who gets an error never sees the events before it.
    fn run(&mut self, txn: &TxnRequest) -> Result<Reply, Refusal> {
        let succeeded = txn.compares.iter().all(|compare| holds(self.view, compare));
        let branch = if succeeded { &txn.success } else { &txn.failure };
        let mut replies = Vec::with_capacity(branch.len());
        for op in branch {
            replies.push(match op {
                TxnOp::Range(range) => Reply::Range(self.read(range)?),
                TxnOp::Put(put) => self.put(put),
                TxnOp::DeleteRange(delete) => self.delete(delete),
                TxnOp::Txn(txn) => self.run(txn)?,
            });
        }
        Ok(Reply::Txn { succeeded, replies })
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
        let mut found: Vec<KeyValue> = before.cloned().collect();
        for event in self.events.iter().filter(|event| keys.contains(&event.kv.key)) {
            let place = found.binary_search_by(|kv| kv.key.cmp(&event.kv.key));
            match (event.kind, place) {
                (EventKind::Put, Ok(place)) => found[place] = event.kv.clone(),
                (EventKind::Put, Err(place)) => found.insert(place, event.kv.clone()),
                (EventKind::Delete, Ok(place)) => drop(found.remove(place)),
                (EventKind::Delete, Err(_)) => {}
            }
        }
        found
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
