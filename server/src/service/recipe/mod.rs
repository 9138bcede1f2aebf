//! What locks and elections are made of (behaviour.md 8): whoever wants something puts a key of its own under its
//! name, held by a lease, and has it once no key under the name was created before its own.
//!
//! Works through the services that clients use, so that a lock taken here and one that a client makes of keys by
//! itself are the same.

mod line;
mod session;

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use kvd_core::ids::Revision;
use kvd_core::range::KeyRange;
use kvd_proto::etcdserverpb as pb;
use kvd_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use kvd_proto::etcdserverpb::kv_server::Kv as _;
use kvd_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use kvd_proto::etcdserverpb::request_op::Request as Op;
use kvd_proto::etcdserverpb::response_op::Response as OpAnswer;
use kvd_proto::mvccpb::KeyValue;
use tonic::{Code, Request, Status};

pub(crate) use self::line::{Place, Wish};
use super::kv::KvService;
use super::lease::LeaseService;
use super::status;
use crate::node::watch::{Create, Interest, Message};
use crate::node::{Node, RequestError, Unavailable};
use crate::shutdown::Shutdown;

/// Pause before something is asked again that nobody could answer.
const RETRY: Duration = Duration::from_millis(50);

/// The services that recipes work through; clones share them.
#[derive(Clone)]
pub(crate) struct Recipes {
    node: Arc<Node>,
    kv: Arc<KvService>,
    lease: Arc<LeaseService>,
    shutdown: Shutdown,
}

impl Recipes {
    /// Works on this node; ids of leases are drawn from this seed.
    pub(crate) fn new(node: Arc<Node>, seed: u64, shutdown: Shutdown) -> Self {
        let kv = Arc::new(KvService::new(Arc::clone(&node)));
        let lease = Arc::new(LeaseService::new(Arc::clone(&node), seed, shutdown.clone()));
        Self { node, kv, lease, shutdown }
    }

    /// A transaction, as a client would ask for it.
    pub(super) async fn txn(&self, txn: pb::TxnRequest) -> Result<pb::TxnResponse, Status> {
        self.kv.txn(Request::new(txn)).await.map(tonic::Response::into_inner)
    }

    /// A linearizable read.
    pub(super) async fn range(&self, range: pb::RangeRequest) -> Result<pb::RangeResponse, Status> {
        self.kv.range(Request::new(range)).await.map(tonic::Response::into_inner)
    }

    /// A linearizable read of one who waits anyway: while there is no leader, it waits for that.
    pub(super) async fn range_in_time(
        &self,
        range: &pb::RangeRequest,
    ) -> Result<pb::RangeResponse, Status> {
        self.in_time(|| self.range(range.clone())).await
    }

    /// Asks again while the cluster cannot answer. For what may be done twice.
    pub(super) async fn in_time<T, F: Future<Output = Result<T, Status>>>(
        &self,
        ask: impl Fn() -> F,
    ) -> Result<T, Status> {
        loop {
            match ask().await {
                Err(status) if status.code() == Code::Unavailable => {}
                answer => return answer,
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                () = self.shutdown.begun() => {
                    return Err(status::status(RequestError::Unavailable(Unavailable::Stopped)));
                }
            }
        }
    }

    /// Deletes one key.
    pub(super) async fn delete(&self, key: Bytes) -> Result<pb::DeleteRangeResponse, Status> {
        let delete = pb::DeleteRangeRequest { key, ..Default::default() };
        self.kv.delete_range(Request::new(delete)).await.map(tonic::Response::into_inner)
    }

    /// Deletes a key if it is still the one that was created at this revision.
    pub(super) async fn delete_created(
        &self,
        key: Bytes,
        created: i64,
    ) -> Result<pb::TxnResponse, Status> {
        let delete = pb::DeleteRangeRequest { key: key.clone(), ..Default::default() };
        self.txn(pb::TxnRequest {
            compare: vec![created_at(key, created)],
            success: vec![op(Op::RequestDeleteRange(delete))],
            failure: Vec::new(),
        })
        .await
    }

