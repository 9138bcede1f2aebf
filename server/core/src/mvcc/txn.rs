//! Transactions: compare, choose, check, and only then execute (rules KV-T).
//!
//! Every comparison of the whole tree is decided before anything is written, the chosen path is checked before
//! anything is written, and what is checked is never refused later: so a transaction is all or nothing.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ops::ControlFlow;

use bytes::Bytes;

use super::history::ReadError;
use super::index::Found;
use super::range::{Count, Reader};
use super::write::{Writing, check_put_ignores, check_put_key, check_put_lease};
use crate::command::{Compare, CompareOperator, CompareTarget, RangeQuery, Txn, TxnOp};
use crate::ids::{LeaseId, Revision};
use crate::limits::TXN_DEPTH_MAX;
use crate::mutants::{Mutant, active};
use crate::outcome::{Fatal, OpAnswer, RangeAnswer, Rejection, TxnAnswer};
use crate::range::KeyRange;

/// The branches that a transaction takes, nested ones included.
#[derive(Debug)]
pub(crate) struct Path {
    succeeded: bool,
    /// Paths of the nested transactions of the chosen branch, in order.
    nested: Vec<Self>,
}

impl Path {
    fn branch<'t>(&self, txn: &'t Txn) -> &'t [TxnOp] {
        if self.succeeded { &txn.success } else { &txn.failure }
    }
}

/// Decides all comparisons against the state before the transaction (rule KV-T2).
pub(crate) fn decide(reader: &Reader<'_>, txn: &Txn) -> Result<Path, ReadError> {
    let mut path = Path { succeeded: true, nested: Vec::new() };
    for compare in &txn.compares {
        if !holds(reader, compare)? {
            path.succeeded = false;
            break;
        }
    }
    for op in path.branch(txn) {
        if let TxnOp::Txn(inner) = op {
            path.nested.push(decide(reader, inner)?);
        }
    }
    Ok(path)
}

/// Checks the chosen path before anything of it is executed (rule KV-T9): as etcd, all its puts first, wherever
/// they stand, then all its reads.
pub(crate) fn check(reader: &Reader<'_>, txn: &Txn, path: &Path) -> Result<(), Rejection> {
    each_op(txn, path, &mut |op| match op {
        TxnOp::Put(put) => {
            check_put_key(put)?;
            // In a transaction 3.6 looks at ignore_* before the lease (rule KV-P2).
            check_put_ignores(reader, put)?;
            check_put_lease(reader.shared, put)
        }
        _ => Ok(()),
    })?;
    each_op(txn, path, &mut |op| match op {
        TxnOp::Range(query) => reader.resolve(query.revision).map(|_| ()),
        _ => Ok(()),
    })
}

/// Visits the operations of the chosen path in order, those of nested transactions in their place.
fn each_op(
    txn: &Txn,
    path: &Path,
    visit: &mut dyn FnMut(&TxnOp) -> Result<(), Rejection>,
) -> Result<(), Rejection> {
    let mut nested = path.nested.iter();
    for op in path.branch(txn) {
        match op {
            TxnOp::Txn(inner) => {
                let path = nested.next().expect("a path has one part for each nested transaction");
                each_op(inner, path, visit)?;
            }
            op => visit(op)?,
        }
    }
    Ok(())
}

/// Executes the chosen path, which was checked.
pub(crate) fn execute(
    writing: &mut Writing<'_>,
    txn: &Txn,
    path: &Path,
) -> Result<TxnAnswer, Fatal> {
    let mut nested = path.nested.iter();
    let mut responses = Vec::new();
    for op in path.branch(txn) {
        if active(Mutant::TxnTornApart) {
            writing.begin = writing.revision();
        }
        let response = match op {
            TxnOp::Range(query) => {
                let answer = range(writing, query)?;
                OpAnswer::Range(answer, writing.revision())
            }
            TxnOp::Put(put) => {
                let answer = writing.put(put)?;
                OpAnswer::Put(answer, writing.revision())
            }
            TxnOp::DeleteRange(delete) => {
                let answer = writing.delete_range(delete)?;
                OpAnswer::DeleteRange(answer, writing.revision())
            }
            TxnOp::Txn(inner) => {
                let path = nested.next().expect("a path has one part for each nested transaction");
                OpAnswer::Txn(execute(writing, inner, path)?)
            }
        };
        responses.push(response);
    }
    // A nested answer's header is empty (rule H5); the outermost one is set by the caller (rule H6).
    Ok(TxnAnswer { succeeded: path.succeeded, responses, revision: Revision(0) })
}

fn range(writing: &Writing<'_>, query: &RangeQuery) -> Result<RangeAnswer, Fatal> {
    if !writing.want_response {
        return Ok(RangeAnswer::default());
    }
    let answer = writing.reader().range(query, Count::Range).map_err(ReadError::into_fatal)?;
    answer
        .map_err(|rejection| Fatal::Invariant(format!("a checked range was refused: {rejection}")))
}

