//! The requests that kube-apiserver sends, in the shapes it sends them (kube-apiserver.md §2). The
//! numbers are those of its table.
//!
//! Knows nothing of who is asked, or of answers.

use bytes::Bytes;
use kvd_client::prefix_end;
use kvd_proto::etcdserverpb as pb;
use kvd_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use kvd_proto::etcdserverpb::request_op::Request as Action;
use kvd_proto::etcdserverpb::watch_request::RequestUnion;

/// The key that apiservers agree on compactions with; outside `/registry/`.
pub const COMPACT_REV_KEY: &str = "compact_rev_key";
/// What readiness probes read; normally absent.
pub const HEALTH_KEY: &str = "/registry/health";

/// 1, 9, 10: one key, linearizable.
pub fn get(key: &str) -> pb::RangeRequest {
    pb::RangeRequest { key: bytes(key), limit: 1, ..Default::default() }
}

/// 2: puts a key that must not exist.
pub fn create(key: &str, value: &str, lease: i64) -> pb::TxnRequest {
    txn(unchanged_since(key, 0), put(key, value, lease), None)
}

/// 3: puts a key that must be unchanged since a revision, or reads it.
pub fn update(key: &str, value: &str, lease: i64, since: i64) -> pb::TxnRequest {
    txn(unchanged_since(key, since), put(key, value, lease), Some(read(key)))
}

/// 4: deletes a key that must be unchanged since a revision, or reads it.
pub fn delete(key: &str, since: i64) -> pb::TxnRequest {
    let request = pb::DeleteRangeRequest { key: bytes(key), ..Default::default() };
    let delete = Action::RequestDeleteRange(request);
    txn(unchanged_since(key, since), delete, Some(read(key)))
}

/// 5, 6: a page of a prefix behind `after`, at a revision or at the newest (0).
pub fn page(prefix: &str, after: Option<&[u8]>, limit: i64, revision: i64) -> pb::RangeRequest {
    let key = after.map_or_else(|| bytes(prefix), |last| [last, &[0]].concat().into());
    pb::RangeRequest { key, range_end: end(prefix), limit, revision, ..Default::default() }
}

/// 7: how many keys.
pub fn count(prefix: &str) -> pb::RangeRequest {
    pb::RangeRequest { count_only: true, ..page(prefix, None, 0, 0) }
}

/// 8: which keys.
pub fn keys(prefix: &str) -> pb::RangeRequest {
    pb::RangeRequest { keys_only: true, ..page(prefix, None, 0, 0) }
}

/// 11: claims the next compaction, and names the one that is to be done.
pub fn claim(version: i64, revision: i64) -> pb::TxnRequest {
    let compare = pb::Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Version.into(),
        key: bytes(COMPACT_REV_KEY),
        target_union: Some(TargetUnion::Version(version)),
        ..Default::default()
    };
    let put = put(COMPACT_REV_KEY, &revision.to_string(), 0);
    txn(compare, put, Some(read(COMPACT_REV_KEY)))
}

/// 11: the compaction itself.
pub fn compact(revision: i64) -> pb::CompactionRequest {
    pb::CompactionRequest { revision, physical: false }
}

/// 12: a watch of one key.
pub fn follow(key: &str, start_revision: i64) -> pb::WatchRequest {
    let watch = pb::WatchCreateRequest { key: bytes(key), start_revision, ..Default::default() };
    pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(watch)) }
}

/// 13: a watch of a prefix as caches do it.
pub fn watch(prefix: &str, start_revision: i64) -> pb::WatchRequest {
    let watch = pb::WatchCreateRequest {
        key: bytes(prefix),
        range_end: end(prefix),
        start_revision,
        prev_kv: true,
        progress_notify: true,
        ..Default::default()
    };
    pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(watch)) }
}

/// 14: asks how far a stream is.
pub fn progress() -> pb::WatchRequest {
    let progress = pb::WatchProgressRequest {};
    pb::WatchRequest { request_union: Some(RequestUnion::ProgressRequest(progress)) }
}

/// The end of a prefix.
pub fn end(prefix: &str) -> Bytes {
    prefix_end(prefix.as_bytes())
}

fn bytes(text: &str) -> Bytes {
    text.to_owned().into()
}

fn unchanged_since(key: &str, revision: i64) -> pb::Compare {
    pb::Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Mod.into(),
        key: bytes(key),
        target_union: Some(TargetUnion::ModRevision(revision)),
        ..Default::default()
    }
}

fn put(key: &str, value: &str, lease: i64) -> Action {
    let request =
        pb::PutRequest { key: bytes(key), value: bytes(value), lease, ..Default::default() };
    Action::RequestPut(request)
}

fn read(key: &str) -> Action {
    Action::RequestRange(pb::RangeRequest { key: bytes(key), ..Default::default() })
}

fn txn(compare: pb::Compare, then: Action, otherwise: Option<Action>) -> pb::TxnRequest {
    let op = |action| pb::RequestOp { request: Some(action) };
    pb::TxnRequest {
        compare: vec![compare],
        success: vec![op(then)],
        failure: otherwise.map(op).into_iter().collect(),
    }
}
