//! Leases as the member serves them: renewed and looked up on the leader, wherever a client asks (rules L6 to
//! L8, L11, L13).
//!
//! A member that does not lead hands on, and asks again every 50 ms until it is answered or the request's time
//! is up. Asking again is harmless: renewing twice is renewing once.

mod expiry;
mod remaining;
mod renewals;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kvd_core::ids::LeaseId;
use kvd_core::lease::deadlines::Standing;
use kvd_core::mutants::{Mutant, active};
use kvd_core::view::View;
use kvd_proto::peer;
use kvd_proto::peer::lease_renew_reply::Result as Renewal;
use kvd_proto::peer::lease_time_to_live_reply::Result as Lookup;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use self::renewals::{Join, Renewed};
use super::reads::{Addresses, ReadRounds};
use super::request::Unavailable;
use crate::apply::Published;
use crate::fence::Fence;
use crate::lease_clock::LeaseClock;
use crate::limits::LEASE_RENEWALS_WAITING_MAX;
use crate::peer::pool::{Lane, Peers, within};
use crate::raft::{Leadership, LeadershipChanges, Raft};
use crate::shutdown::Shutdown;

/// Pause between two attempts to reach the leader (rule L7).
const RETRY: Duration = Duration::from_millis(50);

/// How often a change of leadership is looked for that nobody tells of: one that ends by silence.
const LOOK: Duration = Duration::from_millis(100);

/// How long a leader may take to apply what it has committed (rule L7).
const APPLY_LIMIT: Duration = Duration::from_secs(1);

/// What serving leases needs of the member.
pub(crate) struct Parts {
    pub(crate) raft: Raft,
    pub(crate) peers: Peers,
    pub(crate) addresses: Arc<dyn Addresses>,
    pub(crate) published: Published,
    pub(crate) reads: ReadRounds,
    pub(crate) clock: LeaseClock,
    pub(crate) fence: Fence,
    /// How long a request may take.
    pub(crate) timeout: Duration,
}

/// See the module.
pub(crate) struct Leases {
    parts: Parts,
    join: mpsc::Sender<Join>,
}

/// A lease that was looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseFound {
    /// Seconds left; negative where its time is up and it was not ended yet.
    pub left_seconds: i64,
    /// Seconds that were granted.
    pub granted_seconds: i64,
    /// Keys attached to it, where asked for.
    pub keys: Vec<Bytes>,
}

impl Leases {
    /// Starts to serve leases, and to end them while this member leads.
    pub(crate) fn start(parts: Parts, shutdown: Shutdown) -> Arc<Self> {
        let (join, waiting) = mpsc::channel(LEASE_RENEWALS_WAITING_MAX);
        let leases = Arc::new(Self { parts, join });
        tokio::spawn(renewals::run(Arc::clone(&leases), waiting, shutdown.clone()));
        tokio::spawn(expiry::run(Arc::clone(&leases), shutdown));
        leases
    }

    /// Renews a lease; answers the seconds granted, zero where there is no such lease.
    pub(crate) async fn renew(&self, id: LeaseId) -> Result<i64, Unavailable> {
        let mut attempts = self.attempts();
        loop {
            let attempt = async {
                match self.parts.raft.leader() {
                    Some(leadership) if self.is_own(leadership) => {
                        self.renew_here(leadership, id).await
                    }
                    Some(leadership) => Ok(self.renew_there(leadership, id).await),
                    None => Ok(None),
                }
            };
            match timeout_at(attempts.deadline, attempt).await {
                Ok(Ok(Some(granted))) => return Ok(granted),
                Ok(Err(unavailable)) => return Err(unavailable),
                Ok(Ok(None)) | Err(_) => attempts.pause(self).await?,
            }
        }
    }

