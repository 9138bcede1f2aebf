//! The membership changes while clients write and members die: nothing is lost, nothing is half done.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use kvd_client::proto::etcdserverpb::{
    Member, MemberAddRequest, MemberPromoteRequest, MemberRemoveRequest, MemberUpdateRequest,
};
use kvd_client::{Error, EtcdError};
use kvd_tests::cluster::process::{Cluster, Program};
use kvd_tests::fault::caller::Caller;
use kvd_tests::fault::load::{Load, Shape};
use kvd_tests::fault::refusal::Refusal;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn shape(prefix: &str) -> Shape {
    Shape { prefix: prefix.to_owned(), writers: 4, value_bytes: 200 }
}

fn members(caller: &Caller) -> anyhow::Result<Vec<Member>> {
    Ok(caller.run(|client| async move { client.member_list().await })?.members)
}

fn add(caller: &Caller, peer_url: &str, is_learner: bool) -> Result<Member, Error> {
    let request = MemberAddRequest { peer_ur_ls: vec![peer_url.to_owned()], is_learner };
    let reply = caller.run(|client| async move { client.member_add(request).await })?;
    Ok(reply.member.unwrap_or_default())
}

fn remove(caller: &Caller, member: u64) -> Result<(), Error> {
    let request = MemberRemoveRequest { id: member };
    caller.run(|client| async move { client.member_remove(request).await }).map(drop)
}

/// The id of the member at an index.
fn id(caller: &Caller, cluster: &Cluster, at: usize) -> anyhow::Result<u64> {
    let status = caller.status(cluster.members()[at].client_url())?;
    Ok(status.header.context("a header")?.member_id)
}

/// Adds a member that votes, and starts it; it serves when this returns.
fn grow(caller: &Caller, cluster: &mut Cluster, others: &[usize]) -> anyhow::Result<usize> {
    let place = cluster.place()?;
    add(caller, &place.peer_url(), false)?;
    let at = cluster.join(&place, others, &[])?;
    cluster.members()[at].wait_ready()?;
    Ok(at)
}

/// Waits until the leader logged that a member votes.
fn votes(cluster: &Cluster, member: u64) -> anyhow::Result<()> {
    let text = format!("\"member\":\"{member:x}\"");
    until("it votes", || {
        let logged = cluster.members().iter().flat_map(|member| member.log());
        let mut logged = logged.filter(|line| line.contains("has caught up and votes"));
        Ok(logged.any(|line| line.contains(&text)))
    })
}

fn until(what: &str, mut holds: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !holds()? {
        if Instant::now() >= deadline {
            bail!("not in time: {what}");
        }
    }
    Ok(())
}

fn endpoints(cluster: &Cluster, of: &[usize]) -> Vec<String> {
    of.iter().map(|at| cluster.members()[*at].client_url().to_owned()).collect()
}

