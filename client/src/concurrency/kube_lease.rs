//! Electing a leader as Kubernetes' components do: by a record that the leader writes anew every few seconds.
//!
//! No lease of the store is involved, so any store with revisions will do. Clocks of different machines are never
//! compared: whoever waits measures by its own clock for how long it has seen the record unchanged.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kvd_proto::mvccpb::KeyValue;
use rand::RngExt as _;
use rand::rngs::StdRng;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::error::Error;
use super::held::FencingToken;
use super::kube_record::{KubeRecord, Observed, next_record, stamp_now};
use super::tenure::Tenure;
use crate::client::Client;
use crate::txn::{Compare, Op, Txn};

/// Who waits to lead looks after a pause of one to `1 + JITTER` retry periods (client-go's `JitterFactor`).
const JITTER: f64 = 1.2;

/// How long things take in such an election. Everybody who takes part should use the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KubeTimes {
    /// Others take over when they have seen no renewal for so long.
    pub lease_duration: Duration,
    /// A leader that could not renew for so long stops leading.
    pub renew_deadline: Duration,
    /// Pause between two attempts to renew or to acquire.
    pub retry_period: Duration,
}

impl KubeTimes {
    /// What Kubernetes' own components use: 15 s, 10 s and 2 s.
    pub const KUBERNETES: Self = Self {
        lease_duration: Duration::from_secs(15),
        renew_deadline: Duration::from_secs(10),
        retry_period: Duration::from_secs(2),
    };

    /// The conditions that client-go sets.
    fn check(&self) -> Result<(), Error> {
        let wrong = |what| Err(Error::InvalidElection(what));
        if self.lease_duration <= self.renew_deadline {
            return wrong("the lease duration must be greater than the renew deadline");
        }
        if self.renew_deadline <= self.retry_period.saturating_mul(6) / 5 {
            return wrong("the renew deadline must be greater than 1.2 retry periods");
        }
        if self.retry_period.is_zero() {
            return wrong("the retry period must be greater than zero");
        }
        Ok(())
    }
}

/// An election under a key, as one of the candidates sees it.
///
/// The leader writes its name and the time into the record again and again ("renews"). A leader that cannot renew for
/// the *renew deadline* stops leading by itself; the others take over only after the longer *lease duration*. The
/// difference is what clocks may go wrong and work may overrun; beyond it, two may act as leaders at once, and only
/// [`KubeLeadership::token`] tells who is the later one.
///
/// The record is the JSON of Kubernetes' `LeaderElectionRecord`, under a key of your own.
///
/// ```no_run
/// # async fn example(client: kvd_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use kvd_client::concurrency::{KubeLease, KubeTimes};
///
/// let lease = KubeLease::new(&client, "leases/controller", "node-7", KubeTimes::KUBERNETES)?;
/// let leadership = lease.acquire().await?;
/// tokio::select! {
///     () = leadership.lost() => println!("not renewed in time: stop now"),
///     () = control(leadership.token().number()) => leadership.release().await?,
/// }
/// # Ok(())
/// # }
/// # async fn control(_token: i64) {}
/// ```
#[derive(Clone, Debug)]
pub struct KubeLease {
    client: Client,
    key: Bytes,
    identity: String,
    times: KubeTimes,
}

/// To lead such an election, renewed by a task. **Dropping it stops that and releases the record in the background.**
#[derive(Debug)]
#[must_use = "dropping it releases it"]
pub struct KubeLeadership {
    token: FencingToken,
    tenure: Arc<Tenure>,
    renewing: Option<JoinHandle<Result<(), Error>>>,
}

impl KubeLease {
    /// The election under `key`, with `identity` as candidate: no two candidates may have the same. Nothing is sent.
    pub fn new(
        client: &Client,
        key: impl Into<Bytes>,
        identity: impl Into<String>,
        times: KubeTimes,
    ) -> Result<Self, Error> {
        times.check()?;
        let identity = identity.into();
        if identity.is_empty() {
            return Err(Error::InvalidElection("a candidate must have an identity"));
        }
        Ok(Self { client: client.clone(), key: key.into(), identity, times })
    }

