//! Grants leases, hangs keys on them, keeps them alive for a while; then revokes them, or lets them end.

use kvd_check::{Outcome, PutRequest, Reply, Request};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::Scene;
use super::asker::Asker;

/// Asks until told to stop.
pub async fn work(scene: Scene, client: u64, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut asker = Asker::new(&scene, client, &mut rng);
    let mut granted = 0;
    while scene.goes_on() {
        scene.pause(&mut rng).await;
        granted += 1;
        let id = i64::try_from(client * 10_000 + granted).unwrap_or(1);
        let ttl_seconds = rng.random_range(1..3);
        let outcome = asker.ask(&mut rng, Request::LeaseGrant { id, ttl_seconds }).await;
        if matches!(outcome, Outcome::Answered { .. }) {
            live(&scene, &mut asker, &mut rng, id).await;
        }
    }
}

/// The life of one lease.
async fn live(scene: &Scene, asker: &mut Asker, rng: &mut StdRng, id: i64) {
    for key in 0..rng.random_range(1..4) {
        // Few names, so that keys move from one lease to another, now and then.
        let name = format!("l/{}", rng.random_range(0..8));
        let value = format!("{id}.{key}");
        let put = PutRequest { lease: id, ..PutRequest::of(name, value) };
        asker.ask(rng, Request::Put(put)).await;
    }
    // One that no other lease has: by it the lease's end is known.
    let own = PutRequest { lease: id, ..PutRequest::of(format!("lease/{id}"), format!("{id}")) };
    asker.ask(rng, Request::Put(own)).await;
    for _ in 0..rng.random_range(0..6) {
        scene.pause(rng).await;
        if !scene.goes_on() {
            return;
        }
        let outcome = asker.ask(rng, Request::LeaseKeepAlive { id }).await;
        let gone = matches!(
            outcome,
            Outcome::Answered { reply: Reply::LeaseKeepAlive { ttl_seconds: 0 }, .. }
        );
        if gone {
            return;
        }
    }
    if rng.random_bool(0.4) {
        asker.ask(rng, Request::LeaseRevoke { id }).await;
    }
}
