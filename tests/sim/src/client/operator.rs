//! Compacts: never more than all witnesses have seen, so that the log can still be told of by one of them.

use std::time::Duration;

use kvd_check::Request;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::asker::Asker;
use super::{Scene, member};

/// Compacts until told to stop.
pub async fn work(scene: Scene, client: u64, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut asker = Asker::new(&scene, client, &mut rng);
    let period_ms = rng.random_range(200..2000);
    while scene.goes_on() {
        tokio::time::sleep(Duration::from_millis(rng.random_range(1..=period_ms))).await;
        let seen = (0..scene.members.len()).map(|at| scene.record.witness_next(member(at)) - 1);
        let revision = seen.min().unwrap_or(0) - rng.random_range(0..40);
        if revision > 0 && scene.goes_on() {
            asker.ask(&mut rng, Request::Compact { revision }).await;
        }
    }
}
