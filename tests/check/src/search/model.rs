//! The store without revisions: keys with their values, versions and leases. A write is named by the revision
//! that the log gives it, which is a name here and no number.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::bytes::Bytes;
use crate::reply::{KeyValue, RangeReply, Reply};
use crate::request::{
    Compare, KeyRange, RangeRequest, Relation, Request, Revision, Target, TxnOp, TxnRequest,
};

/// Names of writes, by key and value.
pub(super) type Names = HashMap<(Bytes, Bytes), Revision>;

/// The store at one point of an order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Store {
    keys: BTreeMap<Bytes, KeyValue>,
    /// Sums of the numbers of all keys, kept as they change.
    digest: [u64; 2],
}

impl Store {
    pub(super) fn new(initial: &[KeyValue]) -> Self {
        let mut store = Self::default();
        for kv in initial {
            store.insert(kv.clone());
        }
        store
    }

    /// A number that two stores share only if they are alike, up to accident.
    pub(super) fn digest(&self) -> [u64; 2] {
        self.digest
    }

    fn insert(&mut self, kv: KeyValue) -> Option<KeyValue> {
        let old = self.remove(&kv.key);
        for (sum, number) in self.digest.iter_mut().zip(numbers(&kv)) {
            *sum = sum.wrapping_add(number);
        }
        self.keys.insert(kv.key.clone(), kv);
        old
    }

    fn remove(&mut self, key: &Bytes) -> Option<KeyValue> {
        let old = self.keys.remove(key)?;
        for (sum, number) in self.digest.iter_mut().zip(numbers(&old)) {
            *sum = sum.wrapping_sub(number);
        }
        Some(old)
    }

    /// Does a request and answers it; revisions in the answer are zero.
    pub(super) fn run(&mut self, request: &Request, names: &Names) -> Reply {
        match request {
            Request::Txn(txn) => {
                let branches = self.decide(txn);
                self.txn(txn, &mut branches.into_iter(), names)
            }
            Request::Range(range) => self.range(range),
            Request::Put(put) => {
                let mark = (put.key.clone(), put.value.clone());
                // A write without a name is no revision that a compare could mean.
                let name = names.get(&mark).copied().unwrap_or(Revision::MIN);
                let old = self.keys.get(&put.key);
                let kv = KeyValue {
                    key: put.key.clone(),
                    value: put.value.clone(),
                    create_revision: old.map_or(name, |old| old.create_revision),
                    mod_revision: name,
                    version: old.map_or(0, |old| old.version) + 1,
                    lease: put.lease,
                };
                let old = self.insert(kv);
                Reply::Put { prev_kv: old.filter(|_| put.prev_kv).map(hidden) }
            }
            Request::DeleteRange(delete) => {
                let keys: Vec<Bytes> = self.found(&delete.keys).map(|kv| kv.key.clone()).collect();
                let old = keys.iter().filter_map(|key| self.remove(key)).map(hidden);
                let old: Vec<KeyValue> = old.collect();
                let deleted = i64::try_from(old.len()).unwrap_or(i64::MAX);
                let prev_kvs = if delete.prev_kv { old } else { Vec::new() };
                Reply::DeleteRange { deleted, prev_kvs }
            }
            _ => Reply::Compact,
        }
    }

    /// Which branches are taken, in the order in which transactions stand in each other: all are decided before
    /// anything is done.
    fn decide(&self, txn: &TxnRequest) -> Vec<bool> {
        let taken = txn.compares.iter().all(|compare| self.holds(compare));
        let mut branches = vec![taken];
        for op in if taken { &txn.success } else { &txn.failure } {
            if let TxnOp::Txn(inner) = op {
                branches.extend(self.decide(inner));
            }
        }
        branches
    }

