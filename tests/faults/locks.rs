//! Locks and elections while members die.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use kvd_client::proto::v3lockpb::lock_client::LockClient;
use kvd_client::proto::v3lockpb::{LockRequest, UnlockRequest};
use kvd_tests::cluster::process::{Cluster, Program};
use kvd_tests::fault::caller::Caller;
use tonic::transport::Channel;

/// For what takes a cluster a moment.
const PATIENCE: Duration = Duration::from_secs(60);

/// Seconds of a lease that outlives the test.
const TTL_SECONDS: i64 = 600;

/// Who waits for a lock at a member that lives does not lose its place when the leader dies, nor when the member
/// dies where the lock was taken; it gets the lock when that is free, and not before.
#[test]
fn who_waits_keeps_its_place_when_the_leader_dies() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&Program::kvd()?, 3, &[])?;
    let endpoints = cluster.endpoints();
    let caller = Caller::new(&endpoints)?;
    let leader = caller.leader()?;
    let waits_at = (leader + 1) % 3;
    for lease in [1, 2] {
        caller.run(|client| async move { client.lease_grant(TTL_SECONDS, lease).await })?;
    }
    let at_leader = endpoints[leader].clone();
    let held = caller.run(|_| async move { lock(at_leader, 1).await })?;
    ensure!(held == "l/1", "{held}");
    let at_other = endpoints[waits_at].clone();
    let waiting = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(lock(at_other, 2))
    });
    let begun = std::time::Instant::now();
    while caller.get("l/2")?.is_none() {
        ensure!(begun.elapsed() < PATIENCE, "nobody stands in line");
    }
    cluster.member(leader).kill()?;
    let rest = Caller::new(&[endpoints[waits_at].clone(), endpoints[(leader + 2) % 3].clone()])?;
    rest.put("after", "the leader")?;
    ensure!(!waiting.is_finished(), "the lock is held, or the place was lost");
    let key = "l/1";
    let at_other = endpoints[(leader + 2) % 3].clone();
    rest.run(|_| async move {
        let mut client = LockClient::new(Channel::from_shared(at_other)?.connect().await?);
        client.unlock(UnlockRequest { key: key.into() }).await.context("unlock")
    })?;
    let got = waiting.join().map_err(|_| anyhow::anyhow!("the client panicked"))??;
    ensure!(got == "l/2", "{got}");
    ensure!(rest.get("l/2")?.is_some(), "who has the lock has its key");
    Ok(())
}

/// Waits for the lock `l`; gives its key.
async fn lock(endpoint: String, lease: i64) -> anyhow::Result<String> {
    let mut client = LockClient::new(Channel::from_shared(endpoint)?.connect().await?);
    let request = LockRequest { name: "l".into(), lease };
    let held = tokio::time::timeout(PATIENCE, client.lock(request)).await??;
    Ok(String::from_utf8(held.into_inner().key.to_vec())?)
}
