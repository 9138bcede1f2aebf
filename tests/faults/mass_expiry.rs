//! Thousands of leases that end together, beside a client that writes.

use std::time::{Duration, Instant};

use anyhow::ensure;
use futures_util::future::join_all;
use kvd_client::proto::etcdserverpb::{LeaseGrantRequest, LeaseLeasesRequest};
use kvd_tests::cluster::process::{Cluster, Program};
use kvd_tests::fault::caller::Caller;
use kvd_tests::fault::number;
use tonic::Status;

use crate::leases::{PATIENCE, at};

/// Rule L14, and what etcd does not promise: a client's puts do not wait for the ends of other
/// clients' leases. `KVD_LEASES` makes it more.
#[test]
fn a_mass_expiry_does_not_stall_writes() -> anyhow::Result<()> {
    let count = i64::try_from(number("KVD_LEASES", 4_000))?;
    let ttl = i64::try_from(number("KVD_LEASES_TTL", 12))?;
    let cluster = Cluster::start(&Program::kvd()?, 3, &[])?;
    let endpoints = cluster.endpoints();
    let caller = Caller::new(&endpoints)?;
    let begun = Instant::now();
    let leases = at(&caller, &endpoints[caller.leader()?])?;
    caller.run(|_| async {
        let lanes = (0..32).map(|lane| {
            let mut leases = leases.clone();
            async move {
                for id in (lane + 1..=count).step_by(32) {
                    leases.lease_grant(LeaseGrantRequest { ttl, id }).await?;
                }
                Ok::<_, Status>(())
            }
        });
        join_all(lanes).await.into_iter().collect::<Result<Vec<_>, _>>()
    })?;
    eprintln!("{count} leases granted in {:?}", begun.elapsed());
    ensure!(begun.elapsed() < Duration::from_secs(u64::try_from(ttl)?), "too slow to compare");
    let mut quiet = Vec::new();
    while quiet.len() < 200 {
        quiet.push(timed_put(&caller)?);
    }
    let left = || -> anyhow::Result<usize> {
        let mut leases = leases.clone();
        let reply = caller.run(|_| async move { leases.lease_leases(LeaseLeasesRequest {}).await });
        Ok(reply?.into_inner().leases.len())
    };
    let whole = left()?;
    ensure!(whole == usize::try_from(count)?, "some ended before: {whole}");
    while left()? == whole {}
    let (mut busy, ending) = (Vec::new(), Instant::now());
    while left()? > 0 {
        busy.extend([timed_put(&caller)?, timed_put(&caller)?]);
        ensure!(ending.elapsed() < PATIENCE * 4, "{} leases do not end", left()?);
    }
    let (quiet, busy, puts) = (p99(&mut quiet), p99(&mut busy), busy.len());
    eprintln!(
        "all ended in {:?}; p99 of puts {quiet:?} quiet, {busy:?} of {puts} meanwhile",
        ending.elapsed()
    );
    // Machines that run tests are noisy; a stall is another order.
    ensure!(busy < quiet * 10 + Duration::from_millis(200), "writes stalled");
    Ok(())
}

fn timed_put(caller: &Caller) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    caller.put("k", "v")?;
    Ok(begun.elapsed())
}

fn p99(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() * 99 / 100).copied().unwrap_or_default()
}
