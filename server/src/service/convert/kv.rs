//! The KV service's messages. Requests become core queries and commands, checked in etcd's order (rules
//! KV-R1, KV-R2, KV-P1, KV-T3 to KV-T5); answers become messages with the headers of rules H3 to H6.

use bytes::Bytes;
use kvd_core::command::{
    Compact, Compare, CompareOperator, CompareTarget, DeleteRange, Put, RangeQuery, RevisionFilter,
    SortOrder, SortTarget, Txn, TxnOp,
};
use kvd_core::event::KeyValue;
use kvd_core::ids::{LeaseId, Revision};
use kvd_core::limits::TXN_DEPTH_MAX;
use kvd_core::mvcc::txn::check_overlap;
use kvd_core::outcome::{DeleteAnswer, OpAnswer, PutAnswer, RangeAnswer, Rejection, TxnAnswer};
use kvd_core::range::KeyRange;
use kvd_proto::etcdserverpb as pb;
use kvd_proto::etcdserverpb::compare::{
    CompareResult as PbResult, CompareTarget as PbTarget, TargetUnion,
};
use kvd_proto::etcdserverpb::request_op::Request as OpRequest;
use kvd_proto::etcdserverpb::response_op::Response as OpResponse;
use kvd_proto::mvccpb;

use super::op_header;

/// A range as core query (rules KV-R1 to KV-R3, KV-R7).
pub(crate) fn range_query(request: pb::RangeRequest) -> Result<RangeQuery, Rejection> {
    require_key(&request.key)?;
    let sort_order = sort_order(request.sort_order)?;
    let sort_target = sort_target(request.sort_target)?;
    Ok(RangeQuery {
        range: KeyRange::new(request.key, request.range_end),
        revision: (request.revision > 0).then_some(Revision(request.revision)),
        limit: u64::try_from(request.limit).ok().filter(|limit| *limit > 0),
        sort_target,
        sort_order,
        keys_only: request.keys_only,
        count_only: request.count_only,
        filter: RevisionFilter {
            min_mod: request.min_mod_revision,
            max_mod: request.max_mod_revision,
            min_create: request.min_create_revision,
            max_create: request.max_create_revision,
        },
    })
}

