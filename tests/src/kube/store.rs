//! kube-apiserver's storage operations over an etcd cluster, sent as the Go client sends them:
//! each call to the next endpoint, reads again where that is safe, writes never unless nothing was
//! sent (kube-apiserver.md §2, §4; behaviour.md §14).
//!
//! Promises that each call ends, and that an answer's shape is checked before it is used. Knows
//! nothing of objects.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kvd_proto::etcdserverpb as pb;
use kvd_proto::etcdserverpb::kv_client::KvClient;
use kvd_proto::etcdserverpb::lease_client::LeaseClient;
use kvd_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use kvd_proto::etcdserverpb::response_op::Response as Answer;
use kvd_proto::etcdserverpb::watch_client::WatchClient;
use kvd_proto::mvccpb::KeyValue;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use super::identity::{Identity, was_never_sent};
use super::requests;

/// How often the Go client sends a read (client/v3/options.go).
const READS_MAX: usize = 100;
/// How long it waits once a majority of endpoints has been asked.
const BACKOFF: Duration = Duration::from_millis(25);
/// How long one call may take; kube-apiserver's requests end after a minute.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of an answer; the Go client takes 2 GiB - 1.
const ANSWER_BYTES_MAX: usize = i32::MAX as usize;
/// Breaches that are kept; more tell nothing new.
const WRONG_MAX: usize = 100;

/// How a transaction ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Written {
    /// Done, at this revision.
    Done(i64),
    /// The key was not as expected; how it is instead, where the request asked for that, and the
    /// revision of the answer.
    Conflict(Option<KeyValue>, i64),
    /// It certainly did not happen.
    Refused(Identity),
    /// It may have happened, or may still happen.
    Unknown,
}

/// A failed read, or a reason to begin anew.
pub type ReadResult<T> = Result<T, Identity>;

/// One client of a cluster.
#[derive(Debug)]
pub struct Store {
    channels: Vec<Channel>,
    next: AtomicUsize,
    wrong: Mutex<Vec<String>>,
}

/// A list, as of one revision.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listed {
    /// All of it.
    pub kvs: Vec<KeyValue>,
    /// The revision.
    pub revision: i64,
    /// How many answers it took.
    pub pages: usize,
}

/// How a list knows that there is more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paging {
    /// By fewer keys than the count: lists of users.
    Count,
    /// By the flag: the filling of caches.
    More,
}

impl Store {
    /// A client of these endpoints; must be made within a runtime.
    pub fn new(endpoints: &[String], first: usize) -> anyhow::Result<Self> {
        let channel = |name: &String| -> anyhow::Result<Channel> {
            let endpoint = Endpoint::from_shared(name.clone())?;
            let endpoint = endpoint.connect_timeout(Duration::from_secs(2));
            // As kube-apiserver: pings after 30 s, 10 s for the answer (kube-apiserver.md §8).
            let endpoint = endpoint.http2_keep_alive_interval(Duration::from_secs(30));
            Ok(endpoint.keep_alive_timeout(Duration::from_secs(10)).connect_lazy())
        };
        let channels = endpoints.iter().map(channel).collect::<Result<Vec<_>, _>>()?;
        anyhow::ensure!(!channels.is_empty(), "a client needs an endpoint");
        Ok(Self { channels, next: AtomicUsize::new(first), wrong: Mutex::new(Vec::new()) })
    }

    /// Notes a breach of the contract.
    pub fn accuse(&self, what: String) {
        let mut wrong = self.wrong.lock().expect("nobody panics while holding it");
        if wrong.len() < WRONG_MAX {
            wrong.push(what);
        }
    }

    /// All breaches that were noted.
    pub fn wrong(&self) -> Vec<String> {
        self.wrong.lock().expect("nobody panics while holding it").clone()
    }

    /// One range, sent again as the Go client would.
    pub async fn range(&self, request: pb::RangeRequest) -> ReadResult<pb::RangeResponse> {
        let send = |channel| {
            let request = request.clone();
            async move { kv(channel).range(request).await }
        };
        let reply = self.read("range", send).await?;
        self.check_range(&request, &reply);
        Ok(reply)
    }

    /// One key and the revision of the answer.
    pub async fn get(&self, key: &str) -> ReadResult<(Option<KeyValue>, i64)> {
        let reply = self.range(requests::get(key)).await?;
        Ok((reply.kvs.first().cloned(), revision(&reply.header)))
    }