    /// Returns once something happened to these keys at or after a revision, or may have: whoever waits looks
    /// again.
    pub(super) async fn changed(
        &self,
        range: KeyRange,
        from: i64,
        only_deletes: bool,
    ) -> Result<(), Status> {
        let (stream, mut messages) = self.node.watch();
        let interest = Interest { range, no_put: only_deletes, no_delete: false, prev_kv: false };
        let start = Some(Revision(from));
        let create =
            Create { interest, start, id: None, progress_notify: false, may_fragment: false };
        stream.create(create).await;
        let changed = async {
            while let Some(message) = messages.next().await {
                match message {
                    Ok(Message::Created { .. } | Message::Progress { .. }) => {}
                    // History that is gone may have held it.
                    Ok(_) => return Ok(()),
                    Err(unavailable) => return Err(unavailable),
                }
            }
            Err(Unavailable::Stopped)
        };
        let changed = tokio::select! {
            changed = changed => changed,
            () = self.shutdown.begun() => Err(Unavailable::Stopped),
        };
        changed.map_err(|unavailable| status::status(RequestError::Unavailable(unavailable)))
    }
}

/// An error as these services tell it: the text alone (rule LK7). A deadline and a cancelled call are gRPC's own.
pub(super) fn plain(status: Status) -> Status {
    match status.code() {
        Code::DeadlineExceeded | Code::Cancelled => status,
        _ => Status::unknown(status.message()),
    }
}

/// What stands between a name and whose key it is.
pub(super) fn prefix(name: &Bytes) -> Bytes {
    let mut prefix = BytesMut::with_capacity(name.len() + 1);
    prefix.extend_from_slice(name);
    prefix.extend_from_slice(b"/");
    prefix.freeze()
}

/// The key of a lease under a name.
pub(super) fn key(name: &Bytes, lease: i64) -> Bytes {
    let mut key = BytesMut::from(&prefix(name)[..]);
    key.extend_from_slice(format!("{lease:x}").as_bytes());
    key.freeze()
}

/// The key under a prefix that was created first.
pub(super) fn first_created(prefix: &Bytes) -> pb::RangeRequest {
    pb::RangeRequest {
        key: prefix.clone(),
        // A prefix here ends with a slash, so the next one ends with what follows it.
        range_end: end_of(prefix),
        limit: 1,
        sort_order: SortOrder::Ascend.into(),
        sort_target: SortTarget::Create.into(),
        ..Default::default()
    }
}

/// The key under a prefix that was created last, up to a revision.
pub(super) fn last_created(prefix: &Bytes, at_most: i64) -> pb::RangeRequest {
    pb::RangeRequest {
        sort_order: SortOrder::Descend.into(),
        max_create_revision: at_most,
        ..first_created(prefix)
    }
}

/// All keys under a prefix.
pub(super) fn under(prefix: &Bytes) -> KeyRange {
    KeyRange::Between { start: prefix.clone(), end: end_of(prefix) }
}

fn end_of(prefix: &Bytes) -> Bytes {
    let mut end = BytesMut::from(&prefix[..]);
    if let Some(last) = end.last_mut() {
        *last = b'/' + 1;
    }
    end.freeze()
}

/// That a key was created at this revision; zero for that there is none.
pub(super) fn created_at(key: Bytes, revision: i64) -> pb::Compare {
    pb::Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        key,
        target_union: Some(TargetUnion::CreateRevision(revision)),
        ..Default::default()
    }
}

/// One operation of a transaction.
pub(super) fn op(request: Op) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

/// What a transaction's read at this place found.
pub(super) fn found(answer: &pb::TxnResponse, at: usize) -> &[KeyValue] {
    match answer.responses.get(at).and_then(|answer| answer.response.as_ref()) {
        Some(OpAnswer::ResponseRange(range)) => &range.kvs,
        _ => &[],
    }
}

/// The revision of an answer.
pub(super) fn revision(header: Option<&pb::ResponseHeader>) -> i64 {
    header.map_or(0, |header| header.revision)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_the_layout_that_clients_use() {
        let name = Bytes::from_static(b"mylock");
        assert_eq!(key(&name, 11), "mylock/b");
        assert_eq!(key(&name, 0x7fff_ffff_ffff_ffff), "mylock/7fffffffffffffff");
        assert_eq!(key(&Bytes::new(), 1), "/1");
        assert_eq!((prefix(&name), end_of(&prefix(&name))), ("mylock/".into(), "mylock0".into()));
    }

    #[test]
    fn errors_are_told_by_their_text_alone() {
        let told = plain(Status::not_found("etcdserver: requested lease not found"));
        assert_eq!(told.code(), Code::Unknown);
        assert_eq!(told.message(), "etcdserver: requested lease not found");
        assert_eq!(plain(Status::deadline_exceeded("late")).code(), Code::DeadlineExceeded);
    }
}
