//! Counters that clients increment, and a watch on them, while leaders are killed: with request ids every increment
//! counts once; without them every one that was acknowledged, and at most those of unknown outcome besides.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use kvd_client::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use kvd_client::proto::etcdserverpb::request_op::Request;
use kvd_client::proto::etcdserverpb::{
    Compare, PutRequest, RequestOp, TxnRequest, WatchCreateRequest,
};
use kvd_client::{Client, Options, Update, prefix_end};
use kvd_tests::cluster::process::{Cluster, Program};
use kvd_tests::fault::caller::Caller;
use kvd_tests::fault::number;
use tokio::runtime::Builder;
use tokio::task::JoinSet;

/// Counters, each with a client of its own.
const COUNTERS: u64 = 10;
/// What a client waits for an answer at most; long, so that only what nobody can know is unknown.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at how far the clients are.
const LOOK: Duration = Duration::from_millis(5);

/// What the clients made of it.
#[derive(Debug, Default)]
struct Tally {
    acknowledged: AtomicU64,
    unknown: AtomicU64,
}

#[test]
fn increments_with_request_ids_count_once() -> Result<()> {
    let (tally, total) = run(true)?;
    let (acknowledged, unknown) = tally;
    eprintln!("with ids: {acknowledged} increments, {unknown} unknown, {total} counted");
    ensure!(unknown == 0 && total == acknowledged, "{acknowledged}, unknown {unknown}: {total}");
    Ok(())
}

#[test]
fn increments_without_count_if_they_were_acknowledged() -> Result<()> {
    let ((acknowledged, unknown), total) = run(false)?;
    eprintln!("without ids: {acknowledged} increments, {unknown} unknown, {total} counted");
    let possible = acknowledged..=acknowledged + unknown;
    ensure!(possible.contains(&total), "{acknowledged}, unknown {unknown}: {total}");
    Ok(())
}

/// Kills a leader ten times while clients count; answers what they were told, and what the counters say.
fn run(with_ids: bool) -> Result<((u64, u64), u64)> {
    let (kills, wanted) = (10, number("KVD_INCREMENTS", 5_000));
    let mut cluster = Cluster::start(&Program::kvd()?, 3, &[])?;
    let endpoints = cluster.endpoints();
    let caller = Caller::new(&endpoints)?;
    let tally = Arc::new(Tally::default());
    let shared = Arc::clone(&tally);
    let clients = std::thread::spawn(move || -> Result<u64> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(count(endpoints, with_ids, wanted, shared))
    });
    for kill in 1..=kills {
        until_counted(&tally, kill * wanted / (kills + 1), &clients)?;
        let leader = caller.leader()?;
        cluster.member(leader).kill()?;
        // On its own data; the others lead meanwhile.
        let counted = tally.acknowledged.load(Ordering::Relaxed);
        until_counted(&tally, (counted + 20).min(wanted), &clients)?;
        cluster.member(leader).restart()?;
    }
    let total = clients.join().map_err(|_| anyhow::anyhow!("the clients panicked"))??;
    let told = (tally.acknowledged.load(Ordering::Relaxed), tally.unknown.load(Ordering::Relaxed));
    ensure!(told.0 == wanted, "{told:?} of {wanted}");
    Ok((told, total))
}

fn until_counted<T>(tally: &Tally, count: u64, clients: &std::thread::JoinHandle<T>) -> Result<()> {
    let begin = Instant::now();
    while tally.acknowledged.load(Ordering::Relaxed) < count {
        if clients.is_finished() {
            bail!("the clients ended early: {tally:?}");
        }
        ensure!(begin.elapsed() < PATIENCE, "no {count} increments: {tally:?}");
        std::thread::park_timeout(LOOK);
    }
    Ok(())
}

/// All clients and a watch, until as many increments as wanted were acknowledged; answers the counters' sum.
async fn count(
    endpoints: Vec<String>,
    with_ids: bool,
    wanted: u64,
    tally: Arc<Tally>,
) -> Result<u64> {
    let options = Options::new(endpoints).request_timeout(PATIENCE);
    let watching = Client::lazy(options.clone())?;
    let mut watch = watching.watch(prefix("counter/")).await?;
    let first = watch.created_at() + 1;
    let mut clients = JoinSet::new();
    for counter in 0..COUNTERS {
        let mut client = Client::lazy(options.clone())?;
        if with_ids {
            client = client.exactly_once().await?;
        }
        let (times, tally) = (wanted / COUNTERS, Arc::clone(&tally));
        clients.spawn(increment(client, format!("counter/{counter}"), times, tally));
    }
    while let Some(done) = clients.join_next().await {
        done??;
    }
    let (mut total, mut last) = (0, 0);
    for counter in 0..COUNTERS {
        let kv = watching.get(format!("counter/{counter}")).await?.context("it counted")?;
        total += value(&kv.value)?;
        last = last.max(kv.mod_revision);
    }
    // Only counters were written: every revision since the watch began is one event.
    let mut next = first;
    while next <= last {
        let update = tokio::time::timeout(PATIENCE, watch.next()).await?;
        match update.context("the watch goes on")?? {
            Update::Events { events, .. } => {
                for event in events {
                    let revision = event.kv.context("an event has a key")?.mod_revision;
                    ensure!(revision == next, "revision {revision} instead of {next}");
                    next += 1;
                }
            }
            Update::Progress { .. } => {}
            Update::Resync { compacted } => bail!("nothing was compacted, not at {compacted}"),
        }
    }
    Ok(total)
}

async fn increment(client: Client, key: String, times: u64, tally: Arc<Tally>) -> Result<()> {
    let mut done = 0;
    while done < times {
        let before = client.get(key.clone()).await?;
        let count = before.as_ref().map_or(Ok(0), |kv| value(&kv.value))?;
        let revision = before.map_or(0, |kv| kv.mod_revision);
        let put = PutRequest {
            key: key.clone().into(),
            value: (count + 1).to_string().into(),
            ..Default::default()
        };
        let guard = Compare {
            result: CompareResult::Equal.into(),
            target: CompareTarget::Mod.into(),
            key: key.clone().into(),
            target_union: Some(TargetUnion::ModRevision(revision)),
            ..Default::default()
        };
        let txn = TxnRequest {
            compare: vec![guard],
            success: vec![RequestOp { request: Some(Request::RequestPut(put)) }],
            failure: vec![],
        };
        match client.txn(txn).await {
            Ok(answer) if answer.succeeded => {
                done += 1;
                tally.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            // An increment of unknown outcome happened.
            Ok(_) => {}
            Err(error) if error.outcome_is_unknown() => {
                tally.unknown.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn prefix(prefix: &str) -> WatchCreateRequest {
    WatchCreateRequest {
        key: prefix.to_owned().into(),
        range_end: prefix_end(prefix.as_bytes()),
        ..Default::default()
    }
}

fn value(bytes: &[u8]) -> Result<u64> {
    Ok(std::str::from_utf8(bytes)?.parse()?)
}
