//! The mutex: exclusion, order, loss, leaving the line, and others who use the same keys.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex as StdMutex};
use std::task::{Context as TaskContext, Waker};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvd_client::concurrency::{Error, FencingToken, Mutex, Session};
use kvd_client::proto::v3lockpb::lock_client::LockClient;
use kvd_client::proto::v3lockpb::{LockRequest, UnlockRequest};
use kvd_client::{Client, Compare, Op, Txn};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::etcd::Cluster;
use crate::{PATIENCE, another, connect, etcd, keys, on_each, servers, session, until_keys};

const ROUNDS: usize = 5;

/// Locks again and again; inside nobody else may be.
async fn contend(
    client: Client,
    name: &'static str,
    busy: Arc<AtomicBool>,
    tokens: Arc<StdMutex<Vec<FencingToken>>>,
) -> Result<()> {
    let session = Session::start(&client).await?;
    for _ in 0..ROUNDS {
        let held = Mutex::new(name).lock(&session).await?;
        ensure!(!busy.swap(true, Ordering::SeqCst), "two hold the lock");
        tokens.lock().expect("nobody panicked").push(held.token());
        let count = client.get("count").await?.map_or(Ok(0), |kv| parse(&kv.value))?;
        let write = held.guard(Txn::new().then(Op::put("count", (count + 1).to_string())));
        ensure!(client.commit(write).await?.succeeded, "the lock is held");
        busy.store(false, Ordering::SeqCst);
        held.unlock().await?;
    }
    session.end().await?;
    Ok(())
}

fn parse(value: &[u8]) -> Result<usize> {
    Ok(std::str::from_utf8(value)?.parse()?)
}

