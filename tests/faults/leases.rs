//! Leases while their leader dies, stops and comes back (behaviour.md §4): never ended early, at
//! most one election late, never revived, and never ended by a leader that is none any more.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures_util::future::join_all;
use kvd_client::proto::etcdserverpb::lease_client::LeaseClient;
use kvd_client::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use kvd_client::proto::etcdserverpb::request_op::Request as Op;
use kvd_client::proto::etcdserverpb::{
    HashRequest, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseLeasesRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
    PutRequest, RequestOp, TxnRequest,
};
use kvd_tests::cluster::process::{Cluster, Program};
use kvd_tests::fault::caller::Caller;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

/// How late a lease may end at most: one election, and what a busy machine takes to notice.
const LATE: Duration = Duration::from_secs(1 + 3);
/// How long anything else may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The Lease service of one member.
pub(crate) fn at(caller: &Caller, endpoint: &str) -> anyhow::Result<LeaseClient<Channel>> {
    let channel = caller.run(|client| async move { client.at(endpoint).map(|at| at.channel()) })?;
    Ok(LeaseClient::new(channel))
}

fn grant(caller: &Caller, endpoint: &str, id: i64, ttl: i64) -> anyhow::Result<(i64, i64)> {
    let mut leases = at(caller, endpoint)?;
    let request = LeaseGrantRequest { ttl, id };
    let reply = caller.run(|_| async move { leases.lease_grant(request).await })?.into_inner();
    ensure!(reply.error.is_empty(), "rule L3: {reply:?}");
    Ok((reply.id, reply.ttl))
}

fn look_up(
    caller: &Caller,
    endpoint: &str,
    id: i64,
) -> anyhow::Result<Result<LeaseTimeToLiveResponse, Status>> {
    let mut leases = at(caller, endpoint)?;
    let mut request = Request::new(LeaseTimeToLiveRequest { id, keys: true });
    request.set_timeout(Duration::from_secs(3));
    let reply = caller.run(|_| async move { leases.lease_time_to_live(request).await });
    Ok(reply.map(tonic::Response::into_inner))
}

fn put(caller: &Caller, key: &str, lease: i64) -> anyhow::Result<i64> {
    let put = PutRequest { key: key.to_owned().into(), lease, ..Default::default() };
    txn(caller, vec![put])
}

fn txn(caller: &Caller, puts: Vec<PutRequest>) -> anyhow::Result<i64> {
    let puts = puts.into_iter().map(|put| RequestOp { request: Some(Op::RequestPut(put)) });
    let request = TxnRequest { success: puts.collect(), ..Default::default() };
    let reply = caller.run(|client| async move { client.txn(request).await })?;
    Ok(reply.header.context("an answer has a header")?.revision)
}

/// Waits until that much is left at most, as this member tells.
fn wait_left(caller: &Caller, endpoint: &str, id: i64, seconds: i64) -> anyhow::Result<i64> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        match look_up(caller, endpoint, id)? {
            Ok(reply) if reply.ttl <= seconds => return Ok(reply.ttl),
            Ok(_) | Err(_) => {}
        }
    }
    anyhow::bail!("lease {id} has more than {seconds} s for ever")
}

/// Waits until a key is gone; since when this took.
fn wait_gone(caller: &Caller, key: &str, since: Instant) -> anyhow::Result<Duration> {
    while since.elapsed() < PATIENCE {
        if caller.get(key)?.is_none() {
            return Ok(since.elapsed());
        }
    }
    anyhow::bail!("{key} is still there after {PATIENCE:?}")
}

/// A client that keeps a lease alive at one member.
struct KeepAlive {
    requests: mpsc::Sender<LeaseKeepAliveRequest>,
    answers: Streaming<LeaseKeepAliveResponse>,
}

impl KeepAlive {
    async fn open(mut leases: LeaseClient<Channel>, hasleader: bool) -> Result<Self, Status> {
        let (requests, mut stream) = mpsc::channel(8);
        let stream = futures_util::stream::poll_fn(move |context| stream.poll_recv(context));
        let mut request = Request::new(stream);
        if hasleader {
            request
                .metadata_mut()
                .insert("hasleader", tonic::metadata::MetadataValue::from_static("true"));
        }
        let answers = leases.lease_keep_alive(request).await?.into_inner();
        Ok(Self { requests, answers })
    }

