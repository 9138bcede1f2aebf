//! Transactions by the rules KV-T.

use std::cmp::Ordering;

use bytes::Bytes;
use kvd_core::command::{Compare, CompareOperator, CompareTarget, Txn, TxnOp};
use kvd_core::event::KeyValue;
use kvd_core::ids::Revision;
use kvd_core::outcome::OpAnswer;
use kvd_core::range::KeyRange;

use super::expect::{OpExpect, RangeExpect, TxnExpect};
use super::store::{Keys, Model, Refusal, Work, check_kept, within};

impl Model {
    /// Compares, checks the chosen path, runs it (rules KV-T1, KV-T2, KV-T9).
    pub(crate) fn txn(&self, txn: &Txn, work: &mut Work) -> Result<TxnExpect, Refusal> {
        let mut refusal = Refusal::new();
        self.check(txn, &mut refusal);
        if !refusal.is_empty() {
            return Err(refusal);
        }
        let answer = self.run(txn, work);
        // Rule H6.
        Ok(TxnExpect { revision: work.header(), ..answer })
    }

    /// Everything on the chosen path is checked before anything runs, against what was there before.
    fn check(&self, txn: &Txn, refusal: &mut Refusal) {
        for op in chosen(txn, self.latest()).1 {
            let checked = match op {
                TxnOp::Range(query) => {
                    query.revision.map_or(Ok(()), |at| self.at(at.0).map(|_| ()))
                }
                // Inside a transaction what is to be kept comes before the lease (rule KV-P2).
                TxnOp::Put(put) => {
                    check_kept(put, self.latest()).and_then(|()| self.check_lease(put))
                }
                TxnOp::DeleteRange(_) => Ok(()),
                TxnOp::Txn(nested) => {
                    self.check(nested, refusal);
                    Ok(())
                }
            };
            refusal.extend(checked.err());
        }
    }

    fn run(&self, txn: &Txn, work: &mut Work) -> TxnExpect {
        let (succeeded, ops) = chosen(txn, self.latest());
        let responses = ops.iter().map(|op| self.run_op(op, work)).collect();
        // A nested answer has an empty header (rule H5).
        TxnExpect { succeeded, responses, revision: Revision(0) }
    }

    fn run_op(&self, op: &TxnOp, work: &mut Work) -> OpExpect {
        match op {
            TxnOp::Range(query) => {
                // Rules M9, KV-T10: the latest revision is that of the transaction itself.
                let keys = match query.revision {
                    Some(revision) => self.at(revision.0).unwrap(),
                    None => &work.keys,
                };
                OpExpect::Range(RangeExpect::new(keys, query), work.header())
            }
            TxnOp::Put(put) => {
                let answer = work.put(put);
                OpExpect::Plain(OpAnswer::Put(answer, work.header()))
            }
            TxnOp::DeleteRange(delete) => {
                let answer = work.delete(delete);
                OpExpect::Plain(OpAnswer::DeleteRange(answer, work.header()))
            }
            TxnOp::Txn(nested) => OpExpect::Txn(self.run(nested, work)),
        }
    }
}

/// The branch that the comparisons choose, all of them evaluated against the same keys (rules KV-T1, KV-T2).
pub(crate) fn chosen<'a>(txn: &'a Txn, keys: &Keys) -> (bool, &'a [TxnOp]) {
    let succeeded = txn.compares.iter().all(|compare| holds(compare, keys));
    (succeeded, if succeeded { &txn.success } else { &txn.failure })
}

/// Rules KV-T6, KV-T7, KV-T14.
fn holds(compare: &Compare, keys: &Keys) -> bool {
    let mut found: Vec<KeyValue> = keys.values().map(|live| live.kv.clone()).collect();
    found.retain(|kv| within(&compare.range, &kv.key));
    if found.is_empty() {
        if matches!(compare.target, CompareTarget::Value(_)) {
            return false;
        }
        found.push(KeyValue::default());
    }
    found.iter().all(|kv| {
        let order = match &compare.target {
            CompareTarget::Version(given) => kv.version.cmp(given),
            CompareTarget::Create(given) => kv.create_revision.0.cmp(given),
            CompareTarget::Mod(given) => kv.mod_revision.0.cmp(given),
            CompareTarget::Value(given) => kv.value.cmp(given),
            CompareTarget::Lease(given) => kv.lease.0.cmp(given),
            CompareTarget::Unknown => Ordering::Equal,
        };
        match compare.operator {
            CompareOperator::Equal => order == Ordering::Equal,
            CompareOperator::Greater => order == Ordering::Greater,
            CompareOperator::Less => order == Ordering::Less,
            CompareOperator::NotEqual => order != Ordering::Equal,
            CompareOperator::Unknown => true,
        }
    })
}

/// A put or a delete of a branch, and the way to it: place in the branch, then branch and place of each
/// transaction it is nested in.
struct Leaf<'a> {
    way: Vec<(usize, bool)>,
    change: Change<'a>,
}

enum Change<'a> {
    Put(&'a Bytes),
    Delete(&'a KeyRange),
}

/// Whether the duplicate rule accepts the transaction (rules KV-T8, KV-T8a).
pub(crate) fn accepted(txn: &Txn) -> bool {
    accepted_branch(&txn.success) && accepted_branch(&txn.failure)
}

/// The same of one branch: every pair of its changes is looked at.
pub(crate) fn accepted_branch(branch: &[TxnOp]) -> bool {
    let mut leaves = Vec::new();
    collect(branch, &[], false, &mut leaves);
    leaves
        .iter()
        .enumerate()
        .all(|(at, first)| leaves[at + 1..].iter().all(|second| !conflict(first, second)))
}

fn collect<'a>(ops: &'a [TxnOp], way: &[(usize, bool)], branch: bool, leaves: &mut Vec<Leaf<'a>>) {
    for (place, op) in ops.iter().enumerate() {
        let way = [way, &[(place, branch)]].concat();
        match op {
            TxnOp::Range(_) => {}
            TxnOp::Put(put) => leaves.push(Leaf { way, change: Change::Put(&put.key) }),
            TxnOp::DeleteRange(d) => leaves.push(Leaf { way, change: Change::Delete(&d.range) }),
            TxnOp::Txn(nested) => {
                collect(&nested.success, &way, true, leaves);
                collect(&nested.failure, &way, false, leaves);
            }
        }
    }
}

/// Whether two changes may not stand together; `first` comes first.
fn conflict(first: &Leaf<'_>, second: &Leaf<'_>) -> bool {
    let fork = first.way.iter().zip(&second.way).take_while(|(a, b)| a == b).count();
    let (_, one) = first.way[fork];
    let (_, other) = second.way[fork];
    if one != other {
        // Success and failure of the same nested transaction: only one of them runs.
        return false;
    }
    let nested = |leaf: &Leaf<'_>| leaf.way.len() > fork + 1;
    let covers = |range: &KeyRange, key: &Bytes| {
        // Gap (a): an open end covers nothing.
        !matches!(range, KeyRange::From(_)) && within(range, key)
    };
    match (&first.change, &second.change) {
        (Change::Put(one), Change::Put(other)) => one == other,
        (Change::Delete(_), Change::Delete(_)) => false,
        (Change::Delete(range), Change::Put(key)) => covers(range, key),
        // Gap (b): among nested siblings only an earlier delete is held against a put.
        (Change::Put(key), Change::Delete(range)) => {
            covers(range, key) && !(nested(first) && nested(second))
        }
    }
}
