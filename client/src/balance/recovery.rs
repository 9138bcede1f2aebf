//! Looks after endpoints that failed, beside the calls: no call pays for finding out that one is well again.

use std::sync::{Arc, Weak};
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::{Balance, Endpoint};

/// Between the first rounds; then more and more.
const ROUND_MIN: Duration = Duration::from_millis(250);
/// Between later rounds: a member that was away for long is used again some seconds after it is back.
const ROUND_MAX: Duration = Duration::from_secs(5);
/// Calls that wait make the client ask around no more often.
const ASK_AROUND_MIN: Duration = Duration::from_secs(5);

/// Goes on until all endpoints are well and the client is at home, or gone.
pub(super) async fn run(balance: Weak<Balance>) {
    let mut pause = ROUND_MIN;
    loop {
        sleep(pause.mul_f64(rand::make_rng::<StdRng>().random_range(0.8..1.2))).await;
        pause = pause.mul_f64(1.5).min(ROUND_MAX);
        let Some(balance) = balance.upgrade() else { return };
        if balance.round().await {
            return;
        }
    }
}

impl Balance {
    /// A call waits: should it have to go elsewhere, the client knows by then who is silent. That an endpoint is well
    /// was only ever assumed of those that the client has not used.
    pub(crate) fn ask_around(self: &Arc<Self>) {
        let mut inner = self.lock();
        if inner.asked_around.is_some_and(|at| at.elapsed() < ASK_AROUND_MIN) {
            return;
        }
        inner.asked_around = Some(Instant::now());
        let current = inner.picker.current();
        let others = inner.endpoints.iter().filter(|(id, _)| **id != current);
        let others = others.map(|(id, endpoint)| (*id, Arc::clone(endpoint))).collect();
        drop(inner);
        let balance = Arc::clone(self);
        tokio::spawn(async move {
            balance.examine(others).await;
            balance.look_after(&mut balance.lock());
        });
    }

    /// One round; true if nothing is left to look after.
    async fn round(self: &Arc<Self>) -> bool {
        self.examine(self.to_examine()).await;
        let mut inner = self.lock();
        inner.picker.come_home(Instant::now().into_std());
        self.now_at(&inner, inner.picker.current());
        inner.recovering = !inner.picker.to_examine().is_empty();
        !inner.recovering
    }

    async fn examine(&self, endpoints: Vec<(super::Id, Arc<Endpoint>)>) {
        let mut asked = JoinSet::new();
        for (id, endpoint) in endpoints {
            asked.spawn(async move { (id, endpoint.health(Instant::now()).await) });
        }
        while let Some(Ok((id, health))) = asked.join_next().await {
            let mut inner = self.lock();
            inner.picker.examined(id, health, Instant::now().into_std());
            // A connection that only asked is not kept: members count what they have.
            if let Some(asked) = inner.endpoints.get(&id).filter(|_| id != inner.picker.current()) {
                asked.disconnect();
            }
        }
    }

    fn to_examine(&self) -> Vec<(super::Id, Arc<Endpoint>)> {
        let inner = self.lock();
        let ids = inner.picker.to_examine();
        let known =
            ids.into_iter().filter_map(|id| Some((id, Arc::clone(inner.endpoints.get(&id)?))));
        known.collect()
    }
}