    /// The record as it is now. Whether its holder leads still, it does not tell.
    pub async fn record(&self) -> Result<Option<KubeRecord>, Error> {
        let found = self.client.get(self.key.clone()).await?;
        found.map(|kv| KubeRecord::parse(&kv.value)).transpose()
    }

    /// Waits to lead. When it is dropped while it takes over, the record may name this candidate without its leading,
    /// for one lease duration.
    ///
    /// Not to be called again while this candidate leads: it would lead twice.
    pub async fn acquire(&self) -> Result<KubeLeadership, Error> {
        let mut candidate = Candidate { lease: self.clone(), observed: None, leads: false };
        loop {
            match candidate.attempt().await {
                Ok(Some(written)) => return Ok(candidate.lead(written)),
                Err(error) if !error.is_passing() => return Err(error),
                Ok(None) | Err(_) => {}
            }
            let part: f64 = rand::make_rng::<StdRng>().random();
            sleep(self.times.retry_period.mul_f64(1.0 + JITTER * part)).await;
        }
    }
}

impl KubeLeadership {
    /// Greater than those of all leaders before: the revision at which the record came to name this one. There is no
    /// condition for transactions that goes with it, for the record changes at each renewal: what is protected must
    /// compare tokens.
    #[must_use]
    pub fn token(&self) -> FencingToken {
        self.token
    }

    /// The last renewal was sent less than a renew deadline ago. Once `false`, always.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.tenure.is_held()
    }

    /// Ends when it does not lead any more.
    pub async fn lost(&self) {
        self.tenure.lost().await;
    }

    /// Stops leading, and says so in the record, so that the next one need not wait.
    pub async fn release(mut self) -> Result<(), Error> {
        self.tenure.end();
        match self.renewing.take() {
            Some(renewing) => renewing.await.unwrap_or(Ok(())),
            None => Ok(()),
        }
    }
}

impl Drop for KubeLeadership {
    fn drop(&mut self) {
        // The task that renews sees it, and releases the record.
        self.tenure.end();
    }
}

/// What one candidate knows.
#[derive(Debug)]
struct Candidate {
    lease: KubeLease,
    observed: Option<Observed>,
    /// It renews, and acquires no more: what others had meanwhile, it has lost.
    leads: bool,
}

/// A record that was written.
#[derive(Debug)]
struct Written {
    /// Before the request for it was sent.
    asked: Instant,
    revision: i64,
}

impl Candidate {
    /// Looks at the record, and writes it if that is this candidate's right; `None` if not, or somebody was quicker.
    async fn attempt(&mut self) -> Result<Option<Written>, Error> {
        let found = self.lease.client.get(self.lease.key.clone()).await?;
        // After the answer: the record was there for longer.
        self.observed = observe(self.observed.take(), found, Instant::now())?;
        if self.leads && self.is_replaced() {
            return Ok(None);
        }
        let KubeLease { client, key, identity, times } = &self.lease;
        let observed = self.observed.as_ref();
        let asked = Instant::now();
        let Some(record) =
            next_record(observed, identity, times.lease_duration, asked, stamp_now())
        else {
            return Ok(None);
        };
        let revision = observed.map_or(0, |observed| observed.revision);
        let txn = Txn::new()
            .when(Compare::mod_revision(key.clone()).equals(revision))
            .then(Op::put(key.clone(), record.to_value()));
        let done = client.commit(txn).await?;
        if !done.succeeded {
            return Ok(None);
        }
        let revision = done.revision;
        self.observed = Some(Observed { record, revision, since: Instant::now() });
        Ok(Some(Written { asked, revision }))
    }

