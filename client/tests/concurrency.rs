//! Locks, elections and the like against real processes: etcd and kvd.

mod etcd;

#[path = "concurrency/cut_off.rs"]
mod cut_off;
#[path = "concurrency/locks.rs"]
mod locks;
#[path = "concurrency/others.rs"]
mod others;
#[path = "concurrency/proxy.rs"]
mod proxy;
#[path = "concurrency/shared.rs"]
mod shared;
#[path = "concurrency/silent.rs"]
mod silent;

#[allow(dead_code, reason = "a test runs what its main runs")]
#[path = "../examples/leader.rs"]
mod leader_example;
#[allow(dead_code, reason = "a test runs what its main runs")]
#[path = "../examples/lock.rs"]
mod lock_example;

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use kvd_client::concurrency::Session;
use kvd_client::proto::etcdserverpb::RangeRequest;
use kvd_client::{Client, Options, prefix_end};
use tokio::time::{sleep, timeout};

use crate::etcd::{Cluster, PATIENCE};

/// The servers there are to test with.
fn servers() -> Vec<PathBuf> {
    let kvd = env::var_os("KVD_BINARY").map(PathBuf::from);
    if kvd.is_none() {
        let required = env::var_os("KVD_REQUIRE_ALL").is_some_and(|value| value == "1");
        assert!(!required, "KVD_BINARY names no kvd");
        eprintln!("SKIPPED: KVD_BINARY names no kvd");
    }
    etcd::find("etcd").into_iter().chain(kvd).collect()
}

/// Runs a test with a new member of each server; kvd takes etcd's flags.
async fn on_each(test: impl AsyncFn(&Client) -> Result<()>) -> Result<()> {
    for server in servers() {
        let context = || format!("with {}", server.display());
        let cluster = Cluster::start(&server, 1).with_context(context)?;
        let client = connect(&cluster).await.with_context(context)?;
        timeout(PATIENCE, test(&client)).await.with_context(context)?.with_context(context)?;
    }
    Ok(())
}

async fn connect(cluster: &Cluster) -> Result<Client> {
    let client = etcd::connect(cluster.endpoints()).await?;
    Ok(client.with_timeout(Duration::from_secs(5)))
}

/// Another client of the same server, as if in another process.
fn another(client: &Client) -> Result<Client> {
    Ok(Client::lazy(Options::new(client.endpoints()))?)
}

async fn session(client: &Client) -> Result<Session> {
    Ok(Session::start(&another(client)?).await?)
}

/// The keys under a prefix.
async fn keys(client: &Client, prefix: &str) -> Result<Vec<String>> {
    let (key, range_end) = (prefix.to_owned().into(), prefix_end(prefix.as_bytes()));
    let found = client.range(RangeRequest { key, range_end, ..Default::default() }).await?;
    let keys = found.kvs.into_iter().map(|kv| String::from_utf8(kv.key.to_vec()));
    Ok(keys.collect::<Result<_, _>>()?)
}

/// Waits until there are so many keys under a prefix.
async fn until_keys(client: &Client, prefix: &str, count: usize) -> Result<()> {
    while keys(client, prefix).await?.len() != count {
        sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

#[tokio::test]
async fn the_examples_run() -> Result<()> {
    on_each(async |client| {
        let endpoint = client.endpoints().next().context("there is one")?;
        lock_example::run(&endpoint).await?;
        leader_example::run(&endpoint).await?;
        assert_eq!(keys(client, "examples/l").await?, Vec::<String>::new());
        Ok(())
    })
    .await
}
