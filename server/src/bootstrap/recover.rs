//! What a starting member learns from its peers: whether its id is in use, and the state where its own is of
//! no use.

use std::sync::Arc;
use std::time::Duration;

use kvd_core::ids::{Index, LogId, MemberId};
use kvd_core::state::{Options as StateOptions, State};
use kvd_proto::peer::{FetchStateRequest, HelloReply, HelloRequest};
use kvd_storage::datadir::Divergence;
use kvd_storage::log::RaftLog;
use tokio::sync::oneshot;

use super::{StartError, Starting};
use crate::node::agreement;
use crate::node::agreement::verdict::contradicted;
use crate::peer::identity::PROTOCOL;
use crate::peer::pool::{Lane, within};
use crate::raft::Installer;
use crate::threads::ReaderPool;

/// How long a starting member waits for one peer to say who it is.
const GREETING: Duration = Duration::from_millis(1500);

impl Starting {
    /// Before an empty member founds anything, it asks whether its id is in use (hazard A6).
    pub(super) async fn greet_peers(&self) -> Result<(), StartError> {
        let others = self.config.founders.iter().filter(|(id, _)| **id != self.own.member_id);
        let greetings = others.map(|(id, urls)| self.greet(*id, urls));
        for reply in futures_util::future::join_all(greetings).await.into_iter().flatten() {
            if reply.protocol_major != PROTOCOL.0 {
                return Err(StartError::Cluster(format!(
                    "member {:x} speaks version {} of the peer protocol, this one {}: \
                     run releases that are closer to each other",
                    reply.member_id, reply.protocol_major, PROTOCOL.0
                )));
            }
            if reply.removed {
                return Err(self.was_removed());
            }
            // Its own incarnation is known only if it took part before: then it is the log that is gone, unless
            // a vote is left; entries may have been applied and lost before they were durable (hazard A2).
            let took_part = reply.known_incarnation != self.own.incarnation.0
                || self.log.state().vote.is_none();
            if reply.bootstrapped && took_part {
                return Err(StartError::Cluster(format!(
                    "member {} has already been bootstrapped, but its log is empty: restore the \
                     data directory, or remove the member from the cluster and add it anew",
                    self.own.member_id
                )));
            }
        }
        Ok(())
    }

    pub(super) fn was_removed(&self) -> StartError {
        StartError::Cluster(format!(
            "member {} was removed from the cluster for good: to take part again it needs an empty \
             data directory and a new id from `member add`",
            self.own.member_id
        ))
    }

    async fn greet(&self, id: MemberId, urls: &[String]) -> Option<HelloReply> {
        let mut client = self.peers.client(id, urls, Lane::Calls);
        let hello = HelloRequest { protocol_major: PROTOCOL.0, protocol_minor: PROTOCOL.1 };
        let request = self.peers.request(id, hello);
        // Who does not answer now refuses this member later, and is refused by it, if it knew another one.
        within(GREETING, client.hello(request)).await.ok()
    }

    /// The state of the live store, or a peer's where that is of no use.
    pub(super) async fn recover(&self, installer: &Installer) -> Result<State, StartError> {
        let log = self.log.state();
        let purged = log.purged.map_or(Index(0), |purged| purged.index);
        let noted = self.divergence().await?;
        if noted.is_diverged() {
            return self.rebuild(installer, purged, noted).await;
        }
        // Takes seconds, in which peers that start as well want to know who is here.
        let live = self.world.stores.live();
        let opened = self
            .readers
            .run(move || State::open(live, StateOptions::DEFAULT))
            .await
            .ok_or_else(|| StartError::Storage("the readers have stopped".to_owned()))?;
        let unusable = match (&self.world.broken, opened) {
            // A log that was never purged makes the state anew; an empty one says nothing of what was lost.
            (Some(reason), _) if log.last.is_none() => reason.clone(),
            (_, Ok(state)) if state.applied().index >= purged => return Ok(state),
            (Some(reason), _) => reason.clone(),
            (None, Ok(state)) => format!(
                "the checkpoint is at {}, but the log begins after {purged}",
                state.applied().index
            ),
            (None, Err(error)) => error.to_string(),
        };
        tracing::warn!(reason = %unusable, "no usable checkpoint; fetching the state from a peer");
        let others: Vec<_> = self.others().collect();
        self.fetch(installer, &others, purged, &unusable).await
    }

