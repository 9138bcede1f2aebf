//! The crate etcd-client at work on a cluster: its calls, with the answers that etcd gives.
//!
//! `kvd-etcd-client-check ENDPOINT…`; fails with the first answer that is not etcd's. The store
//! must be empty.

use std::env;

use anyhow::{Context as _, ensure};
use etcd_client::{
    AlarmAction, AlarmType, Client, CompactionOptions, Compare, CompareOp, DeleteOptions, Error,
    GetOptions, LeaseGrantOptions, PutOptions, SortOrder, SortTarget, Txn, TxnOp, TxnOpResponse,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let endpoints: Vec<String> = env::args().skip(1).collect();
    let mut client = Client::connect(&endpoints, None).await?;
    writes_and_reads(&mut client).await.context("writes and reads")?;
    ranges(&mut client).await.context("ranges")?;
    transactions(&mut client).await.context("transactions")?;
    leases(&mut client).await.context("leases")?;
    compaction(&mut client).await.context("compaction")?;
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
    client.lease_revoke(77).await?;
    ensure!(client.get("l", None).await?.kvs().is_empty());
    ensure!(message(client.lease_revoke(77).await.err()).contains("requested lease not found"));
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
