//! Renewals on their way through the log: one entry in flight, one gathering, shared by all who renew.
//!
//! The same task notes what leases have left. So in the log of one leader a note never stands behind a renewal
//! that it does not know of.

use std::sync::Arc;

use kvd_core::codec;
use kvd_core::command::{Command, LeaseRenew, Proposal};
use kvd_core::ids::LeaseId;
use kvd_core::outcome::Response;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval};

use super::Leases;
use crate::limits::{LEASE_REMAINING_INTERVAL, LEASE_RENEWALS_PER_ENTRY_MAX};
use crate::node::request::Unavailable;
use crate::shutdown::Shutdown;

/// A renewal that waits for an entry.
pub(super) struct Join {
    id: LeaseId,
    answer: oneshot::Sender<Renewed>,
}

/// What became of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Renewed {
    /// Seconds granted; zero where there is no such lease.
    Granted(i64),
    /// Its time was up before the entry was proposed.
    Overdue,
    /// This member does not lead, or not long enough.
    NotLeading,
}

impl Leases {
    /// Joins the entry that has not been proposed yet.
    pub(super) async fn join(&self, id: LeaseId) -> Result<Renewed, Unavailable> {
        let (answer, renewed) = oneshot::channel();
        let join = Join { id, answer };
        self.join.send(join).await.map_err(|_closed| Unavailable::Stopped)?;
        renewed.await.map_err(|_closed| Unavailable::Stopped)
    }

    async fn renew_all(&self, batch: &mut Vec<Join>) {
        let clock = &self.parts.clock;
        // Who gave up has had another answer.
        batch.retain(|join| !join.answer.is_closed());
        let Some(leadership) = self.parts.raft.own_leadership() else {
            return answer(batch, |_| Renewed::NotLeading);
        };
        let proposed = clock.now();
        let overdue = batch.extract_if(.., |join| !clock.begin_renewal(join.id, proposed));
        answer(&mut overdue.collect(), |_| Renewed::Overdue);
        if batch.is_empty() {
            return;
        }
        let ids: Vec<LeaseId> = batch.iter().map(|join| join.id).collect();
        let command = Command::LeaseRenew(LeaseRenew { ids: ids.clone() });
        let proposal = codec::encode_proposal(&Proposal::internal(command));
        let granted = match self.parts.raft.write_as(leadership, proposal).await {
            Ok(applied) => match applied.outcome {
                Ok(Response::LeaseRenew(granted)) => Some(granted),
                _ => None,
            },
            Err(error) => {
                tracing::debug!(?error, "leases were not renewed");
                None
            }
        };
        clock.end_renewals(&ids, granted.is_some().then_some(proposed));
        match granted {
            Some(granted) => answer(batch, |place| {
                granted.get(place).map_or(Renewed::NotLeading, |seconds| Renewed::Granted(*seconds))
            }),
            None => answer(batch, |_| Renewed::NotLeading),
        }
    }
}

fn answer(batch: &mut Vec<Join>, of: impl Fn(usize) -> Renewed) {
    for (place, join) in batch.drain(..).enumerate() {
        let _client_gone = join.answer.send(of(place));
    }
}

/// Works off renewals until the member stops.
pub(super) async fn run(
    leases: Arc<Leases>,
    mut waiting: mpsc::Receiver<Join>,
    shutdown: Shutdown,
) {
    let mut batch = Vec::new();
    let mut note = interval(LEASE_REMAINING_INTERVAL);
    note.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut noted_to = None;
    loop {
        tokio::select! {
            // Takes nothing out of the channel unless it wins.
            _ = waiting.recv_many(&mut batch, LEASE_RENEWALS_PER_ENTRY_MAX) => {
                leases.renew_all(&mut batch).await;
            }
            _ = note.tick() => noted_to = leases.note_remaining(noted_to).await,
            () = shutdown.begun() => return,
        }
    }
}