#[tokio::test]
async fn eight_contenders_exclude_each_other_in_the_order_of_their_tokens() -> Result<()> {
    on_each(async |client| {
        let (busy, tokens) = (Arc::default(), Arc::<StdMutex<Vec<FencingToken>>>::default());
        let mut contenders = JoinSet::new();
        for _ in 0..8 {
            let (busy, tokens) = (Arc::clone(&busy), Arc::clone(&tokens));
            contenders.spawn(contend(another(client)?, "lock", busy, tokens));
        }
        while let Some(contender) = contenders.join_next().await {
            contender??;
        }
        let count = client.get("count").await?.context("it was counted")?;
        assert_eq!(parse(&count.value)?, 8 * ROUNDS);
        let tokens = tokens.lock().expect("nobody panicked").clone();
        assert!(tokens.is_sorted_by(|one, next| one < next), "{tokens:?}");
        assert_eq!(keys(client, "lock/").await?, Vec::<String>::new());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn tasks_of_one_session_exclude_each_other_too() -> Result<()> {
    on_each(async |client| {
        let session = Arc::new(session(client).await?);
        let busy = Arc::<AtomicBool>::default();
        let mut tasks = JoinSet::new();
        for _ in 0..4 {
            let (session, busy) = (Arc::clone(&session), Arc::clone(&busy));
            tasks.spawn(async move {
                let held = Mutex::new("lock").lock(&session).await?;
                assert!(!busy.swap(true, Ordering::SeqCst), "two hold the lock");
                assert!(Mutex::new("lock").try_lock(&session).await?.is_none());
                busy.store(false, Ordering::SeqCst);
                held.unlock().await
            });
        }
        while let Some(task) = tasks.join_next().await {
            task??;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn who_waits_and_who_holds_learn_that_the_lease_is_gone() -> Result<()> {
    on_each(async |client| {
        let mutex = Mutex::new("lock");
        let holder = Session::with_ttl(client, Duration::from_secs(3)).await?;
        let held = mutex.lock(&holder).await?;
        let waiter = Arc::new(session(client).await?);
        let waits = tokio::spawn({
            let (mutex, waiter) = (mutex.clone(), Arc::clone(&waiter));
            async move { mutex.lock(&waiter).await }
        });
        until_keys(client, "lock/", 2).await?;
        client.lease_revoke(waiter.lease()).await?;
        let lost = waits.await?.map(|held| held.token());
        assert!(matches!(lost, Err(Error::KeyDeleted | Error::SessionLost)), "{lost:?}");

        assert!(held.is_held() && holder.is_held());
        client.lease_revoke(holder.lease()).await?;
        held.lost().await;
        let write = held.guard(Txn::new().then(Op::put("k", "v")));
        assert!(!client.commit(write).await?.succeeded, "the lock is lost");
        // The next renewal finds no lease.
        holder.lost().await;
        assert!(!held.is_held());
        let again = mutex.lock(&holder).await.map(|held| held.token());
        assert!(matches!(again, Err(Error::SessionLost)), "{again:?}");
        assert!(matches!(held.unlock().await, Err(Error::SessionLost)));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_session_that_ends_gives_everything_back() -> Result<()> {
    on_each(async |client| {
        let mutex = Mutex::new("lock");
        let (first, second) = (session(client).await?, session(client).await?);
        let held = mutex.lock(&first).await?;
        first.end().await?;
        assert!(!held.is_held());
        let held = mutex.lock(&second).await?;
        drop(second);
        held.lost().await;
        until_keys(client, "lock/", 0).await
    })
    .await
}

#[tokio::test]
async fn who_leaves_the_line_leaves_no_key() -> Result<()> {
    on_each(async |client| {
        let mutex = Mutex::new("lock");
        let (first, second) = (session(client).await?, Arc::new(session(client).await?));
        let held = mutex.lock(&first).await?;
        let waits = tokio::spawn({
            let (mutex, second) = (mutex.clone(), Arc::clone(&second));
            async move { mutex.lock(&second).await }
        });
        until_keys(client, "lock/", 2).await?;
        waits.abort();
        until_keys(client, "lock/", 1).await?;

        assert!(mutex.try_lock(&second).await?.is_none());
        assert_eq!(keys(client, "lock/").await?.len(), 1, "who only tries leaves nothing");
        held.unlock().await?;
        assert_eq!(keys(client, "lock/").await?.len(), 0, "unlocked is unlocked");

        // Dropped while the request for the key is on its way.
        let mut at_once = Box::pin(mutex.lock(&second));
        let mut context = TaskContext::from_waker(Waker::noop());
        assert!(at_once.as_mut().poll(&mut context).is_pending());
        drop(at_once);
        let held = mutex.lock(&second).await?;
        held.unlock().await?;
        assert_eq!(keys(client, "lock/").await?.len(), 0);
        let held = mutex.try_lock(&second).await?.context("nobody has it")?;
        drop(held);
        until_keys(client, "lock/", 0).await
    })
    .await
}

#[tokio::test]
async fn the_lock_service_takes_part() -> Result<()> {
    on_each(async |client| {
        let mutex = Mutex::new("lock");
        let (ours, theirs) = (session(client).await?, session(client).await?);
        let held = mutex.lock(&ours).await?;
        assert_eq!(held.key(), &format!("lock/{:x}", ours.lease()));
        let request = LockRequest { name: "lock".into(), lease: theirs.lease() };
        let mut service = LockClient::new(client.channel());
        let waits = tokio::spawn({
            let mut service = service.clone();
            async move { service.lock(request).await }
        });
        until_keys(client, "lock/", 2).await?;
        assert!(!waits.is_finished());
        held.unlock().await?;
        let locked = waits.await??.into_inner();
        assert_eq!(locked.key, format!("lock/{:x}", theirs.lease()));
        assert!(mutex.try_lock(&ours).await?.is_none());
        let (unlocked, held) =
            tokio::join!(service.unlock(UnlockRequest { key: locked.key }), mutex.lock(&ours));
        unlocked?;
        held?.unlock().await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_lock_in_a_namespace_is_there_alone() -> Result<()> {
    on_each(async |client| {
        let mutex = Mutex::new("lock");
        let within = another(client)?.within("n/");
        let (first, second) = (Session::start(&within).await?, Session::start(&within).await?);
        let outside = session(client).await?;
        let held = mutex.lock(&first).await?;
        assert_eq!(held.key(), &format!("lock/{:x}", first.lease()));
        assert_eq!(keys(client, "n/").await?, [format!("n/lock/{:x}", first.lease())]);
        mutex.lock(&outside).await?.unlock().await?;
        let (waited, unlocked) = tokio::join!(mutex.lock(&second), async {
            until_keys(client, "n/lock/", 2).await?;
            held.unlock().await?;
            anyhow::Ok(())
        });
        unlocked?;
        let held = waited?;
        let write = held.guard(Txn::new().then(Op::put("k", "v")));
        assert!(within.commit(write.clone()).await?.succeeded, "it is held");
        held.unlock().await?;
        assert!(!within.commit(write).await?.succeeded, "it is not");
        assert_eq!(keys(client, "n/").await?, ["n/k"]);
        Ok(())
    })
    .await
}

/// `etcdctl lock`, killed when dropped.
struct Etcdctl(Child);

impl Drop for Etcdctl {
    fn drop(&mut self) {
        // Where it has ended already there is nothing to kill.
        let _ended = self.0.kill();
        let _ended = self.0.wait();
    }
}

#[tokio::test]
async fn etcdctl_takes_part() -> Result<()> {
    let Some(etcdctl) = etcd::find("etcdctl") else { return Ok(()) };
    on_each(async |client| {
        let endpoint = client.endpoints().next().context("there is one")?;
        let mut command = Command::new(&etcdctl);
        command.env("ETCDCTL_API", "3").args(["--endpoints", &endpoint, "lock", "lock"]);
        let mut child = Etcdctl(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?);
        let output = child.0.stdout.take().context("it is piped")?;
        let told = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            BufReader::new(output).read_line(&mut line).map(|_| line)
        });
        let key = told.await??;
        assert_eq!(keys(client, "lock/").await?, [key.trim()]);
        let lease = client.get(key.trim().to_owned()).await?.context("it is there")?.lease;
        assert_eq!(key.trim(), format!("lock/{lease:x}"));

        let session = session(client).await?;
        let mutex = Mutex::new("lock");
        assert!(mutex.try_lock(&session).await?.is_none());
        let pid = Pid::from_raw(i32::try_from(child.0.id())?).context("it has a pid")?;
        kill_process(pid, Signal::INT)?;
        let held = mutex.lock(&session).await?;
        assert_eq!(keys(client, "lock/").await?.len(), 1);
        held.unlock().await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_transaction_compares_and_does() -> Result<()> {
    on_each(async |client| {
        let create = |key: &'static str| {
            let absent = Compare::absent("p/").for_prefix();
            Txn::new().when(absent).then(Op::put(key, "a")).otherwise(Op::get("p/1"))
        };
        let first = client.commit(create("p/1")).await?;
        let second = client.commit(create("p/2")).await?;
        assert!(first.succeeded && !second.succeeded);
        assert_eq!(second.kvs(0)[0].value, "a");
        assert_eq!(
            (second.kvs(0)[0].mod_revision, second.revision),
            (first.revision, first.revision)
        );
        let swap = Txn::new()
            .when(Compare::value("p/1").equals("a"))
            .when(Compare::mod_revision("p/1").equals(first.revision))
            .when(Compare::version("p/1").is_less_than(2))
            .when(Compare::lease("p/1").equals(0))
            .when(Compare::exists("p/1"))
            .then(Op::delete("p/1"))
            .then(Op::from(create("p/3")));
        // All comparisons, the inner ones too, are of what was before.
        let swapped = client.commit(swap.clone()).await?;
        assert!(swapped.succeeded);
        assert_eq!(keys(client, "p/").await?, Vec::<String>::new());
        assert!(!client.commit(swap).await?.succeeded);
        Ok(())
    })
    .await
}

/// Locks and writes under the lock while members fail; an unknown outcome of the write itself is the only excuse.
async fn contend_through_failures(
    client: Client,
    worked: mpsc::Sender<FencingToken>,
) -> Result<()> {
    let session = Session::start(&client).await?;
    for _ in 0..ROUNDS {
        let held = Mutex::new("lock").lock(&session).await?;
        let write = held.guard(Txn::new().then(Op::put("last", held.token().to_string())));
        match client.commit(write).await {
            Ok(written) => ensure!(written.succeeded, "the lock is held"),
            Err(error) => ensure!(error.outcome_is_unknown(), "{error}"),
        }
        worked.send(held.token()).await?;
        held.unlock().await?;
    }
    session.end().await?;
    Ok(())
}

#[tokio::test]
async fn a_member_that_dies_takes_no_lock_along() -> Result<()> {
    for server in servers() {
        let cluster = Cluster::start(&server, 3)?;
        let context = || format!("with {}", server.display());
        timeout(2 * PATIENCE, lock_while_the_leader_dies(cluster)).await?.with_context(context)?;
    }
    Ok(())
}

async fn lock_while_the_leader_dies(mut cluster: Cluster) -> Result<()> {
    let client = connect(&cluster).await?;
    let leader = client.status(&cluster.members[0].endpoint).await?.leader;
    let mut killed = 0;
    for at in 0..3 {
        let status = client.status(&cluster.members[at].endpoint).await?;
        if status.header.is_some_and(|header| header.member_id == leader) {
            killed = at;
        }
    }
    let (worked, mut tokens) = mpsc::channel(1);
    let mut contenders = JoinSet::new();
    for _ in 0..4 {
        // With time for an election.
        let client = another(&client)?.with_timeout(Duration::from_secs(30));
        contenders.spawn(contend_through_failures(client, worked.clone()));
    }
    drop(worked);
    let mut all = Vec::new();
    while let Some(token) = tokens.recv().await {
        all.push(token);
        if all.len() == ROUNDS {
            cluster.members[killed].kill()?;
        }
    }
    while let Some(contender) = contenders.join_next().await {
        contender??;
    }
    assert_eq!(all.len(), 4 * ROUNDS);
    assert!(all.is_sorted_by(|one, next| one < next), "{all:?}");
    assert_eq!(keys(&client, "lock/").await?, Vec::<String>::new());
    Ok(())
}
