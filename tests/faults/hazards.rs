//! Scenarios that would have failed by design (hazards A5, A6, B1, B8, B9), as real runs: each would fail if
//! the decision taken for it were not followed.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use kvd_client::prefix_end;
use kvd_client::proto::etcdserverpb::kv_client::KvClient;
use kvd_client::proto::etcdserverpb::request_op::Request;
use kvd_client::proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use kvd_tests::cluster::process::{Cluster, Program};
use kvd_tests::fault::caller::Caller;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::away::sent_bytes;
use crate::start::damage_states;

/// For what takes a member a moment.
const PATIENCE: Duration = Duration::from_secs(60);
/// A log that forgets after a few entries.
const FORGETFUL: [&str; 2] = ["--snapshot-count=10", "--snapshot-catchup-entries=5"];
/// Etcd's default, in which a cluster notices that its leader is gone.
const ELECTION: Duration = Duration::from_secs(1);
/// Puts of one transaction at most, by default.
const PUTS_PER_TXN: usize = 128;

/// Hazard A5: the power of the rack fails, and two of three members find their checkpoints broken. Both need a
/// state before they can take part, and nobody leads: the third one's peer port answers without a leader.
#[test]
fn two_broken_states_of_three_heal_without_a_leader() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&Program::kvd()?, 3, &FORGETFUL.map(str::to_owned))?;
    let caller = Caller::new(&cluster.endpoints())?;
    for number in 0..50 {
        caller.put(&format!("k{number}"), vec![b'v'; 5_000])?;
    }
    caller.ensure_same_hashes()?;
    for member in 0..3 {
        cluster.member(member).kill()?;
    }
    for broken in [1, 2] {
        damage_states(cluster.members()[broken].data_dir())?;
    }
    for member in [1, 2, 0] {
        cluster.member(member).spawn()?;
    }
    for member in cluster.members() {
        member.wait_ready()?;
    }
    for broken in [1, 2] {
        cluster.members()[broken].wait_log("fetching the state from a peer")?;
        let kv = Caller::new(&cluster.endpoints()[broken..=broken])?.get("k49")?;
        ensure!(kv.is_some_and(|kv| kv.value.len() == 5_000), "m{broken} is not healed");
    }
    caller.put("after", "healing")?;
    caller.ensure_same_hashes()
}

/// Hazard A6: a member that lost its disk starts before anybody could tell it so. Who knew its old directory
/// neither votes for it nor takes its vote: with it alone there is no majority, whatever was acknowledged.
#[test]
fn a_member_without_its_disk_makes_no_majority() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&Program::kvd()?, 3, &[])?;
    let endpoints = cluster.endpoints();
    let caller = Caller::new(&endpoints)?;
    caller.put("k", "acknowledged")?;
    caller.ensure_same_hashes()?;
    for member in 0..3 {
        cluster.member(member).kill()?;
    }
    fs::remove_dir_all(cluster.members()[1].data_dir())?;
    cluster.member(1).spawn()?;
    // It has asked its peers in vain, and campaigns as the founder that it takes itself for.
    cluster.members()[1].wait_log("requesting pre-vote")?;
    cluster.member(2).spawn()?;
    let other = Caller::new(&endpoints[2..])?;
    let deadline = Instant::now() + PATIENCE;
    while other.status(&endpoints[2]).is_err() {
        ensure!(Instant::now() < deadline, "m2: {}", cluster.members()[2].tail());
    }
    // Seven seconds each, in which they would have found together.
    for member in [1, 2] {
        let reply = other.raw_put(&endpoints[member], "k", b"two of three".to_vec());
        ensure!(reply.is_err(), "m{member} took a write: {reply:?}");
        ensure!(other.status(&endpoints[2])?.leader == 0, "m2 has a leader");
    }
    cluster.member(0).spawn()?;
    let healthy = Caller::new(&[endpoints[0].clone(), endpoints[2].clone()])?;
    let kv = healthy.get("k")?.context("the write is lost")?;
    ensure!(kv.value == "acknowledged", "the write is lost: {kv:?}");
    healthy.put("k", "m0 and m2")?;
    let reply = healthy.raw_put(&endpoints[1], "k", b"m1".to_vec());
    ensure!(reply.is_err(), "m1 took part again: {reply:?}");
    Ok(())
}

/// Hazard B1: one entry takes longer to apply than an election. Heartbeats go on meanwhile, on the leader and
/// on those who answer it: nobody is without a leader at any time, and the term stays.
#[test]
fn an_entry_that_applies_for_longer_than_an_election_deposes_nobody() -> anyhow::Result<()> {
    let cluster = Cluster::start(&Program::kvd()?, 3, &[])?;
    let endpoints = cluster.endpoints();
    let caller = Caller::new(&endpoints)?;
    let before = caller.status(&endpoints[caller.leader()?])?.raft_term;
    let mut keys = 50_000;
    loop {
        fill(&caller, "many/", keys, 1)?;
        let (begun, mut looks) = (Instant::now(), 0);
        let deleting = {
            let endpoints = endpoints.clone();
            std::thread::spawn(move || delete_all(&Caller::new(&endpoints)?, "many/"))
        };
        while !deleting.is_finished() {
            for endpoint in &endpoints {
                let status = caller.status(endpoint)?;
                let after = begun.elapsed();
                ensure!(status.leader != 0, "{endpoint} knows no leader after {after:?}");
                ensure!(status.raft_term == before, "{endpoint} is in another term: {after:?}");
                looks += 1;
            }
        }
        let deleted = deleting.join().map_err(|_| anyhow::anyhow!("the client panicked"))??;
        ensure!(deleted == i64::try_from(keys)?, "{deleted} of {keys}");
        let took = begun.elapsed();
        eprintln!("{keys} keys deleted by one entry in {took:?}, {looks} looks");
        if took > 3 * ELECTION {
            break;
        }
        keys *= 2;
    }
    caller.ensure_same_hashes()
}

