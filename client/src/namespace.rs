//! A part of the keys taken for all of them: requests get a prefix, answers lose it. Pure.

use bytes::{Bytes, BytesMut};
use kvd_proto::etcdserverpb::request_op::Request as Op;
use kvd_proto::etcdserverpb::response_op::Response as OpAnswer;
use kvd_proto::etcdserverpb::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, LeaseTimeToLiveResponse, PutRequest,
    PutResponse, RangeRequest, RangeResponse, RequestOp, ResponseOp, TxnRequest, TxnResponse,
    WatchCreateRequest,
};
use kvd_proto::mvccpb::{Event, KeyValue};

use crate::range_end::{FROM_KEY, prefix_end};

/// A prefix; the empty one changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Namespace(Bytes);

/// Requests on their way in.
impl Namespace {
    /// The namespace `prefix` within this one.
    pub(crate) fn within(&self, prefix: &[u8]) -> Self {
        Self(self.key(&Bytes::copy_from_slice(prefix)))
    }

    pub(crate) fn key(&self, key: &Bytes) -> Bytes {
        if self.0.is_empty() {
            return key.clone();
        }
        let mut whole = BytesMut::with_capacity(self.0.len() + key.len());
        whole.extend_from_slice(&self.0);
        whole.extend_from_slice(key);
        whole.freeze()
    }

    fn interval(&self, key: &mut Bytes, range_end: &mut Bytes) {
        if self.0.is_empty() {
            return;
        }
        *range_end = match &*range_end {
            // One key; an empty one is no key here either, and the server shall say so.
            end if end.is_empty() && key.is_empty() => return,
            end if end.is_empty() => Bytes::new(),
            end if *end == FROM_KEY => prefix_end(&self.0),
            end => self.key(end),
        };
        *key = self.key(key);
    }

    pub(crate) fn range(&self, mut request: RangeRequest) -> RangeRequest {
        self.interval(&mut request.key, &mut request.range_end);
        request
    }

    pub(crate) fn put(&self, mut request: PutRequest) -> PutRequest {
        self.interval(&mut request.key, &mut Bytes::new());
        request
    }

    pub(crate) fn delete(&self, mut request: DeleteRangeRequest) -> DeleteRangeRequest {
        self.interval(&mut request.key, &mut request.range_end);
        request
    }

    pub(crate) fn watch(&self, mut request: WatchCreateRequest) -> WatchCreateRequest {
        self.interval(&mut request.key, &mut request.range_end);
        request
    }

    pub(crate) fn txn(&self, request: TxnRequest) -> TxnRequest {
        if self.0.is_empty() {
            return request;
        }
        let ops = |ops: Vec<RequestOp>| ops.into_iter().map(|op| self.op(op)).collect();
        TxnRequest {
            compare: request.compare.into_iter().map(|compare| self.compare(compare)).collect(),
            success: ops(request.success),
            failure: ops(request.failure),
        }
    }

    fn compare(&self, mut compare: Compare) -> Compare {
        self.interval(&mut compare.key, &mut compare.range_end);
        compare
    }

    fn op(&self, op: RequestOp) -> RequestOp {
        let request = op.request.map(|request| match request {
            Op::RequestRange(request) => Op::RequestRange(self.range(request)),
            Op::RequestPut(request) => Op::RequestPut(self.put(request)),
            Op::RequestDeleteRange(request) => Op::RequestDeleteRange(self.delete(request)),
            Op::RequestTxn(request) => Op::RequestTxn(self.txn(request)),
        });
        RequestOp { request }
    }
}

/// Answers on their way out.
impl Namespace {
    fn strip(&self, kv: &mut KeyValue) {
        self.strip_key(&mut kv.key);
    }

    pub(crate) fn strip_key(&self, key: &mut Bytes) {
        if key.starts_with(&self.0) {
            *key = key.slice(self.0.len()..);
        }
    }

    pub(crate) fn ranged(&self, mut answer: RangeResponse) -> RangeResponse {
        answer.kvs.iter_mut().for_each(|kv| self.strip(kv));
        answer
    }

