//! The checkers' requests and answers as messages of the wire, and back.

use kvd_check::{
    Compare, DeleteRequest, Event, EventKind, KeyRange, KeyValue, PutRequest, RangeReply,
    RangeRequest, Relation, Reply, Response, Target, TxnOp, TxnRequest, WatchRequest,
};
use kvd_proto::etcdserverpb as pb;
use kvd_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use kvd_proto::etcdserverpb::request_op::Request as Action;
use kvd_proto::etcdserverpb::response_op::Response as Answer;
use kvd_proto::mvccpb;

fn bytes(bytes: &kvd_check::Bytes) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(bytes)
}

/// A read.
#[must_use]
pub fn range(request: &RangeRequest) -> pb::RangeRequest {
    pb::RangeRequest {
        key: bytes(&request.keys.key),
        range_end: bytes(&request.keys.range_end),
        revision: request.revision,
        serializable: request.serializable,
        limit: request.limit,
        keys_only: request.keys_only,
        count_only: request.count_only,
        ..Default::default()
    }
}

/// A put.
#[must_use]
pub fn put(request: &PutRequest) -> pb::PutRequest {
    pb::PutRequest {
        key: bytes(&request.key),
        value: bytes(&request.value),
        lease: request.lease,
        prev_kv: request.prev_kv,
        ..Default::default()
    }
}

/// A delete.
#[must_use]
pub fn delete(request: &DeleteRequest) -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest {
        key: bytes(&request.keys.key),
        range_end: bytes(&request.keys.range_end),
        prev_kv: request.prev_kv,
    }
}

/// A transaction.
#[must_use]
pub fn txn(request: &TxnRequest) -> pb::TxnRequest {
    pb::TxnRequest {
        compare: request.compares.iter().map(compare).collect(),
        success: request.success.iter().map(op).collect(),
        failure: request.failure.iter().map(op).collect(),
    }
}

fn compare(compare: &Compare) -> pb::Compare {
    let (target, union) = match &compare.target {
        Target::Value(value) => (CompareTarget::Value, TargetUnion::Value(bytes(value))),
        Target::Version(version) => (CompareTarget::Version, TargetUnion::Version(*version)),
        Target::Create(revision) => (CompareTarget::Create, TargetUnion::CreateRevision(*revision)),
        Target::Mod(revision) => (CompareTarget::Mod, TargetUnion::ModRevision(*revision)),
        Target::Lease(lease) => (CompareTarget::Lease, TargetUnion::Lease(*lease)),
    };
    let result = match compare.result {
        Relation::Equal => CompareResult::Equal,
        Relation::NotEqual => CompareResult::NotEqual,
        Relation::Greater => CompareResult::Greater,
        Relation::Less => CompareResult::Less,
    };
    pb::Compare {
        result: result.into(),
        target: target.into(),
        key: bytes(&compare.keys.key),
        range_end: bytes(&compare.keys.range_end),
        target_union: Some(union),
    }
}

fn op(op: &TxnOp) -> pb::RequestOp {
    let action = match op {
        TxnOp::Range(request) => Action::RequestRange(range(request)),
        TxnOp::Put(request) => Action::RequestPut(put(request)),
        TxnOp::DeleteRange(request) => Action::RequestDeleteRange(delete(request)),
        TxnOp::Txn(request) => Action::RequestTxn(txn(request)),
    };
    pb::RequestOp { request: Some(action) }
}

/// A watch.
#[must_use]
pub fn watch(request: &WatchRequest) -> pb::WatchCreateRequest {
    use pb::watch_create_request::FilterType;
    let mut filters: Vec<i32> = Vec::new();
    if request.no_put {
        filters.push(FilterType::Noput.into());
    }
    if request.no_delete {
        filters.push(FilterType::Nodelete.into());
    }
    pb::WatchCreateRequest {
        key: bytes(&request.keys.key),
        range_end: bytes(&request.keys.range_end),
        start_revision: request.start_revision,
        filters,
        prev_kv: request.prev_kv,
        fragment: request.fragment,
        ..Default::default()
    }
}

/// A pair of an answer.
#[must_use]
pub fn key_value(kv: &mvccpb::KeyValue) -> KeyValue {
    KeyValue {
        key: (*kv.key).into(),
        value: (*kv.value).into(),
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        lease: kv.lease,
    }
}

/// The answer to a read.
#[must_use]
pub fn range_reply(answer: &pb::RangeResponse) -> RangeReply {
    let kvs = answer.kvs.iter().map(key_value).collect();
    RangeReply { kvs, more: answer.more, count: answer.count }
}

/// The answer to a put.
#[must_use]
pub fn put_reply(answer: &pb::PutResponse) -> Reply {
    Reply::Put { prev_kv: answer.prev_kv.as_ref().map(key_value) }
}

/// The answer to a delete.
#[must_use]
pub fn delete_reply(answer: &pb::DeleteRangeResponse) -> Reply {
    let prev_kvs = answer.prev_kvs.iter().map(key_value).collect();
    Reply::DeleteRange { deleted: answer.deleted, prev_kvs }
}

/// The answer to a transaction; none if it is not one.
#[must_use]
pub fn txn_reply(answer: &pb::TxnResponse) -> Option<Reply> {
    let replies = answer.responses.iter().map(|op| match op.response.as_ref()? {
        Answer::ResponseRange(answer) => Some(Reply::Range(range_reply(answer))),
        Answer::ResponsePut(answer) => Some(put_reply(answer)),
        Answer::ResponseDeleteRange(answer) => Some(delete_reply(answer)),
        Answer::ResponseTxn(answer) => txn_reply(answer),
    });
    Some(Reply::Txn { succeeded: answer.succeeded, replies: replies.collect::<Option<_>>()? })
}

/// One response of a watch.
#[must_use]
pub fn watch_response(at: u64, response: &pb::WatchResponse) -> Response {
    Response {
        at,
        revision: response.header.as_ref().map_or(0, |header| header.revision),
        events: response.events.iter().map(event).collect(),
        created: response.created,
        canceled: response.canceled,
        compact_revision: response.compact_revision,
        fragment: response.fragment,
    }
}

fn event(event: &mvccpb::Event) -> Event {
    let deleted = event.r#type == i32::from(mvccpb::event::EventType::Delete);
    Event {
        kind: if deleted { EventKind::Delete } else { EventKind::Put },
        kv: event.kv.as_ref().map(key_value).unwrap_or_default(),
        prev_kv: event.prev_kv.as_ref().map(key_value),
    }
}

/// Every key, now, after a barrier.
#[must_use]
pub fn everything() -> RangeRequest {
    RangeRequest::of(KeyRange::all())
}
