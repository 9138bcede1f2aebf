//! Snapshots on their way between members: a stream of the core's pieces, made from a pinned View, received
//! into a new store outside Raft (hazard B2), then installed by a swap.
//!
//! **Incremental**: the receiver says at which revision it stands. Committed history up to there is the same on
//! both, so only what came after it is sent; the receiver adds its own part, and both hashes of the result must
//! be the sender's, else it asks for everything.

mod increment;
mod sender;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::Stream;
use kvd_core::checkpoint::{Meta, StoreError};
use kvd_core::ids::{LogId, Revision};
use kvd_core::snapshot::{Capture, Decoder, Piece};
use kvd_core::state::{Options, State};
use kvd_core::view::{Access, View};
use kvd_storage::log::RaftLog;
use tokio::sync::{Mutex, OwnedMutexGuard, oneshot};

use self::increment::{Offer, OwnHistory};
pub(crate) use self::sender::Sender;
use self::sender::next_chunk;
use super::checkpoints::Checkpoints;
use crate::apply::Applier;
use crate::checkpoint_lane::CheckpointLane;
use crate::stores::{FinishedStore, Stores};
use crate::threads::ReaderPool;

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
