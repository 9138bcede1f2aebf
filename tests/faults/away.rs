//! A follower that was away for longer than the log is kept: it catches up by snapshot while the
//! cluster serves, and is sent only what changed.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use anyhow::{Context as _, ensure};
use kvd_tests::cluster::process::{Cluster, Program};
use kvd_tests::fault::caller::Caller;
use kvd_tests::fault::ledger::Ledger;
use kvd_tests::fault::load::{Load, Shape};

/// A log that forgets after a few entries.
const FLAGS: [&str; 2] = ["--snapshot-count=100", "--snapshot-catchup-entries=10"];
/// Keys before the follower leaves; each of a write of its own.
const KEYS: u64 = 12_000;
/// Bytes of a value.
const VALUE_BYTES: usize = 2_000;

#[test]
fn a_follower_that_was_away_is_sent_what_changed() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&Program::kvd()?, 3, &FLAGS.map(str::to_owned))?;
    let endpoints = cluster.endpoints();
    let caller = Caller::new(&endpoints)?;
    let follower = (caller.leader()? + 1) % 3;
    let mut ledger = write(&endpoints, shape("a", VALUE_BYTES), KEYS)?;

    // Away while a hundredth of the bytes changes, in so many entries that the log forgets them.
    cluster.member(follower).kill()?;
    ledger.merge(write(&endpoints, shape("b", VALUE_BYTES / 10), KEYS / 10)?);
    let before = sent_bytes(&cluster)?;
    let serving = Load::start(&endpoints, Shape { writers: 1, ..shape("c", 100) })?;
    serving.wait_acknowledged(1)?;
    cluster.member(follower).restart()?;
    Caller::new(&endpoints[follower..=follower])?.get("a")?;
    let increment = sent_bytes(&cluster)? - before;
    ledger.merge(serving.stop()?);

    // Back with an empty disk it would be refused; a broken state is fetched as a whole.
    cluster.member(follower).kill()?;
    crate::start::damage_states(cluster.members()[follower].data_dir())?;
    let before = sent_bytes(&cluster)?;
    cluster.member(follower).restart()?;
    Caller::new(&endpoints[follower..=follower])?.get("a")?;
    let whole = sent_bytes(&cluster)? - before;

    eprintln!("sent: increment {increment}, whole {whole} bytes");
    ensure!(whole > KEYS * VALUE_BYTES as u64, "a whole state has more than {whole} bytes");
    ensure!(increment > 0, "nothing was sent: the log still had it");
    ensure!(increment * 20 < whole, "an increment of {increment} of {whole} bytes");
    caller.ensure_same_hashes()?;
    let (kvs, revision) = caller.all(&endpoints[follower], "")?;
    ledger.ensure_holds(&kvs, revision)
}

fn shape(prefix: &str, value_bytes: usize) -> Shape {
    Shape { prefix: prefix.to_owned(), writers: 16, value_bytes }
}

fn write(endpoints: &[String], shape: Shape, count: u64) -> anyhow::Result<Ledger> {
    let load = Load::start(endpoints, shape)?;
    for _ in 0..count / 50 {
        load.wait_acknowledged(50)?;
    }
    load.stop()
}

/// Bytes of snapshots that the members which answer have sent.
pub(crate) fn sent_bytes(cluster: &Cluster) -> anyhow::Result<u64> {
    let mut sum = 0;
    for endpoint in cluster.endpoints() {
        sum += metric(&endpoint, "kvd_snapshot_sent_bytes_total")?.unwrap_or(0);
    }
    Ok(sum)
}

/// A figure of a member's metrics; nothing where the member does not answer.
pub(crate) fn metric(endpoint: &str, name: &str) -> anyhow::Result<Option<u64>> {
    let address = endpoint.trim_start_matches("http://");
    let Ok(mut stream) = TcpStream::connect(address) else { return Ok(None) };
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: m\r\nconnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let start = format!("{name} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&start));
    Ok(Some(value.with_context(|| format!("no {name}"))?.trim().parse()?))
}
