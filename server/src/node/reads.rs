//! Linearizable reads by ReadIndex: one round in flight, one gathering, shared by all who wait (decision D8).
//!
//! A reader joins the round that has not started yet, so the index it gets was confirmed after it asked. A
//! round that fails fails for all its readers; a reader that tries again joins a new round and never reuses an
//! index (etcd #20418).

use std::sync::Arc;
use std::time::Duration;

use kvd_core::ids::Index;
use kvd_core::mutants::{Mutant, active};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::request::Unavailable;
use crate::peer::pool::{Lane, Peers, within};
use crate::raft::{Leadership, Raft};

/// Readers that may wait for a round to start; more wait to be let in.
const WAITING_MAX: usize = 65_536;

/// Pause between two failed rounds: a dead leader is not asked in a loop.
const RETRY: Duration = Duration::from_millis(20);

/// Hands out read indexes; clones share the rounds.
#[derive(Clone)]
pub(crate) struct ReadRounds {
    join: mpsc::Sender<oneshot::Sender<Option<Index>>>,
    raft: Raft,
}

impl ReadRounds {
    /// Starts the rounds' driver.
    pub(crate) fn start(raft: Raft, peers: Peers, addresses: Arc<dyn Addresses>) -> Self {
        let (join, waiting) = mpsc::channel(WAITING_MAX);
        let driver = Driver { raft: raft.clone(), peers, addresses };
        tokio::spawn(driver.run(waiting));
        Self { join, raft }
    }

    /// An index that covers every write acknowledged before the call.
    pub(crate) async fn index(&self, deadline: Instant) -> Result<Index, Unavailable> {
        let before = self.raft.leader();
        let mut changes = self.raft.leadership_changes();
        loop {
            match tokio::time::timeout_at(deadline, self.one_round()).await {
                Ok(Ok(Some(index))) => return Ok(index),
                Ok(Ok(None)) if active(Mutant::ReadIndexReused) => {
                    return Ok(self.raft.committed());
                }
                Ok(Ok(None)) => {}
                Ok(Err(stopped)) => return Err(stopped),
                Err(_elapsed) => return Err(Unavailable::Timeout),
            }
            if changed(before, self.raft.leader()) {
                return Err(Unavailable::LeaderChanged);
            }
            let pause = Instant::now() + RETRY;
            if pause >= deadline {
                return Err(Unavailable::Timeout);
            }
            // Either is a reason to try again; both end the pause.
            let _sooner = tokio::time::timeout_at(pause, changes.changed()).await;
        }
    }

    async fn one_round(&self) -> Result<Option<Index>, Unavailable> {
        let (sender, receiver) = oneshot::channel();
        self.join.send(sender).await.map_err(|_closed| Unavailable::Stopped)?;
        receiver.await.map_err(|_closed| Unavailable::Stopped)
    }
}

/// Whether another leader took over while a read waited (behaviour.md 10.5).
fn changed(before: Option<Leadership>, now: Option<Leadership>) -> bool {
    matches!((before, now), (Some(before), Some(now)) if before != now)
}

/// Where a member listens to its peers.
pub(crate) trait Addresses: Send + Sync {
    /// Its peer URLs; none for an unknown member.
    fn peer_urls(&self, member: kvd_core::ids::MemberId) -> Vec<String>;
}

struct Driver {
    raft: Raft,
    peers: Peers,
    addresses: Arc<dyn Addresses>,
}

impl Driver {
    async fn run(self, mut waiting: mpsc::Receiver<oneshot::Sender<Option<Index>>>) {
        let mut round = Vec::new();
        while waiting.recv_many(&mut round, WAITING_MAX).await > 0 {
            let index = self.read_index().await;
            while active(Mutant::RoundJoinedLate)
                && let Ok(late) = waiting.try_recv()
            {
                round.push(late);
            }
            for reader in round.drain(..) {
                let _reader_gone = reader.send(index);
            }
        }
    }

    async fn read_index(&self) -> Option<Index> {
        let leadership = self.raft.leader()?;
        if leadership.leader == self.raft.own_id() {
            return self.raft.read_index().await;
        }
        let urls = self.addresses.peer_urls(leadership.leader);
        let mut client = self.peers.client(leadership.leader, &urls, Lane::Calls);
        let request = self.peers.request(leadership.leader, kvd_proto::peer::ReadIndexRequest {});
        let limit = self.raft.round_timeout();
        // A leader that is lost says nothing; what it would still say once another leads is worth nothing.
        let reply = tokio::select! {
            biased;
            reply = within(limit, client.read_index(request)) => reply.ok()?,
            () = self.raft.superseded(leadership, Duration::ZERO) => return None,
        };
        (reply.index > 0).then_some(Index(reply.index))
    }
}