    async fn divergence(&self) -> Result<Divergence, StartError> {
        let stores = Arc::clone(&self.world.stores);
        let noted = self.readers.run(move || stores.divergence()).await;
        let noted = noted.ok_or_else(|| StartError::Storage("the readers have stopped".into()))?;
        noted.map_err(|error| StartError::Storage(error.to_string()))
    }

    /// This member's state was found to differ from the majority's: log and vote stay, the state is that of one
    /// of the majority, whole (hazard B10).
    async fn rebuild(
        &self,
        installer: &Installer,
        purged: Index,
        noted: Divergence,
    ) -> Result<State, StartError> {
        let reason = "it differed from the majority's";
        tracing::warn!(rebuilds = noted.rebuilds, "the state {reason}; fetching a peer's");
        let from: Vec<_> = self.others().filter(|(id, _)| noted.fetch_from.contains(id)).collect();
        let state = self.fetch(installer, &from, purged, reason).await?;
        // Only now: until the new state is the live one, no start may use the old one.
        let stores = Arc::clone(&self.world.stores);
        let good = Divergence { fetch_from: Vec::new(), rebuilds: noted.rebuilds };
        let noted = self.readers.run(move || stores.note_divergence(&good)).await;
        let noted = noted.ok_or_else(|| StartError::Storage("the readers have stopped".into()))?;
        noted.map_err(|error| StartError::Storage(error.to_string()))?;
        tracing::info!(applied = %state.applied(), "the state is the majority's");
        Ok(state)
    }

    /// The other members, with their peer URLs: those of the last checkpoint, or else those that the flags name.
    fn others(&self) -> impl Iterator<Item = (MemberId, Vec<String>)> + use<> {
        let own = self.own.member_id;
        let checkpoint = self.last_checkpoint().ok().flatten();
        let known = checkpoint.map(|meta| meta.membership.1.nodes);
        let known = known.filter(|nodes| !nodes.is_empty());
        let nodes = known.unwrap_or_else(|| self.config.founders.clone());
        nodes.into_iter().filter(move |(id, _)| *id != own)
    }

    /// Fetches the state of any of these peers at or after an index (hazard A5); not of one that is contradicted
    /// by another: a wrong state must not spread (hazard B10).
    async fn fetch(
        &self,
        installer: &Installer,
        from: &[(MemberId, Vec<String>)],
        index_min: Index,
        reason: &str,
    ) -> Result<State, StartError> {
        if from.is_empty() {
            return Err(StartError::Storage(format!(
                "the checkpoint cannot be used ({reason}) and there is no peer to fetch it from: \
                 restore the data directory from a backup"
            )));
        }
        let fetched = async {
            loop {
                let told = agreement::ask(&self.peers, self.others().collect(), GREETING).await;
                for (id, urls) in from {
                    if let Some((index, by)) = contradicted(*id, &told) {
                        tracing::error!(
                            member = %id, %index, %by,
                            "this peer's state differs from another's and is not taken"
                        );
                        continue;
                    }
                    match self.fetch_from(installer, *id, urls, index_min).await {
                        Ok(state) => return state,
                        Err(error) => {
                            tracing::warn!(member = %id, %error, "no state from this peer");
                        }
                    }
                }
                tokio::time::sleep(GREETING).await;
            }
        };
        tokio::select! {
            state = fetched => Ok(state),
            () = self.world.shutdown.begun() => {
                Err(StartError::Storage("stopped before a state was found".to_owned()))
            }
        }
    }

