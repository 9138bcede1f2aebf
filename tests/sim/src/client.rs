//! A client: asks the members for this and that until told to stop, and writes down what it was told.

use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kvd_proto::etcdserverpb as pb;
use kvd_proto::etcdserverpb::kv_client::KvClient;
use kvd_proto::etcdserverpb::request_op::Request as Action;
use kvd_proto::etcdserverpb::response_op::Response as Answer;
use kvd_proto::mvccpb::KeyValue;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::check::marker;
use crate::history::{History, Op, Outcome, Pair};
use crate::member::{CLIENT_PORT, NAMES};
use crate::net::channel;

/// Keys that clients fight for.
const KEYS: usize = 6;

/// What clients share with the one who runs them.
#[derive(Clone)]
pub struct Wishes {
    /// What they ask and are told.
    pub history: History,
    /// No new calls.
    pub stop: Arc<AtomicBool>,
    /// Milliseconds between two calls of a client, at most.
    pub pause_ms: u64,
}

/// Asks until told to stop.
pub async fn work(wishes: Wishes, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let members: Vec<_> =
        NAMES.iter().map(|name| KvClient::new(channel(name, CLIENT_PORT))).collect();
    let mut at = rng.random_range(0..members.len());
    // The newest revision this client knows of each key, for conditions that hold now and then.
    let mut changed = [0; KEYS];
    while !wishes.stop.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(rng.random_range(1..=wishes.pause_ms))).await;
        let key = rng.random_range(0..KEYS);
        let (number, op) = wishes.history.begin(|_number| draw(&mut rng, key, changed[key]));
        let limit = Duration::from_millis(rng.random_range(300..3000));
        let answer = tokio::time::timeout(limit, ask(members[at].clone(), number, &op, limit));
        let outcome = match answer.await {
            Ok(Ok((term, outcome))) => {
                wishes.history.saw_term(term);
                remember(&mut changed[key], &op, &outcome);
                outcome
            }
            Ok(Err(status)) => classify(&status),
            Err(_elapsed) => Outcome::Unknown,
        };
        if matches!(outcome, Outcome::Failed | Outcome::Unknown) || rng.random_bool(0.05) {
            at = rng.random_range(0..members.len());
        }
        wishes.history.end(number, turmoil::elapsed().as_millis(), outcome);
    }
}

fn draw(rng: &mut StdRng, key: usize, changed: i64) -> Op {
    let name = format!("k/{key}");
    match rng.random_range(0..100) {
        0..35 => Op::Put(name),
        35..55 => Op::Swap(name, changed),
        55..65 => Op::Delete(name),
        65..88 => Op::Get(name),
        88..95 => Op::List,
        _ => Op::StaleList,
    }
}

fn remember(changed: &mut i64, op: &Op, outcome: &Outcome) {
    match (op, outcome) {
        (Op::Put(_) | Op::Swap(..), Outcome::Wrote(revision, _)) => *changed = *revision,
        (Op::Get(_) | Op::Swap(..), Outcome::Read(_, pairs)) => {
            *changed = pairs.first().map_or(0, |pair| pair.changed);
        }
        _ => {}
    }
}

/// What a refusal says of the call. Only what never reached a log is said to have failed.
fn classify(status: &Status) -> Outcome {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return Outcome::Failed;
        }
        source = error.source();
    }
    match status.code() {
        Code::ResourceExhausted => Outcome::Failed,
        _ => Outcome::Unknown,
    }
}

