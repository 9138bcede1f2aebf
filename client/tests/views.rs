//! What the library shows of the store beyond single calls, against real etcd processes: namespaces, pages, caches.

mod etcd;

use anyhow::{Context, Result};
use kvd_client::proto::etcdserverpb::{CompactionRequest, RangeRequest, WatchCreateRequest};
use kvd_client::{Change, EtcdError, Update, prefix_end};
use tokio::time::timeout;

use crate::etcd::{Cluster, PATIENCE, connect};

fn all(prefix: &'static str) -> RangeRequest {
    RangeRequest {
        key: prefix.into(),
        range_end: prefix_end(prefix.as_bytes()),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_namespace_is_all_there_is() -> Result<()> {
    let Some(binary) = etcd::find("etcd") else { return Ok(()) };
    let cluster = Cluster::start(&binary, 1)?;
    let whole = connect(cluster.endpoints()).await?;
    let part = whole.within("app/").within("one/");
    whole.put("app/two/k", "other").await?;
    let lease = whole.lease_grant(60, 0).await?.id;
    let mut watch =
        part.watch(WatchCreateRequest { key: "k".into(), ..Default::default() }).await?;
    part.put("k", "mine").await?;
    assert_eq!(whole.get("app/one/k").await?.context("it is there")?.value, "mine");
    let kvs =
        part.range(RangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() });
    let kvs = kvs.await?.kvs;
    assert_eq!(kvs.iter().map(|kv| &kv.key[..]).collect::<Vec<_>>(), [b"k"]);
    let update = timeout(PATIENCE, watch.next()).await?.context("it goes on")??;
    let Update::Events { events, .. } = update else { anyhow::bail!("{update:?}") };
    assert_eq!(events[0].kv.as_ref().context("an event has a key")?.key, "k");
    let put = kvd_client::proto::etcdserverpb::PutRequest {
        key: "held".into(),
        lease,
        ..Default::default()
    };
    part.put_request(put.clone()).await?;
    whole.put_request(put).await?;
    assert_eq!(part.lease_time_to_live(lease, true).await?.keys, ["held"]);
    assert_eq!(part.put("", "v").await.expect_err("no key").etcd(), Some(EtcdError::EmptyKey));
    assert!(part.delete("k").await?);
    assert!(whole.get("app/two/k").await?.is_some());
    Ok(())
}

#[tokio::test]
async fn pages_show_one_revision() -> Result<()> {
    let Some(binary) = etcd::find("etcd") else { return Ok(()) };
    let cluster = Cluster::start(&binary, 1)?;
    let client = connect(cluster.endpoints()).await?;
    for number in 0..25 {
        client.put(format!("p/{number:02}"), "old").await?;
    }
    let mut pages = client.pages(all("p/"), 10);
    let first = pages.next().await?.context("there is a page")?;
    client.put("p/20", "new").await?;
    client.delete("p/24").await?;
    let (rest, revision) = pages.collect().await?;
    assert_eq!((first.len(), rest.len(), revision), (10, 15, 26));
    assert!(first.iter().chain(&rest).all(|kv| kv.value == "old"));
    let mut pages = client.pages(all("p/"), 10);
    pages.next().await?;
    let revision = client.put("other", "1").await?.header.context("a header")?.revision;
    client.compact(CompactionRequest { revision, physical: true }).await?;
    let error = pages.next().await.expect_err("the revision is gone");
    assert_eq!(error.etcd(), Some(EtcdError::Compacted));
    assert_eq!(client.pages(all("none/"), 10).next().await?, None);
    Ok(())
}

#[tokio::test]
async fn a_cache_follows_and_reads_its_own_writes() -> Result<()> {
    let Some(binary) = etcd::find("etcd") else { return Ok(()) };
    let mut cluster = Cluster::start(&binary, 3)?;
    let client = connect(cluster.endpoints()).await?;
    client.put("c/0", "before").await?;
    let cache = client.cache("c/").await?;
    assert_eq!(cache.len(), 1);
    let mut changes = cache.changes();
    for round in 0..50 {
        let put = client.put(format!("c/{}", round % 7), round.to_string()).await?;
        cache.at_least(put.header.context("a header")?.revision).await?;
        let seen = cache.get(format!("c/{}", round % 7).as_bytes()).context("it is there")?;
        assert_eq!(seen.value, round.to_string());
        assert!(matches!(changes.recv().await?, Change::Put(kv) if kv.value == round.to_string()));
    }
    // Other keys move the revision, too.
    let elsewhere = client.put("elsewhere", "1").await?;
    cache.at_least(elsewhere.header.context("a header")?.revision).await?;
    cluster.members[0].kill()?;
    let mut gone = client.delete("c/3").await;
    while gone.is_err() {
        gone = client.delete("c/3").await;
    }
    let read = client.get("c/3").await?;
    assert!(read.is_none());
    while !matches!(timeout(PATIENCE, changes.recv()).await??, Change::Deleted(kv) if kv.key == "c/3")
    {
    }
    assert_eq!(cache.list(b"c/").len(), 6);
    assert!(cache.get(b"c/3").is_none());
    Ok(())
}
