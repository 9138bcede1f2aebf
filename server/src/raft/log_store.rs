//! openraft's log on ours: entries and votes in one ordered stream, acknowledged when they are durable.
//!
//! openraft calls from its one core task and awaits inline: nothing here touches the device, except a read of
//! entries that left memory, which the reader pool does.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};

use futures_util::Stream;
use kvd_core::ids::{Index, LogId};
use kvd_core::mutants::{Mutant, active};
use kvd_storage::log::{LogEntry, RaftLog, Vote};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use tokio::sync::oneshot;

use super::payload;
use super::types::{RaftEntry, RaftLogId, RaftVote, TypeConfig, log_id, raft_log_id};
use crate::limits::APPEND_BYTES_MAX;
use crate::threads::ReaderPool;

/// The log, as openraft uses it; clones are handles to the same log.
#[derive(Clone)]
pub(crate) struct LogStore {
    log: RaftLog,
    readers: ReaderPool,
}

impl LogStore {
    pub(crate) fn new(log: RaftLog, readers: ReaderPool) -> Self {
        Self { log, readers }
    }

    /// At least one entry of `from..to` where any exists, at most about a megabyte.
    async fn read_some(&self, from: u64, to: u64) -> io::Result<Vec<RaftEntry>> {
        let (from, to) = (Index(from).next(), Index(to).next());
        let entries = match self.log.read_tail(from, to, APPEND_BYTES_MAX) {
            Some(entries) => entries,
            None => {
                let log = self.log.clone();
                let read = move || log.read(from, to, APPEND_BYTES_MAX);
                let read = self.readers.run(read).await.ok_or_else(stopping)?;
                read.map_err(io::Error::other)?
            }
        };
        entries.into_iter().map(raft_entry).collect()
    }

    /// End of the log in openraft's indexes, exclusive.
    fn end(&self) -> u64 {
        // Our index of the last entry is openraft's of the one after it.
        self.log.state().last.map_or(0, |last| last.index.0)
    }
}

/// End of a range of openraft's indexes, exclusive; none where it is open.
fn end_of(range: &impl RangeBounds<u64>) -> Option<u64> {
    match range.end_bound() {
        Bound::Included(last) => Some(last.saturating_add(1)),
        Bound::Excluded(after) => Some(*after),
        Bound::Unbounded => None,
    }
}

fn start_of(range: &impl RangeBounds<u64>) -> u64 {
    match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    }
}

fn raft_entry(entry: LogEntry) -> io::Result<RaftEntry> {
    let log_id = raft_log_id(entry.log_id)
        .ok_or_else(|| io::Error::other("the log holds an entry at index zero"))?;
    let payload = payload::decode(entry.payload).map_err(io::Error::other)?;
    Ok(RaftEntry { log_id, payload })
}

