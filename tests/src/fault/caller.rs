//! The API as blocking calls.
//!
//! Promises that each call ends by its deadline. Knows nothing of what is right: it hands back what
//! it was told, with the status as it was on the wire where the test asks for that.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use kvd_client::proto::etcdserverpb::kv_client::KvClient;
use kvd_client::proto::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RangeResponse, StatusResponse,
};
use kvd_client::proto::mvccpb::KeyValue;
use kvd_client::{Client, Options, prefix_end};
use tokio::runtime::{Builder, Runtime};
use tonic::transport::Channel;
use tonic::{Request, Status};

/// How long one call may take, and how long a cluster may take to agree.
const PATIENCE: Duration = Duration::from_secs(30);

/// A client and the thread it runs on: the caller's.
pub struct Caller {
    runtime: Runtime,
    client: Client,
    endpoints: Vec<String>,
}

impl Caller {
    /// A caller of these endpoints.
    pub fn new(endpoints: &[String]) -> anyhow::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let guard = runtime.enter();
        let mut options = Options::new(endpoints.to_vec());
        options.request_timeout = PATIENCE;
        // It judges members, not how soon a client leaves one that is slow.
        options.silence_timeout = PATIENCE;
        let client = Client::lazy(options)?;
        drop(guard);
        Ok(Self { runtime, client, endpoints: endpoints.to_vec() })
    }

    /// Runs anything with the client.
    pub fn run<T, F: Future<Output = T>>(&self, call: impl FnOnce(Client) -> F) -> T {
        self.runtime.block_on(async { call(self.client.clone()).await })
    }

    /// Writes one key, again while the outcome is unknown; gives the revision.
    pub fn put(&self, key: &str, value: impl Into<Vec<u8>>) -> anyhow::Result<i64> {
        let value = value.into();
        loop {
            let (key, value) = (key.to_owned(), value.clone());
            match self.run(|client| async move { client.put(key, value).await }) {
                Err(error) if error.outcome_is_unknown() => {}
                reply => return Ok(reply?.header.context("an answer has a header")?.revision),
            }
        }
    }

    /// Reads one key; linearizable.
    pub fn get(&self, key: &str) -> anyhow::Result<Option<KeyValue>> {
        let key = key.to_owned();
        Ok(self.run(|client| async move { client.get(key).await })?)
    }

    /// How the member at this endpoint is doing.
    pub fn status(&self, endpoint: &str) -> anyhow::Result<StatusResponse> {
        let client = self.client.with_timeout(Duration::from_secs(3));
        Ok(self.runtime.block_on(client.status(endpoint))?)
    }

    /// Which endpoint leads, once there is a leader.
    pub fn leader(&self) -> anyhow::Result<usize> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            for (at, endpoint) in self.endpoints.iter().enumerate() {
                let Ok(status) = self.status(endpoint) else { continue };
                if status.header.is_some_and(|header| header.member_id == status.leader) {
                    return Ok(at);
                }
            }
        }
        bail!("nobody leads")
    }

    /// All keys with this prefix, as of one revision of the member at `endpoint`, and the revision.
    pub fn all(&self, endpoint: &str, prefix: &str) -> anyhow::Result<(Vec<KeyValue>, i64)> {
        let mut found: Vec<KeyValue> = Vec::new();
        let mut revision = 0;
        let end = prefix_end(prefix.as_bytes());
        loop {
            let mut key = found.last().map_or_else(|| prefix.into(), |last| last.key.to_vec());
            if !found.is_empty() || prefix.is_empty() {
                key.push(0);
            }
            let request = RangeRequest {
                key: key.into(),
                range_end: end.clone(),
                limit: 5_000,
                revision,
                ..Default::default()
            };
            let reply = self.runtime.block_on(self.client.at(endpoint)?.range(request))?;
            if revision == 0 {
                revision = reply.header.context("an answer has a header")?.revision;
            }
            found.extend(reply.kvs);
            if !reply.more {
                return Ok((found, revision));
            }
        }
    }

    /// Proves that all members hold the same history: each reads linearizably, then tells the hash
    /// of its newest revision.
    pub fn ensure_same_hashes(&self) -> anyhow::Result<()> {
        let mut told = Vec::new();
        for endpoint in &self.endpoints {
            let client = self.client.at(endpoint)?;
            self.runtime.block_on(client.get("whether it has applied all"))?;
            let reply = self.runtime.block_on(self.client.hash_kv(endpoint, 0))?;
            let revision = reply.header.context("an answer has a header")?.revision;
            told.push((revision, reply.compact_revision, reply.hash));
        }
        ensure!(told.windows(2).all(|pair| pair[0] == pair[1]), "members differ: {told:?}");
        Ok(())
    }

    /// One put at one endpoint, tried once: the status as it was on the wire.
    pub fn raw_put(&self, endpoint: &str, key: &str, value: Vec<u8>) -> Result<i64, Status> {
        let request =
            PutRequest { key: key.to_owned().into(), value: value.into(), ..Default::default() };
        let reply = self.raw(endpoint, request, |mut kv, request| async move {
            kv.put(request).await.map(tonic::Response::into_inner)
        })?;
        Ok(reply.header.unwrap_or_default().revision)
    }

    /// One delete at one endpoint, tried once: how many keys went.
    pub fn raw_delete(&self, endpoint: &str, key: &str) -> Result<i64, Status> {
        let request = DeleteRangeRequest { key: key.to_owned().into(), ..Default::default() };
        let reply = self.raw(endpoint, request, |mut kv, request| async move {
            kv.delete_range(request).await.map(tonic::Response::into_inner)
        })?;
        Ok(reply.deleted)
    }

    /// One read at one endpoint, tried once.
    pub fn raw_get(
        &self,
        endpoint: &str,
        key: &str,
        serializable: bool,
    ) -> Result<RangeResponse, Status> {
        let request =
            RangeRequest { key: key.to_owned().into(), serializable, ..Default::default() };
        self.raw(endpoint, request, |mut kv, request| async move {
            kv.range(request).await.map(tonic::Response::into_inner)
        })
    }

    fn raw<Q, A, F: Future<Output = Result<A, Status>>>(
        &self,
        endpoint: &str,
        request: Q,
        send: impl FnOnce(KvClient<Channel>, Request<Q>) -> F,
    ) -> Result<A, Status> {
        let mut request = Request::new(request);
        request.set_timeout(PATIENCE);
        self.runtime.block_on(async {
            let alone = self
                .client
                .at(endpoint)
                .map_err(|error| Status::invalid_argument(error.to_string()))?;
            let kv = KvClient::new(alone.channel()).max_decoding_message_size(64 << 20);
            send(kv, request).await
        })
    }
}