    pub(crate) fn was_put(&self, mut answer: PutResponse) -> PutResponse {
        answer.prev_kv.iter_mut().for_each(|kv| self.strip(kv));
        answer
    }

    pub(crate) fn deleted(&self, mut answer: DeleteRangeResponse) -> DeleteRangeResponse {
        answer.prev_kvs.iter_mut().for_each(|kv| self.strip(kv));
        answer
    }

    pub(crate) fn committed(&self, mut answer: TxnResponse) -> TxnResponse {
        if !self.0.is_empty() {
            let done = answer.responses.into_iter();
            answer.responses = done.map(|response| self.answered(response)).collect();
        }
        answer
    }

    fn answered(&self, response: ResponseOp) -> ResponseOp {
        let response = response.response.map(|response| match response {
            OpAnswer::ResponseRange(answer) => OpAnswer::ResponseRange(self.ranged(answer)),
            OpAnswer::ResponsePut(answer) => OpAnswer::ResponsePut(self.was_put(answer)),
            OpAnswer::ResponseDeleteRange(answer) => {
                OpAnswer::ResponseDeleteRange(self.deleted(answer))
            }
            OpAnswer::ResponseTxn(answer) => OpAnswer::ResponseTxn(self.committed(answer)),
        });
        ResponseOp { response }
    }

    pub(crate) fn happened(&self, events: &mut [Event]) {
        for event in events {
            event.kv.iter_mut().chain(&mut event.prev_kv).for_each(|kv| self.strip(kv));
        }
    }

    /// Keys elsewhere are none of those who see only this part.
    pub(crate) fn held(&self, mut answer: LeaseTimeToLiveResponse) -> LeaseTimeToLiveResponse {
        answer.keys.retain(|key| key.starts_with(&self.0));
        answer.keys.iter_mut().for_each(|key| *key = key.slice(self.0.len()..));
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(prefix: &'static [u8], key: &'static str, end: &'static str) -> (Bytes, Bytes) {
        let namespace = Namespace::default().within(prefix);
        let (mut key, mut end) = (key.into(), end.into());
        namespace.interval(&mut key, &mut end);
        (key, end)
    }

    #[test]
    fn ranges_stay_inside() {
        assert_eq!(interval(b"n/", "a", ""), ("n/a".into(), "".into()));
        assert_eq!(interval(b"n/", "a", "b"), ("n/a".into(), "n/b".into()));
        assert_eq!(interval(b"n/", "a", "\0"), ("n/a".into(), "n0".into()));
        assert_eq!(interval(b"n/", "", "\0"), ("n/".into(), "n0".into()));
        assert_eq!(interval(b"\xff", "a", "\0"), (Bytes::from_static(b"\xffa"), FROM_KEY));
        assert_eq!(interval(b"n/", "", ""), ("".into(), "".into()), "no key is no key");
        assert_eq!(interval(b"", "a", "\0"), ("a".into(), FROM_KEY));
    }

    #[test]
    fn transactions_are_inside_at_any_depth() {
        let put = |key: &'static str| {
            Op::RequestPut(PutRequest { key: key.into(), ..Default::default() })
        };
        let op = |request| RequestOp { request: Some(request) };
        let txn = |key, compared: &'static str| TxnRequest {
            compare: vec![Compare { key: compared.into(), ..Default::default() }],
            success: vec![op(put(key))],
            failure: vec![op(put(key))],
        };
        let nested = |key, compared| TxnRequest {
            success: vec![op(Op::RequestTxn(txn(key, compared)))],
            ..txn(key, compared)
        };
        let namespace = Namespace::default().within(b"n/");
        assert_eq!(namespace.txn(nested("k", "c")), nested("n/k", "n/c"));
        assert_eq!(namespace.within(b"m/"), Namespace::default().within(b"n/m/"));
        let kv = |key: &'static str| KeyValue { key: key.into(), ..Default::default() };
        let answer = |key| TxnResponse {
            responses: vec![ResponseOp {
                response: Some(OpAnswer::ResponseRange(RangeResponse {
                    kvs: vec![kv(key)],
                    ..Default::default()
                })),
            }],
            ..Default::default()
        };
        assert_eq!(namespace.committed(answer("n/k")), answer("k"));
    }
}