    /// A whole prefix in pages of `limit`, pinned to the revision of the first or to `at`.
    pub async fn list(
        &self,
        prefix: &str,
        limit: i64,
        at: i64,
        paging: Paging,
    ) -> ReadResult<Listed> {
        let mut listed = Listed { revision: at, ..Listed::default() };
        loop {
            let after = listed.kvs.last().map(|kv| kv.key.clone());
            let request = requests::page(prefix, after.as_deref(), limit, listed.revision);
            let reply = self.range(request).await?;
            if listed.revision == 0 {
                listed.revision = revision(&reply.header);
            }
            listed.pages += 1;
            let found = reply.kvs.len();
            listed.kvs.extend(reply.kvs);
            let has_more = i64::try_from(found).is_ok_and(|found| found < reply.count);
            if has_more != reply.more {
                self.accuse(format!("{prefix}: {found} of {}, more={}", reply.count, reply.more));
            }
            if has_more && found == 0 {
                // The apiserver's words for it.
                self.accuse("no results were found, but there were more remaining".to_owned());
                return Ok(listed);
            }
            if !(if paging == Paging::Count { has_more } else { reply.more }) {
                return Ok(listed);
            }
        }
    }

    /// A prefix as a stream; `None` where the server does not know the call (§6).
    pub async fn range_stream(&self, request: pb::RangeRequest) -> ReadResult<Option<Listed>> {
        let send = |channel| {
            let request = request.clone();
            async move {
                let mut pieces = kv(channel).range_stream(request).await?.into_inner();
                let mut all = Vec::new();
                while let Some(piece) = pieces.message().await? {
                    all.push(piece.range_response.unwrap_or_default());
                }
                Ok(Response::new(all))
            }
        };
        let pieces = match self.read("range_stream", send).await {
            Err(Identity::Unimplemented) => return Ok(None),
            pieces => pieces?,
        };
        let mut listed = Listed { pages: pieces.len(), ..Listed::default() };
        for (at, piece) in pieces.iter().enumerate() {
            let is_last = at + 1 == pieces.len();
            if piece.header.is_some() != is_last {
                self.accuse(format!("header of piece {at} of {}", pieces.len()));
            }
            listed.kvs.extend_from_slice(&piece.kvs);
        }
        let last = pieces.last().cloned().unwrap_or_default();
        listed.revision = revision(&last.header);
        if usize::try_from(last.count) != Ok(listed.kvs.len()) && request.limit == 0 {
            self.accuse(format!("a stream of {} keys counts {}", listed.kvs.len(), last.count));
        }
        Ok(Some(listed))
    }

    /// One transaction of one compare and one operation, sent once.
    pub async fn txn(&self, request: pb::TxnRequest) -> Written {
        let send = |channel| {
            let request = request.clone();
            async move { kv(channel).txn(request).await }
        };
        let reply = match self.write("txn", send).await {
            Ok(reply) => reply,
            Err(written) => return written,
        };
        let told = reply.header.as_ref().map_or(0, |header| header.revision);
        if told == 0 {
            self.accuse(format!("a transaction without a revision: {reply:?}"));
        }
        let expected = if reply.succeeded { request.success.len() } else { request.failure.len() };
        if reply.responses.len() != expected {
            self.accuse(format!("{} answers for {expected} operations", reply.responses.len()));
        }
        if reply.succeeded {
            return Written::Done(told);
        }
        match reply.responses.into_iter().next().and_then(|op| op.response) {
            Some(Answer::ResponseRange(range)) => {
                Written::Conflict(range.kvs.into_iter().next(), told)
            }
            None if expected == 0 => Written::Conflict(None, told),
            other => {
                self.accuse(format!("an else branch answers {other:?}"));
                Written::Conflict(None, told)
            }
        }
    }

    /// Compacts; again and again is allowed, so whoever fails asks again later.
    pub async fn compact(&self, revision: i64) -> Result<(), Identity> {
        let send = |channel| async move { kv(channel).compact(requests::compact(revision)).await };
        match self.write("compact", send).await {
            Ok(_) => Ok(()),
            Err(Written::Refused(identity)) => Err(identity),
            Err(_) => Err(Identity::Transport),
        }
    }

    /// Grants a lease with an id that the server chooses.
    pub async fn grant(&self, ttl: i64) -> Result<i64, Written> {
        let request = pb::LeaseGrantRequest { ttl, id: 0 };
        let send = |channel| async move { LeaseClient::new(channel).lease_grant(request).await };
        let reply = self.write("grant", send).await?;
        if reply.id <= 0 || reply.ttl != ttl || !reply.error.is_empty() {
            self.accuse(format!("a grant of {ttl} s answers {reply:?}"));
        }
        Ok(reply.id)
    }