/// A put as core command (rule KV-P1).
pub(crate) fn put(request: pb::PutRequest) -> Result<Put, Rejection> {
    require_key(&request.key)?;
    if request.ignore_value && !request.value.is_empty() {
        return Err(Rejection::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(Rejection::LeaseProvided);
    }
    Ok(Put {
        key: request.key,
        value: request.value,
        lease: LeaseId(request.lease),
        prev_kv: request.prev_kv,
        ignore_value: request.ignore_value,
        ignore_lease: request.ignore_lease,
    })
}

/// A delete as core command.
pub(crate) fn delete_range(request: pb::DeleteRangeRequest) -> Result<DeleteRange, Rejection> {
    require_key(&request.key)?;
    Ok(DeleteRange {
        range: KeyRange::new(request.key, request.range_end),
        prev_kv: request.prev_kv,
    })
}

/// A transaction as core command: counts, keys and operations of the whole tree, then overlaps (rule KV-T4).
pub(crate) fn txn(request: pb::TxnRequest, ops_max: usize) -> Result<Txn, Rejection> {
    let txn = txn_level(request, ops_max, TXN_DEPTH_MAX)?;
    check_overlap(&txn)?;
    Ok(txn)
}

/// A compaction as core command.
pub(crate) fn compact(request: pb::CompactionRequest) -> Compact {
    Compact { revision: request.revision }
}

/// Whether a transaction needs no log: no branch of this level writes or nests (rule KV-T12).
pub(crate) fn is_read_only(request: &pb::TxnRequest) -> bool {
    let mut ops = request.success.iter().chain(&request.failure);
    ops.all(|op| matches!(&op.request, Some(OpRequest::RequestRange(_))))
}

/// Whether a read-only transaction may be answered from local state: it reads, and every read allows it.
///
/// One that only compares would count as such in etcd; here it takes the barrier (the design's answer to
/// the stale answers that this gives there).
pub(crate) fn is_serializable(request: &pb::TxnRequest) -> bool {
    let mut ops = request.success.iter().chain(&request.failure).peekable();
    ops.peek().is_some()
        && ops.all(
            |op| matches!(&op.request, Some(OpRequest::RequestRange(range)) if range.serializable),
        )
}

/// Bytes a put costs against the quota (behaviour.md 6.4).
pub(crate) fn put_cost(request: &pb::PutRequest) -> u64 {
    /// What etcd assumes that a key costs beside its bytes.
    const OVERHEAD_BYTES: usize = 256;
    (OVERHEAD_BYTES + request.key.len() + request.value.len()) as u64
}

/// Bytes a transaction costs against the quota: its worse branch, nested ones counted (behaviour.md 6.4).
pub(crate) fn txn_cost(request: &pb::TxnRequest) -> u64 {
    let branch = |ops: &[pb::RequestOp]| ops.iter().map(op_cost).sum::<u64>();
    branch(&request.success).max(branch(&request.failure))
}

/// A range's answer as message; the header is the caller's.
pub(crate) fn range_response(answer: RangeAnswer) -> pb::RangeResponse {
    pb::RangeResponse {
        header: None,
        kvs: answer.kvs.into_iter().map(key_value).collect(),
        more: answer.more,
        count: answer.count,
    }
}

/// A put's answer as message; the header is the caller's.
pub(crate) fn put_response(answer: PutAnswer) -> pb::PutResponse {
    pb::PutResponse { header: None, prev_kv: answer.prev_kv.map(key_value) }
}

/// A delete's answer as message; the header is the caller's.
pub(crate) fn delete_response(answer: DeleteAnswer) -> pb::DeleteRangeResponse {
    pb::DeleteRangeResponse {
        header: None,
        deleted: answer.deleted,
        prev_kvs: answer.prev_kvs.into_iter().map(key_value).collect(),
    }
}

/// A transaction's answer as message; the header of this level is the caller's.
pub(crate) fn txn_response(answer: TxnAnswer) -> pb::TxnResponse {
    pb::TxnResponse {
        header: None,
        succeeded: answer.succeeded,
        responses: answer.responses.into_iter().map(op_response).collect(),
    }
}

/// A key as message.
pub(crate) fn key_value(kv: KeyValue) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: kv.key,
        create_revision: kv.create_revision.0,
        mod_revision: kv.mod_revision.0,
        version: kv.version,
        value: kv.value,
        lease: kv.lease.0,
    }
}

fn require_key(key: &Bytes) -> Result<(), Rejection> {
    if key.is_empty() { Err(Rejection::EmptyKey) } else { Ok(()) }
}

fn sort_order(number: i32) -> Result<SortOrder, Rejection> {
    use pb::range_request::SortOrder as Wire;
    match Wire::try_from(number) {
        Ok(Wire::None) => Ok(SortOrder::None),
        Ok(Wire::Ascend) => Ok(SortOrder::Ascend),
        Ok(Wire::Descend) => Ok(SortOrder::Descend),
        Err(_) => Err(Rejection::InvalidSortOption),
    }
}

fn sort_target(number: i32) -> Result<SortTarget, Rejection> {
    use pb::range_request::SortTarget as Wire;
    match Wire::try_from(number) {
        Ok(Wire::Key) => Ok(SortTarget::Key),
        Ok(Wire::Version) => Ok(SortTarget::Version),
        Ok(Wire::Create) => Ok(SortTarget::Create),
        Ok(Wire::Mod) => Ok(SortTarget::Mod),
        Ok(Wire::Value) => Ok(SortTarget::Value),
        Err(_) => Err(Rejection::InvalidSortOption),
    }
}

/// One level of the tree. What it uses of the budget is gone for the levels inside it (rule KV-T3).
fn txn_level(request: pb::TxnRequest, budget: usize, depth: usize) -> Result<Txn, Rejection> {
    let ops = request.compare.len().max(request.success.len()).max(request.failure.len());
    if ops > budget || depth == 0 {
        return Err(Rejection::TooManyOperations);
    }
    let compares = request.compare.into_iter().map(compare).collect::<Result<_, _>>()?;
    let branch = |ops_of_branch: Vec<pb::RequestOp>| -> Result<Vec<TxnOp>, Rejection> {
        ops_of_branch.into_iter().map(|op| txn_op(op, budget - ops, depth - 1)).collect()
    };
    Ok(Txn { compares, success: branch(request.success)?, failure: branch(request.failure)? })
}

