//! Against real etcd processes: what a client meets when members die, fall silent or refuse.

mod etcd;

use std::net::TcpListener;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kvd_client::proto::etcdserverpb::{CompactionRequest, RangeRequest};
use kvd_client::{Client, Error, EtcdError, Options, prefix_end};
use rustix::process::{Pid, Signal, kill_process};

use crate::etcd::{Cluster, PATIENCE, connect};

#[tokio::test]
async fn goes_on_when_the_member_it_used_is_killed() -> Result<()> {
    let Some(binary) = etcd::find("etcd") else { return Ok(()) };
    let mut cluster = Cluster::start(&binary, 3)?;
    let client = connect(cluster.endpoints()).await?;
    let header = client.put("before", "1").await?.header.context("every answer has a header")?;
    let mut used = None;
    for at in 0..cluster.members.len() {
        if member_id(&client, &cluster, at).await? == header.member_id {
            used = Some(at);
        }
    }
    let used = used.context("one of the members answered")?;

    cluster.members[used].kill()?;
    assert_eq!(value(&client, "before").await?.as_deref(), Some(&b"1"[..]));
    let mut writes = 0;
    let end = Instant::now() + PATIENCE;
    while writes < 10 {
        assert!(Instant::now() < end, "writes did not go on");
        match client.put("after", writes.to_string()).await {
            Ok(_) => writes += 1,
            // The request was on its way to the killed member or met an election.
            Err(error) => assert!(error.outcome_is_unknown(), "{error}"),
        }
    }
    assert_eq!(value(&client, "after").await?.as_deref(), Some(&b"9"[..]));
    Ok(())
}

#[tokio::test]
async fn a_read_leaves_a_silent_member_and_a_write_does_not_repeat() -> Result<()> {
    let Some(binary) = etcd::find("etcd") else { return Ok(()) };
    let cluster = Cluster::start(&binary, 3)?;
    let all = connect(cluster.endpoints()).await?;
    let leader = all.status(&cluster.members[0].endpoint).await?.leader;
    // A follower falls silent: the rest has a leader all along.
    let mut follower = None;
    for (at, member) in cluster.members.iter().enumerate() {
        if member_id(&all, &cluster, at).await? != leader {
            follower = Some(member);
        }
    }
    let follower = follower.context("two of three follow")?;
    let client =
        connect(vec![follower.endpoint.clone()]).await?.with_timeout(Duration::from_secs(1));
    client.put("k", "1").await?;

    signal(follower.pid(), Signal::STOP)?;
    let error = client.put("k", "2").await.expect_err("the only endpoint is silent");
    assert!(matches!(error, Error::Unknown { .. }), "{error}");
    let error = client.get("k").await.expect_err("the only endpoint is silent");
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    for member in &cluster.members {
        // Some of these clients start with the silent member; every one reads in time.
        let client = Client::lazy(Options::new(cluster.endpoints()))?;
        assert!(client.get("k").await?.is_some(), "{}", member.endpoint);
    }
    signal(follower.pid(), Signal::CONT)?;
    Ok(())
}

#[tokio::test]
async fn a_write_that_could_not_be_sent_goes_elsewhere() -> Result<()> {
    let Some(binary) = etcd::find("etcd") else { return Ok(()) };
    let cluster = Cluster::start(&binary, 1)?;
    let good = cluster.members[0].endpoint.clone();
    connect(vec![good.clone()]).await?;
    let refusing = {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.local_addr()?.to_string()
    };
    for round in 0..20 {
        let client = Client::lazy(Options::new([refusing.clone(), good.clone()]))?;
        client.put("k", round.to_string()).await?;
    }
    let client =
        Client::lazy(Options::new([refusing]).request_timeout(Duration::from_millis(300)))?;
    let error = client.put("k", "x").await.expect_err("nobody listens");
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_connection_that_broke_while_idle_is_made_again() -> Result<()> {
    let Some(binary) = etcd::find("etcd") else { return Ok(()) };
    let ports = etcd::free_ports(2)?;
    let mut cluster = Cluster::start_on(&binary, &ports)?;
    let client = connect(cluster.endpoints()).await?;
    client.put("k", "1").await?;

    cluster.members[0].kill()?;
    let restarted = Cluster::start_on(&binary, &ports)?;
    connect(restarted.endpoints()).await?;
    client.put("k", "2").await?;
    Ok(())
}

#[tokio::test]
async fn refusals_keep_their_names() -> Result<()> {
    let Some(binary) = etcd::find("etcd") else { return Ok(()) };
    let cluster = Cluster::start(&binary, 1)?;
    let client = connect(cluster.endpoints()).await?;
    let etcd = |error: Error| error.etcd();

    let error = client.put("", "v").await.expect_err("an empty key is refused");
    assert_eq!(etcd(error), Some(EtcdError::EmptyKey));
    let error = client.lease_revoke(4711).await.expect_err("there is no such lease");
    assert_eq!(etcd(error), Some(EtcdError::LeaseNotFound));
    let compaction = CompactionRequest { revision: 1_000_000, physical: false };
    let error = client.compact(compaction).await.expect_err("the revision is in the future");
    assert_eq!(etcd(error), Some(EtcdError::FutureRev));
    let stream = client.range_stream(RangeRequest::default()).await;
    let error = stream.expect_err("etcd 3.5 has no streamed ranges");
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    Ok(())
}

#[tokio::test]
async fn every_call_reaches_its_service() -> Result<()> {
    let Some(binary) = etcd::find("etcd") else { return Ok(()) };
    let cluster = Cluster::start(&binary, 1)?;
    let client = connect(cluster.endpoints()).await?;
    let endpoint = cluster.members[0].endpoint.as_str();

    for key in ["a/1", "a/2", "b"] {
        client.put(key, key).await?;
    }
    let range =
        RangeRequest { key: "a/".into(), range_end: prefix_end(b"a/"), ..Default::default() };
    assert_eq!(client.range(range).await?.count, 2);
    assert!(client.delete("b").await?);
    assert!(!client.delete("b").await?);
    assert_eq!(client.member_list().await?.members.len(), 1);
    assert_eq!(client.member_list_serializable().await?.members.len(), 1);
    assert!(client.status(endpoint).await?.version.starts_with("3."));
    assert_ne!(client.hash_kv(endpoint, 0).await?.hash, 0);
    assert!(client.alarm_list().await?.alarms.is_empty());
    let lease = client.lease_grant(60, 0).await?;
    assert_eq!(lease.ttl, 60);
    client.lease_revoke(lease.id).await?;
    Ok(())
}

async fn member_id(client: &Client, cluster: &Cluster, at: usize) -> Result<u64> {
    let status = client.status(&cluster.members[at].endpoint).await?;
    Ok(status.header.context("every answer has a header")?.member_id)
}

async fn value(client: &Client, key: &'static str) -> Result<Option<Vec<u8>>, Error> {
    Ok(client.get(key).await?.map(|kv| kv.value.to_vec()))
}

fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(pid)?).context("a running process has a pid")?;
    Ok(kill_process(pid, signal)?)
}
