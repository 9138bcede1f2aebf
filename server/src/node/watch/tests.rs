//! Watches over a real applier: random histories, clients of every pace, and what each of them must see.

mod client;
mod scene;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use kvd_core::command::{Command, Compact, DeleteRange, Txn, TxnOp};
use kvd_core::range::KeyRange;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::limits::{FEED_BYTES_MAX, WATCH_STREAM_BYTES_MAX};

use self::client::Client;
use self::scene::{Scene, create, put};

fn random_key(random: &mut StdRng) -> Bytes {
    Bytes::from(vec![b'a' + random.random_range(0..5u8)])
}

fn random_range(random: &mut StdRng) -> KeyRange {
    match random.random_range(0..4) {
        0 => KeyRange::Key(random_key(random)),
        1 => KeyRange::From(random_key(random)),
        2 => KeyRange::all(),
        _ => {
            let start = random_key(random);
            let end = Bytes::from(vec![start[0] + 2]);
            KeyRange::Between { start, end }
        }
    }
}

fn random_command(random: &mut StdRng, revision: i64, mark: i64) -> Command {
    let value = |random: &mut StdRng| {
        let size = if random.random_range(0..20) == 0 { WATCH_STREAM_BYTES_MAX / 3 } else { 3 };
        Bytes::from(vec![random.random_range(0..9); size])
    };
    match random.random_range(0..40) {
        0 => Command::Compact(Compact { revision: random.random_range(mark..=revision) }),
        1..6 => Command::DeleteRange(DeleteRange { range: random_range(random), prev_kv: false }),
        6..12 => {
            let mut keys: Vec<Bytes> = (0..3).map(|_| random_key(random)).collect();
            keys.sort();
            keys.dedup();
            let ops = keys.iter().map(|key| TxnOp::Put(put(key, value(random))));
            Command::Txn(Txn { success: ops.collect(), ..Txn::default() })
        }
        _ => Command::Put(put(&random_key(random), value(random))),
    }
}

/// One random story.
async fn story(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut scene = Scene::new().await;
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..random.random_range(20..120) {
        match random.random_range(0..10) {
            0 if clients.len() < 4 => clients.push(Client::new(&scene)),
            1 | 2 if !clients.is_empty() => {
                let at = random.random_range(0..clients.len());
                let start = match random.random_range(0..3) {
                    0 => None,
                    _ => Some(random.random_range(1..scene.revision + 4)),
                };
                let mut asked = create(random_range(&mut random), start);
                asked.interest.prev_kv = random.random();
                asked.interest.no_put = random.random_range(0..8) == 0;
                asked.interest.no_delete = random.random_range(0..8) == 0;
                clients[at].create(asked).await;
            }
            3 if !clients.is_empty() => {
                let at = random.random_range(0..clients.len());
                for _ in 0..random.random_range(0..30) {
                    clients[at].take();
                }
                clients[at].stream.progress().await;
            }
            4 if !clients.is_empty() => {
                let at = random.random_range(0..clients.len());
                if let Some(id) = clients[at].seen.keys().next().copied() {
                    clients[at].cancel(id).await;
                }
            }
            5 if clients.len() > 2 => drop(clients.swap_remove(0)),
            _ => {
                let count = random.random_range(1..30);
                let mut commands = Vec::new();
                for _ in 0..count {
                    commands.push(random_command(&mut random, scene.revision, scene.model.mark));
                }
                scene.apply(commands).await;
                if random.random() {
                    tokio::task::yield_now().await;
                }
            }
        }
    }
    for client in &mut clients {
        client.take_all(scene.revision).await;
        client.check(&scene.model, scene.revision);
    }
    let watchers: usize = clients
        .iter()
        .flat_map(|client| client.seen.values())
        .filter(|seen| !seen.canceled)
        .count();
    assert_eq!(scene.watches.counts().watchers, watchers);
    drop(clients);
    assert_eq!(scene.watches.counts(), Counts::default(), "clients that are gone leave nothing");
}

#[tokio::test]
async fn every_watch_sees_each_of_its_events_once() {
    let stories = std::env::var("KVD_STORIES").ok().and_then(|count| count.parse().ok());
    for seed in 0..stories.unwrap_or(60) {
        let told = std::panic::AssertUnwindSafe(story(seed)).catch_unwind().await;
        assert!(told.is_ok(), "seed {seed}");
    }
}

/// Hazard B1, D10: a client that does not read costs bounded memory, holds up nobody, and misses nothing.
#[tokio::test]
async fn a_client_that_does_not_read_catches_up_later() {
    let mut scene = Scene::new().await;
    let (mut slow, mut other) = (Client::new(&scene), Client::new(&scene));
    slow.create(create(KeyRange::all(), None)).await;
    other.create(create(KeyRange::all(), None)).await;
    let key = Bytes::from_static(b"k");
    for _ in 0..200 {
        let value = Bytes::from(vec![b'v'; WATCH_STREAM_BYTES_MAX / 10]);
        scene.apply(vec![Command::Put(put(&key, value))]).await;
        other.take_all(scene.revision).await;
    }
    assert_eq!(scene.watches.counts().lagging, 1, "only the slow one is behind");
    let waiting = scene.watches.waiting.bytes();
    assert!(waiting <= WATCH_STREAM_BYTES_MAX, "{waiting} bytes wait");
    slow.take_all(scene.revision).await;
    slow.check(&scene.model, scene.revision);
    other.check(&scene.model, scene.revision);
    assert_eq!(scene.watches.counts().lagging, 0);
}