fn txn_op(op: pb::RequestOp, budget: usize, depth: usize) -> Result<TxnOp, Rejection> {
    match op.request {
        Some(OpRequest::RequestRange(request)) => Ok(TxnOp::Range(range_query(request)?)),
        Some(OpRequest::RequestPut(request)) => Ok(TxnOp::Put(put(request)?)),
        Some(OpRequest::RequestDeleteRange(request)) => {
            Ok(TxnOp::DeleteRange(delete_range(request)?))
        }
        Some(OpRequest::RequestTxn(request)) => Ok(TxnOp::Txn(txn_level(request, budget, depth)?)),
        // Rule KV-T5.
        None => Err(Rejection::KeyNotFound),
    }
}

/// Numbers that etcd does not define are kept as unknown (rule KV-T14); a given side of another kind than
/// the target's counts as not given (rule KV-T6).
fn compare(compare: pb::Compare) -> Result<Compare, Rejection> {
    require_key(&compare.key)?;
    let operator = match PbResult::try_from(compare.result) {
        Ok(PbResult::Equal) => CompareOperator::Equal,
        Ok(PbResult::Greater) => CompareOperator::Greater,
        Ok(PbResult::Less) => CompareOperator::Less,
        Ok(PbResult::NotEqual) => CompareOperator::NotEqual,
        Err(_) => CompareOperator::Unknown,
    };
    let given = compare.target_union;
    let target = match (PbTarget::try_from(compare.target), given) {
        (Ok(PbTarget::Version), Some(TargetUnion::Version(n))) => CompareTarget::Version(n),
        (Ok(PbTarget::Version), _) => CompareTarget::Version(0),
        (Ok(PbTarget::Create), Some(TargetUnion::CreateRevision(n))) => CompareTarget::Create(n),
        (Ok(PbTarget::Create), _) => CompareTarget::Create(0),
        (Ok(PbTarget::Mod), Some(TargetUnion::ModRevision(n))) => CompareTarget::Mod(n),
        (Ok(PbTarget::Mod), _) => CompareTarget::Mod(0),
        (Ok(PbTarget::Value), Some(TargetUnion::Value(value))) => CompareTarget::Value(value),
        (Ok(PbTarget::Value), _) => CompareTarget::Value(Bytes::new()),
        (Ok(PbTarget::Lease), Some(TargetUnion::Lease(n))) => CompareTarget::Lease(n),
        (Ok(PbTarget::Lease), _) => CompareTarget::Lease(0),
        (Err(_), _) => CompareTarget::Unknown,
    };
    Ok(Compare { range: KeyRange::new(compare.key, compare.range_end), operator, target })
}

fn op_cost(op: &pb::RequestOp) -> u64 {
    match &op.request {
        Some(OpRequest::RequestPut(request)) => put_cost(request),
        Some(OpRequest::RequestTxn(request)) => txn_cost(request),
        Some(OpRequest::RequestRange(_) | OpRequest::RequestDeleteRange(_)) | None => 0,
    }
}

fn op_response(answer: OpAnswer) -> pb::ResponseOp {
    let response = match answer {
        OpAnswer::Range(answer, revision) => OpResponse::ResponseRange(pb::RangeResponse {
            header: op_header(revision),
            ..range_response(answer)
        }),
        OpAnswer::Put(answer, revision) => OpResponse::ResponsePut(pb::PutResponse {
            header: op_header(revision),
            ..put_response(answer)
        }),
        OpAnswer::DeleteRange(answer, revision) => {
            OpResponse::ResponseDeleteRange(pb::DeleteRangeResponse {
                header: op_header(revision),
                ..delete_response(answer)
            })
        }
        // Present, but empty (rule H5).
        OpAnswer::Txn(answer) => OpResponse::ResponseTxn(pb::TxnResponse {
            header: Some(pb::ResponseHeader::default()),
            ..txn_response(answer)
        }),
    };
    pb::ResponseOp { response: Some(response) }
}

#[cfg(test)]
mod tests;
