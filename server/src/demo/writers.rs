//! Concurrent writers of numbered keys: every number that is taken is acknowledged in the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kvd_client::Client;
use tokio::task::JoinSet;

use super::{DemoError, POLL, PREFIX};

/// Writes under way at once.
const IN_FLIGHT: usize = 32;

/// Concurrent writers of numbered keys.
pub(super) struct Writers {
    client: Client,
    next: Arc<AtomicU64>,
    acknowledged: Arc<AtomicU64>,
    pub(super) repeated: Arc<AtomicU64>,
}

/// When writers stop taking numbers.
#[derive(Clone)]
pub(super) enum Limit {
    /// When all numbers below this one are taken.
    Below(u64),
    /// When they are told.
    Told(Arc<AtomicBool>),
}

/// How long writes took.
pub(super) struct Latencies {
    pub(super) begin: Instant,
    sorted: Vec<Duration>,
}

impl Writers {
    pub(super) fn new(client: Client) -> Self {
        let zero = || Arc::new(AtomicU64::new(0));
        Self { client, next: zero(), acknowledged: zero(), repeated: zero() }
    }

    /// Numbers from zero that are acknowledged, when no writer is running.
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Writes all numbers below `count`.
    pub(super) async fn write(&self, count: u64) -> Result<Latencies, DemoError> {
        let begin = Instant::now();
        let mut running = self.start(Limit::Below(count));
        let mut sorted = Vec::new();
        while let Some(done) = running.join_next().await {
            sorted.extend(done??);
        }
        sorted.sort_unstable();
        Ok(Latencies { begin, sorted })
    }

    /// Waits while `running` writes; a writer that was refused is not waited for.
    pub(super) async fn wait_until_acknowledged(
        &self,
        count: u64,
        running: &mut JoinSet<Result<Vec<Duration>, DemoError>>,
    ) -> Result<(), DemoError> {
        while self.acknowledged() < count {
            if let Some(ended) = running.try_join_next() {
                ended??;
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Starts the writers. Each one finishes the number that it has taken, so that in the end all
    /// numbers that were taken are acknowledged.
    pub(super) fn start(&self, limit: Limit) -> JoinSet<Result<Vec<Duration>, DemoError>> {
        let mut running = JoinSet::new();
        for _ in 0..IN_FLIGHT {
            let (client, limit) = (self.client.clone(), limit.clone());
            let (next, acknowledged) = (Arc::clone(&self.next), Arc::clone(&self.acknowledged));
            let repeated = Arc::clone(&self.repeated);
            running.spawn(async move {
                let mut latencies = Vec::new();
                while let Some(number) = take(&next, &limit) {
                    let begin = Instant::now();
                    put_until_acknowledged(&client, number, &repeated).await?;
                    latencies.push(begin.elapsed());
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                }
                Ok(latencies)
            });
        }
        running
    }
}

/// The next number, while there is one.
fn take(next: &AtomicU64, limit: &Limit) -> Option<u64> {
    let is_open = |number: u64| match limit {
        Limit::Below(count) => number < *count,
        Limit::Told(stop) => !stop.load(Ordering::Relaxed),
    };
    let one_more = |number| is_open(number).then_some(number + 1);
    next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()
}

async fn put_until_acknowledged(
    client: &Client,
    number: u64,
    repeated: &AtomicU64,
) -> Result<(), DemoError> {
    loop {
        match client.put(key(number), value(number)).await {
            Ok(_) => return Ok(()),
            Err(error) if may_be_repeated(&error) => {
                repeated.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(POLL).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// A refusal would be the same again; everything else comes from the fail-over.
fn may_be_repeated(error: &kvd_client::Error) -> bool {
    error.outcome_is_unknown() || matches!(error, kvd_client::Error::Unavailable { .. })
}

pub(super) fn key(number: u64) -> String {
    format!("{}{number:08}", String::from_utf8_lossy(PREFIX))
}

pub(super) fn value(number: u64) -> String {
    format!("value {number}")
}

pub(super) fn quantile(latencies: &Latencies, percent: usize) -> Duration {
    let place =
        (latencies.sorted.len() * percent / 100).min(latencies.sorted.len().saturating_sub(1));
    latencies.sorted.get(place).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_taken_once_each_up_to_the_limit() {
        let next = AtomicU64::new(0);
        let limit = Limit::Below(3);
        let taken: Vec<u64> = std::iter::from_fn(|| take(&next, &limit)).collect();
        assert_eq!(taken, [0, 1, 2]);
        let stop = Arc::new(AtomicBool::new(false));
        let limit = Limit::Told(Arc::clone(&stop));
        assert_eq!(take(&next, &limit), Some(3));
        stop.store(true, Ordering::Relaxed);
        assert_eq!(take(&next, &limit), None);
    }

    #[test]
    fn quantiles_are_of_the_sorted_latencies() {
        let sorted = (1..=100).map(Duration::from_millis).collect();
        let latencies = Latencies { begin: Instant::now(), sorted };
        assert_eq!(quantile(&latencies, 50), Duration::from_millis(51));
        assert_eq!(quantile(&latencies, 99), Duration::from_millis(100));
        let none = Latencies { begin: Instant::now(), sorted: Vec::new() };
        assert_eq!(quantile(&none, 50), Duration::ZERO);
    }
}