    async fn fetch_from(
        &self,
        installer: &Installer,
        id: MemberId,
        urls: &[String],
        index_min: Index,
    ) -> Result<State, String> {
        let mut client = self.peers.client(id, urls, Lane::Snapshots);
        let request = self.peers.request(id, FetchStateRequest { index_min: index_min.0 });
        let stream = client.fetch_state(request).await.map_err(|status| status.to_string())?;
        let chunks = futures_util::StreamExt::map(stream.into_inner(), |chunk| {
            chunk.map(|chunk| chunk.data).map_err(|status| status.to_string())
        });
        let received = installer.receive(Box::pin(chunks), None).await?;
        let switched = self.readers.run(move || received.into_live_state()).await;
        switched.ok_or("the readers have stopped")?.map_err(|error| error.to_string())
    }
}

/// Lets go of log entries that the state has no use for and contradicts.
///
/// A state that was fetched, or installed just before a crash, may be ahead of this member's own log, whose tail
/// may hold entries that never were committed: openraft would take the pair for corrupted, or go on with a hole
/// (hazard A2). What the state holds is committed, so if the entry it ends with is not in the log, no entry of
/// the log is needed: those before it are part of the state, those after it follow another one.
pub(super) async fn fit_log(
    log: &RaftLog,
    readers: &ReaderPool,
    applied: LogId,
) -> Result<(), String> {
    let state = log.state();
    if applied.index <= state.purged.map_or(Index(0), |purged| purged.index) {
        return Ok(());
    }
    let reader = log.clone();
    let read = move || reader.read(applied.index, applied.index.next(), 1);
    let entries = readers.run(read).await.ok_or("the readers have stopped")?;
    let entries = entries.map_err(|error| error.to_string())?;
    if entries.first().is_some_and(|entry| entry.log_id == applied) {
        return Ok(());
    }
    tracing::warn!(%applied, last = ?state.last, "the log is left behind by the state");
    let (done, durable) = oneshot::channel();
    log.truncate_after(state.purged, Box::new(move |result| drop(done.send(result))));
    log.purge(applied);
    let truncated = durable.await.map_err(|_closed| "the log has stopped".to_owned())?;
    truncated.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use bytes::Bytes;
    use kvd_core::ids::Term;
    use kvd_storage::fs::SimDisk;
    use kvd_storage::log::{self, LogEntry};

    use super::*;
    use crate::threads::Threads;

    fn id(term: u64, index: u64) -> LogId {
        LogId { term: Term(term), node: MemberId(1), index: Index(index) }
    }

    /// A log of entries 1 to 3 of term 5, fitted to a state.
    async fn fitted(applied: LogId) -> log::LogState {
        let options = log::Options {
            segment_bytes: 64 << 10,
            spares: 1,
            tail_bytes: 1 << 20,
            frame_bytes_max: 32 << 10,
            nonce: Box::new(|| 7),
        };
        let disk = Arc::new(SimDisk::new());
        let (log, flusher) = RaftLog::open(disk, Path::new("wal"), options).unwrap();
        log::spawn(flusher, |error| panic!("{error}")).unwrap();
        let entries =
            (1..=3).map(|index| LogEntry { log_id: id(5, index), payload: Bytes::new() }).collect();
        log.append(entries, Box::new(|result| result.unwrap()));
        let readers = ReaderPool::start(Threads::Os).unwrap();
        fit_log(&log, &readers, applied).await.unwrap();
        log.state()
    }

    #[tokio::test]
    async fn a_log_keeps_what_follows_its_state() {
        for applied in [LogId::default(), id(5, 1), id(5, 3)] {
            let log = fitted(applied).await;
            assert_eq!((log.purged, log.last), (None, Some(id(5, 3))), "state at {applied}");
        }
    }

    #[tokio::test]
    async fn a_log_that_contradicts_the_state_is_let_go() {
        for applied in [id(6, 2), id(6, 3), id(4, 9), id(6, 9)] {
            let log = fitted(applied).await;
            assert_eq!((log.purged, log.last), (Some(applied), Some(applied)), "at {applied}");
        }
    }
}
