//! The workloads: what one client does in one operation.
//!
//! Promises the same requests to every target. The choice of keys is random, from a seed that
//! depends on the client alone, so that two targets are asked the same.

use bytes::{Bytes, BytesMut};
use clap::ValueEnum;
use kvd_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use kvd_proto::etcdserverpb::kv_client::KvClient;
use kvd_proto::etcdserverpb::lease_client::LeaseClient;
use kvd_proto::etcdserverpb::request_op::Request;
use kvd_proto::etcdserverpb::response_op::Response;
use kvd_proto::etcdserverpb::{
    Compare, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseKeepAliveResponse, PutRequest,
    RangeRequest, RequestOp, TxnRequest,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// Keys that one range request asks for: a page of a Kubernetes list.
const RANGE_KEYS: u64 = 500;

/// Keys of its own that a client updates by transactions.
const TXN_KEYS: u64 = 16;

/// Leases of its own that a client renews in turns.
const LEASES_PER_CLIENT: usize = 4;

/// Seconds that a lease lives: longer than any run.
const LEASE_TTL_SECONDS: i64 = 3600;

/// Puts of a mixed load, per cent.
const MIXED_PUTS_PERCENT: u64 = 20;

/// Random bytes that values are cut from, so that no target can compress them away.
const VALUE_POOL_BYTES: usize = 64 * 1024;

/// A kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Workload {
    /// Puts of random keys.
    Put,
    /// Puts through members that do not lead.
    PutFollower,
    /// Linearizable gets.
    Get,
    /// Gets answered by the asked member alone.
    GetSerializable,
    /// Four linearizable gets to one put.
    Mixed,
    /// Ranges of 500 keys, linearizable.
    Range,
    /// The update of Kubernetes: put if the revision is the known one, else read it.
    Txn,
    /// A lease is granted, and a random key put that is attached to it.
    Grant,
    /// A lease is renewed; each client has a stream and leases of its own.
    KeepAlive,
}

impl Workload {
    /// Its name in results and on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::PutFollower => "put-follower",
            Self::Get => "get",
            Self::GetSerializable => "get-serializable",
            Self::Mixed => "mixed",
            Self::Range => "range",
            Self::Txn => "txn",
            Self::Grant => "grant",
            Self::KeepAlive => "keep-alive",
        }
    }

    /// Whether it needs keys to be there.
    pub(crate) fn reads(self) -> bool {
        matches!(self, Self::Get | Self::GetSerializable | Self::Mixed | Self::Range)
    }

    /// Whether the leader is left out.
    pub(crate) fn avoids_leader(self) -> bool {
        self == Self::PutFollower
    }
}

/// One client of a closed loop: it has at most one request under way.
pub(crate) struct Client {
    kv: KvClient<Channel>,
    random: Random,
    keys: u64,
    values: Bytes,
    value_bytes: usize,
    /// Keys of its own with the revision of their last change as far as it knows.
    own: Vec<(Bytes, i64)>,
    lease: LeaseClient<Channel>,
    /// None until the first renewal, and after one that failed.
    renewals: Option<Renewals>,
}

impl Client {
    /// The `number`-th client, over a channel that it may share.
    pub(crate) fn new(channel: Channel, number: u64, keys: u64, value_bytes: usize) -> Self {
        let own = (0..TXN_KEYS).map(|key| (format!("txn/{number:04}/{key:04}").into(), 0));
        Self {
            lease: LeaseClient::new(channel.clone()),
            renewals: None,
            kv: KvClient::new(channel).max_decoding_message_size(64 * 1024 * 1024),
            random: Random(number),
            keys: keys.max(RANGE_KEYS),
            values: value_pool(value_bytes),
            value_bytes,
            own: own.collect(),
        }
    }

