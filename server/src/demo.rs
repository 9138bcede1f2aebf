//! `kvd demo`: the main job in one command. Three real processes, a thousand acknowledged writes,
//! the leader killed in the middle of more of them, nothing lost, the dead member back, all
//! histories the same. Somebody watches through all of it and sees every revision exactly once.
//!
//! Promises exit code 0 only if every step held, and that nothing is left behind either way. A
//! write that got no answer is repeated, which is harmless because each key is written with one
//! value only; what was acknowledged is what must be there afterwards.

mod watcher;
mod writers;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kvd_client::proto::etcdserverpb::RangeRequest;
use kvd_client::{Client, prefix_end};
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};

use self::watcher::Watcher;
use self::writers::{Limit, Writers, key, quantile, value};
use crate::local_cluster::{Folder, LocalCluster, LocalClusterError, Logs, say};

/// Members of the cluster.
const MEMBERS: usize = 3;

/// Writes before anything is killed.
const WRITES: u64 = 1000;

/// Acknowledged writes before the leader is killed, and again after a new one was found, so that
/// the kill is in the middle.
const WRITES_AROUND_KILL: u64 = 200;

/// Keys are read back in pages of so many.
const PAGE_KEYS: i64 = 500;

/// Every step must be done by then; the slowest usually takes a second.
const STEP_MAX: Duration = Duration::from_secs(30);

/// Between two looks at something that is about to happen.
const POLL: Duration = Duration::from_millis(5);

/// All keys start with it.
const PREFIX: &[u8] = b"/demo/";

const USAGE: &str = "usage: kvd demo

Starts three members on loopback, writes, kills the leader, checks that nothing acknowledged was
lost and that a watcher saw every revision exactly once, and leaves nothing behind. The exit code is 0 if all of it held.";

