//! Snapshots on their way between members: a stream of the core's pieces, made from a pinned View, received
//! into a new store outside Raft (hazard B2), then installed by a swap.
//!
//! **Incremental**: the receiver says at which revision it stands. Committed history up to there is the same on
//! both, so only what came after it is sent; the receiver adds its own part, and both hashes of the result must
//! be the sender's, else it asks for everything.

mod increment;

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use kvd_core::checkpoint::{Meta, StoreError};
use kvd_core::ids::{Index, LogId, MemberId, Revision};
use kvd_core::snapshot::{Capture, Decoder, Piece};
use kvd_core::state::{Options, State};
use kvd_core::view::{Access, View};
use kvd_proto::peer as wire_peer;
use kvd_proto::peer::peer_client::PeerClient;
use kvd_storage::log::RaftLog;
use openraft::alias::SnapshotOf;
use tokio::sync::{Mutex, OwnedMutexGuard, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::Channel;

use self::increment::{Offer, OwnHistory};
use super::checkpoints::Checkpoints;
use super::types::{RaftVote, TypeConfig};
use super::wire;
use crate::apply::Applier;
use crate::checkpoint_lane::CheckpointLane;
use crate::fence::Fence;
use crate::limits::SNAPSHOT_PIECE_BYTES;
use crate::peer::pool::Peers;
use crate::stores::{FinishedStore, Stores};
use crate::threads::ReaderPool;

/// Pieces of about a megabyte that wait between reading and sending.
const PIECES_QUEUED: usize = 4;

/// A snapshot as openraft hands it about.
pub(crate) enum SnapshotData {
    /// This member's own state.
    Live(Box<Capture>),
    /// Another's, received, verified and durable.
    Received(Box<Received>),
}

/// A received state, ready to be swapped in.
pub(crate) struct Received {
    state: State,
    pub(super) meta: Meta,
    store: Box<dyn FinishedStore>,
    /// Until it is the live one: the next transfer clears away what is not.
    _alone: OwnedMutexGuard<()>,
}

impl Received {
    /// Makes the store the live one and gives the state: for a member that has none to replace.
    pub(crate) fn into_live_state(self) -> Result<State, StoreError> {
        self.store.make_live()?;
        Ok(self.state)
    }
}

/// Sends this member's state.
#[derive(Clone)]
pub(crate) struct Sender {
    readers: ReaderPool,
    /// Bytes a second of one transfer.
    bytes_per_second: u64,
    sent_bytes: Arc<AtomicU64>,
    /// A state that is known to be wrong is sent to nobody (hazard B10).
    fence: Fence,
    /// Indexes of the states on their way to members that go on from there.
    on_their_way: Arc<StdMutex<Vec<Index>>>,
}

/// One of them, until it has arrived or failed.
struct OnItsWay {
    all: Arc<StdMutex<Vec<Index>>>,
    index: Index,
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = all.iter().position(|index| *index == self.index) {
            all.swap_remove(at);
        }
    }
}

impl Sender {
    pub(crate) fn new(readers: ReaderPool, bytes_per_second: u64, fence: Fence) -> Self {
        let (sent_bytes, on_their_way) = (Arc::default(), Arc::default());
        Self { readers, bytes_per_second, sent_bytes, fence, on_their_way }
    }

    /// The entry after which a receiver of a state that is on its way will go on: the log beyond it is needed
    /// (hazard B2).
    pub(crate) fn oldest_on_its_way(&self) -> Option<Index> {
        self.on_their_way.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().min()
    }

    fn on_its_way(&self, index: Index) -> OnItsWay {
        let all = Arc::clone(&self.on_their_way);
        all.lock().unwrap_or_else(PoisonError::into_inner).push(index);
        OnItsWay { all, index }
    }