/// Hazard B1: more at once than may wait for the hub, so that it has to look the middle up.
#[tokio::test]
async fn a_gap_in_the_feed_is_read_from_history() {
    let mut scene = Scene::new().await;
    let mut client = Client::new(&scene);
    client.create(create(KeyRange::all(), None)).await;
    let key = Bytes::from_static(b"k");
    let value = Bytes::from(vec![b'v'; FEED_BYTES_MAX / 100]);
    // Three slices: as many as fit before the applier waits for a checkpoint.
    let commands = (0..150).map(|_| Command::Put(put(&key, value.clone())));
    scene.apply(commands.collect()).await;
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    assert_eq!(scene.watches.counts().lagging, 1);
    // The creation was not taken yet, and what was found does not fit beside it: history is not read over and
    // over for a client that does not read.
    assert!(!scene.watches.hub().is_anyone_behind());
    client.take_all(scene.revision).await;
    client.check(&scene.model, scene.revision);
}

/// Progress of a stream on which nothing was ever written (etcd #17507), and none before a future start (W20).
#[tokio::test]
async fn progress_is_told_when_all_are_there() {
    let mut scene = Scene::new().await;
    let mut client = Client::new(&scene);
    client.stream.progress().await;
    assert!(!client.take(), "a stream without watches has none");
    client.create(create(KeyRange::all(), None)).await;
    client.take_all(1).await;
    assert_eq!(client.progress, 1);
    client.create(create(KeyRange::all(), Some(3))).await;
    client.take();
    client.stream.progress().await;
    assert!(!client.take(), "one of them begins later");
    let key = Bytes::from_static(b"k");
    for _ in 0..2 {
        scene.apply(vec![Command::Put(put(&key, Bytes::new()))]).await;
    }
    client.take_all(3).await;
    client.check(&scene.model, 3);
}

/// Rule W21: once an interval, and only where nothing was sent meanwhile.
#[tokio::test]
async fn quiet_watches_tell_progress_now_and_then() {
    let mut scene = Scene::new().await;
    let (stream, mut messages) = WatchStream::open(&scene.watches);
    let notify = |key: &'static str| Create {
        progress_notify: true,
        ..create(KeyRange::Key(Bytes::from_static(key.as_bytes())), None)
    };
    stream.create(notify("k")).await;
    stream.create(notify("quiet")).await;
    stream.create(create(KeyRange::all(), Some(1000))).await;
    for _ in 0..3 {
        assert!(matches!(messages.next().await, Some(Ok(Message::Created { .. }))));
    }
    scene.apply(vec![Command::Put(put(&Bytes::from_static(b"k"), Bytes::new()))]).await;
    assert!(matches!(messages.next().await, Some(Ok(Message::Events { .. }))));
    stream.tick();
    let told = messages.next().await.unwrap().unwrap();
    assert_eq!(told, Message::Progress { id: WatchId(1), revision: Revision(2) });
    assert!(messages.next().now_or_never().is_none(), "the other one had an event");
    stream.tick();
    let told = messages.next().await.unwrap().unwrap();
    assert_eq!(told, Message::Progress { id: WatchId(0), revision: Revision(2) });
}

/// One scan of history serves all who need it, whatever they want of it.
#[tokio::test]
async fn many_watches_of_the_past_are_served_at_once() {
    let mut scene = Scene::new().await;
    let commands = (0..3000).map(|n: u32| {
        Command::Put(put(&Bytes::from(format!("k{}", n % 100)), Bytes::from(format!("{n}"))))
    });
    scene.apply(commands.collect()).await;
    let mut client = Client::new(&scene);
    for n in 0..600 {
        let range = match n % 2 {
            0 => KeyRange::all(),
            _ => KeyRange::Key(Bytes::from(format!("k{}", n % 100))),
        };
        client.create(create(range, Some(i64::from(n) + 2))).await;
        while client.take() {}
    }
    client.take_all(scene.revision).await;
    client.check(&scene.model, scene.revision);
}

/// Events are encoded once for all who want the same, which those who want previous values do not.
#[tokio::test]
async fn previous_values_are_for_those_who_want_them() {
    let mut scene = Scene::new().await;
    let key = Bytes::from_static(b"k");
    for value in ["before", "after"] {
        scene.apply(vec![Command::Put(put(&key, Bytes::from(value)))]).await;
    }
    let mut streams = Vec::new();
    for prev_kv in [false, true] {
        let mut create = create(KeyRange::all(), Some(3));
        create.interest.prev_kv = prev_kv;
        let (stream, messages) = WatchStream::open(&scene.watches);
        // Nothing here waits, so both are served by one scan.
        stream.create(create).await;
        streams.push((prev_kv, stream, messages));
    }
    for (prev_kv, _stream, mut messages) in streams {
        assert!(matches!(messages.next().await, Some(Ok(Message::Created { .. }))));
        let Some(Ok(Message::Events { batch, .. })) = messages.next().await else {
            panic!("the event of revision 3 is missing");
        };
        let told = batch.events.concat();
        let has_previous = told.windows(6).any(|bytes| bytes == b"before");
        assert_eq!((batch.events.len(), has_previous), (1, prev_kv));
    }
}
