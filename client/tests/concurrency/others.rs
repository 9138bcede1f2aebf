//! Elections of both kinds, and optimistic transactions.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use kvd_client::concurrency::{
    Election, Error, KubeLeadership, KubeLease, KubeTimes, Observe, Session, stm,
};
use kvd_client::proto::v3electionpb::LeaderRequest;
use kvd_client::proto::v3electionpb::election_client::ElectionClient;
use kvd_client::{Client, Op, Options, Txn};
use tokio::runtime;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until};

use crate::{another, on_each, session, until_keys};

/// Until the observer is told this.
async fn until_told(observe: &mut Observe, value: &str) -> Result<i64> {
    loop {
        let leader = observe.next().await.context("observing goes on")??;
        if leader.value == value {
            return Ok(leader.token.number());
        }
    }
}

#[tokio::test]
async fn leadership_is_handed_over_and_told() -> Result<()> {
    on_each(async |client| {
        let election = Election::new("election");
        let mut observe = election.observe(client);
        assert_eq!(election.leader(client).await?, None);
        let sessions =
            [session(client).await?, session(client).await?, session(client).await?].map(Arc::new);
        let campaign = |at: usize, value: &'static str| {
            let (election, session) = (election.clone(), Arc::clone(&sessions[at]));
            tokio::spawn(async move { election.campaign(&session, value).await })
        };
        let first = campaign(0, "a").await??;
        assert_eq!(until_told(&mut observe, "a").await?, first.token().number());
        let second = campaign(1, "b");
        until_keys(client, "election/", 2).await?;
        let third = campaign(2, "c");
        until_keys(client, "election/", 3).await?;
        // Said after the others have stood in line: theirs are older words, and told nevertheless.
        first.proclaim("a2").await?;
        assert_eq!(until_told(&mut observe, "a2").await?, first.token().number());
        let leader = election.leader(client).await?.context("there is one")?;
        assert_eq!((&leader.value[..], leader.token), (&b"a2"[..], first.token()));
        let mut service = ElectionClient::new(client.channel());
        let told = service.leader(LeaderRequest { name: "election".into() }).await?.into_inner();
        assert_eq!(told.kv.context("there is one")?.key, first.key());

        first.resign().await?;
        let second = second.await??;
        assert_eq!(until_told(&mut observe, "b").await?, second.token().number());
        assert!(!third.is_finished());
        // The leader's process dies, as far as the store can tell.
        client.lease_revoke(sessions[1].lease()).await?;
        second.lost().await;
        let third = third.await??;
        assert!(leader.token < second.token() && second.token() < third.token());
        assert_eq!(until_told(&mut observe, "c").await?, third.token().number());
        let late = second.guard(Txn::new().then(Op::put("order", "late")));
        assert!(!client.commit(late).await?.succeeded, "it was replaced");
        let said = second.proclaim("b2").await;
        assert!(matches!(said, Err(Error::KeyDeleted | Error::SessionLost)), "{said:?}");
        // Deposed by hand; its lease lives.
        client.delete(third.key().clone()).await?;
        third.lost().await;
        let said = third.proclaim("c2").await;
        assert!(matches!(said, Err(Error::KeyDeleted)), "{said:?}");
        let again = campaign(2, "d");
        drop(third);
        let again = again.await??;
        drop(again);
        until_keys(client, "election/", 0).await
    })
    .await
}

/// Short, with room for a busy machine between renewals.
const TIMES: KubeTimes = KubeTimes {
    lease_duration: Duration::from_secs(3),
    renew_deadline: Duration::from_secs(2),
    retry_period: Duration::from_millis(100),
};

fn candidate(client: &Client, identity: &str) -> Result<KubeLease> {
    Ok(KubeLease::new(client, "kube", identity, TIMES)?)
}

/// A candidate with a thread and a runtime of its own, which ends all at once, as a process does.
struct Process {
    stop: oneshot::Sender<()>,
    thread: thread::JoinHandle<Result<()>>,
}

impl Process {
    async fn lead(client: &Client, identity: &'static str) -> Result<(Self, KubeLeadership)> {
        let endpoints: Vec<String> = client.endpoints().collect();
        let (tell, told) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let client = Client::lazy(Options::new(endpoints))?;
                let leads = candidate(&client, identity)?.acquire().await?;
                assert!(tell.send(leads).is_ok(), "the test waits");
                Ok(stopped.await?)
            })
        });
        Ok((Self { stop, thread }, told.await?))
    }

    fn die(self) -> Result<()> {
        assert!(self.stop.send(()).is_ok(), "it lives");
        self.thread.join().map_err(|_| anyhow!("it panicked"))?
    }
}