/// One becomes three, the first of them, which leads, leaves for good, and a third takes its place; clients go on.
#[test]
fn every_member_is_replaced_under_load() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&Program::kvd()?, 1, &[])?;
    let first = Caller::new(&cluster.endpoints())?;
    let early = Load::start(&cluster.endpoints(), shape("a"))?;
    early.wait_acknowledged(200)?;
    for others in [&[0][..], &[0, 1]] {
        let at = grow(&first, &mut cluster, others)?;
        votes(&cluster, id(&first, &cluster, at)?)?;
        early.wait_acknowledged(100)?;
    }
    let listed = members(&first)?;
    ensure!(
        listed.iter().all(|member| !member.name.is_empty() && !member.is_learner),
        "{listed:?}"
    );
    let mut ledger = early.stop()?;

    let old = id(&first, &cluster, 0)?;
    let rest = endpoints(&cluster, &[1, 2]);
    let caller = Caller::new(&rest)?;
    ensure!(first.leader()? == 0, "the first one led all the time");
    let load = Load::start(&rest, shape("b"))?;
    load.wait_acknowledged(100)?;
    remove(&caller, old)?;
    let end = cluster.member(0).wait_end()?;
    ensure!(end.success(), "a removed member ended with {end:?}:\n{}", cluster.members()[0].tail());
    load.wait_acknowledged(100)?;
    let again = Refusal::of(Program::kvd()?.path(), cluster.members()[0].arguments(), None)?;
    ensure!(
        again.code == Some(0) || again.stderr.contains("was removed from the cluster"),
        "a removed member came back:\n{}",
        again.stderr
    );
    match remove(&caller, old) {
        Err(Error::Etcd(EtcdError::MemberNotFound)) => {}
        other => bail!("removed twice: {other:?}"),
    }

    let at = grow(&caller, &mut cluster, &[1, 2])?;
    votes(&cluster, id(&caller, &cluster, at)?)?;
    // Two of the three that there are now: the new one's vote is needed.
    cluster.member(1).kill()?;
    load.wait_acknowledged(100)?;
    cluster.member(1).restart()?;
    ledger.merge(load.stop()?);
    let caller = Caller::new(&endpoints(&cluster, &[1, 2, 3]))?;
    caller.ensure_same_hashes()?;
    for at in [1, 2, 3] {
        let (kvs, revision) = caller.all(cluster.members()[at].client_url(), "")?;
        ledger.ensure_holds(&kvs, revision)?;
    }
    Ok(())
}

/// Members with their URLs and parts, as each member tells it for itself.
fn agreed(cluster: &Cluster, of: &[usize]) -> anyhow::Result<Vec<Member>> {
    let mut found: Option<Vec<Member>> = None;
    for endpoint in endpoints(cluster, of) {
        let listed = members(&Caller::new(&[endpoint])?)?;
        ensure!(found.as_ref().is_none_or(|found| *found == listed), "{found:?} and {listed:?}");
        found = Some(listed);
    }
    found.context("somebody was asked")
}

/// The leader is killed in the middle of a change: it was made or not, all members know the same, and it can be made.
#[test]
fn a_change_is_made_or_not() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&Program::kvd()?, 3, &[])?;
    let all = [0, 1, 2];
    let caller = Caller::new(&cluster.endpoints())?;
    let load = Load::start(&cluster.endpoints(), shape("a"))?;
    for round in 0..4_u64 {
        load.wait_acknowledged(50)?;
        let leader = caller.leader()?;
        let peer_url = cluster.place()?.peer_url();
        let is_learner = round % 2 == 0;
        let endpoints = cluster.endpoints();
        let url = peer_url.clone();
        let adding = std::thread::spawn(move || {
            Caller::new(&endpoints).map(|caller| add(&caller, &url, is_learner))
        });
        // Somewhere in the middle; where, is the machine's business.
        load.wait_acknowledged(round)?;
        cluster.member(leader).kill()?;
        let added = adding.join().map_err(|_| anyhow::anyhow!("the change panicked"))??;
        cluster.member(leader).restart()?;
        load.wait_acknowledged(20)?;
        let listed = agreed(&cluster, &all)?;
        let found = listed.iter().find(|member| member.peer_ur_ls == [peer_url.clone()]);
        match (&added, found) {
            (Ok(member), Some(found)) => ensure!(member.id == found.id, "{member:?} {found:?}"),
            (Ok(member), None) => bail!("acknowledged and lost: {member:?} {listed:?}"),
            (Err(_), _) => {}
        }
        // The next round has room for a learner, and nobody waits for a member that never starts.
        if let Some(found) = found {
            ensure!(found.is_learner == is_learner, "half done: {found:?}");
            let gone = found.id;
            until("it is removed", || match remove(&caller, gone) {
                Ok(()) | Err(Error::Etcd(EtcdError::MemberNotFound)) => Ok(true),
                Err(_) => Ok(false),
            })?;
        }
        eprintln!("round {round}: the change ended with {:?}", added.map(|member| member.id));
    }
    let ledger = load.stop()?;
    caller.ensure_same_hashes()?;
    ensure!(agreed(&cluster, &all)?.len() == 3);
    let (kvs, revision) = caller.all(&cluster.endpoints()[0], "")?;
    ledger.ensure_holds(&kvs, revision)
}

