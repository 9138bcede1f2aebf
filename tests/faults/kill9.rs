//! SIGKILL in the middle of writes: nothing acknowledged is lost, whoever dies, however often.

use anyhow::Context as _;
use kvd_tests::cluster::process::{Cluster, Program};
use kvd_tests::fault::caller::Caller;
use kvd_tests::fault::load::{Load, Shape};
use kvd_tests::fault::{number, seed};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// A short log: members come back by entries, by checkpoint and by snapshot.
const FLAGS: [&str; 2] = ["--snapshot-count=300", "--snapshot-catchup-entries=50"];

/// Hazards A3, A7, B9: the leader dies every other time, somebody else the other, and every fifth
/// time all at once.
#[test]
fn nothing_acknowledged_is_lost_to_kill_9() -> anyhow::Result<()> {
    let mut random = StdRng::seed_from_u64(seed("nothing_acknowledged_is_lost_to_kill_9"));
    let mut cluster = Cluster::start(&Program::kvd()?, 3, &FLAGS.map(str::to_owned))?;
    let endpoints = cluster.endpoints();
    let caller = Caller::new(&endpoints)?;
    let shape = Shape { prefix: "w".to_owned(), writers: 8, value_bytes: 200 };
    let load = Load::start(&endpoints, shape)?;
    for round in 0..number("KVD_ROUNDS", 10) {
        load.wait_acknowledged(random.random_range(20..200))?;
        if round % 5 == 4 {
            for at in 0..3 {
                cluster.member(at).kill()?;
            }
            for at in 0..3 {
                cluster.member(at).spawn()?;
            }
            for member in cluster.members() {
                member.wait_ready()?;
            }
            continue;
        }
        let leader = caller.leader()?;
        let victim = if round % 2 == 0 { leader } else { random.random_range(0..3) };
        cluster.member(victim).kill()?;
        load.wait_acknowledged(random.random_range(20..400))
            .with_context(|| format!("round {round}: {victim} is dead, {leader} led"))?;
        cluster.member(victim).restart()?;
    }
    load.wait_acknowledged(100)?;
    let ledger = load.stop()?;
    caller.ensure_same_hashes()?;
    for endpoint in &endpoints {
        let (kvs, revision) = caller.all(endpoint, "w")?;
        ledger.ensure_holds(&kvs, revision).with_context(|| endpoint.clone())?;
    }
    let (acknowledged, unknown) = (ledger.acknowledged(), ledger.unknown());
    eprintln!("kill -9: {acknowledged} acknowledged, {unknown} unknown, none lost");
    let alarming = cluster.unexpected_log_lines(&[]);
    let fatal: Vec<_> = alarming.iter().filter(|line| !line.contains("\"warn\"")).collect();
    anyhow::ensure!(fatal.is_empty(), "errors were logged: {fatal:#?}");
    Ok(())
}