#[tokio::test]
async fn a_record_that_is_not_renewed_is_taken_over() -> Result<()> {
    on_each(async |client| {
        let (process, first) = Process::lead(client, "first").await?;
        let second = candidate(client, "second")?;
        let record = second.record().await?.context("it is written")?;
        assert_eq!((&record.holder_identity[..], record.leader_transitions), ("first", 0));
        // It dies without a word.
        process.die()?;
        let leads = second.acquire().await?;
        assert!(!first.is_leader(), "a leader stops before the next one begins");
        first.lost().await;
        assert!(leads.is_leader() && first.token() < leads.token());
        let record = second.record().await?.context("it is written")?;
        assert_eq!((&record.holder_identity[..], record.leader_transitions), ("second", 1));
        // Longer than it would be believed without renewals.
        sleep(TIMES.renew_deadline).await;
        assert!(leads.is_leader());
        let renewed = second.record().await?.context("it is written")?;
        assert!(record.renew_time < renewed.renew_time, "{record:?} {renewed:?}");
        let token = leads.token();
        leads.release().await?;
        let record = second.record().await?.context("it is written")?;
        assert_eq!((&record.holder_identity[..], record.lease_duration_seconds), ("", 1));

        let third = candidate(client, "third")?.acquire().await?;
        assert!(token < third.token());
        // What happened before it is written anew it cannot know.
        client.delete("kube").await?;
        third.lost().await;
        drop(third);
        let third = candidate(client, "third")?.acquire().await?;
        // Somebody else takes the record by force.
        client.put("kube", r#"{"holderIdentity":"x","leaseDurationSeconds":60}"#).await?;
        third.lost().await;
        assert!(!third.is_leader());
        drop(third);
        let forced = second.record().await?.context("it is written")?;
        assert_eq!(forced.holder_identity, "x", "what others wrote is left alone");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn two_hundred_increments_are_two_hundred() -> Result<()> {
    on_each(async |client| {
        let attempts = Arc::<AtomicUsize>::default();
        let mut tasks = JoinSet::new();
        for _ in 0..4 {
            let (client, attempts) = (another(client)?, Arc::clone(&attempts));
            tasks.spawn(async move {
                for _ in 0..50 {
                    stm(&client, |keys| {
                        attempts.fetch_add(1, Ordering::SeqCst);
                        async move {
                            // Two keys that are always the same, or what is read is no snapshot.
                            let (a, b) = tokio::join!(keys.get("a"), keys.get("b"));
                            let (a, b) = (number(a?)?, number(b?)?);
                            anyhow::ensure!(a == b, "{a} and {b} are of two revisions");
                            keys.put("a", (a + 1).to_string());
                            keys.put("b", (a + 1).to_string());
                            Ok(())
                        }
                    })
                    .await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(task) = tasks.join_next().await {
            task??;
        }
        let a = client.get("a").await?.context("it is there")?;
        assert_eq!((&a.value[..], a.version), (&b"200"[..], 200));
        assert!(attempts.load(Ordering::SeqCst) > 200, "nobody was in anybody's way");
        Ok(())
    })
    .await
}

fn number(value: Option<bytes::Bytes>) -> Result<u64> {
    value.map_or(Ok(0), |value| Ok(std::str::from_utf8(&value)?.parse()?))
}

#[tokio::test]
async fn a_transaction_that_fails_writes_nothing() -> Result<()> {
    on_each(async |client| {
        client.put("a", "1").await?;
        let failed: Result<()> = stm(client, |keys| async move {
            keys.put("a", "2");
            assert_eq!(keys.get("a").await?.as_deref(), Some(&b"2"[..]));
            keys.delete("b");
            anyhow::bail!("no")
        })
        .await;
        assert_eq!(failed.map_err(|error| error.to_string()), Err("no".to_owned()));
        assert_eq!(client.get("a").await?.context("it is there")?.value, "1");
        let read = stm(client, |keys| async move { keys.get("a").await }).await?;
        assert_eq!(read.as_deref(), Some(&b"1"[..]));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_session_outlives_its_first_lease_time() -> Result<()> {
    on_each(async |client| {
        let session = Session::with_ttl(client, Duration::from_secs(2)).await?;
        let first = session.held_until();
        while session.held_until() == first {
            sleep(Duration::from_millis(20)).await;
        }
        sleep_until(first).await;
        assert!(session.is_held());
        assert!(client.lease_time_to_live(session.lease(), false).await?.ttl >= 0);
        let lease = session.lease();
        session.end().await?;
        assert_eq!(client.lease_time_to_live(lease, false).await?.ttl, -1);
        Ok(())
    })
    .await
}