/// Executes a transaction that only reads.
pub(crate) fn read(
    reader: &Reader<'_>,
    txn: &Txn,
    path: &Path,
) -> Result<Result<TxnAnswer, Rejection>, ReadError> {
    let mut nested = path.nested.iter();
    let mut responses = Vec::new();
    for op in path.branch(txn) {
        match op {
            TxnOp::Range(query) => match reader.range(query, Count::Range)? {
                Ok(answer) => responses.push(OpAnswer::Range(answer, reader.revision)),
                Err(rejection) => return Ok(Err(rejection)),
            },
            TxnOp::Txn(inner) => {
                let path = nested.next().expect("a path has one part for each nested transaction");
                match read(reader, inner, path)? {
                    Ok(answer) => responses.push(OpAnswer::Txn(answer)),
                    Err(rejection) => return Ok(Err(rejection)),
                }
            }
            TxnOp::Put(_) | TxnOp::DeleteRange(_) => {
                let broken = "a transaction that writes was asked of a View";
                return Err(Fatal::Invariant(broken.into()).into());
            }
        }
    }
    Ok(Ok(TxnAnswer { succeeded: path.succeeded, responses, revision: Revision(0) }))
}

/// Whether any branch, nested ones included, contains a put (behaviour.md 6.3, 6.4).
pub(crate) fn may_put(txn: &Txn) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match op {
        TxnOp::Put(_) => true,
        TxnOp::Txn(inner) => may_put(inner),
        TxnOp::Range(_) | TxnOp::DeleteRange(_) => false,
    })
}

/// Whether a comparison holds for every key of its range (rules KV-T6, KV-T7).
fn holds(reader: &Reader<'_>, compare: &Compare) -> Result<bool, ReadError> {
    let mut any = false;
    let mut all = true;
    reader.pages(&compare.range, |page| {
        for found in page {
            any = true;
            if !matches(compare.operator, order(reader, &compare.target, &found)?) {
                all = false;
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    })?;
    if any {
        return Ok(all);
    }
    Ok(match compare.target {
        // Of an absent key no value compare holds, not even "differs" (rule KV-T7).
        CompareTarget::Value(_) => false,
        CompareTarget::Version(given)
        | CompareTarget::Create(given)
        | CompareTarget::Mod(given)
        | CompareTarget::Lease(given) => matches(compare.operator, 0.cmp(&given)),
        CompareTarget::Unknown => matches(compare.operator, Ordering::Equal),
    })
}

/// How the stored side stands to the given one.
fn order(
    reader: &Reader<'_>,
    target: &CompareTarget,
    found: &Found,
) -> Result<Ordering, ReadError> {
    Ok(match target {
        CompareTarget::Version(given) => reader.numbers(found)?.version.cmp(given),
        CompareTarget::Create(given) => reader.numbers(found)?.create_revision.0.cmp(given),
        CompareTarget::Mod(given) => found.version.main().0.cmp(given),
        CompareTarget::Value(given) => reader.value(found)?.value.cmp(given),
        CompareTarget::Lease(given) => reader.numbers(found)?.lease.cmp(&LeaseId(*given)),
        CompareTarget::Unknown => Ordering::Equal,
    })
}

fn matches(operator: CompareOperator, stored_to_given: Ordering) -> bool {
    match operator {
        CompareOperator::Equal => stored_to_given.is_eq(),
        CompareOperator::Greater => stored_to_given.is_gt(),
        CompareOperator::Less => stored_to_given.is_lt(),
        CompareOperator::NotEqual => stored_to_given.is_ne(),
        // Rule KV-T14.
        CompareOperator::Unknown => true,
    }
}

/// Refuses a transaction that puts a key twice, or puts what it deletes, in one branch (rule KV-T8).
///
/// It has the gaps that etcd accepts (rule KV-T8a): an open-ended delete covers nothing, and of nested siblings
/// a delete is not held against a put of an earlier one. Called before a transaction is proposed. One that is
/// nested deeper than a proposal can be is refused here too: no member could read it from the log.
pub fn check_overlap(txn: &Txn) -> Result<(), Rejection> {
    Writes::of(&txn.success, 1)?;
    Writes::of(&txn.failure, 1)?;
    Ok(())
}

/// What a branch writes, as far as the duplicate rule looks.
#[derive(Default)]
struct Writes {
    puts: BTreeSet<Bytes>,
    deletes: Vec<KeyRange>,
}

impl Writes {
    fn of(branch: &[TxnOp], depth: usize) -> Result<Self, Rejection> {
        if depth > TXN_DEPTH_MAX {
            return Err(Rejection::TooManyOperations);
        }
        let mut writes = Self::default();
        for op in branch {
            if let TxnOp::DeleteRange(delete) = op {
                writes.deletes.push(delete.range.clone());
            }
        }
        for op in branch {
            if let TxnOp::Txn(inner) = op {
                writes.add_nested(inner, depth + 1)?;
            }
        }
        for op in branch {
            if let TxnOp::Put(put) = op {
                writes.check(&put.key)?;
                writes.puts.insert(put.key.clone());
            }
        }
        Ok(writes)
    }

    /// Only one branch of a nested transaction runs, so its two branches are not held against each other.
    fn add_nested(&mut self, inner: &Txn, depth: usize) -> Result<(), Rejection> {
        let success = Self::of(&inner.success, depth)?;
        let failure = Self::of(&inner.failure, depth)?;
        for key in success.puts.union(&failure.puts) {
            self.check(key)?;
        }
        self.puts.extend(success.puts);
        self.puts.extend(failure.puts);
        self.deletes.extend(success.deletes);
        self.deletes.extend(failure.deletes);
        Ok(())
    }

    fn check(&self, key: &Bytes) -> Result<(), Rejection> {
        let covers = |range: &KeyRange| !matches!(range, KeyRange::From(_)) && range.contains(key);
        if self.puts.contains(key) || self.deletes.iter().any(covers) {
            return Err(Rejection::DuplicateKey);
        }
        Ok(())
    }
}