    /// Bytes of snapshots sent since start.
    pub(crate) fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Ordering::Relaxed)
    }

    /// Sends a snapshot, from where the receiver stands if it can use that; answers its vote.
    pub(super) async fn send(
        &self,
        peers: &Peers,
        target: MemberId,
        mut client: PeerClient<Channel>,
        vote: &RaftVote,
        snapshot: SnapshotOf<TypeConfig, SnapshotData>,
    ) -> Result<RaftVote, String> {
        let SnapshotData::Live(mut capture) = snapshot.snapshot else {
            return Err("a received snapshot is not sent on".to_owned());
        };
        if self.fence.is_raised() {
            return Err("the state differs from the majority's and is not sent".to_owned());
        }
        let base = peers.request(target, wire_peer::SnapshotBaseRequest {});
        let base = client.snapshot_base(base).await.map_err(|status| status.to_string())?;
        capture.send_after(Revision(base.into_inner().revision));
        let meta = capture.meta().clone();
        let _until_it_arrived = self.on_its_way(meta.applied.index);
        tracing::info!(%target, index = %meta.applied.index, revision = %meta.revision,
            base = ?capture.base(), "sending snapshot");
        let pieces = self.pieces(*capture, Some(wire::to_ballot(vote)));
        let request = peers.request(target, ReceiverStream::new(pieces));
        let reply = client.install_snapshot(request).await.map_err(|status| status.to_string())?;
        tracing::info!(%target, index = %meta.applied.index, "snapshot installed by the receiver");
        wire::from_ballot(reply.into_inner().vote).map_err(|error| error.to_string())
    }

    /// The state as a stream, for a peer that asks for it.
    pub(crate) fn stream(
        &self,
        capture: Capture,
    ) -> Pin<Box<dyn Stream<Item = Result<wire_peer::SnapshotChunk, Status>> + Send>> {
        let pieces = ReceiverStream::new(self.pieces(capture, None));
        Box::pin(futures_util::StreamExt::map(pieces, Ok))
    }

    /// Reads the state piece by piece on a reader thread, at most at the rate allowed.
    fn pieces(
        &self,
        mut capture: Capture,
        mut vote: Option<wire_peer::Ballot>,
    ) -> mpsc::Receiver<wire_peer::SnapshotChunk> {
        let (chunks, receiver) = mpsc::channel(PIECES_QUEUED);
        let sender = self.clone();
        tokio::spawn(async move {
            // A stream that ends without its end piece is refused by its receiver.
            while !sender.fence.is_raised() {
                let read = move || {
                    let chunk = next_chunk(&mut capture);
                    (capture, chunk)
                };
                let Some((back, chunk)) = sender.readers.run(read).await else { return };
                capture = back;
                let data = match chunk {
                    Ok(Some(data)) => data,
                    Ok(None) => return,
                    Err(error) => {
                        tracing::warn!(%error, "a snapshot could not be read");
                        return;
                    }
                };
                let bytes = data.len() as u64;
                sender.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
                let chunk = wire_peer::SnapshotChunk { vote: vote.take(), data };
                if chunks.send(chunk).await.is_err() {
                    return;
                }
                let pace = Duration::from_micros(bytes * 1_000_000 / sender.bytes_per_second);
                tokio::time::sleep(pace).await;
            }
        });
        receiver
    }
}

/// Pieces up to about a megabyte; `None` after the last.
fn next_chunk(capture: &mut Capture) -> Result<Option<Bytes>, String> {
    let mut chunk = BytesMut::new();
    while chunk.len() < SNAPSHOT_PIECE_BYTES {
        match capture.next_piece(Access::Disk).map_err(|error| error.to_string())? {
            Some(piece) => piece.encode_to(&mut chunk),
            None => break,
        }
    }
    Ok((!chunk.is_empty()).then(|| chunk.freeze()))
}