async fn ask(
    mut member: KvClient<Channel>,
    number: usize,
    op: &Op,
    limit: Duration,
) -> Result<(u64, Outcome), Status> {
    let (header, outcome) = match op {
        Op::Put(key) => {
            let put = pb::PutRequest { prev_kv: true, ..put(key, number) };
            let answer = member.put(timed(put, limit)).await?.into_inner();
            (answer.header, Wrote::with(answer.prev_kv))
        }
        Op::Swap(key, changed) => {
            let answer = member.txn(timed(swap(key, *changed, number), limit)).await?.into_inner();
            let read = Wrote::Read(read_by(&answer));
            (answer.header, if answer.succeeded { Wrote::with(None) } else { read })
        }
        Op::Delete(key) => {
            let answer = member.txn(timed(delete(key, number), limit)).await?.into_inner();
            (answer.header, Wrote::with(deleted_by(&answer)))
        }
        Op::Get(key) => {
            let range = pb::RangeRequest { key: key.clone().into(), ..everything() };
            let range = pb::RangeRequest { range_end: Vec::new().into(), ..range };
            let answer = member.range(timed(range, limit)).await?.into_inner();
            (answer.header, Wrote::Read(answer.kvs))
        }
        Op::List | Op::StaleList => {
            let range = pb::RangeRequest { serializable: *op == Op::StaleList, ..everything() };
            let answer = member.range(timed(range, limit)).await?.into_inner();
            (answer.header, Wrote::Read(answer.kvs))
        }
    };
    let header = header.ok_or_else(|| Status::internal("an answer without a header"))?;
    let outcome = match outcome {
        Wrote::Was(kvs) => Outcome::Wrote(header.revision, pairs(kvs)),
        Wrote::Read(kvs) => Outcome::Read(header.revision, pairs(kvs)),
    };
    Ok((header.raft_term, outcome))
}

/// What an answer says, before its header is known.
enum Wrote {
    Was(Vec<KeyValue>),
    Read(Vec<KeyValue>),
}

impl Wrote {
    fn with(before: Option<KeyValue>) -> Self {
        Self::Was(before.into_iter().collect())
    }
}

fn timed<T>(message: T, limit: Duration) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(limit);
    request
}

/// Every key at the newest revision.
#[must_use]
pub fn everything() -> pb::RangeRequest {
    pb::RangeRequest { key: vec![0].into(), range_end: vec![0].into(), ..Default::default() }
}

fn put(key: &str, number: usize) -> pb::PutRequest {
    pb::PutRequest {
        key: key.to_owned().into(),
        value: number.to_string().into(),
        ..Default::default()
    }
}

fn one(action: Action) -> pb::RequestOp {
    pb::RequestOp { request: Some(action) }
}

fn swap(key: &str, changed: i64, number: usize) -> pb::TxnRequest {
    let condition = pb::Compare {
        result: pb::compare::CompareResult::Equal.into(),
        target: pb::compare::CompareTarget::Mod.into(),
        key: key.to_owned().into(),
        target_union: Some(pb::compare::TargetUnion::ModRevision(changed)),
        ..Default::default()
    };
    let read = pb::RangeRequest { key: key.to_owned().into(), ..Default::default() };
    pb::TxnRequest {
        compare: vec![condition],
        success: vec![one(Action::RequestPut(put(key, number)))],
        failure: vec![one(Action::RequestRange(read))],
    }
}

fn delete(key: &str, number: usize) -> pb::TxnRequest {
    let delete =
        pb::DeleteRangeRequest { key: key.to_owned().into(), prev_kv: true, ..Default::default() };
    let success = vec![
        one(Action::RequestDeleteRange(delete)),
        one(Action::RequestPut(put(&marker(number), number))),
    ];
    pb::TxnRequest { success, ..Default::default() }
}

fn read_by(answer: &pb::TxnResponse) -> Vec<KeyValue> {
    match answer.responses.first().and_then(|op| op.response.as_ref()) {
        Some(Answer::ResponseRange(range)) => range.kvs.clone(),
        _ => Vec::new(),
    }
}

fn deleted_by(answer: &pb::TxnResponse) -> Option<KeyValue> {
    match answer.responses.first().and_then(|op| op.response.as_ref()) {
        Some(Answer::ResponseDeleteRange(deleted)) => deleted.prev_kvs.first().cloned(),
        _ => None,
    }
}

/// Pairs as the history has them.
#[must_use]
pub fn pairs(kvs: Vec<KeyValue>) -> Vec<Pair> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    kvs.into_iter()
        .map(|kv| Pair {
            key: text(&kv.key),
            value: text(&kv.value),
            created: kv.create_revision,
            changed: kv.mod_revision,
            version: kv.version,
        })
        .collect()
}
