//! openraft's state machine on the applier.
//!
//! A snapshot here is a checkpoint: building one means "a checkpoint at the applied index is durable", and
//! nothing is copied (hazard C1). Installing one swaps in a state that was received and verified before
//! (hazard B2), so openraft's queue is held up for milliseconds only.

use std::io;

use futures_util::{Stream, StreamExt};
use kvd_core::checkpoint::Meta;
use kvd_core::ids::{Index, LogId};
use openraft::alias::{SnapshotMetaOf, SnapshotOf};
use openraft::storage::{EntryResponder, RaftStateMachine, Snapshot, SnapshotMeta};
use openraft::{OptionalSend, RaftSnapshotBuilder};

use super::checkpoints::Checkpoints;
use super::snapshot::{Installer, SnapshotData};
use super::types::{
    self, RaftLogId, RaftStoredMembership, TypeConfig, raft_log_id, stored_membership,
};
use crate::apply::{Applier, Reply};

/// Committed entries handed to the applier at once.
const BATCH: usize = 256;

/// The state, as openraft uses it.
pub(crate) struct StateMachine {
    applier: Applier,
    checkpoints: Checkpoints,
    installer: Installer,
    /// The entry after the last applied; `None` where the order is not checked.
    next: Option<Index>,
}

impl StateMachine {
    /// A state machine that insists on one entry after the other (hazard A8).
    pub(crate) fn new(applier: Applier, checkpoints: Checkpoints, installer: Installer) -> Self {
        let next = Some(applier.published().applied().next());
        Self { applier, checkpoints, installer, next }
    }

    /// A state machine for openraft's own suite, which applies entries with holes.
    #[cfg(test)]
    pub(crate) fn without_order(
        applier: Applier,
        checkpoints: Checkpoints,
        installer: Installer,
    ) -> Self {
        Self { applier, checkpoints, installer, next: None }
    }

    /// Openraft promises contiguous entries; a hole would make this member diverge, so it is checked.
    fn check_order(&mut self, log_id: LogId) -> Result<(), io::Error> {
        match &mut self.next {
            Some(next) if *next != log_id.index => Err(io::Error::other(format!(
                "entry {} was to be applied where {next} comes next",
                log_id.index
            ))),
            Some(next) => {
                *next = log_id.index.next();
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Builder;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<RaftLogId>, RaftStoredMembership), io::Error> {
        let view = self.applier.published().view();
        let membership = stored_membership(view.membership()).map_err(io::Error::other)?;
        Ok((raft_log_id(view.at()), membership))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut ready = entries.by_ref().ready_chunks(BATCH);
        while let Some(batch) = ready.next().await {
            let mut work = Vec::with_capacity(batch.len());
            for item in batch {
                let (entry, responder) = item?;
                self.check_order(types::log_id(&entry.log_id))?;
                let reply = responder
                    .map(|responder| -> Reply { Box::new(move |applied| responder.send(applied)) });
                work.push((types::entry(entry), reply));
            }
            self.applier.apply(work).await.map_err(io::Error::other)?;
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<Builder> {
        Some(self.get_snapshot_builder().await)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { applier: self.applier.clone(), checkpoints: self.checkpoints.clone() }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMetaOf<TypeConfig>,
        snapshot: SnapshotData,
    ) -> Result<(), io::Error> {
        let installed = self.installer.install(&self.applier, &self.checkpoints, snapshot).await?;
        if raft_log_id(installed) != meta.last_log_id {
            return Err(io::Error::other(format!("a snapshot at {installed} came as {meta:?}")));
        }
        self.next = self.next.map(|_before| installed.index.next());
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<TypeConfig, SnapshotData>>, io::Error> {
        // Whoever asks gets the newest state with its own meta, pinned by the View; but not before a
        // checkpoint exists, for openraft takes what it is given here for durable.
        if self.checkpoints.last().is_none() {
            return Ok(None);
        }
        Ok(Some(current(&self.applier).await?))
    }
}

/// The newest state as a snapshot.
async fn current(applier: &Applier) -> io::Result<SnapshotOf<TypeConfig, SnapshotData>> {
    let capture = applier.capture().await.map_err(io::Error::other)?;
    let meta = snapshot_meta(capture.meta())?;
    Ok(Snapshot { meta, snapshot: SnapshotData::Live(Box::new(capture)) })
}

/// openraft's name of a checkpoint.
pub(super) fn snapshot_meta(meta: &Meta) -> io::Result<SnapshotMetaOf<TypeConfig>> {
    Ok(SnapshotMeta {
        last_log_id: raft_log_id(meta.applied),
        last_membership: stored_membership(&meta.membership).map_err(io::Error::other)?,
    })
}

/// Builds a snapshot: has a checkpoint made durable.
pub(crate) struct Builder {
    applier: Applier,
    checkpoints: Checkpoints,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<TypeConfig, SnapshotData>, io::Error> {
        let meta = match self.checkpoints.take_reported() {
            Some(meta) => meta,
            None => {
                let upto = self.applier.published().applied();
                self.checkpoints.durable_at(&self.applier, upto).await.map_err(io::Error::other)?
            }
        };
        // openraft keeps the meta; who wants the data asks for the current snapshot.
        let capture = self.applier.capture().await.map_err(io::Error::other)?;
        Ok(Snapshot {
            meta: snapshot_meta(&meta)?,
            snapshot: SnapshotData::Live(Box::new(capture)),
        })
    }
}