/// Runs the demo and says on standard output what happened.
#[must_use]
pub fn run(args: &[String]) -> ExitCode {
    match args {
        [] => {}
        [flag] if flag == "--help" || flag == "-h" => {
            say(USAGE);
            return ExitCode::SUCCESS;
        }
        [unknown, ..] => {
            eprintln!("kvd demo takes no argument {unknown}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    }
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return failed(&format!("the path of this program: {error}")),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&format!("an async runtime: {error}")),
    };
    match runtime.block_on(Box::pin(show(&program))) {
        Ok(()) => {
            say("next:  kvd dev          (keeps a cluster running)");
            ExitCode::SUCCESS
        }
        Err(text) => failed(&text),
    }
}

fn failed(text: &str) -> ExitCode {
    eprintln!("kvd demo: {text}");
    ExitCode::FAILURE
}

/// Runs the demo on members of `program`; the error is the whole story for whoever called.
async fn show(program: &Path) -> Result<(), String> {
    let begin = Instant::now();
    let folder = Folder::temporary("demo").map_err(|error| error.to_string())?;
    let mut cluster = LocalCluster::start(program, MEMBERS, folder, Logs::Keep)
        .map_err(|error| error.to_string())?;
    let mut step = "bringing the cluster up";
    // The cluster is dropped at the end of this function, whichever way it is left.
    let done = tokio::select! {
        done = steps(&mut cluster, begin, &mut step) => done,
        () = interrupted() => Err(DemoError::Interrupted),
    };
    if let Err(error) = done {
        return Err(format!("{step} failed: {error}\nthe ends of the logs:\n{}", cluster.tails()));
    }
    cluster.stop().await;
    Ok(())
}

/// Why the demo did not hold what it promises.
#[derive(Debug, Error)]
enum DemoError {
    #[error(transparent)]
    Cluster(#[from] LocalClusterError),
    #[error(transparent)]
    Client(#[from] kvd_client::Error),
    #[error("not done in {STEP_MAX:?}")]
    TooSlow,
    #[error("{count} acknowledged writes are lost or changed at member {member}, such as {key}")]
    Lost { member: String, count: usize, key: String },
    #[error("the histories differ: {hashes}")]
    HistoriesDiffer { hashes: String },
    #[error("the watcher: {0}")]
    Watch(String),
    #[error("a writer vanished: {0}")]
    Writer(#[from] tokio::task::JoinError),
    #[error("interrupted")]
    Interrupted,
}

/// Returns when somebody wants the demo to end.
async fn interrupted() {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

async fn steps(
    cluster: &mut LocalCluster,
    begin: Instant,
    step: &mut &'static str,
) -> Result<(), DemoError> {
    for number in 0..MEMBERS {
        cluster.wait_for(number).await?;
    }
    let leader = in_time(leader(cluster)).await?;
    let voters = cluster.client(None)?.member_list().await?.members;
    let voters = voters.iter().filter(|member| !member.is_learner).count();
    let name = cluster.name(leader).to_owned();
    report(&format!("cluster up ({voters} voters, leader {name})"), begin, "");

    // Whoever watches at the leader has the most to lose.
    let at_leader = cluster.client(None)?.at(cluster.url(leader))?;
    let begun_at = revision(cluster).await?;
    let watcher = Watcher::start(at_leader, cluster.client(None)?, begun_at);

    *step = "writing";
    let writers = Writers::new(cluster.client(None)?);
    let latencies = in_time(writers.write(WRITES)).await?;
    let summary =
        format!("p50 {:.2?}  p99 {:.2?}", quantile(&latencies, 50), quantile(&latencies, 99));
    report(&format!("{WRITES} writes acknowledged by a majority"), latencies.begin, &summary);

    *step = "writing while the leader is killed";
    let killed = in_time(kill_while_writing(cluster, &writers, leader)).await?;
    *step = "reading back what was acknowledged";
    let acknowledged = writers.acknowledged();
    in_time(read_back(cluster, leader, acknowledged)).await?;
    let new = cluster.name(killed.new_leader);
    let repeated = writers.repeated.load(Ordering::Relaxed);
    let summary = format!("client repeated {repeated} calls, lost 0 of {acknowledged} writes");
    report_took(&format!("leader {name} killed → new leader {new}"), killed.took, &summary);

    *step = "waiting for the watcher";
    let begin_watch = Instant::now();
    let saw = in_time(watcher.reached(revision(cluster).await?)).await?;
    let summary = format!("{} events, resumed {} times", saw.events, saw.resumed);
    report("watcher saw every revision exactly once", begin_watch, &summary);

    *step = "bringing the killed member back";
    let begin = Instant::now();
    cluster.start_member(leader)?;
    cluster.wait_for(leader).await?;
    report(&format!("member {name} restarted and caught up"), begin, "");

    *step = "comparing the histories";
    let begin = Instant::now();
    let hash = in_time(compare_histories(cluster)).await?;
    report("history identical on all members", begin, &format!("hash {hash:08x}"));
    Ok(())
}

async fn in_time<T>(step: impl Future<Output = Result<T, DemoError>>) -> Result<T, DemoError> {
    tokio::time::timeout(STEP_MAX, step).await.unwrap_or(Err(DemoError::TooSlow))
}

fn report(what: &str, begin: Instant, more: &str) {
    report_took(what, begin.elapsed(), more);
}

fn report_took(what: &str, took: Duration, more: &str) {
    say(format!("{what:<42} {:>5.2} s   {more}", took.as_secs_f64()).trim_end());
}

/// Waits until a member leads.
async fn leader(cluster: &LocalCluster) -> Result<usize, DemoError> {
    loop {
        if let Some(leader) = cluster.leader().await {
            return Ok(leader);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// How a fail-over went.
struct Killed {
    new_leader: usize,
    /// From the kill to the moment when a survivor says that it leads.
    took: Duration,
}

/// Kills the leader while writes are under way, and ends the writes some time after another leads.
async fn kill_while_writing(
    cluster: &mut LocalCluster,
    writers: &Writers,
    leader_number: usize,
) -> Result<Killed, DemoError> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut running = writers.start(Limit::Told(Arc::clone(&stop)));
    let enough = writers.acknowledged() + WRITES_AROUND_KILL;
    writers.wait_until_acknowledged(enough, &mut running).await?;
    cluster.kill(leader_number)?;
    let begin = Instant::now();
    let new_leader = leader(cluster).await?;
    let took = begin.elapsed();
    let enough = writers.acknowledged() + WRITES_AROUND_KILL;
    writers.wait_until_acknowledged(enough, &mut running).await?;
    stop.store(true, Ordering::Relaxed);
    while let Some(done) = running.join_next().await {
        done??;
    }
    Ok(Killed { new_leader, took })
}

/// Reads all keys linearizably at each survivor and compares them with what was acknowledged.
async fn read_back(
    cluster: &LocalCluster,
    killed: usize,
    acknowledged: u64,
) -> Result<(), DemoError> {
    for number in (0..cluster.len()).filter(|number| *number != killed) {
        let client = cluster.client(None)?.at(cluster.url(number))?;
        let found = read_all(&client).await?;
        let is_missing = |write: &u64| found.get(&key(*write)) != Some(&value(*write));
        let lost: Vec<u64> = (0..acknowledged).filter(is_missing).collect();
        if let Some(first) = lost.first() {
            let (member, key) = (cluster.name(number).to_owned(), key(*first));
            return Err(DemoError::Lost { member, count: lost.len(), key });
        }
    }
    Ok(())
}

/// All keys of the demo with their values, page by page.
async fn read_all(client: &Client) -> Result<BTreeMap<String, String>, DemoError> {
    let mut found = BTreeMap::new();
    let mut request = RangeRequest {
        key: PREFIX.into(),
        range_end: prefix_end(PREFIX),
        limit: PAGE_KEYS,
        ..Default::default()
    };
    loop {
        let response = client.range(request.clone()).await?;
        let Some(last) = response.kvs.last() else { return Ok(found) };
        // The next page begins with the smallest key behind the last one.
        request.key = [&last.key[..], &[0]].concat().into();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        found.extend(response.kvs.iter().map(|kv| (text(&kv.key), text(&kv.value))));
        if !response.more {
            return Ok(found);
        }
    }
}

/// The store's revision.
async fn revision(cluster: &LocalCluster) -> Result<i64, DemoError> {
    let request = RangeRequest { key: PREFIX.into(), ..Default::default() };
    let newest = cluster.client(None)?.range(request).await?;
    Ok(newest.header.map_or(0, |header| header.revision))
}

/// Compares HashKV of all members at one revision, which each of them has reached.
async fn compare_histories(cluster: &LocalCluster) -> Result<u32, DemoError> {
    let client = cluster.client(None)?;
    let revision = revision(cluster).await?;
    let mut hashes = Vec::new();
    for number in 0..cluster.len() {
        let url = cluster.url(number);
        // After a linearizable read a member has applied everything up to that revision.
        client.at(url)?.get(PREFIX).await?;
        hashes.push((cluster.name(number), client.hash_kv(url, revision).await?.hash));
    }
    let (_, first) = hashes[0];
    if hashes.iter().all(|(_, hash)| *hash == first) {
        return Ok(first);
    }
    let texts: Vec<String> =
        hashes.iter().map(|(name, hash)| format!("{name} {hash:08x}")).collect();
    let hashes = format!("{} at revision {revision}", texts.join(", "));
    Err(DemoError::HistoriesDiffer { hashes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_is_refused() {
        assert_eq!(run(&["--endpoints".to_owned()]), ExitCode::from(2));
    }

    /// The demo speaks etcd's flags and services only, so it must hold on a real etcd too:
    /// `KVD_ETCD=/usr/bin cargo test -p kvd demo`.
    #[tokio::test]
    async fn the_demo_holds_on_a_real_etcd() {
        let Some(program) = crate::local_cluster::real_etcd() else { return };
        let shown = Box::pin(show(&program)).await;
        assert_eq!(shown, Ok(()));
    }

    #[tokio::test]
    async fn a_program_that_is_no_server_fails_in_the_first_step() {
        let error = Box::pin(show(Path::new("/bin/false"))).await.unwrap_err();
        assert!(error.starts_with("bringing the cluster up failed: member a ended"), "{error}");
    }
}
