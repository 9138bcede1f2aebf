//! Keys: reading, writing, transactions, compaction (behaviour.md §2).

use bytes::Bytes;
use kvd_proto::etcdserverpb::kv_client::KvClient;
use kvd_proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest,
    PutResponse, RangeRequest, RangeResponse, RangeStreamResponse, TxnRequest, TxnResponse,
};
use kvd_proto::mvccpb::KeyValue;
use tokio::time::{Instant, timeout_at};
use tonic::Streaming;
use tonic::transport::Channel;

use crate::attempts::{ANSWER_BYTES_MAX, Call};
use crate::client::Client;
use crate::error::{Error, describe};
use crate::namespace::Namespace;

impl Client {
    /// Reads one key; linearizable.
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Option<KeyValue>, Error> {
        let request = RangeRequest { key: key.into(), ..Default::default() };
        Ok(self.range(request).await?.kvs.pop())
    }

    /// Reads a range.
    pub async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Error> {
        let send = |channel, request| async move { service(channel).range(request).await };
        let answer = self.call(Call::reads("range"), self.namespace().range(request), send).await?;
        Ok(self.namespace().ranged(answer))
    }

    /// Reads a range in pieces; the deadline is that of the whole stream. Servers older than etcd
    /// 3.7 refuse it. Once begun, the stream does not move to another endpoint.
    pub async fn range_stream(&self, request: RangeRequest) -> Result<RangeStream, Error> {
        let deadline = self.deadline();
        let send = |channel, request| async move { service(channel).range_stream(request).await };
        let request = self.namespace().range(request);
        let stream = self.call(Call::reads("range_stream"), request, send).await?;
        Ok(RangeStream { stream, deadline, namespace: self.namespace().clone() })
    }

    /// Writes one key.
    pub async fn put(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
    ) -> Result<PutResponse, Error> {
        let (key, value) = (key.into(), value.into());
        self.put_request(PutRequest { key, value, ..Default::default() }).await
    }

    /// Writes one key, with everything a put can be told.
    pub async fn put_request(&self, request: PutRequest) -> Result<PutResponse, Error> {
        let send = |channel, request| async move { service(channel).put(request).await };
        let answer = self.call(Call::mutates("put"), self.namespace().put(request), send).await?;
        Ok(self.namespace().was_put(answer))
    }

    /// Deletes one key; tells whether it was there.
    pub async fn delete(&self, key: impl Into<Bytes>) -> Result<bool, Error> {
        let request = DeleteRangeRequest { key: key.into(), ..Default::default() };
        Ok(self.delete_range(request).await?.deleted > 0)
    }

    /// Deletes a range.
    pub async fn delete_range(
        &self,
        request: DeleteRangeRequest,
    ) -> Result<DeleteRangeResponse, Error> {
        let send = |channel, request| async move { service(channel).delete_range(request).await };
        let request = self.namespace().delete(request);
        let answer = self.call(Call::mutates("delete_range"), request, send).await?;
        Ok(self.namespace().deleted(answer))
    }

    /// Compares and does one of two lists of operations. Counts as a write even if all of them only
    /// read.
    pub async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, Error> {
        let send = |channel, request| async move { service(channel).txn(request).await };
        let answer = self.call(Call::mutates("txn"), self.namespace().txn(request), send).await?;
        Ok(self.namespace().committed(answer))
    }

    /// The same for a transaction that may be sent again though it may have happened: its second finds what the first
    /// has done.
    pub(crate) async fn txn_repeatable(&self, request: TxnRequest) -> Result<TxnResponse, Error> {
        let send = |channel, request| async move { service(channel).txn(request).await };
        let call = Call::reads("txn_repeatable");
        let answer = self.call(call, self.namespace().txn(request), send).await?;
        Ok(self.namespace().committed(answer))
    }

    /// Forgets the history before a revision.
    pub async fn compact(&self, request: CompactionRequest) -> Result<CompactionResponse, Error> {
        let send = |channel, request| async move { service(channel).compact(request).await };
        self.call(Call::mutates("compact"), request, send).await
    }
}

/// A range that arrives in pieces.
#[derive(Debug)]
pub struct RangeStream {
    stream: Streaming<RangeStreamResponse>,
    deadline: Instant,
    namespace: Namespace,
}

impl RangeStream {
    /// The next piece; `None` after the last. A stream that fails midway has not told everything.
    pub async fn next(&mut self) -> Result<Option<RangeResponse>, Error> {
        let piece = timeout_at(self.deadline, self.stream.message()).await;
        let piece = piece.map_err(|_| Error::Unavailable { last: "deadline".to_owned() })?;
        let piece = piece.map_err(|status| Error::Unavailable { last: describe(&status) })?;
        let piece = piece.map(|piece| piece.range_response.unwrap_or_default());
        Ok(piece.map(|piece| self.namespace.ranged(piece)))
    }
}

fn service(channel: Channel) -> KvClient<Channel> {
    KvClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX)
}