    /// How one member is doing.
    pub async fn status(&self, endpoint: usize) -> Result<pb::StatusResponse, Status> {
        let channel = self.channels[endpoint % self.channels.len()].clone();
        let reply = MaintenanceClient::new(channel).status(pb::StatusRequest {}).await?;
        Ok(reply.into_inner())
    }

    /// Opens a watch stream as the apiserver does, at the next endpoint.
    pub async fn watch(
        &self,
        requests: impl futures_util::Stream<Item = pb::WatchRequest> + Send + 'static,
    ) -> Result<tonic::Streaming<pb::WatchResponse>, Status> {
        let mut request = Request::new(requests);
        request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        let client = WatchClient::new(self.channel());
        let mut client = client.max_decoding_message_size(ANSWER_BYTES_MAX);
        Ok(client.watch(request).await?.into_inner())
    }

    /// The connection whose turn it is.
    fn channel(&self) -> Channel {
        let at = self.next.fetch_add(1, Ordering::Relaxed);
        self.channels[at % self.channels.len()].clone()
    }

    /// Sends a read until it is answered; only what is `Unavailable` is sent again.
    async fn read<A, F>(&self, what: &str, send: impl Fn(Channel) -> F) -> ReadResult<A>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let deadline = Instant::now() + PATIENCE;
        let quorum = self.channels.len() / 2 + 1;
        let mut last = Identity::GaveUp;
        for attempt in 1..=READS_MAX {
            match timeout_at(deadline, send(self.channel())).await {
                Ok(Ok(reply)) => return Ok(reply.into_inner()),
                Ok(Err(status)) => last = self.identify(what, &status),
                Err(_elapsed) => return Err(Identity::GaveUp),
            }
            if !last.is_worth_reading_again() {
                break;
            }
            if attempt % quorum == 0 {
                sleep(BACKOFF).await;
            }
        }
        Err(last)
    }

    /// Sends a write once, or to the next endpoint while there is no connection.
    async fn write<A, F>(&self, what: &str, send: impl Fn(Channel) -> F) -> Result<A, Written>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let deadline = Instant::now() + PATIENCE;
        for _ in 0..self.channels.len() {
            match timeout_at(deadline, send(self.channel())).await {
                Ok(Ok(reply)) => return Ok(reply.into_inner()),
                Ok(Err(status)) if was_never_sent(&status) => {}
                Ok(Err(status)) => {
                    let identity = self.identify(what, &status);
                    // A compaction is refused by what has happened, a write never is.
                    let is_refusal = identity.is_refusal()
                        || matches!(identity, Identity::Compacted | Identity::Future);
                    let refused = Written::Refused(identity);
                    return Err(if is_refusal { refused } else { Written::Unknown });
                }
                Err(_elapsed) => return Err(Written::Unknown),
            }
        }
        Err(Written::Refused(Identity::Transport))
    }

    fn identify(&self, what: &str, status: &Status) -> Identity {
        let identity = Identity::of(status);
        if identity == Identity::Unexpected {
            self.accuse(format!("{what}: an error nobody knows: {status:?}"));
        }
        identity
    }

    /// What holds of every answer to a range.
    fn check_range(&self, request: &pb::RangeRequest, reply: &pb::RangeResponse) {
        let accuse = |what: &str| self.accuse(format!("{what}: {request:?} tells {reply:?}"));
        let told = revision(&reply.header);
        if told == 0 || told < request.revision {
            accuse("a wrong revision");
        }
        if !reply.kvs.is_sorted_by(|one, next| one.key < next.key) {
            accuse("not in order");
        }
        let found = i64::try_from(reply.kvs.len()).unwrap_or(i64::MAX);
        let is_over = request.limit > 0 && found > request.limit;
        if is_over || found > reply.count || (request.count_only && found > 0) {
            accuse("too many keys");
        }
        let is_newer = |kv: &KeyValue| request.revision > 0 && kv.mod_revision > request.revision;
        if reply.kvs.iter().any(|kv| kv.mod_revision > told || is_newer(kv)) {
            accuse("newer than asked for");
        }
    }
}

/// The revision of an answer; 0, which is an error to kube-apiserver, without one.
fn revision(header: &Option<pb::ResponseHeader>) -> i64 {
    header.as_ref().map_or(0, |header| header.revision)
}

fn kv(channel: Channel) -> KvClient<Channel> {
    KvClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX)
}