/// Receives states and swaps them in.
#[derive(Clone)]
pub(crate) struct Installer {
    stores: Arc<dyn Stores>,
    log: RaftLog,
    readers: ReaderPool,
    state_options: Options,
    /// One transfer at a time: each builds a whole store.
    receiving: Arc<Mutex<()>>,
    /// Where checkpoints go, once the member runs.
    lane: Option<CheckpointLane>,
    /// The last increment did not fit: the next transfer is of everything.
    wants_all: Arc<AtomicBool>,
    offer: Offer,
}

impl Installer {
    pub(crate) fn new(
        stores: Arc<dyn Stores>,
        log: RaftLog,
        readers: ReaderPool,
        state_options: Options,
    ) -> Self {
        let (wants_all, offer) = (Arc::default(), Offer::default());
        let (receiving, lane) = (Arc::default(), None);
        Self { stores, log, readers, state_options, receiving, lane, wants_all, offer }
    }

    /// An installer that has later checkpoints go to the store it installs.
    pub(crate) fn with_lane(self, lane: CheckpointLane) -> Self {
        Self { lane: Some(lane), ..self }
    }

    /// The revision from which an increment could be added; zero for none.
    pub(crate) fn base(&self, own: &View) -> Revision {
        if self.wants_all.load(Ordering::Relaxed) { Revision(0) } else { self.offer.make(own) }
    }

    /// Builds a state from the pieces of a stream; `own` is this member's state, for an incremental one.
    pub(crate) async fn receive(
        &self,
        mut chunks: impl Stream<Item = Result<Bytes, String>> + Unpin,
        own: Option<View>,
    ) -> Result<Received, String> {
        let alone = Arc::clone(&self.receiving).lock_owned().await;
        let (stores, offer) = (Arc::clone(&self.stores), self.offer.clone());
        let create = move || Building::new(&*stores, own, offer);
        let mut building = self.readers.run(create).await.ok_or("the member is stopping")??;
        while let Some(chunk) = futures_util::StreamExt::next(&mut chunks).await {
            let chunk = chunk?;
            let take = move || {
                let taken = building.take(chunk);
                (building, taken)
            };
            let (back, taken) = self.readers.run(take).await.ok_or("the member is stopping")?;
            building = back;
            if let Err(error) = taken {
                self.wants_all.store(true, Ordering::Relaxed);
                return Err(error);
            }
        }
        let options = self.state_options;
        let finish = move || building.finish(options, alone);
        let received = self.readers.run(finish).await.ok_or("the member is stopping")?;
        self.wants_all.store(received.is_err(), Ordering::Relaxed);
        received
    }

    /// Swaps a state in. Everything queued in the log becomes durable first: a state ahead of this member's
    /// own log would keep it from starting (hazard A2).
    pub(super) async fn install(
        &self,
        applier: &Applier,
        checkpoints: &Checkpoints,
        snapshot: SnapshotData,
    ) -> Result<LogId, io::Error> {
        let received = match snapshot {
            SnapshotData::Received(received) => *received,
            SnapshotData::Live(capture) => self.copy(*capture).await.map_err(io::Error::other)?,
        };
        self.log_is_durable().await?;
        let Received { state, meta, store, _alone } = received;
        let switched = self.readers.run(move || store.make_live()).await;
        switched
            .ok_or_else(|| io::Error::other("the member is stopping"))?
            .map_err(io::Error::other)?;
        // From here on the old state's checkpoints are void; the new one's find their way from its first on.
        let lane = self.lane.as_ref().ok_or_else(|| io::Error::other("no way for checkpoints"))?;
        let generation = lane.replace(self.stores.live())?;
        checkpoints.installed(generation, &meta);
        applier.install(generation, state).await.map_err(io::Error::other)?;
        tracing::info!(index = %meta.applied.index, revision = %meta.revision, "snapshot installed");
        Ok(meta.applied)
    }

    /// A state received from this member itself: openraft's own suite installs what it was given.
    async fn copy(&self, mut capture: Capture) -> Result<Received, String> {
        let mut chunks = Vec::new();
        while let Some(chunk) = next_chunk(&mut capture)? {
            chunks.push(Ok(chunk));
        }
        self.receive(futures_util::stream::iter(chunks), None).await
    }