fn stopping() -> io::Error {
    io::Error::other("the member is stopping")
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<RaftEntry>, io::Error> {
        let (mut from, end) = (start_of(&range), self.end());
        let to = end_of(&range).map_or(end, |to| to.min(end));
        let mut entries = Vec::new();
        while from < to {
            let some = self.read_some(from, to).await?;
            let Some(last) = some.last() else { break };
            from = last.log_id.index + 1;
            entries.extend(some);
        }
        Ok(entries)
    }

    /// Reads piece by piece: a range to apply may be far larger than memory should hold at once.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<RaftEntry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (from, end) = (start_of(&range), self.end());
        let wanted = end_of(&range).unwrap_or(end);
        let to = wanted.min(end);
        let pieces = futures_util::stream::try_unfold(
            (self.clone(), from, std::collections::VecDeque::new()),
            move |(store, mut from, mut ready)| async move {
                if ready.is_empty() && from < to {
                    ready = store.read_some(from, to).await?.into();
                    from = match ready.back() {
                        Some(last) => last.log_id.index + 1,
                        None => {
                            // A hole would make members diverge: never a silent end (openraft #1795).
                            return Err(io::Error::other(format!("the log misses entry {from}")));
                        }
                    };
                }
                if ready.is_empty()
                    && to < wanted
                    && let Some(refusal) = store.log.refusal()
                {
                    // What is missing may be what the log refused after a failure, and is to be applied.
                    return Err(refusal);
                }
                Ok(ready.pop_front().map(|entry: RaftEntry| (entry, (store, from, ready))))
            },
        );
        Box::pin(pieces)
    }

    async fn read_vote(&mut self) -> Result<Option<RaftVote>, io::Error> {
        let vote = self.log.state().vote;
        vote.map(|vote| payload::decode_vote(&vote.0).map_err(io::Error::other)).transpose()
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<RaftEntry>, io::Error> {
        self.read_some(start, end).await
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let state = self.log.state();
        Ok(LogState {
            last_purged_log_id: state.purged.and_then(raft_log_id),
            last_log_id: state.last.and_then(raft_log_id),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &RaftVote) -> Result<(), io::Error> {
        if active(Mutant::VoteForgotten) {
            return Ok(());
        }
        let (done, durable) = oneshot::channel();
        self.log.save_vote(Vote(payload::encode_vote(vote)), on_durable(done));
        durable.await.map_err(|_closed| stopping())?
    }

    async fn save_committed(&mut self, committed: Option<RaftLogId>) -> Result<(), io::Error> {
        self.log.save_committed(committed.as_ref().map(log_id));
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<RaftLogId>, io::Error> {
        Ok(self.log.state().committed.and_then(raft_log_id))
    }

    async fn append<I>(
        &mut self,
        entries: I,
        flushed: IOFlushed<TypeConfig>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries
            .into_iter()
            .map(|entry| LogEntry {
                log_id: log_id(&entry.log_id),
                payload: payload::encode(&entry.payload),
            })
            .collect();
        if active(Mutant::AckEarly) {
            self.log.append(entries, Box::new(|_result| {}));
            flushed.io_completed(Ok(()));
            return Ok(());
        }
        self.log.append(entries, Box::new(move |result| flushed.io_completed(result)));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<RaftLogId>) -> Result<(), io::Error> {
        let (done, durable) = oneshot::channel();
        self.log.truncate_after(last.as_ref().map(log_id), on_durable(done));
        durable.await.map_err(|_closed| stopping())?
    }

    async fn purge(&mut self, upto: RaftLogId) -> Result<(), io::Error> {
        let upto: LogId = log_id(&upto);
        self.log.purge(upto);
        Ok(())
    }
}

/// A callback that wakes whoever waits; nobody may, while the process ends.
fn on_durable(done: oneshot::Sender<io::Result<()>>) -> kvd_storage::log::OnDurable {
    Box::new(move |result| {
        let _nobody_waits = done.send(result);
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use bytes::Bytes;
    use futures_util::StreamExt as _;
    use kvd_core::ids::{MemberId, Term};
    use kvd_storage::fs::SimDisk;

    use super::*;
    use crate::threads::Threads;

    /// A log that failed may lack what is to be applied: found by the simulator, with seed 1189, where the state would
    /// have gone on without the entry.
    #[tokio::test]
    async fn what_a_failed_log_lacks_is_not_left_out() {
        let options = kvd_storage::log::Options {
            segment_bytes: 64 << 10,
            spares: 1,
            tail_bytes: 1 << 20,
            frame_bytes_max: 32 << 10,
            nonce: Box::new(|| 7),
        };
        let disk = Arc::new(SimDisk::new());
        let (log, flusher) = RaftLog::open(disk, Path::new("wal"), options).unwrap();
        kvd_storage::log::spawn(flusher, |error| panic!("{error}")).unwrap();
        let id = |index| LogId { term: Term(1), node: MemberId(1), index: Index(index) };
        let entry = |index| LogEntry { log_id: id(index), payload: Bytes::new() };
        log.append((1..=3).map(entry).collect(), Box::new(|result| result.unwrap()));
        let mut store = LogStore::new(log.clone(), ReaderPool::start(Threads::Os).unwrap());
        let whole: Vec<_> = store.entries_stream(0..3).await.collect().await;
        let open: Vec<_> = store.entries_stream(..).await.collect().await;
        for read in [whole, open] {
            assert!(read.len() == 3 && read.iter().all(Result::is_ok));
        }
        assert_eq!(store.try_get_log_entries(1..9).await.unwrap().len(), 2);
        log.close();
        let read: Vec<_> = store.entries_stream(0..4).await.collect().await;
        assert_eq!((read.len(), read.iter().filter(|entry| entry.is_ok()).count()), (4, 3));
    }
}
