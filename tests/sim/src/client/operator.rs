//! Compacts: never more than all witnesses have seen that are still there, so that the log can be told of by one
//! of them. Who is gone, or far behind, does not hold it up: its member needs a snapshot, its witness is sent away.

use std::time::Duration;

use kvd_check::Request;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::asker::Asker;
use super::{Scene, member};

/// Revisions behind the others, after which a member is not waited for.
const GONE: i64 = 50;

/// Compacts until told to stop.
pub async fn work(scene: Scene, client: u64, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut asker = Asker::new(&scene, client, &mut rng);
    let period_ms = rng.random_range(200..2000);
    while scene.goes_on() {
        tokio::time::sleep(Duration::from_millis(rng.random_range(1..=period_ms))).await;
        let seen = (0..scene.members.len()).map(|at| scene.record.witness_next(member(at)) - 1);
        let newest = seen.clone().max().unwrap_or(0);
        let there = seen.filter(|seen| seen + GONE > newest);
        let revision = there.min().unwrap_or(0) - rng.random_range(0..40);
        if revision > 0 && scene.goes_on() {
            asker.ask(&mut rng, Request::Compact { revision }).await;
        }
    }
}
