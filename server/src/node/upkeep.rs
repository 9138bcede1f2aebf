//! What a member does for itself while it serves: tells its name, follows leadership, has checkpoints made and
//! lets the log below them go.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kvd_core::checkpoint::Meta;
use kvd_core::command::{ClusterVersion, Command, Publish};
use kvd_core::ids::Index;
use kvd_core::mutants::{Mutant, active};
use kvd_storage::log::RaftLog;
use tokio::sync::{mpsc, watch};

use super::{Node, removal};
use crate::apply::Applier;
use crate::limits::{CHECKPOINT_INTERVAL, LOG_RETAINED_BYTES, LOG_RETAINED_FOR_SNAPSHOT_BYTES};
use crate::raft::Checkpoints;
use crate::shutdown::Shutdown;

/// Pause between two attempts to tell the cluster something.
const RETRY: Duration = Duration::from_millis(200);

/// How long the log is kept for slow peers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retention {
    /// Entries below the applied one that always stay; etcd's `--snapshot-catchup-entries`.
    pub(crate) entries: u64,
    /// Bytes that stay whatever the entries say; zero where the flags ask for a short log.
    pub(crate) bytes: u64,
}

impl Retention {
    /// Retention that etcd's flags ask for: a snapshot count below the default is a wish for a short log.
    pub(crate) fn from_flags(snapshot_count: u64, catchup_entries: u64) -> Self {
        let default_count = 10_000;
        let bytes = if snapshot_count < default_count { 0 } else { LOG_RETAINED_BYTES };
        Self { entries: catchup_entries, bytes }
    }
}

/// Starts to tell the applier of checkpoints as they become durable, so that it forgets what it kept for them;
/// answers who tells of each.
///
/// The applier may hold openraft off until it knows of a checkpoint. So this never waits for openraft, and it
/// runs before openraft does: that replays the log at its start, and a long one is checkpointed on the way.
pub(crate) fn note_checkpoints(
    applier: Applier,
    marks: Checkpoints,
    mut durable: mpsc::Receiver<(u64, Meta)>,
) -> watch::Receiver<()> {
    let (newest, newer) = watch::channel(());
    tokio::spawn(async move {
        while let Some((generation, meta)) = durable.recv().await {
            if applier.durable(generation, meta.clone()).await.is_err() {
                return;
            }
            if marks.became_durable(generation, &meta) {
                newest.send_replace(());
            }
        }
    });
    newer
}

/// Follows noted checkpoints: openraft learns of them, and the log below goes (hazard C1).
pub(crate) async fn follow_checkpoints(
    node: Arc<Node>,
    log: RaftLog,
    retention: Retention,
    mut newer: watch::Receiver<()>,
) {
    while newer.changed().await.is_ok() {
        let told = async {
            node.checkpoints.report();
            node.raft.report_checkpoint().await?;
            match purge_upto(&node, &log, retention) {
                Some(upto) => node.raft.purge(upto).await,
                None => Ok(()),
            }
        };
        if let Err(reason) = told.await {
            tracing::debug!(%reason, "a checkpoint was not followed up");
            return;
        }
    }
}

/// The entry up to which the log may go now: below the checkpoint before the last, and below what is kept for
/// peers that were away or are being sent a state, in entries and in bytes (hazards A5, A8, B2).
fn purge_upto(node: &Node, log: &RaftLog, retention: Retention) -> Option<Index> {
    if active(Mutant::PurgeEarly) {
        log.purge(node.published.view().at());
    }
    let previous = node.checkpoints.purgeable()?.index;
    let by_entries = node.published.applied().0.saturating_sub(retention.entries);
    let by_bytes = match retention.bytes {
        0 => previous,
        bytes => log.beyond_newest(bytes),
    };
    let mut upto = previous.min(Index(by_entries)).min(by_bytes);
    // Who is being sent a state goes on after it, or a slow transfer would be followed by another.
    if let Some(sent) = node.snapshots.oldest_on_its_way() {
        upto = upto.min(sent.max(log.beyond_newest(LOG_RETAINED_FOR_SNAPSHOT_BYTES)));
    }
    (upto > Index(0)).then_some(upto)
}

