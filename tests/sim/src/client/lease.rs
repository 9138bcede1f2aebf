//! Grants leases, hangs keys on them, keeps them alive for a while; then revokes them, or lets them end.
//!
//! A lease has two who care for it, as a process and whoever takes its place: mostly each asks another member.
//! So one that is granted or revoked here is asked for there at once.

use kvd_check::{Outcome, PutRequest, Reply, Request};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::Scene;
use super::asker::Asker;

/// How far the numbers of the two who care for a lease are apart.
const OTHER: u64 = 2;

/// Asks until told to stop.
pub async fn work(scene: Scene, client: u64, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut asker = Asker::new(&scene, client, &mut rng);
    let mut other = Asker::new(&scene, client + OTHER, &mut rng);
    let mut granted = 0;
    while scene.goes_on() {
        scene.pause(&mut rng).await;
        granted += 1;
        let id = i64::try_from(client * 10_000 + granted).unwrap_or(1);
        let ttl_seconds = rng.random_range(1..3);
        let outcome = asker.ask(&mut rng, Request::LeaseGrant { id, ttl_seconds }).await;
        if matches!(outcome, Outcome::Answered { .. }) {
            if rng.random_bool(0.3) {
                other.ask(&mut rng, Request::LeaseKeepAlive { id }).await;
            }
            live(&scene, &mut asker, &mut rng, id).await;
            if rng.random_bool(0.6) {
                end(&mut asker, &mut other, &mut rng, id).await;
            }
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
}

/// Revokes a lease; who does not know may try to keep it alive.
async fn end(asker: &mut Asker, other: &mut Asker, rng: &mut StdRng, id: i64) {
    asker.ask(rng, Request::LeaseRevoke { id }).await;
    for _ in 0..rng.random_range(1..4) {
        other.ask(rng, Request::LeaseKeepAlive { id }).await;
    }
}
