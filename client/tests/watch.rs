//! Watches that go on by themselves, against real etcd processes.

mod etcd;

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use kvd_client::proto::etcdserverpb::{CompactionRequest, WatchCreateRequest};
use kvd_client::proto::mvccpb::Event;
use kvd_client::{Client, Update, Watch, prefix_end};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::timeout;

use crate::etcd::{Cluster, PATIENCE, connect};

fn prefix(prefix: &'static str) -> WatchCreateRequest {
    WatchCreateRequest {
        key: prefix.into(),
        range_end: prefix_end(prefix.as_bytes()),
        ..Default::default()
    }
}

/// The next events, progress left out.
async fn events(watch: &mut Watch) -> Result<Vec<Event>> {
    loop {
        let update = timeout(PATIENCE, watch.next()).await?.context("the watch goes on")??;
        match update {
            Update::Events { events, .. } => return Ok(events),
            Update::Progress { .. } => {}
            Update::Resync { .. } => anyhow::bail!("nothing was compacted"),
        }
    }
}

/// Values told until this one.
async fn values_until(watch: &mut Watch, last: &str) -> Result<Vec<String>> {
    let mut values: Vec<String> = Vec::new();
    while values.last().is_none_or(|value| value != last) {
        for event in events(watch).await? {
            let kv = event.kv.context("an event has a key")?;
            values.push(String::from_utf8(kv.value.to_vec())?);
        }
    }
    Ok(values)
}

/// Writes numbers until one more is written than `count`, whatever fails meanwhile; every value is new.
async fn write(client: &Client, from: usize, count: usize) -> Result<()> {
    for number in from..from + count {
        while let Err(error) = client.put("k", number.to_string()).await {
            ensure!(error.outcome_is_unknown(), "{error}");
        }
    }
    Ok(())
}

/// Every number, in order.
fn is_whole(values: &[String], count: usize) -> bool {
    values.iter().map(String::as_str).eq((0..count).map(|number| number.to_string()))
}

#[tokio::test]
async fn a_watch_outlives_the_members_it_is_on() -> Result<()> {
    let Some(binary) = etcd::find("etcd") else { return Ok(()) };
    let ports = etcd::free_ports(6)?;
    let mut cluster = Cluster::start_on(&binary, &ports)?;
    let client = connect(cluster.endpoints()).await?;
    let mut watch = client.watch(prefix("k")).await?;
    let mut other = client.watch(prefix("")).await?;
    write(&client, 0, 10).await?;
    // One is killed, then another does not speak: one of the two had the watch or gets it.
    let (stopped, killed) = (0, 1);
    kill_process(pid(&cluster, stopped)?, Signal::STOP)?;
    write(&client, 10, 10).await?;
    kill_process(pid(&cluster, stopped)?, Signal::CONT)?;
    connect(cluster.endpoints()).await?;
    cluster.members[killed].kill()?;
    write(&client, 20, 10).await?;
    // A put of unknown outcome may have happened later, or more than once; each is a revision of its own, and nothing
    // else is written.
    let last = client.get("k").await?.context("it was written")?.mod_revision;
    for watch in [&mut watch, &mut other] {
        let (mut next, mut numbers) = (watch.created_at() + 1, BTreeSet::new());
        while next <= last {
            for kv in events(watch).await?.into_iter().filter_map(|event| event.kv) {
                assert_eq!(kv.mod_revision, next);
                next += 1;
                numbers.insert(std::str::from_utf8(&kv.value)?.parse::<usize>()?);
            }
        }
        assert!(numbers.into_iter().eq(0..30));
    }
    Ok(())
}

#[tokio::test]
async fn compaction_is_told() -> Result<()> {
    let Some(binary) = etcd::find("etcd") else { return Ok(()) };
    let cluster = Cluster::start(&binary, 1)?;
    let client = connect(cluster.endpoints()).await?;
    write(&client, 0, 5).await?;
    client.compact(CompactionRequest { revision: 4, physical: true }).await?;
    let mut watch = client.watch(WatchCreateRequest { start_revision: 2, ..prefix("k") }).await?;
    let update = timeout(PATIENCE, watch.next()).await?.context("there is an update")??;
    assert_eq!(update, Update::Resync { compacted: 4 });
    assert!(timeout(PATIENCE, watch.next()).await?.is_none(), "it is over");
    let mut watch = client.watch(WatchCreateRequest { start_revision: 4, ..prefix("k") }).await?;
    assert_eq!(values_until(&mut watch, "4").await?, ["2", "3", "4"]);
    Ok(())
}

#[tokio::test]
async fn a_slow_reader_loses_nothing_and_delays_nobody() -> Result<()> {
    let Some(binary) = etcd::find("etcd") else { return Ok(()) };
    let cluster = Cluster::start(&binary, 1)?;
    let client = connect(cluster.endpoints()).await?;
    let mut slow = client.watch(prefix("k")).await?;
    let mut quick = client.watch(prefix("k")).await?;
    // Far more answers than wait for a reader.
    for round in 0..10 {
        write(&client, 100 * round, 100).await?;
        let last = (100 * round + 99).to_string();
        assert_eq!(values_until(&mut quick, &last).await?.len(), 100);
    }
    assert!(is_whole(&values_until(&mut slow, "999").await?, 1000));
    Ok(())
}

#[tokio::test]
async fn new_watches_do_not_wait_for_readers_of_others() -> Result<()> {
    let Some(binary) = etcd::find("etcd") else { return Ok(()) };
    let ports = etcd::free_ports(2)?;
    let mut cluster = Cluster::start_on(&binary, &ports)?;
    let client = connect(cluster.endpoints()).await?;
    // Nobody reads it, and it is the only one when the stream ends.
    let slow = client.watch(prefix("k")).await?;
    write(&client, 0, 200).await?;
    cluster.members[0].kill()?;
    let again = Cluster::start_on(&binary, &ports)?;
    connect(again.endpoints()).await?;
    for _ in 0..100 {
        client.watch(prefix("k")).await?;
    }
    drop(slow);
    Ok(())
}

#[tokio::test]
async fn many_watches_share_a_stream_and_end_when_dropped() -> Result<()> {
    let Some(binary) = etcd::find("etcd") else { return Ok(()) };
    let cluster = Cluster::start(&binary, 1)?;
    let client = connect(cluster.endpoints()).await?;
    let mut watches = Vec::new();
    for _ in 0..500 {
        watches.push(client.watch(prefix("k")).await?);
    }
    client.put("k", "1").await?;
    for watch in &mut watches {
        assert_eq!(values_until(watch, "1").await?, ["1"]);
    }
    let mut last = watches.pop().context("there are many")?;
    drop(watches);
    client.put("other", "1").await?;
    last.request_progress();
    let update = timeout(PATIENCE, last.next()).await?.context("it goes on")??;
    assert_eq!(update, Update::Progress { revision: 3 });
    Ok(())
}

fn pid(cluster: &Cluster, at: usize) -> Result<Pid> {
    let pid = cluster.members[at].pid();
    Pid::from_raw(i32::try_from(pid)?).context("a running process has a pid")
}
