//! Leases: granting, revoking, looking at them and keeping them alive (behaviour.md §4).

use std::time::Duration;

use kvd_proto::etcdserverpb::lease_client::LeaseClient;
use kvd_proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseLeasesRequest, LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::attempts::Call;
use crate::client::Client;
use crate::error::Error;
use crate::etcd_error::EtcdError;

/// Pause after a renewal that failed.
const RETRY: Duration = Duration::from_millis(50);

impl Client {
    /// Grants a lease of `ttl` seconds; `id` 0 lets the server choose the number.
    pub async fn lease_grant(&self, ttl: i64, id: i64) -> Result<LeaseGrantResponse, Error> {
        let send =
            |channel, request| async move { LeaseClient::new(channel).lease_grant(request).await };
        self.call(Call::mutates("lease_grant"), LeaseGrantRequest { ttl, id }, send).await
    }

    /// Ends a lease and deletes its keys.
    pub async fn lease_revoke(&self, id: i64) -> Result<LeaseRevokeResponse, Error> {
        let send =
            |channel, request| async move { LeaseClient::new(channel).lease_revoke(request).await };
        self.call(Call::mutates("lease_revoke"), LeaseRevokeRequest { id }, send).await
    }

    /// Grants a lease under a number that nobody else chose; answers how many seconds it lives at least. May be sent
    /// twice: a lease that is there already was granted by this call.
    pub(crate) async fn lease_grant_own(&self, ttl: i64, id: i64) -> Result<i64, Error> {
        let send =
            |channel, request| async move { LeaseClient::new(channel).lease_grant(request).await };
        let call = Call::reads("lease_grant_own");
        match self.call(call, LeaseGrantRequest { ttl, id }, send).await {
            Ok(granted) => Ok(granted.ttl),
            Err(Error::Etcd(EtcdError::LeaseExist)) => Ok(ttl),
            Err(error) => Err(error),
        }
    }

