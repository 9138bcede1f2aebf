//! Without a majority, and with a leader that was away: what still answers, and how the rest ends.

use std::time::{Duration, Instant};

use anyhow::ensure;
use kvd_tests::cluster::process::{Cluster, Program};
use kvd_tests::fault::caller::Caller;
use tonic::{Code, Status};

/// ReqTimeout of etcd's default flags is 7 s (behaviour.md §10.4); a loaded machine adds to it.
const REQUEST_TIMEOUT: std::ops::Range<Duration> =
    Duration::from_millis(6_500)..Duration::from_secs(14);

/// Behaviour.md §10.4, §10.5: alone, a member serves serializable reads; the rest times out in
/// etcd's words. When the others come back, service resumes by itself.
#[test]
fn a_member_alone_serves_serializable_reads() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&Program::kvd()?, 3, &[])?;
    let caller = Caller::new(&cluster.endpoints())?;
    caller.put("k", "before")?;
    let alone = cluster.endpoints()[0].clone();
    ensure!(caller.raw_get(&alone, "k", false)?.kvs.len() == 1, "m0 has not applied all");
    cluster.member(1).kill()?;
    cluster.member(2).kill()?;

    let reply = caller.raw_get(&alone, "k", true)?;
    ensure!(reply.kvs[0].value == "before", "a serializable read went wrong: {reply:?}");
    // A leader of before may take a write into its log that it cannot commit: wait for "none".
    let deadline = Instant::now() + Duration::from_secs(20);
    while caller.status(&alone)?.leader != 0 {
        ensure!(Instant::now() < deadline, "a member alone still names a leader");
    }
    let (status, took) = timed(|| caller.raw_get(&alone, "k", false).map(|_| ()))?;
    ensure_is(&status, Code::Unavailable, "etcdserver: request timed out", took)?;
    let (status, took) = timed(|| caller.raw_put(&alone, "k", b"alone".to_vec()).map(|_| ()))?;
    ensure_is(&status, Code::DeadlineExceeded, "context deadline exceeded", took)?;
    let reply = caller.raw_get(&alone, "k", true)?;
    ensure!(reply.kvs[0].value == "before", "a refused write shows: {reply:?}");

    cluster.member(1).spawn()?;
    cluster.member(2).spawn()?;
    caller.put("k", "after")?;
    for endpoint in cluster.endpoints() {
        let reply = caller.raw_get(&endpoint, "k", false)?;
        ensure!(reply.kvs[0].value == "after", "{endpoint} answers {reply:?}");
    }
    Ok(())
}

/// Behaviour.md §10.5, §10.6: while the leader is stopped another one takes over; when it goes on
/// it does not answer from what it knew.
#[test]
fn a_leader_that_was_stopped_reads_nothing_stale() -> anyhow::Result<()> {
    let cluster = Cluster::start(&Program::kvd()?, 3, &[])?;
    let endpoints = cluster.endpoints();
    for round in 0..3 {
        let caller = Caller::new(&endpoints)?;
        caller.put("k", format!("before {round}"))?;
        let leader = caller.leader()?;
        let old = endpoints[leader].clone();
        let mut others = endpoints.clone();
        others.remove(leader);
        // Connected before the pause, so that a read is answered the moment the leader goes on.
        caller.raw_get(&old, "k", false)?;
        cluster.members()[leader].pause()?;
        let elsewhere = Caller::new(&others)?;
        let begun = Instant::now();
        let revision = put_until_told(&elsewhere, &format!("after {round}"))?;
        eprintln!("another leader took a write after {:?}", begun.elapsed());
        let reader = {
            let old = old.clone();
            std::thread::spawn(move || -> anyhow::Result<_> {
                let caller = Caller::new(std::slice::from_ref(&old))?;
                Ok(caller.raw_get(&old, "k", false))
            })
        };
        cluster.members()[leader].resume()?;
        let direct = caller.raw_get(&old, "k", false);
        let queued = reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
        for reply in [direct, queued].into_iter().flatten() {
            let at = reply.header.unwrap_or_default().revision;
            ensure!(at >= revision, "stale: at {at} after {revision} was told: {reply:?}");
            ensure!(reply.kvs[0].value == format!("after {round}"), "stale: {reply:?}");
        }
        // In the end it follows and serves.
        let reply = Caller::new(std::slice::from_ref(&old))?.get("k")?;
        ensure!(reply.is_some_and(|kv| kv.value == format!("after {round}")), "not back");
    }
    Ok(())
}

/// Writes until a write is acknowledged: one that was forwarded to a leader that stopped has no
/// outcome.
fn put_until_told(caller: &Caller, value: &str) -> anyhow::Result<i64> {
    for _ in 0..5 {
        match caller.put("k", value) {
            Ok(revision) => return Ok(revision),
            Err(error) => eprintln!("without an outcome: {error}"),
        }
    }
    anyhow::bail!("nobody takes writes while the leader is stopped")
}

/// The error of a call that must fail, and how long it took.
fn timed(call: impl FnOnce() -> Result<(), Status>) -> anyhow::Result<(Status, Duration)> {
    let begun = Instant::now();
    match call() {
        Ok(()) => anyhow::bail!("served without a majority"),
        Err(status) => Ok((status, begun.elapsed())),
    }
}

fn ensure_is(status: &Status, code: Code, text: &str, took: Duration) -> anyhow::Result<()> {
    ensure!(status.code() == code, "{status:?} after {took:?}");
    ensure!(status.message() == text, "{status:?} after {took:?}");
    ensure!(REQUEST_TIMEOUT.contains(&took), "{status:?} after {took:?}");
    Ok(())
}