/// Hazard B1, admission: while one entry is applied, clients write on. What was accepted and waits to be applied
/// stays bounded: the rest is told that there are too many requests, and was never proposed.
#[test]
fn what_waits_to_be_applied_is_bounded() -> anyhow::Result<()> {
    /// Accepted and not applied, by the rule (behaviour.md 10.3).
    const GAP: u64 = 5_000;
    const PUTS: usize = 20_000;
    /// Puts that are begun before others get their turn.
    const AT_ONCE: usize = 500;
    let cluster = Cluster::start(&Program::kvd()?, 1, &[])?;
    let endpoints = cluster.endpoints();
    let caller = Caller::new(&endpoints)?;
    let mut keys = 100_000;
    loop {
        fill(&caller, "many/", keys, 1)?;
        let deleting = {
            let endpoints = endpoints.clone();
            std::thread::spawn(move || delete_all(&Caller::new(&endpoints)?, "many/"))
        };
        let puts = put_at_once(endpoints[0].clone(), PUTS, AT_ONCE);
        let (accepted, refused) = caller.run(|_| puts)?;
        deleting.join().map_err(|_| anyhow::anyhow!("the client panicked"))??;
        eprintln!("{keys} keys deleted by one entry; {accepted} puts accepted, {refused} refused");
        let found = caller.all(&endpoints[0], "put/")?.0.len() as u64;
        ensure!(found == accepted, "{found} puts are there of {accepted}");
        if refused > 0 {
            // What came before the entry, or after it, was let in.
            ensure!(accepted >= GAP / 2, "refused after {accepted}");
            return Ok(());
        }
        ensure!(keys < 1_000_000, "{accepted} puts were accepted and none refused");
        delete_all(&caller, "put/")?;
        keys *= 2;
    }
}

/// Puts so many keys, so many of them at a time begun and none waited for; gives how many were accepted, and how
/// many refused for being too many.
async fn put_at_once(endpoint: String, keys: usize, at_once: usize) -> anyhow::Result<(u64, u64)> {
    let channel = Channel::from_shared(endpoint)?.connect().await?;
    let mut puts = JoinSet::new();
    for number in 0..keys {
        let mut kv = KvClient::new(channel.clone());
        let key = format!("put/{number}").into();
        puts.spawn(async move { kv.put(PutRequest { key, ..Default::default() }).await });
        if number % at_once == 0 {
            tokio::task::yield_now().await;
        }
    }
    let (mut accepted, mut refused) = (0, 0);
    while let Some(answer) = puts.join_next().await {
        match answer? {
            Ok(_) => accepted += 1,
            Err(status) if status.message() == "etcdserver: too many requests" => refused += 1,
            Err(status) => anyhow::bail!("{status}"),
        }
    }
    Ok((accepted, refused))
}

/// Deletes all keys with a prefix by one request; gives how many.
fn delete_all(caller: &Caller, prefix: &'static str) -> anyhow::Result<i64> {
    let range_end = prefix_end(prefix.as_bytes());
    let request = DeleteRangeRequest { key: prefix.into(), range_end, ..Default::default() };
    Ok(caller.run(|client| async move { client.delete_range(request).await })?.deleted)
}

/// Hazard B2: a member is sent the whole state, and builds it. Meanwhile it answers heartbeats: together with it
/// the leader has its majority, though the third one is gone, and goes on to answer reads.
#[test]
fn a_member_that_takes_a_snapshot_keeps_up_the_majority() -> anyhow::Result<()> {
    const VALUE_BYTES: usize = 2_000;
    const KEYS: usize = 12_000;
    let mut cluster = Cluster::start(&Program::kvd()?, 3, &FORGETFUL.map(str::to_owned))?;
    let endpoints = cluster.endpoints();
    let caller = Caller::new(&endpoints)?;
    let leader = caller.leader()?;
    let (away, gone) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.member(away).kill()?;
    let revision = fill(&caller, "k", KEYS, VALUE_BYTES)?;
    // No increment: what the member has is older than all history.
    let request = CompactionRequest { revision, physical: true };
    caller.run(|client| async move { client.compact(request).await })?;
    let before = sent_bytes(&cluster)?;
    cluster.member(gone).kill()?;
    cluster.member(away).spawn()?;
    let deadline = Instant::now() + PATIENCE;
    while caller.raw_get(&endpoints[leader], "k", false).is_err() {
        ensure!(Instant::now() < deadline, "no majority: {}", cluster.members()[away].tail());
    }
    let (mut reads, mut longest) = (0, Duration::ZERO);
    let caught_up = |caller: &Caller| {
        let reply = caller.raw_get(&endpoints[away], "k", true);
        reply.is_ok_and(|reply| reply.header.is_some_and(|header| header.revision >= revision))
    };
    while !caught_up(&caller) {
        let begun = Instant::now();
        caller.raw_get(&endpoints[leader], "k", false)?;
        (reads, longest) = (reads + 1, longest.max(begun.elapsed()));
        ensure!(Instant::now() < deadline, "no snapshot: {}", cluster.members()[away].tail());
    }
    let sent = sent_bytes(&cluster)? - before;
    eprintln!("{sent} bytes sent, {reads} reads meanwhile, the longest took {longest:?}");
    ensure!(sent > (KEYS * VALUE_BYTES) as u64, "only {sent} bytes were sent");
    ensure!(longest < 3 * ELECTION, "a read waited for {longest:?}");
    Ok(())
}