    async fn renew(&mut self, id: i64) -> anyhow::Result<LeaseKeepAliveResponse> {
        self.requests.send(LeaseKeepAliveRequest { id }).await.context("the stream ended")?;
        self.answers.message().await?.context("the stream ended")
    }
}

/// The leader dies in the middle: the next one goes by what is left, not by the whole time.
#[test]
fn what_is_left_of_a_lease_survives_its_leader() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&Program::kvd()?, 3, &[])?;
    let endpoints = cluster.endpoints();
    let caller = Caller::new(&endpoints)?;
    let leader = caller.leader()?;
    let follower = endpoints[(leader + 1) % 3].clone();
    let asked = Instant::now();
    let (id, ttl) = grant(&caller, &follower, 0, 10)?;
    let granted = Instant::now();
    ensure!(id > 0 && ttl == 10, "{id} {ttl}");
    put(&caller, "k", id)?;
    wait_left(&caller, &follower, id, 5)?;
    cluster.member(leader).kill()?;
    // Dead, so it leads no more: whoever answers now is another.
    let survivors: Vec<_> =
        endpoints.iter().filter(|one| **one != endpoints[leader]).cloned().collect();
    let elsewhere = Caller::new(&survivors)?;
    let left = loop {
        match look_up(&elsewhere, &survivors[1], id)? {
            Ok(reply) => break reply,
            Err(status) => eprintln!("no leader yet: {status:?}"),
        }
    };
    eprintln!("after the election: {left:?}");
    ensure!((0..=6).contains(&left.ttl) && left.granted_ttl == 10, "{left:?}");
    ensure!(left.keys == ["k".as_bytes()], "{left:?}");
    wait_gone(&elsewhere, "k", granted)?;
    let (least, most) = (asked.elapsed(), granted.elapsed());
    eprintln!("a lease of 10 s ended after {most:?}");
    ensure!(least >= Duration::from_secs(10), "early: {least:?}");
    ensure!(most <= Duration::from_secs(10) + LATE, "late: {most:?}");
    Ok(())
}

/// Renewals through every member, in order, with an unknown lease among them; then none, and it
/// ends.
#[test]
fn every_member_keeps_a_lease_alive() -> anyhow::Result<()> {
    let cluster = Cluster::start(&Program::kvd()?, 3, &[])?;
    let endpoints = cluster.endpoints();
    let caller = Caller::new(&endpoints)?;
    for (at_member, endpoint) in endpoints.iter().enumerate() {
        let id = 100 + i64::try_from(at_member)?;
        grant(&caller, endpoint, id, 2)?;
        put(&caller, &format!("k{at_member}"), id)?;
    }
    let clients: Vec<_> =
        endpoints.iter().map(|endpoint| at(&caller, endpoint)).collect::<Result<_, _>>()?;
    let last = caller.run(|_| async {
        let alive = (100..).zip(clients).map(|(id, leases)| async move {
            let mut alive = KeepAlive::open(leases, true).await?;
            let begun = Instant::now();
            // Three times as long as it lives by itself.
            while begun.elapsed() < Duration::from_secs(6) {
                for (asked, seconds) in [(id, 2), (9999, 0), (id, 2)] {
                    let answer = alive.renew(asked).await?;
                    ensure!((answer.id, answer.ttl) == (asked, seconds), "{answer:?}");
                    let revision = answer.header.map_or(0, |header| header.revision);
                    ensure!(revision > 0, "rule H9: {answer:?}");
                }
                tokio::time::sleep(Duration::from_millis(400)).await;
            }
            alive.renew(id).await?;
            anyhow::Ok(Instant::now())
        });
        join_all(alive).await.into_iter().collect::<Result<Vec<_>, _>>()
    })?;
    for (at_member, last) in last.into_iter().enumerate() {
        let after = wait_gone(&caller, &format!("k{at_member}"), last)?;
        eprintln!("kept alive at member {at_member}: gone {after:?} after the last renewal");
        // The last answer came after the renewal began to count.
        ensure!(after >= Duration::from_millis(1_700), "early: {after:?}");
        ensure!(after <= Duration::from_secs(2) + LATE, "late: {after:?}");
    }
    // A busy machine may elect twice, which is worth a warning; nothing here is worth an error.
    let alarming = cluster.unexpected_log_lines(&["\"warn\""]);
    ensure!(alarming.is_empty(), "{alarming:#?}");
    Ok(())
}