    /// Looks a lease up; `None` where there is no such lease.
    pub(crate) async fn time_to_live(
        &self,
        id: LeaseId,
        keys: bool,
    ) -> Result<Option<LeaseFound>, Unavailable> {
        let mut attempts = self.attempts();
        loop {
            let attempt = async {
                match self.parts.raft.leader() {
                    Some(leadership) if self.is_own(leadership) => {
                        self.look_up_here(leadership, id, keys).await
                    }
                    Some(leadership) => Ok(self.look_up_there(leadership, id, keys).await),
                    None => Ok(None),
                }
            };
            match timeout_at(attempts.deadline, attempt).await {
                Ok(Ok(Some(found))) => return Ok(found),
                Ok(Err(unavailable)) => return Err(unavailable),
                Ok(Ok(None)) | Err(_) => attempts.pause(self).await?,
            }
        }
    }

    /// Leases as this member knows them (rule L13).
    pub(crate) fn all(&self) -> Vec<LeaseId> {
        self.parts.clock.by_time_left()
    }

    /// Renews for a member that does not lead.
    pub(crate) async fn serve_renew(&self, request: peer::LeaseRenewRequest) -> Option<i64> {
        let leadership = self.parts.raft.own_leadership()?;
        let renewed = self.renew_here(leadership, LeaseId(request.id));
        timeout(self.parts.timeout, renewed).await.ok()?.ok()?
    }

    /// Looks up for a member that does not lead.
    pub(crate) async fn serve_time_to_live(
        &self,
        request: peer::LeaseTimeToLiveRequest,
    ) -> Option<Option<LeaseFound>> {
        let leadership = self.parts.raft.own_leadership()?;
        let found = self.look_up_here(leadership, LeaseId(request.id), request.keys);
        timeout(self.parts.timeout, found).await.ok()?.ok()?
    }
}

/// On the leader.
impl Leases {
    /// `None` where this leadership is over. A lease whose time is up is waited for (rule L8).
    async fn renew_here(
        &self,
        leadership: Leadership,
        id: LeaseId,
    ) -> Result<Option<i64>, Unavailable> {
        let clock = &self.parts.clock;
        let arrived = clock.now();
        loop {
            match clock.standing(id, arrived) {
                Standing::Due => match self.join(id).await? {
                    Renewed::Granted(seconds) => return Ok(Some(seconds)),
                    Renewed::NotLeading => return Ok(None),
                    Renewed::Overdue => {}
                },
                Standing::Overdue => tokio::select! {
                    () = clock.ended(id) => {}
                    () = self.lost(leadership) => return Ok(None),
                },
                standing @ (Standing::Fresh | Standing::Unknown) => {
                    let assumed = active(Mutant::KeepAliveUnconfirmed);
                    if !assumed && self.confirm(leadership).await?.is_none() {
                        return Ok(None);
                    }
                    let granted = clock.renew_fresh(id, arrived);
                    if granted.is_some() {
                        return Ok(granted);
                    }
                    // It may have been granted, or have ended, while leadership was confirmed.
                    let unknown = clock.standing(id, arrived) == Standing::Unknown;
                    if unknown && standing == Standing::Unknown {
                        return Ok(Some(0));
                    }
                }
            }
        }
    }

    /// `None` where this leadership could not be confirmed.
    async fn look_up_here(
        &self,
        leadership: Leadership,
        id: LeaseId,
        keys: bool,
    ) -> Result<Option<Option<LeaseFound>>, Unavailable> {
        let Some(view) = self.confirm(leadership).await? else {
            return Ok(None);
        };
        let found = self.parts.clock.left(id).map(|left| LeaseFound {
            left_seconds: left.seconds(),
            granted_seconds: left.ttl_seconds,
            keys: match keys {
                true => view.lease(id).map(|lease| lease.keys).unwrap_or_default(),
                false => Vec::new(),
            },
        });
        // Another leader may have renewed it meanwhile (rule L11).
        match self.parts.raft.own_leadership() {
            Some(now) if now == leadership => Ok(Some(found)),
            _ => Err(Unavailable::LeaderChanged),
        }
    }