    /// Does one operation and waits for its answer.
    pub(crate) async fn operate(&mut self, workload: Workload) -> Result<(), Status> {
        match workload {
            Workload::Put | Workload::PutFollower => self.put().await,
            Workload::Get => self.get(false).await,
            Workload::GetSerializable => self.get(true).await,
            Workload::Mixed if self.random.below(100) < MIXED_PUTS_PERCENT => self.put().await,
            Workload::Mixed => self.get(false).await,
            Workload::Range => self.range().await,
            Workload::Txn => self.update().await,
            Workload::Grant => self.grant().await,
            Workload::KeepAlive => self.renew().await,
        }
    }

    async fn put(&mut self) -> Result<(), Status> {
        self.put_attached(0).await
    }

    /// Puts a random key with this lease; zero is none.
    async fn put_attached(&mut self, lease: i64) -> Result<(), Status> {
        let key = key(self.random.below(self.keys));
        let value = self.value();
        self.kv.put(PutRequest { key, value, lease, ..Default::default() }).await?;
        Ok(())
    }

    async fn grant(&mut self) -> Result<(), Status> {
        let lease = grant_one(&mut self.lease).await?;
        self.put_attached(lease).await
    }

    async fn renew(&mut self) -> Result<(), Status> {
        let mut renewals = match self.renewals.take() {
            Some(renewals) => renewals,
            None => Renewals::open(&mut self.lease).await?,
        };
        renewals.renew_next().await?;
        self.renewals = Some(renewals);
        Ok(())
    }

    async fn get(&mut self, serializable: bool) -> Result<(), Status> {
        let key = key(self.random.below(self.keys));
        let request = RangeRequest { key, serializable, ..Default::default() };
        let found = self.kv.range(request).await?.into_inner().kvs.len();
        expect_keys(found, 1)
    }

    async fn range(&mut self) -> Result<(), Status> {
        let first = self.random.below(self.keys - RANGE_KEYS + 1);
        let request = RangeRequest {
            key: key(first),
            range_end: key(first + RANGE_KEYS),
            ..Default::default()
        };
        let found = self.kv.range(request).await?.into_inner().kvs.len();
        expect_keys(found, RANGE_KEYS)
    }

    async fn update(&mut self) -> Result<(), Status> {
        let value = self.value();
        let chosen = usize::try_from(self.random.below(TXN_KEYS)).unwrap_or(0);
        let (key, known) = self.own[chosen].clone();
        let response = self.kv.txn(update_request(key, known, value)).await?.into_inner();
        let revision = response.header.map_or(0, |header| header.revision);
        self.own[chosen].1 = if response.succeeded {
            revision
        } else {
            // Another run left the key: its revision is in the answer to the read.
            response.responses.into_iter().find_map(|op| read_revision(op.response)).unwrap_or(0)
        };
        Ok(())
    }

    /// A value that differs from the one before; a slice, so that making it costs nothing.
    fn value(&mut self) -> Bytes {
        let room = u64::try_from(self.values.len() - self.value_bytes).unwrap_or(0) + 1;
        let start = usize::try_from(self.random.below(room)).unwrap_or(0);
        self.values.slice(start..start + self.value_bytes)
    }
}

/// The stream of a client that keeps leases alive.
struct Renewals {
    requests: mpsc::Sender<LeaseKeepAliveRequest>,
    answers: Streaming<LeaseKeepAliveResponse>,
    leases: Vec<i64>,
    next: usize,
}

impl Renewals {
    /// Grants the leases and opens the stream by renewing the first one.
    async fn open(client: &mut LeaseClient<Channel>) -> Result<Self, Status> {
        let mut leases = Vec::new();
        for _ in 0..LEASES_PER_CLIENT {
            leases.push(grant_one(client).await?);
        }
        let (requests, outgoing) = mpsc::channel(1);
        // Some servers answer nothing, not even the headers, before the first request.
        let sent = requests.send(LeaseKeepAliveRequest { id: leases[0] }).await;
        sent.map_err(|_| Status::unavailable("the stream took no request"))?;
        let answers = client.lease_keep_alive(ReceiverStream::new(outgoing)).await?.into_inner();
        let mut renewals = Self { requests, answers, leases, next: 0 };
        renewals.answer().await?;
        Ok(renewals)
    }