    /// Ends a lease that nobody needs again. May be sent twice: it is well if it is gone already.
    pub(crate) async fn lease_revoke_repeatable(&self, id: i64) -> Result<(), Error> {
        let send =
            |channel, request| async move { LeaseClient::new(channel).lease_revoke(request).await };
        match self
            .call(Call::reads("lease_revoke_repeatable"), LeaseRevokeRequest { id }, send)
            .await
        {
            Ok(_) | Err(Error::Etcd(EtcdError::LeaseNotFound)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// How long a lease has to live, in seconds; -1 if there is no such lease. With `keys` also
    /// which keys it holds.
    pub async fn lease_time_to_live(
        &self,
        id: i64,
        keys: bool,
    ) -> Result<LeaseTimeToLiveResponse, Error> {
        let send = |channel, request| async move {
            LeaseClient::new(channel).lease_time_to_live(request).await
        };
        let request = LeaseTimeToLiveRequest { id, keys };
        let answer = self.call(Call::reads("lease_time_to_live"), request, send).await?;
        Ok(self.namespace().held(answer))
    }

    /// The leases that the asked member knows.
    pub async fn lease_leases(&self) -> Result<LeaseLeasesResponse, Error> {
        let send =
            |channel, request| async move { LeaseClient::new(channel).lease_leases(request).await };
        self.call(Call::reads("lease_leases"), LeaseLeasesRequest {}, send).await
    }

    /// Renews a lease once. A lease that is gone is an error: [`EtcdError::LeaseNotFound`].
    pub async fn lease_keep_alive_once(&self, id: i64) -> Result<LeaseKeepAliveResponse, Error> {
        let (_, renewed) = self.open_renewals(id).await?;
        if renewed.ttl <= 0 {
            return Err(Error::Etcd(EtcdError::LeaseNotFound));
        }
        Ok(renewed)
    }

    /// Keeps a lease alive for as long as [`LeaseKeeper::renewed`] is called.
    pub fn lease_keeper(&self, id: i64) -> LeaseKeeper {
        LeaseKeeper { client: self.clone(), id, renewals: None, held: None }
    }

    /// Opens a stream of renewals with the first one. Renewing twice does no harm: it counts as
    /// reading.
    async fn open_renewals(&self, id: i64) -> Result<(Renewals, LeaseKeepAliveResponse), Error> {
        let send = |channel, request: Request<LeaseKeepAliveRequest>| async move {
            let (requests, queue) = mpsc::channel(1);
            let sent = requests.try_send(request.into_inner());
            sent.map_err(|_| Status::internal("a new queue has room"))?;
            // A request of its own: the deadline is that of the opening, not of the stream.
            let stream = Request::new(ReceiverStream::new(queue));
            let mut answers =
                LeaseClient::new(channel).lease_keep_alive(stream).await?.into_inner();
            let first = answers.message().await?;
            let first = first.ok_or_else(|| Status::unavailable("the stream has ended"))?;
            Ok(Response::new((Renewals { requests, answers }, first)))
        };
        self.call(Call::reads("open_renewals"), LeaseKeepAliveRequest { id }, send).await
    }
}

/// Renews a lease every third of its life, at another endpoint when one fails.
#[derive(Debug)]
pub struct LeaseKeeper {
    client: Client,
    id: i64,
    renewals: Option<Renewals>,
    held: Option<Held>,
}

/// A stream of renewals.
#[derive(Debug)]
struct Renewals {
    requests: mpsc::Sender<LeaseKeepAliveRequest>,
    answers: Streaming<LeaseKeepAliveResponse>,
}

/// Until when the lease certainly lives, and when it is renewed next. Counted from before the
/// request was sent: the server's clock started later.
#[derive(Clone, Copy, Debug)]
struct Held {
    renew: Instant,
    end: Instant,
}

impl LeaseKeeper {
    /// Waits until it is time, and renews. `None` when the lease is gone. An error says that nobody
    /// could be asked in time, so that the lease may be gone.
    ///
    /// When it is dropped before it is done, the next call renews again.
    pub async fn renewed(&mut self) -> Result<Option<LeaseKeepAliveResponse>, Error> {
        let Some(held) = self.held else { return self.renew_anew().await };
        sleep_until(held.renew).await;
        let asked = Instant::now();
        // Out of its place while it is used: an answer that nobody waited for is not taken for the
        // next one.
        if let Some(mut renewals) = self.renewals.take() {
            // Not for long: renewing elsewhere as well does no harm, and the lease may be short.
            let until = held.end.min(asked + self.client.options().attempt_timeout);
            // On a stream that failed or fell silent the lease is asked for anew elsewhere.
            if let Ok(Some(renewed)) = timeout_at(until, renewals.renew(self.id)).await {
                self.renewals = Some(renewals);
                return Ok(self.note(asked, renewed));
            }
        }
        loop {
            match self.renew_anew().await {
                // A refusal comes at once, and would again.
                Err(_) if Instant::now() < held.end => sleep(RETRY).await,
                renewed => return renewed,
            }
        }
    }

    /// The lease lives so long even if it is not renewed again; counted from before the last renewal was sent. `None`
    /// before the first.
    #[must_use]
    pub fn held_until(&self) -> Option<Instant> {
        self.held.map(|held| held.end)
    }

    async fn renew_anew(&mut self) -> Result<Option<LeaseKeepAliveResponse>, Error> {
        let asked = Instant::now();
        let (renewals, renewed) = self.client.open_renewals(self.id).await?;
        self.renewals = Some(renewals);
        Ok(self.note(asked, renewed))
    }

    fn note(
        &mut self,
        asked: Instant,
        renewed: LeaseKeepAliveResponse,
    ) -> Option<LeaseKeepAliveResponse> {
        let seconds = u64::try_from(renewed.ttl).ok().filter(|&seconds| seconds > 0)?;
        // Clocks cannot add any number of seconds; a year is soon enough for a renewal.
        let life = Duration::from_secs(seconds.min(366 * 24 * 60 * 60));
        self.held = Some(Held { renew: asked + life / 3, end: asked + life });
        Some(renewed)
    }
}

impl Renewals {
    async fn renew(&mut self, id: i64) -> Option<LeaseKeepAliveResponse> {
        self.requests.send(LeaseKeepAliveRequest { id }).await.ok()?;
        self.answers.message().await.ok()?
    }
}
