//! Reads everything back once all is well again: every member must answer, have the same history, and soon.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kvd_proto::etcdserverpb as pb;
use kvd_proto::etcdserverpb::kv_client::KvClient;
use kvd_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use tonic::Status;
use tonic::transport::Channel;

use crate::check::Change;
use crate::client::{everything, pairs};
use crate::member::{CLIENT_PORT, NAMES};
use crate::net::channel;

/// Pause between two tries to reach a member.
const RETRY: Duration = Duration::from_millis(200);

/// How long one try may take.
const TRY: Duration = Duration::from_secs(2);

/// Revisions read back at once.
const AT_ONCE: usize = 60;

/// What was read back.
#[derive(Clone, Debug, Default)]
pub struct Audit {
    /// The changes at revisions 2, 3, …
    pub changes: Vec<Change>,
    /// Simulated time until every member had answered.
    pub converged_after: Duration,
}

/// Where an audit is left for whoever waits for it.
pub type AuditSlot = Arc<Mutex<Option<Result<Audit, String>>>>;

/// Audits the cluster, once it answers and nobody asks for anything else any more.
pub async fn audit(slot: AuditSlot, settle: Duration) {
    let result = read_back(settle).await;
    *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
}

async fn read_back(settle: Duration) -> Result<Audit, String> {
    let begin = tokio::time::Instant::now();
    for name in NAMES {
        newest(name).await?;
    }
    let converged_after = begin.elapsed();
    // What clients gave up on may still be on its way; after this it happened, or never does.
    tokio::time::sleep_until(begin + settle).await;
    let revision = newest(NAMES[0]).await?;
    let hashes = hashes(revision).await?;
    if hashes.windows(2).any(|two| two[0] != two[1]) {
        return Err(format!("histories differ at revision {revision}: hashes {hashes:x?}"));
    }
    Ok(Audit { changes: changes(revision).await?, converged_after })
}

/// The newest revision, asked of one member after a barrier; tried until it answers.
async fn newest(name: &str) -> Result<i64, String> {
    let member = KvClient::new(channel(name, CLIENT_PORT));
    loop {
        let range = pb::RangeRequest { count_only: true, ..everything() };
        let mut member = member.clone();
        if let Ok(Ok(answer)) = tokio::time::timeout(TRY, member.range(range)).await {
            return revision_of(answer.into_inner().header);
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn hashes(revision: i64) -> Result<Vec<u32>, String> {
    let mut hashes = Vec::new();
    for name in NAMES {
        // A member is asked only after its own barrier, so it has the revision.
        newest(name).await?;
        let mut member = MaintenanceClient::new(channel(name, CLIENT_PORT));
        let answer = member.hash_kv(pb::HashKvRequest { revision }).await.map_err(refused)?;
        hashes.push(answer.into_inner().hash);
    }
    Ok(hashes)
}

/// What each revision changed, each as one of the members has it.
async fn changes(newest: i64) -> Result<Vec<Change>, String> {
    let members: Vec<_> =
        NAMES.iter().map(|name| KvClient::new(channel(name, CLIENT_PORT))).collect();
    let mut revisions = 2..=newest;
    let mut changes = Vec::new();
    loop {
        let some = revisions.by_ref().take(AT_ONCE).zip(members.iter().cycle());
        let asked: Vec<_> = some.map(|(at, member)| change(member.clone(), at)).collect();
        if asked.is_empty() {
            return Ok(changes);
        }
        changes.extend(futures_util::future::try_join_all(asked).await?);
    }
}

async fn change(mut member: KvClient<Channel>, revision: i64) -> Result<Change, String> {
    let range = pb::RangeRequest { revision, min_mod_revision: revision, ..everything() };
    let answer = member.range(range).await.map_err(refused)?.into_inner();
    Ok(pairs(answer.kvs))
}

fn revision_of(header: Option<pb::ResponseHeader>) -> Result<i64, String> {
    header.map(|header| header.revision).ok_or_else(|| "an answer without a header".to_owned())
}

fn refused(status: Status) -> String {
    format!("a healthy cluster refused: {status}")
}
