//! The crate etcd-client at work on a cluster: its calls, with the answers that etcd gives.
//!
//! `kvd-etcd-client-check ENDPOINT…`; fails with the first answer that is not etcd's. The store
//! must be empty.

use std::env;

use anyhow::{Context as _, ensure};
use etcd_client::{
    AlarmAction, AlarmType, Client, CompactionOptions, Compare, CompareOp, DeleteOptions, Error,
    EventType, GetOptions, LeaseGrantOptions, LeaseTimeToLiveOptions, PutOptions, SortOrder,
    SortTarget, Txn, TxnOp, TxnOpResponse, WatchOptions,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let endpoints: Vec<String> = env::args().skip(1).collect();
    let mut client = Client::connect(&endpoints, None).await?;
    writes_and_reads(&mut client).await.context("writes and reads")?;
    ranges(&mut client).await.context("ranges")?;
    transactions(&mut client).await.context("transactions")?;
    leases(&mut client).await.context("leases")?;
    watches(&mut client).await.context("watches")?;
    compaction(&mut client).await.context("compaction")?;
    watch_of_what_is_gone(&mut client).await.context("a watch of what is gone")?;
    cluster(&mut client, endpoints.len()).await.context("cluster")
}

async fn writes_and_reads(client: &mut Client) -> anyhow::Result<()> {
    let put = client.put("a", "1", None).await?;
    ensure!(put.header().is_some_and(|header| header.revision() == 2));
    let put = client.put("a", "2", Some(PutOptions::new().with_prev_key())).await?;
    ensure!(put.prev_key().is_some_and(|kv| kv.value() == b"1" && kv.version() == 1));
    let got = client.get("a", None).await?;
    let kv = got.kvs().first().context("a key that was put")?;
    ensure!(kv.value() == b"2" && kv.create_revision() == 2 && kv.mod_revision() == 3);
    let old = client.get("a", Some(GetOptions::new().with_revision(2))).await?;
    ensure!(old.kvs().first().is_some_and(|kv| kv.value() == b"1"));
    let deleted = client.delete("a", Some(DeleteOptions::new().with_prev_key())).await?;
    ensure!(deleted.deleted() == 1 && deleted.prev_kvs().len() == 1);
    let refused = client.put("", "1", None).await;
    ensure!(message(refused.err()).contains("etcdserver: key is not provided"));
    Ok(())
}

async fn ranges(client: &mut Client) -> anyhow::Result<()> {
    for (key, value) in [("r/a", "3"), ("r/b", "1"), ("r/c", "2")] {
        client.put(key, value, None).await?;
    }
    let options = GetOptions::new().with_prefix().with_limit(2);
    let page = client.get("r/", Some(options)).await?;
    ensure!(page.kvs().len() == 2 && page.more() && page.count() == 3);
    let options = GetOptions::new().with_prefix().with_sort(SortTarget::Value, SortOrder::Descend);
    let sorted = client.get("r/", Some(options)).await?;
    let keys: Vec<&[u8]> = sorted.kvs().iter().map(|kv| kv.key()).collect();
    ensure!(keys == [b"r/a", b"r/c", b"r/b"]);
    let options = GetOptions::new().with_prefix().with_count_only();
    let counted = client.get("r/", Some(options)).await?;
    ensure!(counted.count() == 3 && counted.kvs().is_empty());
    let deleted = client.delete("r/", Some(DeleteOptions::new().with_prefix())).await?;
    ensure!(deleted.deleted() == 3);
    Ok(())
}

async fn transactions(client: &mut Client) -> anyhow::Result<()> {
    let create = |value: &str| {
        Txn::new()
            .when([Compare::create_revision("t", CompareOp::Equal, 0)])
            .and_then([TxnOp::put("t", value, None)])
            .or_else([TxnOp::get("t", None)])
    };
    ensure!(client.txn(create("first")).await?.succeeded());
    let second = client.txn(create("second")).await?;
    ensure!(!second.succeeded());
    let responses = second.op_responses();
    let Some(TxnOpResponse::Get(got)) = responses.first() else {
        anyhow::bail!("no get: {responses:?}")
    };
    ensure!(got.kvs().first().is_some_and(|kv| kv.value() == b"first"));
    let twice = Txn::new().and_then([TxnOp::put("t", "1", None), TxnOp::put("t", "2", None)]);
    ensure!(message(client.txn(twice).await.err()).contains("duplicate key given in txn request"));
    Ok(())
}

