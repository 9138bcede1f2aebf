//! Reads everything back once all is well again: every member must answer, have the same content, and soon.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kvd_check::{FinalRead, Outcome, PutRequest, Request};
use kvd_proto::etcdserverpb as pb;
use kvd_proto::etcdserverpb::kv_client::KvClient;
use kvd_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tonic::Status;
use tonic::transport::Channel;

use crate::client::asker::Asker;
use crate::client::{CLIENTS, Scene, member};
use crate::convert;
use crate::machine::{CLIENT_PORT, Machine};
use crate::net::channel;
use crate::run::HEALTHY_MS;

/// Pause between two tries to reach a member.
const RETRY: Duration = Duration::from_millis(200);

/// How long one try may take.
const TRY: Duration = Duration::from_secs(2);

/// Tries to write.
const WRITES: u32 = 10;

/// The auditor's number among clients.
const AUDITOR: u64 = 99;

/// How long a witness, or any other watch, may take to hear of the newest revision.
const WITNESSED: Duration = Duration::from_secs(10);

/// What was read back.
#[derive(Clone, Debug, Default)]
pub struct Audit {
    /// What each member has.
    pub finals: Vec<FinalRead>,
    /// Simulated time until every member had answered.
    pub converged_after: Duration,
}

/// Where an audit is left for whoever waits for it.
pub type AuditSlot = Arc<Mutex<Option<Result<Audit, String>>>>;

/// Audits the cluster, once it answers and nobody asks for anything else any more.
pub async fn audit(
    scene: Scene,
    members: Vec<usize>,
    doubtful: Option<(usize, Machine)>,
    slot: AuditSlot,
    settle: Duration,
) {
    let mut result = read_back(&scene, &members, settle).await;
    if let (Ok(audit), Some((at, machine))) = (&mut result, doubtful) {
        match stopped_or_read(&scene, at, &machine, audit.finals[0].revision).await {
            Ok(read) => audit.finals.extend(read),
            Err(what) => result = Err(what),
        }
    }
    *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
}

async fn read_back(scene: &Scene, members: &[usize], settle: Duration) -> Result<Audit, String> {
    let begin = tokio::time::Instant::now();
    for at in members {
        newest(scene.members[*at]).await?;
    }
    let converged_after = begin.elapsed();
    for at in members {
        write(scene, *at).await?;
    }
    // What clients gave up on may still be on its way; after this it happened, or never does.
    let clients_are_done = begin + Duration::from_millis(HEALTHY_MS);
    tokio::time::sleep_until(clients_are_done.max(tokio::time::Instant::now()) + settle).await;
    let revision = newest(scene.members[members[0]]).await?;
    witnessed(scene, members, revision).await?;
    watched(scene).await?;
    let mut finals = Vec::new();
    for at in members {
        finals.push(read(*at, scene.members[*at], revision).await.map_err(refused)?);
    }
    Ok(Audit { finals, converged_after })
}

/// A healthy cluster takes writes, whichever member is asked; tried a few times, each with a value of its own.
async fn write(scene: &Scene, at: usize) -> Result<(), String> {
    let mut rng = StdRng::seed_from_u64(at as u64);
    let mut asker = Asker::at(scene, AUDITOR, at);
    for attempt in 0..WRITES {
        let put = PutRequest::of(format!("audit/{at}"), format!("{at}.{attempt}"));
        let outcome = asker.ask_here(&mut rng, Request::Put(put)).await;
        if matches!(outcome, Outcome::Answered { .. }) {
            return Ok(());
        }
        tokio::time::sleep(RETRY).await;
    }
    Err(format!("{} takes no writes though all is well", scene.members[at]))
}

/// The newest revision, asked of one member after a barrier; tried until it answers.
async fn newest(name: &str) -> Result<i64, String> {
    let member = KvClient::new(channel(name, CLIENT_PORT));
    loop {
        let range = pb::RangeRequest { count_only: true, ..convert::range(&convert::everything()) };
        let mut member = member.clone();
        if let Ok(Ok(answer)) = tokio::time::timeout(TRY, member.range(range)).await {
            let header = answer.into_inner().header;
            return header.map(|header| header.revision).ok_or_else(|| "no header".to_owned());
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Waits until every member's witness was told of this revision.
async fn witnessed(scene: &Scene, members: &[usize], revision: i64) -> Result<(), String> {
    let deadline = tokio::time::Instant::now() + WITNESSED;
    for at in members.iter().copied() {
        while scene.record.witness_next(member(at)) <= revision {
            if tokio::time::Instant::now() > deadline {
                let next = scene.record.witness_next(member(at));
                return Err(format!(
                    "a watch of all of {} is told of nothing beyond {next}, {revision} is newest",
                    scene.members[at]
                ));
            }
            tokio::time::sleep(RETRY).await;
        }
    }
    Ok(())
}

/// Waits until each client's watch is open and was told of everything.
async fn watched(scene: &Scene) -> Result<(), String> {
    let deadline = tokio::time::Instant::now() + WITNESSED;
    while let Some(why) = scene.record.watches_behind(CLIENTS.len()) {
        if tokio::time::Instant::now() > deadline {
            return Err(format!("all is well and settled, but {why}"));
        }
        tokio::time::sleep(RETRY).await;
    }
    Ok(())
}

/// What a member has whose bits may be wrong, unless it stopped for that. Nothing else is allowed.
async fn stopped_or_read(
    scene: &Scene,
    at: usize,
    machine: &Machine,
    revision: i64,
) -> Result<Option<FinalRead>, String> {
    let deadline = tokio::time::Instant::now() + WITNESSED;
    while machine.stopped().is_none() {
        let name = scene.members[at];
        if let Ok(Ok(read)) = tokio::time::timeout(TRY, read(at, name, revision)).await {
            return Ok(Some(read));
        }
        if tokio::time::Instant::now() > deadline {
            return Err(format!("{name}, with bits that may be wrong, neither stops nor answers"));
        }
        tokio::time::sleep(RETRY).await;
    }
    Ok(None)
}

async fn read(at: usize, name: &str, revision: i64) -> Result<FinalRead, Status> {
    let member_channel: Channel = channel(name, CLIENT_PORT);
    let hash = pb::HashKvRequest { revision };
    let hash = MaintenanceClient::new(member_channel.clone()).hash_kv(hash).await?.into_inner();
    let range = convert::range(&convert::everything());
    let answer = KvClient::new(member_channel).range(range).await?.into_inner();
    let revision = answer.header.as_ref().map_or(0, |header| header.revision);
    let kvs = convert::range_reply(&answer).kvs;
    Ok(FinalRead { member: member(at), revision, hash: hash.hash.into(), kvs })
}

fn refused(status: Status) -> String {
    format!("a healthy cluster refused: {status}")
}