/// Rule L5: all keys of a lease go in one revision.
#[test]
fn a_thousand_keys_go_in_one_revision() -> anyhow::Result<()> {
    let cluster = Cluster::start(&Program::kvd()?, 3, &[])?;
    let endpoints = cluster.endpoints();
    let caller = Caller::new(&endpoints)?;
    let (id, _) = grant(&caller, &endpoints[0], -7, 4)?;
    let key = |number| PutRequest {
        key: format!("k{number:04}").into(),
        lease: id,
        ..Default::default()
    };
    let mut written = 0;
    for some in 0..10 {
        written = txn(&caller, (some * 100..some * 100 + 100).map(key).collect())?;
    }
    let found = look_up(&caller, &endpoints[1], id)??;
    ensure!(found.keys.len() == 1000, "{} keys", found.keys.len());
    wait_gone(&caller, "k0500", Instant::now())?;
    for endpoint in &endpoints {
        caller.get("whether it has applied all")?;
        let (left, revision) = caller.all(endpoint, "k")?;
        ensure!(left.is_empty() && revision == written + 1, "{} at {revision}", left.len());
    }
    let gone = look_up(&caller, &endpoints[2], id)??;
    ensure!((gone.ttl, gone.granted_ttl, gone.id) == (-1, 0, id), "rule L11: {gone:?}");
    caller.ensure_same_hashes()
}

/// A leader that is stopped beyond a lease's time, while another one renews it, ends nothing when
/// it goes on.
#[test]
fn a_stopped_leader_ends_nothing() -> anyhow::Result<()> {
    let cluster = Cluster::start(&Program::kvd()?, 3, &[])?;
    let endpoints = cluster.endpoints();
    let caller = Caller::new(&endpoints)?;
    let leader = caller.leader()?;
    grant(&caller, &endpoints[leader], 5, 4)?;
    put(&caller, "k", 5)?;
    let others: Vec<_> =
        endpoints.iter().filter(|one| **one != endpoints[leader]).cloned().collect();
    let elsewhere = Caller::new(&others)?;
    let leases = at(&elsewhere, &others[0])?;
    cluster.members()[leader].pause()?;
    let paused = Instant::now();
    let mut resumed = false;
    let last = elsewhere.run(|_| async {
        let mut alive = KeepAlive::open(leases, false).await?;
        while paused.elapsed() < Duration::from_secs(14) {
            let answer = alive.renew(5).await?;
            ensure!(answer.ttl == 4, "ended after {:?}: {answer:?}", paused.elapsed());
            if !resumed && paused.elapsed() > Duration::from_secs(7) {
                cluster.members()[leader].resume()?;
                resumed = true;
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        Ok(Instant::now())
    })?;
    ensure!(caller.get("k")?.is_some(), "ended although it was renewed");
    let after = wait_gone(&caller, "k", last)?;
    ensure!(after <= Duration::from_secs(4) + LATE, "late: {after:?}");
    Ok(())
}

/// A member that was alone and dead goes by what was noted of the time left (kubernetes #65497).
#[test]
fn a_restart_does_not_start_a_lease_anew() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&Program::kvd()?, 1, &[])?;
    let endpoints = cluster.endpoints();
    let caller = Caller::new(&endpoints)?;
    grant(&caller, &endpoints[0], 5, 30)?;
    wait_left(&caller, &endpoints[0], 5, 17)?;
    cluster.member(0).kill()?;
    cluster.member(0).restart()?;
    let left = wait_left(&caller, &endpoints[0], 5, 30)?;
    eprintln!("of 30 s, 17 left before the restart: {left}");
    // Coarse: within ten seconds, and one election.
    ensure!((14..=28).contains(&left), "{left}");
    ensure!(left <= 22, "noted once ten seconds were gone: {left}");
    Ok(())
}

