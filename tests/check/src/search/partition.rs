//! Takes a window apart into operations on keys that have nothing to do with each other.

use std::collections::{BTreeMap, BTreeSet};

use crate::bytes::Bytes;
use crate::reply::KeyValue;
use crate::request::{KeyRange, Request, TxnOp, TxnRequest};

use super::model::Names;
use super::{Step, Window};

/// Operations that must be ordered together.
#[derive(Debug, Default)]
pub(super) struct Part<'a> {
    pub(super) initial: Vec<KeyValue>,
    pub(super) steps: Vec<&'a Step>,
    pub(super) names: Names,
}

/// Keys, each with one that stands for its group.
struct Groups {
    leaders: BTreeMap<Bytes, Bytes>,
}

impl Groups {
    fn leader(&mut self, key: &Bytes) -> Bytes {
        let mut at = key.clone();
        let mut passed = Vec::new();
        while let Some(next) = self.leaders.get(&at).filter(|next| **next != at) {
            passed.push(std::mem::replace(&mut at, next.clone()));
        }
        for key in passed {
            self.leaders.insert(key, at.clone());
        }
        at
    }

    fn join(&mut self, one: &Bytes, other: &Bytes) {
        let (one, other) = (self.leader(one), self.leader(other));
        self.leaders.insert(one, other);
    }
}

/// Every operation is in one part, and every key.
pub(super) fn parts(window: &Window) -> Vec<Part<'_>> {
    let touched: Vec<Vec<KeyRange>> = window.steps.iter().map(|step| of(&step.request)).collect();
    let mut keys: BTreeSet<Bytes> = window.initial.iter().map(|kv| kv.key.clone()).collect();
    // The beginning of a range stands for it, where no key lies in it.
    keys.extend(touched.iter().flatten().map(|range| range.key.clone()));
    let leaders = keys.iter().map(|key| (key.clone(), key.clone())).collect();
    let mut groups = Groups { leaders };
    for ranges in &touched {
        let Some(first) = ranges.first() else { continue };
        for range in ranges {
            groups.join(&range.key, &first.key);
            if range.single().is_none() {
                let within = keys.range(range.key.clone()..).take_while(|key| range.contains(key));
                within.for_each(|key| groups.join(key, &range.key));
            }
        }
    }
    let mut parts: BTreeMap<Bytes, Part<'_>> = BTreeMap::new();
    for kv in &window.initial {
        parts.entry(groups.leader(&kv.key)).or_default().initial.push(kv.clone());
    }
    for (step, ranges) in window.steps.iter().zip(&touched) {
        let Some(first) = ranges.first() else { continue };
        parts.entry(groups.leader(&first.key)).or_default().steps.push(step);
    }
    for kv in &window.puts {
        if let Some(part) = parts.get_mut(&groups.leader(&kv.key)) {
            part.names.insert((kv.key.clone(), kv.value.clone()), kv.mod_revision);
        }
    }
    parts.into_values().filter(|part| !part.steps.is_empty()).collect()
}

/// What a request looks at or changes.
fn of(request: &Request) -> Vec<KeyRange> {
    match request {
        Request::Range(range) => vec![range.keys.clone()],
        Request::DeleteRange(delete) => vec![delete.keys.clone()],
        Request::Put(put) => vec![KeyRange::one(put.key.clone())],
        Request::Txn(txn) => of_txn(txn),
        _ => Vec::new(),
    }
}

fn of_txn(txn: &TxnRequest) -> Vec<KeyRange> {
    let mut ranges: Vec<KeyRange> =
        txn.compares.iter().map(|compare| compare.keys.clone()).collect();
    for op in txn.success.iter().chain(&txn.failure) {
        match op {
            TxnOp::Range(range) => ranges.push(range.keys.clone()),
            TxnOp::DeleteRange(delete) => ranges.push(delete.keys.clone()),
            TxnOp::Put(put) => ranges.push(KeyRange::one(put.key.clone())),
            TxnOp::Txn(txn) => ranges.extend(of_txn(txn)),
        }
    }
    ranges
}