    async fn log_is_durable(&self) -> Result<(), io::Error> {
        let (done, durable) = oneshot::channel();
        self.log.append(
            Vec::new(),
            Box::new(move |result| {
                let _nobody_waits = done.send(result);
            }),
        );
        durable.await.map_err(|_closed| io::Error::other("the member is stopping"))?
    }
}

/// A store that is being filled from a stream.
struct Building {
    decoder: Decoder,
    new: Option<Box<dyn crate::stores::NewStore>>,
    own: Option<View>,
    offer: Offer,
    /// This member's history with what an increment adds.
    history: Option<OwnHistory>,
    meta: Option<Meta>,
    blocks: u64,
    rows: u64,
    ended: bool,
}

impl Building {
    fn new(stores: &dyn Stores, own: Option<View>, offer: Offer) -> Result<Self, String> {
        let new = stores.create().map_err(|error| error.to_string())?;
        Ok(Self {
            decoder: Decoder::default(),
            new: Some(new),
            own,
            offer,
            history: None,
            meta: None,
            blocks: 0,
            rows: 0,
            ended: false,
        })
    }

    fn take(&mut self, chunk: Bytes) -> Result<(), String> {
        self.decoder.push(chunk);
        while let Some(piece) = self.decoder.next_piece().map_err(|error| error.to_string())? {
            self.put(piece)?;
        }
        Ok(())
    }

    fn put(&mut self, piece: Piece) -> Result<(), String> {
        let new = self.new.as_mut().ok_or("a piece after the end")?;
        match piece {
            Piece::Header { meta, base } => {
                if self.meta.replace(*meta).is_some() {
                    return Err("a second header".to_owned());
                }
                if let Some(base) = base {
                    let own = self.own.take().ok_or("an increment without a state to add to")?;
                    self.history = Some(self.offer.history_upto(base)?);
                    self.blocks += copy_blocks(&own, base, &mut **new)?;
                }
                Ok(())
            }
            Piece::Row { table, id, row } => {
                self.rows += 1;
                new.put_row(table, id, row).map_err(|error| error.to_string())
            }
            Piece::Block { id, block } => {
                self.blocks += 1;
                if let Some(history) = &mut self.history {
                    history.add(&block)?;
                }
                new.put_block(id, block).map_err(|error| error.to_string())
            }
            Piece::End => {
                self.ended = true;
                Ok(())
            }
        }
    }

    /// Makes the store durable, opens the state from it and verifies its hash.
    fn finish(mut self, options: Options, alone: OwnedMutexGuard<()>) -> Result<Received, String> {
        if !self.ended {
            return Err("the stream ended early".to_owned());
        }
        let meta = self.meta.take().ok_or("the stream had no header")?;
        if let Some(history) = &self.history {
            history.ensure_is(&meta)?;
        }
        let meta = Meta { blocks: self.blocks, rows: self.rows, ..meta };
        let new = self.new.take().ok_or("the store was finished before")?;
        let store = new.finish(&meta).map_err(|error| error.to_string())?;
        let state = State::open(store.store(), options).map_err(|error| error.to_string())?;
        Ok(Received { state, meta, store, _alone: alone })
    }
}

/// This member's own blocks up to a revision: the part of an increment that was not sent.
fn copy_blocks(
    own: &View,
    base: Revision,
    new: &mut dyn crate::stores::NewStore,
) -> Result<u64, String> {
    let mut count = 0;
    let mut blocks = Capture::blocks_upto(own, base);
    while let Some((id, block)) =
        blocks.next_block(Access::Disk).map_err(|error| error.to_string())?
    {
        new.put_block(id, block).map_err(|error| error.to_string())?;
        count += 1;
    }
    Ok(count)
}

#[cfg(test)]
mod increment_tests;
#[cfg(test)]
mod tests;