    /// Has a majority confirm this leadership, and waits until all that was acknowledged before is applied
    /// here; `None` where it is over.
    async fn confirm(&self, leadership: Leadership) -> Result<Option<View>, Unavailable> {
        let parts = &self.parts;
        let deadline = Instant::now() + parts.raft.round_timeout();
        let index = match parts.reads.index(deadline).await {
            Ok(index) => index,
            Err(Unavailable::Stopped) => return Err(Unavailable::Stopped),
            Err(_) => return Ok(None),
        };
        let applied = timeout(APPLY_LIMIT, parts.published.at_least(index)).await;
        let view = applied.map_err(|_elapsed| Unavailable::TimeoutApplied)?;
        // The round was this leader's only if it leads before and after it, in one term.
        Ok((parts.raft.own_leadership() == Some(leadership)).then_some(view))
    }

    /// Returns when this member no longer follows that leader, itself or another.
    async fn lost(&self, leadership: Leadership) {
        let mut changes = self.parts.raft.leadership_changes();
        while self.parts.raft.leader() == Some(leadership) {
            let _sooner = timeout(LOOK, changes.changed()).await;
        }
    }

    fn is_own(&self, leadership: Leadership) -> bool {
        leadership.leader == self.parts.raft.own_id()
    }
}

/// On a member that does not lead.
impl Leases {
    async fn renew_there(&self, leadership: Leadership, id: LeaseId) -> Option<i64> {
        let request = peer::LeaseRenewRequest { id: id.0 };
        let leader = leadership.leader;
        let urls = self.parts.addresses.peer_urls(leader);
        let mut client = self.parts.peers.client(leader, &urls, Lane::Calls);
        let request = self.parts.peers.request(leader, request);
        let reply = tokio::select! {
            reply = within(self.parts.timeout, client.lease_renew(request)) => reply.ok()?,
            () = self.lost(leadership) => return None,
        };
        match reply.result? {
            Renewal::TtlSeconds(seconds) => Some(seconds),
            Renewal::NotLeading(_) => None,
        }
    }

    async fn look_up_there(
        &self,
        leadership: Leadership,
        id: LeaseId,
        keys: bool,
    ) -> Option<Option<LeaseFound>> {
        let request = peer::LeaseTimeToLiveRequest { id: id.0, keys };
        let leader = leadership.leader;
        let urls = self.parts.addresses.peer_urls(leader);
        let mut client = self.parts.peers.client(leader, &urls, Lane::Calls);
        let request = self.parts.peers.request(leader, request);
        let reply = tokio::select! {
            reply = within(self.parts.timeout, client.lease_time_to_live(request)) => reply.ok()?,
            () = self.lost(leadership) => return None,
        };
        match reply.result? {
            Lookup::Found(found) => Some(Some(LeaseFound {
                left_seconds: found.left_seconds,
                granted_seconds: found.granted_seconds,
                keys: found.keys,
            })),
            Lookup::UnknownLease(_) => Some(None),
            Lookup::NotLeading(_) => None,
        }
    }

    fn attempts(&self) -> Attempts {
        let deadline = Instant::now() + self.parts.timeout;
        Attempts { deadline, changes: self.parts.raft.leadership_changes() }
    }
}

/// Attempts to have something answered by the leader.
struct Attempts {
    deadline: Instant,
    changes: LeadershipChanges,
}

impl Attempts {
    /// Waits before the next attempt; an error if there is no time for one.
    async fn pause(&mut self, leases: &Leases) -> Result<(), Unavailable> {
        if Instant::now() + RETRY >= self.deadline {
            let leader = leases.parts.raft.leader();
            return Err(leader.map_or(Unavailable::NoLeader, |_| Unavailable::Timeout));
        }
        // A change of leadership is the usual reason to try again.
        let _sooner = timeout(RETRY, self.changes.changed()).await;
        Ok(())
    }
}
