//! What several hold at once: readers, permits; and what several wait for: a barrier, a queue.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use kvd_client::Client;
use kvd_client::concurrency::{Barrier, Held, Queue, RwLock, Semaphore, Session};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

use crate::{another, keys, on_each, session, until_keys};

#[tokio::test]
async fn readers_come_together_and_a_writer_alone() -> Result<()> {
    on_each(async |client| {
        let lock = RwLock::new("rw");
        let session = Arc::new(session(client).await?);
        // Both at once, or this waits for ever.
        let (first, second) = (lock.read(&session).await?, lock.read(&session).await?);
        assert!(first.token() < second.token());
        assert!(first.key().starts_with(b"rw/read/"));
        let wait = |writes: bool| -> JoinHandle<Result<Held, _>> {
            let (lock, session) = (lock.clone(), Arc::clone(&session));
            tokio::spawn(async move {
                if writes { lock.write(&session).await } else { lock.read(&session).await }
            })
        };
        let writes = wait(true);
        until_keys(client, "rw/", 3).await?;
        let reads_later = wait(false);
        until_keys(client, "rw/", 4).await?;
        first.unlock().await?;
        assert!(!writes.is_finished());
        second.unlock().await?;
        let written = writes.await??;
        assert!(!reads_later.is_finished());
        let token = written.token();
        written.unlock().await?;
        let third = reads_later.await??;
        assert!(token < third.token());
        third.unlock().await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn readers_and_writers_under_load_never_meet() -> Result<()> {
    on_each(async |client| {
        let inside = Arc::<[AtomicUsize; 2]>::default();
        let mut tasks = JoinSet::new();
        for number in 0..6 {
            let (client, inside) = (another(client)?, Arc::clone(&inside));
            tasks.spawn(read_and_write(client, inside, number % 3 == 0));
        }
        while let Some(task) = tasks.join_next().await {
            task??;
        }
        assert_eq!(keys(client, "rw/").await?, Vec::<String>::new());
        Ok(())
    })
    .await
}

async fn read_and_write(client: Client, inside: Arc<[AtomicUsize; 2]>, writes: bool) -> Result<()> {
    let lock = RwLock::new("rw");
    let [readers, writers] = &*inside;
    let session = Session::start(&client).await?;
    for _ in 0..5 {
        let held = if writes { lock.write(&session).await? } else { lock.read(&session).await? };
        let own = if writes { writers } else { readers };
        own.fetch_add(1, Ordering::SeqCst);
        client.get("something").await?;
        let met = (readers.load(Ordering::SeqCst), writers.load(Ordering::SeqCst));
        ensure!(met.1 == 0 || met == (0, 1), "readers and writers at once: {met:?}");
        own.fetch_sub(1, Ordering::SeqCst);
        held.unlock().await?;
    }
    session.end().await?;
    Ok(())
}

#[tokio::test]
async fn no_more_hold_permits_than_there_are() -> Result<()> {
    on_each(async |client| {
        let semaphore = Semaphore::new("permits", 2);
        let own = session(client).await?;
        // Both at once, or this waits for ever.
        let held = (semaphore.acquire(&own).await?, semaphore.acquire(&own).await?);
        let inside = Arc::new(AtomicUsize::new(2));
        let mut tasks = JoinSet::new();
        for _ in 0..5 {
            let (client, inside, semaphore) =
                (another(client)?, Arc::clone(&inside), semaphore.clone());
            tasks.spawn(async move {
                let session = Session::start(&client).await?;
                for _ in 0..4 {
                    let permit = semaphore.acquire(&session).await?;
                    let now = inside.fetch_add(1, Ordering::SeqCst) + 1;
                    ensure!(now <= 2, "{now} hold permits");
                    client.get("something").await?;
                    inside.fetch_sub(1, Ordering::SeqCst);
                    permit.unlock().await?;
                }
                session.end().await?;
                Ok(())
            });
        }
        until_keys(client, "permits/", 7).await?;
        inside.fetch_sub(1, Ordering::SeqCst);
        held.0.unlock().await?;
        inside.fetch_sub(1, Ordering::SeqCst);
        held.1.unlock().await?;
        while let Some(task) = tasks.join_next().await {
            task??;
        }
        assert_eq!(keys(client, "permits/").await?, Vec::<String>::new());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_barrier_holds_until_it_is_released() -> Result<()> {
    on_each(async |client| {
        let barrier = Barrier::new("barrier");
        barrier.wait(client).await?;
        assert!(barrier.hold(client).await?);
        assert!(!barrier.hold(client).await?);
        let mut waits = JoinSet::new();
        for _ in 0..3 {
            let (client, barrier) = (another(client)?, barrier.clone());
            waits.spawn(async move {
                barrier.wait(&client).await?;
                // Open, and nobody closes it again.
                ensure!(client.get("barrier").await?.is_none(), "it is closed");
                Ok(())
            });
        }
        // Far longer than it takes to look.
        for _ in 0..50 {
            client.get("barrier").await?.context("it is closed")?;
        }
        assert!(waits.try_join_next().is_none(), "it is closed");
        assert!(barrier.release(client).await?);
        while let Some(waited) = waits.join_next().await {
            waited??;
        }
        assert!(!barrier.release(client).await?);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_queue_gives_each_value_to_one_taker_in_order() -> Result<()> {
    on_each(async |client| {
        let queue = Queue::new("queue");
        for number in 0..5_u8 {
            queue.enqueue(client, vec![number]).await?;
        }
        for number in 0..5_u8 {
            assert_eq!(queue.try_dequeue(client).await?.as_deref(), Some(&[number][..]));
        }
        assert_eq!(queue.try_dequeue(client).await?, None);

        const VALUES: u8 = 60;
        let (taken, mut values) = mpsc::channel(1);
        let mut takers = JoinSet::new();
        for _ in 0..4 {
            let (client, queue, taken) = (another(client)?, queue.clone(), taken.clone());
            takers.spawn(async move {
                loop {
                    let value = queue.dequeue(&client).await.map(|value| value[0]);
                    if taken.send(value).await.is_err() {
                        break;
                    }
                }
            });
        }
        let putter = async {
            for number in 0..VALUES {
                queue.enqueue(client, vec![number]).await?;
            }
            anyhow::Ok(())
        };
        let taker = async {
            let mut all = BTreeSet::new();
            while all.len() < usize::from(VALUES) {
                let Some(value) = values.recv().await else { break };
                ensure!(all.insert(value?), "a value came twice");
            }
            anyhow::Ok(all)
        };
        let (put, all) = tokio::join!(putter, taker);
        put?;
        assert!(all?.into_iter().eq(0..VALUES));
        assert_eq!(queue.try_dequeue(client).await?, None);
        Ok(())
    })
    .await
}
