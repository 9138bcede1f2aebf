//! Several apiservers of Kubernetes against all members while leaders are killed: no lost update,
//! no missed or doubled event, no progress ahead of an event, only errors that they know
//! (kube-apiserver.md §2–§5, §7).

use std::time::{Duration, Instant};

use anyhow::ensure;
use kvd_tests::cluster::process::{Cluster, Program};
use kvd_tests::fault::caller::Caller;
use kvd_tests::fault::number;
use kvd_tests::kube::cache::EARLY_PROGRESS;
use kvd_tests::kube::change::text;
use kvd_tests::kube::check::{REGISTRY, covered, violations};
use kvd_tests::kube::ledger::{Fate, Ledger};
use kvd_tests::kube::load::Job;
use kvd_tests::kube::processes::Apiservers;
use kvd_tests::kube::requests::COMPACT_REV_KEY;
use kvd_tests::kube::store::{Paging, Store};
use kvd_tests::tools;
use tokio::runtime::Builder;

/// Processes.
const APISERVERS: usize = 3;
/// Between two rounds of compaction; kube-apiserver's default is 5 min.
const COMPACT_EVERY: Duration = Duration::from_secs(3);
/// Revisions that must pass between two faults, besides a compaction.
const REVISIONS: i64 = 150;
/// How often the one who kills looks; the members have other work.
const POLL_EVERY: Duration = Duration::from_millis(50);
/// How long that may take; etcd without a leader lets writes wait for 7 s.
const PATIENCE: Duration = Duration::from_secs(60);

/// Three leaders are killed; 30 with `KVD_LONG=1`.
#[test]
fn apiservers_live_through_leader_kills() -> anyhow::Result<()> {
    if let Some(job) = Job::of_this_process() {
        return job.run();
    }
    let kills = if number("KVD_LONG", 0) == 1 { 30 } else { 3 };
    run("kube::apiservers_live_through_leader_kills", &Program::kvd()?, kills)
}

/// The judge's own proof: a real etcd keeps all of it. With `KVD_KUBE_ETCD=1`, after a change of
/// the judge.
#[test]
fn apiservers_live_with_a_real_etcd() -> anyhow::Result<()> {
    if let Some(job) = Job::of_this_process() {
        return job.run();
    }
    if number("KVD_KUBE_ETCD", 0) != 1 {
        eprintln!("not asked for: KVD_KUBE_ETCD=1");
        return Ok(());
    }
    match Program::etcd() {
        Ok(etcd) => run("kube::apiservers_live_with_a_real_etcd", &etcd, 3),
        Err(error) => {
            tools::skip("apiservers_live_with_a_real_etcd", &error.to_string());
            Ok(())
        }
    }
}

fn run(test: &str, program: &Program, kills: u64) -> anyhow::Result<()> {
    // The name it has in 3.5; kvd and 3.6 know it too.
    let flags = ["--experimental-watch-progress-notify-interval=1s".to_owned()];
    let mut cluster = Cluster::start(program, 3, &flags)?;
    let endpoints = cluster.endpoints();
    let caller = Caller::new(&endpoints)?;
    let mut apiservers = Apiservers::start(test, APISERVERS, &endpoints, COMPACT_EVERY)?;
    let mut claimed = wait_progress(&caller, &mut apiservers, 0)?;
    for _ in 0..kills {
        let leader = caller.leader()?;
        cluster.member(leader).kill()?;
        claimed = wait_progress(&caller, &mut apiservers, claimed)?;
        cluster.member(leader).restart()?;
        claimed = wait_progress(&caller, &mut apiservers, claimed)?;
    }
    let mut ledgers = apiservers.end()?;
    if matches!(program, Program::Etcd(_)) {
        for ledger in &mut ledgers {
            ledger.wrong.retain(|wrong| !wrong.contains(EARLY_PROGRESS));
        }
    }
    report(&ledgers);
    judge(&endpoints, &ledgers)?;
    caller.ensure_same_hashes()
}

/// Waits until the store has gone on and has been compacted again; gives the version of the
/// compaction key.
fn wait_progress(
    caller: &Caller,
    apiservers: &mut Apiservers,
    claimed: i64,
) -> anyhow::Result<i64> {
    let deadline = Instant::now() + PATIENCE;
    let mut first = None;
    loop {
        apiservers.ensure_running()?;
        // The key's own reads tell both; one that fails is asked again.
        let reply = caller.run(|client| async move {
            tokio::time::sleep(POLL_EVERY).await;
            let request = kvd_tests::kube::requests::get(COMPACT_REV_KEY);
            client.range(request).await
        });
        if let Ok(reply) = reply {
            let revision = reply.header.unwrap_or_default().revision;
            let now = reply.kvs.first().map_or(0, |kv| kv.version);
            if revision > *first.get_or_insert(revision) + REVISIONS && now > claimed {
                return Ok(now);
            }
        }
        ensure!(Instant::now() < deadline, "the store does not go on");
    }
}

/// The histories, the writes and a list at the end of it, at each member.
fn judge(endpoints: &[String], ledgers: &[Ledger]) -> anyhow::Result<()> {
    let (from, to) = covered(ledgers);
    ensure!(to > from, "no watch told anything");
    let runtime = Builder::new_current_thread().enable_all().build()?;
    for endpoint in endpoints {
        let found = runtime.block_on(async {
            let store = Store::new(std::slice::from_ref(endpoint), 0)?;
            let listed = store.list(REGISTRY, 50, to, Paging::Count).await;
            let listed = listed.map_err(|error| anyhow::anyhow!("{endpoint}: {error:?}"))?;
            ensure!(store.wrong().is_empty(), "{:#?}", store.wrong());
            anyhow::Ok(listed.kvs)
        })?;
        ensure!(found.iter().any(|kv| text(&kv.key).starts_with(REGISTRY)), "nothing is left");
        let wrong = violations(ledgers, &found);
        ensure!(wrong.is_empty(), "{endpoint}, {} breaches: {wrong:#?}", wrong.len());
    }
    let sum = |name: &str| -> u64 {
        let counts = ledgers.iter().flat_map(|ledger| &ledger.counts);
        counts.filter(|(other, _)| other.ends_with(name)).map(|(_, count)| count).sum()
    };
    // What did not happen was not tested.
    for name in [
        "resumed",
        "progress",
        "consistent lists from cache",
        "caches compared with a list",
        "lists at compacted revisions",
        "lists at future revisions",
        "watches at compacted revisions",
        "claims won",
        "followed compaction to",
    ] {
        ensure!(sum(name) > 0, "{name}: never");
    }
    Ok(())
}

fn report(ledgers: &[Ledger]) {
    for (process, ledger) in ledgers.iter().enumerate() {
        let fates =
            |is_one: fn(&Fate) -> bool| ledger.ops.iter().filter(|op| is_one(&op.fate)).count();
        let acked = fates(|fate| matches!(fate, Fate::Acked(_)));
        let failed = fates(|fate| *fate == Fate::Failed);
        let unknown = fates(|fate| *fate == Fate::Unknown);
        eprintln!("apiserver {process}: {acked} acked, {failed} failed, {unknown} unknown");
        let counts: Vec<String> =
            ledger.counts.iter().map(|(name, count)| format!("{name}: {count}")).collect();
        eprintln!("  {}", counts.join(", "));
    }
}