/// Hazard B8: a client asks for a large range and does not read on. Nothing is kept for it: what it had not
/// been sent is compacted meanwhile, and it is told so.
#[test]
fn a_stream_that_nobody_reads_keeps_no_history() -> anyhow::Result<()> {
    const VALUE_BYTES: usize = 10_000;
    const KEYS: usize = 5_000;
    let cluster = Cluster::start(&Program::kvd()?, 1, &[])?;
    let caller = Caller::new(&cluster.endpoints())?;
    let revision = fill(&caller, "r/", KEYS, VALUE_BYTES)?;
    caller.run(|client| async move {
        let request = RangeRequest {
            key: "r/".into(),
            range_end: prefix_end(b"r/"),
            serializable: true,
            ..Default::default()
        };
        let mut stream = client.range_stream(request).await?;
        let mut keys = stream.next().await?.context("no piece")?.kvs.len();
        ensure!(keys > 0 && keys < KEYS, "{keys} keys in the first piece");
        // Later changes, and a compaction of all that the stream still has to send.
        client
            .delete_range(DeleteRangeRequest {
                key: "r/".into(),
                range_end: prefix_end(b"r/"),
                ..Default::default()
            })
            .await?;
        client.compact(CompactionRequest { revision: revision + 1, physical: true }).await?;
        loop {
            match stream.next().await {
                Ok(Some(piece)) => keys += piece.kvs.len(),
                Ok(None) => anyhow::bail!("all {keys} keys were kept for a client that slept"),
                Err(error) => {
                    let text = error.to_string();
                    ensure!(text.contains("required revision has been compacted"), "{text}");
                    ensure!(keys < KEYS, "refused after the end");
                    return Ok(());
                }
            }
        }
    })
}

/// Hazard B9: a member that starts alone answers nothing older than it did before. Nobody can tell it what is
/// committed; it noted that itself while it was idle, and answers only when it has applied that much.
#[test]
fn a_member_alone_remembers_what_it_answered() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&Program::kvd()?, 3, &[])?;
    let endpoints = cluster.endpoints();
    let caller = Caller::new(&endpoints)?;
    let revision = fill(&caller, "k", 20_000, 10)?;
    caller.raw_get(&endpoints[0], "k", false)?;
    cluster.member(1).kill()?;
    cluster.member(2).kill()?;
    // An election without a majority: ten times what an idle log waits before it notes what is committed.
    let deadline = Instant::now() + PATIENCE;
    while caller.status(&endpoints[0])?.leader != 0 {
        ensure!(Instant::now() < deadline, "a member alone still names a leader");
    }
    cluster.member(0).kill()?;
    cluster.member(0).spawn()?;
    let deadline = Instant::now() + PATIENCE;
    let first = loop {
        match caller.raw_get(&endpoints[0], "k", true) {
            Ok(reply) => break reply,
            Err(status) => ensure!(Instant::now() < deadline, "no answer: {status:?}"),
        }
    };
    let at = first.header.unwrap_or_default().revision;
    ensure!(at == revision, "answered at {revision} before its restart, at {at} after it");
    Ok(())
}

/// Puts so many keys with a prefix, many in a transaction; gives the revision.
fn fill(caller: &Caller, prefix: &str, keys: usize, value_bytes: usize) -> anyhow::Result<i64> {
    let per_txn = PUTS_PER_TXN.min(1_000_000 / value_bytes);
    let mut revision = 0;
    for first in (0..keys).step_by(per_txn) {
        let put = |number: usize| PutRequest {
            key: format!("{prefix}{number:07}").into(),
            value: vec![b'v'; value_bytes].into(),
            ..Default::default()
        };
        let success = (first..keys.min(first + per_txn))
            .map(|number| RequestOp { request: Some(Request::RequestPut(put(number))) })
            .collect();
        let request = TxnRequest { success, ..Default::default() };
        let reply = caller.run(|client| async move { client.txn(request).await })?;
        revision = reply.header.context("an answer has a header")?.revision;
    }
    Ok(revision)
}