    fn txn(
        &mut self,
        txn: &TxnRequest,
        branches: &mut impl Iterator<Item = bool>,
        names: &Names,
    ) -> Reply {
        let succeeded = branches.next().unwrap_or(false);
        let ops = if succeeded { &txn.success } else { &txn.failure };
        let mut replies = Vec::with_capacity(ops.len());
        for op in ops {
            replies.push(match op {
                TxnOp::Range(range) => self.range(range),
                TxnOp::Put(put) => self.run(&Request::Put(put.clone()), names),
                TxnOp::DeleteRange(delete) => {
                    self.run(&Request::DeleteRange(delete.clone()), names)
                }
                // Through a reference to the trait: else each depth would be a type of its own.
                TxnOp::Txn(inner) => self.txn(inner, &mut *branches, names),
            });
        }
        Reply::Txn { succeeded, replies }
    }

    fn found<'a>(&'a self, keys: &'a KeyRange) -> impl Iterator<Item = &'a KeyValue> {
        self.keys
            .range(keys.key.clone()..)
            .map(|(_, kv)| kv)
            .take_while(|kv| keys.contains(&kv.key))
    }

    /// Reads, and changes nothing.
    pub(super) fn range(&self, range: &RangeRequest) -> Reply {
        let mut kvs: Vec<KeyValue> = self.found(&range.keys).cloned().map(hidden).collect();
        let count = i64::try_from(kvs.len()).unwrap_or(i64::MAX);
        let limit = if range.limit > 0 { range.limit } else { i64::MAX };
        if range.count_only {
            kvs.clear();
        }
        kvs.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        for kv in kvs.iter_mut().filter(|_| range.keys_only) {
            kv.value = Bytes::default();
        }
        Reply::Range(RangeReply { kvs, more: !range.count_only && count > limit, count })
    }

    fn holds(&self, compare: &Compare) -> bool {
        let mut found = self.found(&compare.keys).peekable();
        if found.peek().is_some() {
            return found.all(|kv| relation(Some(kv), &compare.target, compare.result));
        }
        relation(None, &compare.target, compare.result)
    }
}

/// Two numbers that two things share only if they are alike, up to accident.
pub(super) fn numbers(what: &impl Hash) -> [u64; 2] {
    [1_u64, 2].map(|seed| {
        let mut hasher = DefaultHasher::new();
        (seed, what).hash(&mut hasher);
        hasher.finish()
    })
}

fn relation(kv: Option<&KeyValue>, target: &Target, result: Relation) -> bool {
    let numbers = match (target, kv) {
        (Target::Value(_), None) => return false,
        (Target::Value(given), Some(kv)) => return ordered(&kv.value, given, result),
        (Target::Version(given), kv) => (kv.map_or(0, |kv| kv.version), *given),
        (Target::Create(given), kv) => (kv.map_or(0, |kv| kv.create_revision), *given),
        (Target::Mod(given), kv) => (kv.map_or(0, |kv| kv.mod_revision), *given),
        (Target::Lease(given), kv) => (kv.map_or(0, |kv| kv.lease), *given),
    };
    ordered(&numbers.0, &numbers.1, result)
}

fn ordered<T: Ord + ?Sized>(stored: &T, given: &T, result: Relation) -> bool {
    match result {
        Relation::Equal => stored == given,
        Relation::NotEqual => stored != given,
        Relation::Greater => stored > given,
        Relation::Less => stored < given,
    }
}

fn hidden(kv: KeyValue) -> KeyValue {
    KeyValue { create_revision: 0, mod_revision: 0, ..kv }
}

/// An answer without its revisions.
pub(super) fn without_revisions(reply: Reply) -> Reply {
    match reply {
        Reply::Range(range) => {
            let kvs = range.kvs.into_iter().map(hidden).collect();
            Reply::Range(RangeReply { kvs, ..range })
        }
        Reply::Put { prev_kv } => Reply::Put { prev_kv: prev_kv.map(hidden) },
        Reply::DeleteRange { deleted, prev_kvs } => {
            let prev_kvs = prev_kvs.into_iter().map(hidden).collect();
            Reply::DeleteRange { deleted, prev_kvs }
        }
        Reply::Txn { succeeded, replies } => {
            let replies = replies.into_iter().map(without_revisions).collect();
            Reply::Txn { succeeded, replies }
        }
        other => other,
    }
}