/// Has a changed state checkpointed now and then, however little changed.
pub(crate) async fn checkpoint_regularly(applier: Applier, shutdown: Shutdown) {
    let mut done = Index(0);
    loop {
        tokio::select! {
            () = tokio::time::sleep(CHECKPOINT_INTERVAL) => {}
            () = shutdown.begun() => return,
        }
        let applied = applier.published().applied();
        if applied > done {
            match applier.checkpoint().await {
                Ok(Some(meta)) => done = meta.applied.index,
                Ok(None) => {}
                Err(_stopping) => return,
            }
        }
    }
}

/// Becomes ready once the member recovered and the cluster knows it: the line that start scripts wait for.
pub(crate) async fn become_ready(
    node: Arc<Node>,
    name: String,
    client_urls: Vec<String>,
    shutdown: Shutdown,
) {
    let ready = async {
        recovered(&node).await;
        if removal::is_removed_before_ready(&node).await {
            return false;
        }
        publish(Arc::clone(&node), name, client_urls).await;
        true
    };
    let serves = tokio::select! {
        serves = ready => serves,
        () = shutdown.begun() => return,
    };
    if !serves || node.fence.is_raised() {
        return;
    }
    node.ready.send_replace(true);
    tracing::info!("ready to serve client requests");
}

/// Returns when this member has all that was acknowledged before it started, or after one election timeout
/// without a leader that could tell (hazard B9): its own replay ends with what it knew to be committed.
async fn recovered(node: &Node) {
    let look = Duration::from_millis(node.limits.election_ms);
    loop {
        match tokio::time::timeout(look, node.barrier()).await {
            Ok(Ok(_view)) => return,
            Ok(Err(_)) | Err(_) if node.leader().is_none() => return,
            // The leader is known, but slow, or far ahead.
            Ok(Err(_)) => tokio::time::sleep(RETRY).await,
            Err(_) => {}
        }
    }
}

/// Tells the cluster this member's name and addresses, until everybody knows (rule C2).
async fn publish(node: Arc<Node>, name: String, client_urls: Vec<String>) {
    let own = node.own.member_id;
    loop {
        let known = node.view().members().present.get(&own).is_some_and(|member| {
            member.name == name
                && member.client_urls == client_urls
                && member.incarnation == Some(node.own.incarnation)
        });
        if known {
            return;
        }
        let publish = Publish {
            member: own,
            name: name.clone(),
            client_urls: client_urls.clone(),
            incarnation: node.own.incarnation,
        };
        if let Err(error) = node.propose(Command::Publish(publish)).await {
            tracing::debug!(%error, "not published yet");
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// As leader, sets the cluster version once nobody has (behaviour.md 5.3). All members run this version.
pub(crate) async fn set_cluster_version(node: Arc<Node>, shutdown: Shutdown) {
    let mut changes = node.raft.leadership_changes();
    while !shutdown.is_begun() {
        if node.view().cluster_version().is_some() {
            return;
        }
        if node.leader() == Some(node.own.member_id) {
            let version = ClusterVersion { major: 3, minor: 6 };
            if let Err(error) = node.propose(Command::ClusterVersion(version)).await {
                tracing::debug!(%error, "cluster version is not set yet");
            }
        }
        // A change of leadership may make it this member's duty; the pause covers another's failure.
        let _sooner = tokio::time::timeout(RETRY, changes.changed()).await;
    }
}

/// Counts leaders that were seen, and says who they are.
pub(crate) async fn follow_leadership(node: Arc<Node>, shutdown: Shutdown) {
    let mut changes = node.raft.leadership_changes();
    let mut known = None;
    loop {
        let now = node.raft.leader();
        if let Some(leadership) = now
            && known != now
        {
            known = now;
            node.leader_changes.fetch_add(1, Ordering::Relaxed);
            tracing::info!(leader = %leadership.leader, term = %leadership.term, "leader elected");
        }
        // A new leader can vouch for itself only after a majority answered, which is no change that is told.
        tokio::select! {
            _sooner = tokio::time::timeout(RETRY, changes.changed()) => {}
            () = shutdown.begun() => return,
        }
    }
}