    /// Renews the leases in turns.
    async fn renew_next(&mut self) -> Result<(), Status> {
        self.next = (self.next + 1) % self.leases.len();
        let sent = self.requests.send(LeaseKeepAliveRequest { id: self.leases[self.next] }).await;
        sent.map_err(|_| Status::unavailable("the stream takes no request"))?;
        self.answer().await
    }

    async fn answer(&mut self) -> Result<(), Status> {
        let answer = self.answers.message().await?;
        let answer = answer.ok_or_else(|| Status::unavailable("the server ended the stream"))?;
        if answer.id == self.leases[self.next] && answer.ttl == LEASE_TTL_SECONDS {
            Ok(())
        } else {
            let (id, ttl) = (answer.id, answer.ttl);
            Err(Status::data_loss(format!("lease {id} was renewed for {ttl} seconds")))
        }
    }
}

async fn grant_one(client: &mut LeaseClient<Channel>) -> Result<i64, Status> {
    let request = LeaseGrantRequest { ttl: LEASE_TTL_SECONDS, id: 0 };
    Ok(client.lease_grant(request).await?.into_inner().id)
}

/// The `number`-th key. Keys sort like their numbers.
pub(crate) fn key(number: u64) -> Bytes {
    format!("bench/{number:010}").into()
}

/// Incompressible bytes, enough for values of `value_bytes` at many places.
pub(crate) fn value_pool(value_bytes: usize) -> Bytes {
    let mut random = Random(0);
    let mut pool = BytesMut::new();
    while pool.len() < value_bytes.max(1) + VALUE_POOL_BYTES {
        pool.extend_from_slice(&random.next().to_le_bytes());
    }
    pool.freeze()
}

/// SplitMix64 (Steele, Lea, Flood 2014): cheap enough not to be measured.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`, which is not zero.
    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }
}

fn update_request(key: Bytes, known: i64, value: Bytes) -> TxnRequest {
    let unchanged = Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Mod.into(),
        key: key.clone(),
        target_union: Some(TargetUnion::ModRevision(known)),
        ..Default::default()
    };
    let put = PutRequest { key: key.clone(), value, ..Default::default() };
    let get = RangeRequest { key, ..Default::default() };
    TxnRequest {
        compare: vec![unchanged],
        success: vec![RequestOp { request: Some(Request::RequestPut(put)) }],
        failure: vec![RequestOp { request: Some(Request::RequestRange(get)) }],
    }
}

fn read_revision(response: Option<Response>) -> Option<i64> {
    match response? {
        Response::ResponseRange(range) => range.kvs.first().map(|kv| kv.mod_revision),
        _ => None,
    }
}

/// A fast wrong answer must not look like a good one.
fn expect_keys(found: usize, expected: u64) -> Result<(), Status> {
    if u64::try_from(found) == Ok(expected) {
        Ok(())
    } else {
        Err(Status::data_loss(format!("{found} keys in an answer that should have {expected}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_like_their_numbers() {
        assert!(key(99) < key(100));
        assert!(key(999_999) < key(1_000_000));
    }

    #[test]
    fn random_numbers_stay_below_and_differ_between_clients() {
        let (mut one, mut other) = (Random(1), Random(2));
        let numbers: Vec<u64> = (0..1000).map(|_| one.below(10)).collect();
        assert!(numbers.iter().all(|number| *number < 10));
        assert_ne!(numbers, (0..1000).map(|_| other.below(10)).collect::<Vec<_>>());
    }

    #[test]
    fn a_short_answer_is_an_error() {
        assert!(expect_keys(500, 500).is_ok());
        assert!(expect_keys(499, 500).is_err());
    }

    #[test]
    fn the_value_pool_is_larger_than_a_value() {
        assert!(value_pool(1_000_000).len() > 1_000_000);
    }
}