/// Rule C10; and a member that was killed while it joined goes on where it was.
#[test]
fn a_learner_serves_little_and_is_promoted() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&Program::kvd()?, 1, &[])?;
    let caller = Caller::new(&cluster.endpoints())?;
    let load = Load::start(&cluster.endpoints(), shape("a"))?;
    load.wait_acknowledged(500)?;
    let place = cluster.place()?;
    let member = add(&caller, &place.peer_url(), true)?.id;
    let at = cluster.join(&place, &[0], &[])?;
    cluster.member(at).kill()?;
    cluster.member(at).restart()?;
    let alone = endpoints(&cluster, &[at]);
    let learner = Caller::new(&alone)?;
    until("it has something", || {
        let read = learner.raw_get(&alone[0], "a", true);
        Ok(read.is_ok_and(|reply| reply.header.is_some_and(|header| header.revision > 500)))
    })?;
    for refused in [
        learner.raw_get(&alone[0], "a", false).map(drop),
        learner.raw_put(&alone[0], "b", Vec::new()).map(drop),
        learner.raw_delete(&alone[0], "b").map(drop),
    ] {
        let status = refused.err().context("a learner refuses it")?;
        ensure!(status.message() == "etcdserver: rpc not supported for learner", "{status:?}");
    }
    ensure!(learner.status(&alone[0])?.is_learner);
    let promote = MemberPromoteRequest { id: member };
    until("it is promoted", || {
        match caller.run(|client| async move { client.member_promote(promote).await }) {
            Ok(_) => Ok(true),
            Err(Error::Etcd(EtcdError::LearnerNotReady)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    })?;
    until("it serves", || Ok(learner.raw_get(&alone[0], "a", false).is_ok()))?;
    let ledger = load.stop()?;
    let both = Caller::new(&cluster.endpoints())?;
    both.ensure_same_hashes()?;
    let (kvs, revision) = both.all(&alone[0], "a")?;
    ledger.ensure_holds(&kvs, revision)
}

/// A member that moved is found at its new address by the leader it has; and who fits nowhere says why.
#[test]
fn members_move_and_strangers_are_refused() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&Program::kvd()?, 3, &[])?;
    let caller = Caller::new(&cluster.endpoints())?;
    caller.put("k", "before")?;
    let follower = (caller.leader()? + 1) % 3;
    let place = cluster.place()?;
    let stranger = cluster.join(&place, &[0, 1, 2], &[])?;
    let end = cluster.member(stranger).wait_end()?;
    ensure!(!end.success());
    let said = cluster.members()[stranger].tail();
    ensure!(said.contains("add it first, with `member add`"), "{said}");

    let leader = id(&caller, &cluster, caller.leader()?)?;
    let member = id(&caller, &cluster, follower)?;
    cluster.member(follower).terminate()?;
    let moved = cluster.place()?;
    let update = MemberUpdateRequest { id: member, peer_ur_ls: vec![moved.peer_url()] };
    let others = [(follower + 1) % 3, (follower + 2) % 3];
    let others = Caller::new(&endpoints(&cluster, &others))?;
    others.run(|client| async move { client.member_update(update).await })?;
    cluster.member(follower).move_to(&moved);
    cluster.member(follower).restart()?;
    let there = endpoints(&cluster, &[follower]);
    let reply = Caller::new(&there)?.raw_get(&there[0], "k", false)?;
    ensure!(reply.kvs[0].value == "before");
    let still = others.status(&cluster.endpoints()[(follower + 1) % 3])?.leader;
    ensure!(still == leader, "the leader changed, so it need not have found anybody");
    Ok(())
}
