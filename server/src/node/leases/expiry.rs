//! Ends leases whose time is up, while this member leads (rule L14).
//!
//! Each end is an entry of its own, so that a large lease is not made larger. Leadership is confirmed before,
//! and each entry is written only as the leader that was confirmed: a leader that was paused ends nothing.
//! The ends are paced: a hundred thousand leases whose time is up together must not keep clients waiting.

use std::sync::Arc;

use futures_util::future::join_all;
use kvd_core::codec;
use kvd_core::command::{Command, LeaseExpire, Proposal};
use kvd_core::lease::deadlines::Overdue;
use tokio::time::{Instant, sleep_until, timeout};

use super::{LOOK, Leases};
use crate::limits::{LEASE_EXPIRIES_IN_FLIGHT, LEASE_EXPIRIES_PER_PASS, LEASE_EXPIRY_PACE};
use crate::raft::Leadership;
use crate::shutdown::Shutdown;

/// Ends leases until the member stops, or its state may not be used any more: what a wrong state says of leases
/// must end none (hazard B10).
pub(super) async fn run(leases: Arc<Leases>, shutdown: Shutdown) {
    let ends = async {
        loop {
            leases.until_one_is_due().await;
            leases.end_some().await;
        }
    };
    tokio::select! {
        biased;
        () = leases.parts.fence.raised() => {}
        () = shutdown.begun() => {}
        () = ends => {}
    }
}

impl Leases {
    /// Returns when this member leads and the time of a lease is up.
    async fn until_one_is_due(&self) {
        let mut changes = self.parts.raft.leadership_changes();
        loop {
            if self.parts.raft.own_leadership().is_none() {
                let _sooner = timeout(LOOK, changes.changed()).await;
                continue;
            }
            match self.parts.clock.next() {
                Some(next) if next <= Instant::now() => return,
                Some(next) => tokio::select! {
                    () = sleep_until(next) => {}
                    () = self.parts.clock.sooner() => {}
                },
                None => self.parts.clock.sooner().await,
            }
        }
    }

    /// Ends leases whose time is up. Those that are not ended by it come again after a while.
    async fn end_some(&self) {
        let Some(leadership) = self.parts.raft.own_leadership() else {
            return;
        };
        let mut overdue = self.parts.clock.take_overdue(LEASE_EXPIRIES_PER_PASS);
        if overdue.is_empty() {
            return;
        }
        match self.confirm(leadership).await {
            Ok(Some(_view)) => {}
            Ok(None) | Err(_) => {
                tracing::debug!(leases = overdue.len(), "not ended: leadership is in doubt");
                return;
            }
        }
        // What was applied meanwhile may have renewed them.
        self.parts.clock.retain_overdue(&mut overdue);
        for some in overdue.chunks(LEASE_EXPIRIES_IN_FLIGHT) {
            let begun = Instant::now();
            let ends = some.iter().map(|overdue| self.end(leadership, *overdue));
            if join_all(ends).await.contains(&false) {
                return;
            }
            if some.len() == LEASE_EXPIRIES_IN_FLIGHT {
                sleep_until(begun + LEASE_EXPIRY_PACE).await;
            }
        }
    }

    /// Ends one lease; whether the leader still is.
    async fn end(&self, leadership: Leadership, overdue: Overdue) -> bool {
        let Overdue { id, granted_at } = overdue;
        let command = Command::LeaseExpire(LeaseExpire { id, granted_at });
        let proposal = codec::encode_proposal(&Proposal::internal(command));
        match self.parts.raft.write_as(leadership, proposal).await {
            Ok(applied) => {
                if let Err(rejection) = applied.outcome {
                    tracing::debug!(lease = id.0, %rejection, "a lease was not ended");
                }
                true
            }
            Err(error) => {
                tracing::debug!(lease = id.0, ?error, "a lease was not ended");
                false
            }
        }
    }
}
