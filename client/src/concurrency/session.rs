//! A lease that is kept alive while somebody needs it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use super::claim::Claims;
use super::error::Error;
use super::line::RETRY;
use super::tenure::Tenure;
use crate::client::Client;
use crate::rpc::LeaseKeeper;

/// What etcd's own clients take.
const TTL: Duration = Duration::from_secs(60);

/// A lease that a task keeps alive: what holds locks, leaderships and the like.
///
/// A lease lives for its time to live (TTL) after each renewal; the task renews every third of that. If the process
/// dies or is cut off from the store, the lease ends after the TTL at the latest, and with it everything it held. A
/// long TTL makes others wait longer for the dead, a short one loses the session at smaller hiccups.
///
/// **Dropping it ends it**: from that moment it counts as lost, and the lease is revoked in the background. Where it
/// matters that it is gone, call [`Session::end`].
///
/// ```no_run
/// # async fn example(client: kvd_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
///
/// use kvd_client::concurrency::Session;
///
/// let session = Session::with_ttl(&client, Duration::from_secs(10)).await?;
/// tokio::select! {
///     () = session.lost() => println!("whatever it held may be somebody else's now"),
///     () = work() => {}
/// }
/// session.end().await?;
/// # Ok(())
/// # }
/// # async fn work() {}
/// ```
pub struct Session {
    life: Life,
    keeper: AbortHandle,
    is_revoked: bool,
}

/// What a session shares with everything it holds.
#[derive(Clone)]
pub(super) struct Life(Arc<Shared>);

struct Shared {
    client: Client,
    lease: i64,
    runtime: Handle,
    tenure: Tenure,
    claims: Arc<Claims>,
    keys: AtomicU64,
}

impl Session {
    /// Begins a session whose lease lives for 60 s after each renewal.
    pub async fn start(client: &Client) -> Result<Self, Error> {
        Self::with_ttl(client, TTL).await
    }

    /// The same with another time to live. Whole seconds, rounded up; servers raise what is shorter than about two
    /// elections.
    pub async fn with_ttl(client: &Client, ttl: Duration) -> Result<Self, Error> {
        let seconds = i64::try_from(ttl.as_millis().div_ceil(1000)).unwrap_or(i64::MAX).max(1);
        // A number that nobody else has: the grant may be sent twice.
        let lease = rand::make_rng::<StdRng>().random_range(1..=i64::MAX);
        // Before the server's clock starts.
        let asked = Instant::now();
        let granted = client.lease_grant_own(seconds, lease).await?;
        let granted = Duration::from_secs(u64::try_from(granted).unwrap_or(0));
        let until = asked.checked_add(granted).unwrap_or(asked);
        let life = Life(Arc::new(Shared {
            client: client.clone(),
            lease,
            runtime: Handle::current(),
            tenure: Tenure::new(until),
            claims: Arc::default(),
            keys: AtomicU64::new(0),
        }));
        let keeper = tokio::spawn(keep(life.clone(), client.lease_keeper(lease)));
        Ok(Self { life, keeper: keeper.abort_handle(), is_revoked: false })
    }

    /// The number of its lease, for keys of one's own that shall go with it.
    #[must_use]
    pub fn lease(&self) -> i64 {
        self.life.lease()
    }

    /// The lease lives so long even if it is not renewed any more: counted from before the last renewal was sent, by
    /// this machine's clock. A clock that stands still while the machine sleeps is beyond what this can know.
    #[must_use]
    pub fn held_until(&self) -> Instant {
        self.life.0.tenure.until()
    }

    /// That time has not come. Once `false`, always.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.life.is_held()
    }

    /// Ends when the lease is gone, or may be.
    pub async fn lost(&self) {
        self.life.lost().await;
    }

    /// Ends the session and everything it holds. When this fails, or is dropped before it is done, the lease is
    /// revoked in the background; if that fails too, it lives for its remaining time.
    pub async fn end(mut self) -> Result<(), Error> {
        self.keeper.abort();
        self.life.0.tenure.end();
        self.life.client().lease_revoke_repeatable(self.life.lease()).await?;
        self.is_revoked = true;
        Ok(())
    }

    /// What is shared with what it holds.
    pub(super) fn life(&self) -> &Life {
        &self.life
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.keeper.abort();
        self.life.0.tenure.end();
        if !self.is_revoked {
            self.life.spawn(revoke(self.life.clone()));
        }
    }
}

/// Renews the lease until it is lost.
async fn keep(life: Life, mut keeper: LeaseKeeper) {
    loop {
        tokio::select! {
            () = life.lost() => break,
            renewed = keeper.renewed() => match renewed {
                Ok(Some(_)) => if let Some(until) = keeper.held_until() {
                    life.0.tenure.extend(until);
                },
                Ok(None) => break,
                Err(error) => {
                    tracing::debug!(lease = life.lease(), %error, "a lease was not renewed");
                    sleep(RETRY).await;
                }
            },
        }
    }
    life.0.tenure.end();
    // It may live nevertheless, and nobody needs it any more: others shall not wait.
    revoke(life).await;
}

async fn revoke(life: Life) {
    if let Err(error) = life.client().lease_revoke_repeatable(life.lease()).await {
        tracing::debug!(lease = life.lease(), %error, "a lease ends by its time only");
    }
}

impl Life {
    pub(super) fn client(&self) -> &Client {
        &self.0.client
    }

    pub(super) fn lease(&self) -> i64 {
        self.0.lease
    }

    /// Which of its keys are in use in this process.
    pub(super) fn claims(&self) -> &Arc<Claims> {
        &self.0.claims
    }

    /// A name that nothing else has, of this session or another.
    pub(super) fn unique_name(&self) -> String {
        format!("{:x}-{:x}", self.0.lease, self.0.keys.fetch_add(1, Ordering::Relaxed))
    }

    /// Runs something on the runtime of the session, wherever this is called.
    pub(super) fn spawn<F: Future<Output: Send> + Send + 'static>(
        &self,
        future: F,
    ) -> tokio::task::JoinHandle<F::Output> {
        self.0.runtime.spawn(future)
    }

    pub(super) fn is_held(&self) -> bool {
        self.0.tenure.is_held()
    }

    pub(super) async fn lost(&self) {
        self.0.tenure.lost().await;
    }
}

impl fmt::Debug for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Life").field("lease", &self.0.lease).finish_non_exhaustive()
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("lease", &self.lease()).finish_non_exhaustive()
    }
}