    fn lead(mut self, written: Written) -> KubeLeadership {
        self.leads = true;
        let until = written.asked + self.lease.times.renew_deadline;
        let tenure = Arc::new(Tenure::new(until));
        let renewing = tokio::spawn(self.renew(Arc::clone(&tenure)));
        let token = FencingToken::new(written.revision);
        KubeLeadership { token, tenure, renewing: Some(renewing) }
    }

    /// Renews until it is lost or given up, then leaves the record to others.
    async fn renew(mut self, tenure: Arc<Tenure>) -> Result<(), Error> {
        let times = self.lease.times;
        while tenure.is_held() {
            tokio::select! {
                () = tenure.lost() => break,
                () = sleep(times.retry_period) => {}
            }
            // Never dropped on its way: the record it writes must be known, to be released.
            match self.attempt().await {
                Ok(Some(written)) => tenure.extend(written.asked + times.renew_deadline),
                Ok(None) if self.is_replaced() => tenure.end(),
                Ok(None) => {}
                Err(error) => tracing::debug!(%error, "a leader's record was not renewed"),
            }
        }
        self.release().await
    }

    fn is_replaced(&self) -> bool {
        let identity = &self.lease.identity;
        self.observed.as_ref().is_none_or(|seen| seen.record.holder_identity != *identity)
    }

    /// Only if the record is the one that was seen last: what came after it, of whomever, is left alone.
    async fn release(self) -> Result<(), Error> {
        if self.is_replaced() {
            return Ok(());
        }
        let Some(Observed { record, revision, .. }) = self.observed else { return Ok(()) };
        let key = self.lease.key;
        let txn = Txn::new()
            .when(Compare::mod_revision(key.clone()).equals(revision))
            .then(Op::put(key, record.released(stamp_now()).to_value()));
        self.lease.client.commit(txn).await?;
        Ok(())
    }
}

/// What is known after a look. A record that was not written anew is as old as before.
fn observe(
    before: Option<Observed>,
    found: Option<KeyValue>,
    now: Instant,
) -> Result<Option<Observed>, Error> {
    let Some(kv) = found else { return Ok(None) };
    if let Some(before) = before.filter(|before| before.revision == kv.mod_revision) {
        return Ok(Some(before));
    }
    let record = KubeRecord::parse(&kv.value)?;
    Ok(Some(Observed { record, revision: kv.mod_revision, since: now }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_checked_as_client_go_does() {
        let times = KubeTimes::KUBERNETES;
        let check = |lease: u64, renew: u64, retry: u64| {
            let ms = Duration::from_millis;
            let (lease_duration, renew_deadline, retry_period) = (ms(lease), ms(renew), ms(retry));
            KubeTimes { lease_duration, renew_deadline, retry_period }.check().is_ok()
        };
        assert!(times.check().is_ok());
        assert!(check(10_001, 10_000, 2000) && !check(10_000, 10_000, 2000));
        assert!(check(15_000, 2401, 2000) && !check(15_000, 2400, 2000));
        assert!(!check(15_000, 10_000, 0) && !check(15_000, 0, 0) && !check(0, 0, 0));
        let longest = Duration::MAX;
        assert!(KubeTimes { retry_period: longest, ..times }.check().is_err());
    }

    #[test]
    fn a_record_ages_from_when_it_was_seen_first() {
        let start = Instant::now();
        let record = |mod_revision: i64| {
            let value = Bytes::from_static(b"{\"holderIdentity\":\"other\"}");
            Some(KeyValue { value, mod_revision, ..Default::default() })
        };
        let second = Duration::from_secs(1);
        let seen = observe(None, record(5), start).unwrap();
        let again = observe(seen, record(5), start + second).unwrap();
        assert_eq!(again.as_ref().unwrap().since, start);
        let renewed = observe(again, record(6), start + second).unwrap();
        assert_eq!(renewed.as_ref().unwrap().since, start + second);
        assert!(observe(renewed, None, start).unwrap().is_none());
    }
}