/// Rules L1, L2, L5, L6, L11, L13 by their texts; and Hash is the same everywhere.
#[test]
fn odd_requests_are_answered_in_etcds_words() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&Program::kvd()?, 3, &[])?;
    let endpoints = cluster.endpoints();
    let caller = Caller::new(&endpoints)?;
    let mut leases = at(&caller, &endpoints[0])?;
    let refused = |reply: anyhow::Result<(i64, i64)>, code, text: &str| {
        let error = reply.err().context("was accepted")?;
        let status = error.downcast_ref::<Status>().context("is no status")?;
        ensure!((status.code(), status.message()) == (code, text), "{status:?}");
        anyhow::Ok(())
    };
    ensure!(grant(&caller, &endpoints[0], -3, 500)? == (-3, 500));
    ensure!(grant(&caller, &endpoints[1], 8, 9_000_000_000)? == (8, 9_000_000_000));
    ensure!(grant(&caller, &endpoints[1], 9, 100)?.1 == 100);
    let again = grant(&caller, &endpoints[2], -3, 5);
    refused(again, Code::FailedPrecondition, "etcdserver: lease already exists")?;
    let huge = grant(&caller, &endpoints[2], 10, 9_000_000_001);
    refused(huge, Code::OutOfRange, "etcdserver: too large lease TTL")?;
    for ttl in [0, -1, 1, i64::MIN] {
        ensure!(grant(&caller, &endpoints[0], 0, ttl)?.1 == 2, "rule L2");
    }
    for id in [0, 4, -4] {
        let revoke = LeaseRevokeRequest { id };
        let status = caller.run(|_| async { leases.lease_revoke(revoke).await }).err();
        let status = status.context("was revoked")?;
        let text = "etcdserver: requested lease not found";
        ensure!((status.code(), status.message()) == (Code::NotFound, text), "{status:?}");
        let found = look_up(&caller, &endpoints[2], id)??;
        ensure!((found.id, found.ttl, found.granted_ttl) == (id, -1, 0), "{found:?}");
        ensure!(found.header.is_some_and(|header| header.revision > 0), "rule H2: {found:?}");
    }
    for endpoint in &endpoints {
        // A linearizable read, so that this member has applied the grants.
        caller.raw_get(endpoint, "k", false)?;
        let mut leases = at(&caller, endpoint)?;
        let reply = caller.run(|_| async move { leases.lease_leases(LeaseLeasesRequest {}).await });
        let mut listed: Vec<i64> = reply?.into_inner().leases.iter().map(|one| one.id).collect();
        listed.retain(|id| [-3, 8, 9].contains(id));
        ensure!(listed == [9, -3, 8], "rule L13: {listed:?}");
    }
    wait_no_short_leases(&caller, &endpoints)?;
    let hash = |endpoint: &str| -> anyhow::Result<(i64, u32)> {
        caller.raw_get(endpoint, "k", false)?;
        let channel =
            caller.run(|client| async move { client.at(endpoint).map(|at| at.channel()) })?;
        let mut maintenance = MaintenanceClient::new(channel);
        let reply =
            caller.run(|_| async move { maintenance.hash(HashRequest {}).await })?.into_inner();
        Ok((reply.header.context("has a header")?.revision, reply.hash))
    };
    let hashes = endpoints.iter().map(|endpoint| hash(endpoint)).collect::<Result<Vec<_>, _>>()?;
    ensure!(hashes.windows(2).all(|pair| pair[0] == pair[1]), "{hashes:?}");
    caller.put("k", "another")?;
    ensure!(hash(&endpoints[0])?.1 != hashes[0].1, "the hash does not see a change");

    // A stream that wants a leader ends when there is none (rules L9, W29).
    cluster.member(1).kill()?;
    let leases = at(&caller, &endpoints[0])?;
    let mut alive = caller.run(|_| KeepAlive::open(leases, true))?;
    cluster.member(2).kill()?;
    let begun = Instant::now();
    let ended = caller.run(|_| async { timeout(PATIENCE, alive.answers.message()).await })?;
    let status = ended.err().context("the stream said something")?;
    let text = "etcdserver: no leader";
    ensure!((status.code(), status.message()) == (Code::Unavailable, text), "{status:?}");
    ensure!(begun.elapsed() >= Duration::from_secs(2), "after {:?}", begun.elapsed());
    Ok(())
}

/// What was granted the least time is gone, so that nothing changes the state any more.
fn wait_no_short_leases(caller: &Caller, endpoints: &[String]) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let mut leases = at(caller, &endpoints[0])?;
        let reply =
            caller.run(|_| async move { leases.lease_leases(LeaseLeasesRequest {}).await })?;
        if reply.into_inner().leases.len() == 3 {
            return Ok(());
        }
    }
    anyhow::bail!("leases do not end")
}
