//! What a starting member learns from its peers: whether its id is in use, and the state where its own is of
//! no use.

use std::time::Duration;

use kvd_core::ids::{Index, MemberId};
use kvd_core::state::{Options as StateOptions, State};
use kvd_proto::peer::{FetchStateRequest, HelloReply, HelloRequest};

use super::{StartError, Starting};
use crate::peer::identity::PROTOCOL;
use crate::peer::pool::{Lane, within};
use crate::raft::Installer;

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
                return Err(StartError::Cluster(format!(
                    "member {} was removed from the cluster; add it anew to get a new id",
                    self.own.member_id
                )));
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
        let opened = State::open(self.world.stores.live(), StateOptions::DEFAULT);
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
        self.fetch(installer, purged, &unusable).await
    }

    /// Fetches the state of any peer at or after an index (hazard A5).
    async fn fetch(
        &self,
        installer: &Installer,
        index_min: Index,
        reason: &str,
    ) -> Result<State, StartError> {
        let others: Vec<_> =
            self.config.founders.iter().filter(|(id, _)| **id != self.own.member_id).collect();
        if others.is_empty() {
            return Err(StartError::Storage(format!(
                "the checkpoint cannot be used ({reason}) and there is no peer to fetch it from: \
                 restore the data directory from a backup"
            )));
        }
        loop {
            for (id, urls) in &others {
                match self.fetch_from(installer, **id, urls, index_min).await {
                    Ok(state) => return Ok(state),
                    Err(error) => tracing::warn!(member = %id, %error, "no state from this peer"),
                }
            }
            tokio::select! {
                () = tokio::time::sleep(GREETING) => {}
                () = self.world.shutdown.begun() => {
                    return Err(StartError::Storage("stopped before a state was found".to_owned()));
                }
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
        received.into_live_state().map_err(|error| error.to_string())
    }
}