async fn leases(client: &mut Client) -> anyhow::Result<()> {
    let lease = client.lease_grant(600, Some(LeaseGrantOptions::new().with_id(77))).await?;
    ensure!(lease.id() == 77 && lease.ttl() == 600);
    client.put("l", "1", Some(PutOptions::new().with_lease(77))).await?;
    let (mut keeper, mut renewals) = client.lease_keep_alive(77).await?;
    keeper.keep_alive().await?;
    let renewed = renewals.message().await?.context("a renewal")?;
    ensure!(renewed.id() == 77 && renewed.ttl() == 600);
    let options = LeaseTimeToLiveOptions::new().with_keys();
    let left = client.lease_time_to_live(77, Some(options)).await?;
    ensure!((590..=600).contains(&left.ttl()) && left.granted_ttl() == 600);
    ensure!(left.keys() == [b"l"]);
    ensure!(client.leases().await?.leases().iter().map(|lease| lease.id()).eq([77]));
    client.lease_revoke(77).await?;
    ensure!(client.lease_time_to_live(77, None).await?.ttl() == -1);
    ensure!(client.get("l", None).await?.kvs().is_empty());
    ensure!(message(client.lease_revoke(77).await.err()).contains("requested lease not found"));
    Ok(())
}

/// One watch from the past and one from now, on a key that is put, put again and deleted.
async fn watches(client: &mut Client) -> anyhow::Result<()> {
    let put = client.put("w", "1", None).await?;
    let first = put.header().context("a header")?.revision();
    let options = WatchOptions::new().with_start_revision(first).with_prev_key();
    let mut past = client.watch("w", Some(options)).await?;
    let mut now = client.watch("w", None).await?;
    ensure!(past.message().await?.context("created")?.created());
    ensure!(now.message().await?.context("created")?.created());
    client.put("w", "2", None).await?;
    client.delete("w", None).await?;
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let response = past.message().await?.context("events")?;
        for event in response.events() {
            let kv = event.kv().context("a key")?;
            let prev = event.prev_kv().map(|kv| kv.value().to_vec());
            seen.push((event.event_type(), kv.mod_revision(), prev));
        }
    }
    let expected = [
        (EventType::Put, first, None),
        (EventType::Put, first + 1, Some(b"1".to_vec())),
        (EventType::Delete, first + 2, Some(b"2".to_vec())),
    ];
    ensure!(seen == expected, "{seen:?}");
    let event = now.message().await?.context("an event")?;
    ensure!(event.header().is_some_and(|header| header.revision() == first + 1));
    ensure!(now.message().await?.context("an event")?.events().len() == 1);
    now.request_progress().await?;
    let progress = now.message().await?.context("progress")?;
    ensure!(progress.watch_id() == -1 && progress.events().is_empty());
    now.cancel(0).await?;
    ensure!(now.message().await?.context("an end")?.canceled());
    Ok(())
}

async fn watch_of_what_is_gone(client: &mut Client) -> anyhow::Result<()> {
    let options = WatchOptions::new().with_start_revision(2);
    let mut watch = client.watch("a", Some(options)).await?;
    ensure!(watch.message().await?.context("created")?.created());
    let end = watch.message().await?.context("an end")?;
    ensure!(end.canceled() && end.compact_revision() == 4);
    Ok(())
}

async fn compaction(client: &mut Client) -> anyhow::Result<()> {
    client.compact(4, Some(CompactionOptions::new().with_physical())).await?;
    let below = client.get("a", Some(GetOptions::new().with_revision(2))).await;
    ensure!(message(below.err()).contains("required revision has been compacted"));
    let above = client.get("a", Some(GetOptions::new().with_revision(1_000_000))).await;
    ensure!(message(above.err()).contains("required revision is a future revision"));
    Ok(())
}

async fn cluster(client: &mut Client, members: usize) -> anyhow::Result<()> {
    ensure!(client.member_list().await?.members().len() == members);
    let status = client.status().await?;
    ensure!(status.version().starts_with("3.") && status.leader() != 0 && status.db_size() > 0);
    let hash = client.hash_kv(0).await?;
    ensure!(hash.hash() != 0 && hash.compact_version() == 4);
    ensure!(client.alarm(AlarmAction::Get, AlarmType::None, None).await?.alarms().is_empty());
    Ok(())
}

/// What the server said, or nothing when it did not refuse.
fn message(error: Option<Error>) -> String {
    match error {
        Some(Error::GRpcStatus(status)) => status.message().to_owned(),
        Some(other) => format!("{other:?}"),
        None => String::new(),
    }
}
