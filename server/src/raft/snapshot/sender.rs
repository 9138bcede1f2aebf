//! The sending side: a pinned View, read piece by piece on a reader thread, at most at the rate allowed.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use kvd_core::ids::{Index, MemberId, Revision};
use kvd_core::snapshot::Capture;
use kvd_core::view::Access;
use kvd_proto::peer as wire_peer;
use kvd_proto::peer::peer_client::PeerClient;
use openraft::alias::SnapshotOf;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::Channel;

use super::super::types::{RaftVote, TypeConfig};
use super::super::wire;
use super::SnapshotData;
use crate::fence::Fence;
use crate::limits::SNAPSHOT_PIECE_BYTES;
use crate::peer::pool::Peers;
use crate::threads::ReaderPool;

/// Pieces of about a megabyte that wait between reading and sending.
const PIECES_QUEUED: usize = 4;

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
    on_their_way: Arc<Mutex<Vec<Index>>>,
}

/// One of them, until it has arrived or failed.
struct OnItsWay {
    all: Arc<Mutex<Vec<Index>>>,
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
    pub(in crate::raft) async fn send(
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
pub(super) fn next_chunk(capture: &mut Capture) -> Result<Option<Bytes>, String> {
    let mut chunk = BytesMut::new();
    while chunk.len() < SNAPSHOT_PIECE_BYTES {
        match capture.next_piece(Access::Disk).map_err(|error| error.to_string())? {
            Some(piece) => piece.encode_to(&mut chunk),
            None => break,
        }
    }
    Ok((!chunk.is_empty()).then(|| chunk.freeze()))
}
