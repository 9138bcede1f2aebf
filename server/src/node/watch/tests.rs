//! Watches over a real applier: random histories, clients of every pace, and what each of them must see.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use kvd_core::checkpoint::mem::MemStore;
use kvd_core::codec::encode_proposal;
use kvd_core::command::{Command, Compact, DeleteRange, Entry, Proposal, Put, Txn, TxnOp};
use kvd_core::ids::{Index, LeaseId, LogId, MemberId, Term};
use kvd_core::range::KeyRange;
use kvd_core::state::{Options, State};
use kvd_proto::etcdserverpb::WatchResponse;
use kvd_proto::mvccpb;
use prost::Message as _;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::apply::Applier;
use crate::lease_clock::LeaseClock;
use crate::limits::{FEED_BYTES_MAX, WATCH_STREAM_BYTES_MAX};
use crate::threads::Threads;

/// A store with its watches.
struct Scene {
    applier: Applier,
    watches: Arc<Watches>,
    index: u64,
    revision: i64,
    model: Model,
}

/// What happened, told by whoever proposed it.
#[derive(Default)]
struct Model {
    live: BTreeMap<Bytes, (i64, Bytes)>,
    /// Revision, key, the new value unless deleted, the value before.
    events: Vec<(i64, Bytes, Option<Bytes>, Option<Bytes>)>,
    mark: i64,
}

impl Scene {
    async fn new() -> Self {
        let state = State::open(Arc::new(MemStore::new()), Options::DEFAULT).unwrap();
        let fatal = Box::new(|reason: String| panic!("{reason}"));
        let send = Box::new(|_, _| {});
        let leases = LeaseClock::new(std::time::Duration::from_secs(1));
        let applier =
            Applier::start(Threads::Simulated, state, send, u64::MAX, fatal, leases).unwrap();
        let readers = ReaderPool::start(Threads::Simulated).unwrap();
        let (feed, published) = (applier.feed().clone(), applier.published().clone());
        let watches = Arc::new(Watches::new(feed, published, readers, FatalSignal::new()));
        watches.start();
        Self { applier, watches, index: 0, revision: 1, model: Model::default() }
    }

    async fn apply(&mut self, commands: Vec<Command>) {
        let entries = commands.into_iter().map(|command| {
            self.index += 1;
            let log_id = LogId { term: Term(1), node: MemberId(1), index: Index(self.index) };
            self.model.apply(&mut self.revision, &command);
            let proposal = Some(encode_proposal(&Proposal::internal(command)));
            (Entry { log_id, proposal, membership: None }, None)
        });
        let entries = entries.collect();
        self.applier.apply(entries).await.unwrap();
        assert_eq!(self.applier.published().view().revision().0, self.revision);
    }
}

impl Model {
    fn apply(&mut self, revision: &mut i64, command: &Command) {
        let before = self.events.len();
        let next = *revision + 1;
        let ops = match command {
            Command::Txn(txn) => txn.success.clone(),
            Command::Put(put) => vec![TxnOp::Put(put.clone())],
            Command::DeleteRange(delete) => vec![TxnOp::DeleteRange(delete.clone())],
            Command::Compact(compact) => {
                if compact.revision > self.mark && compact.revision <= *revision {
                    self.mark = compact.revision;
                }
                return;
            }
            other => panic!("{other:?}"),
        };
        for op in ops {
            match op {
                TxnOp::Put(put) => {
                    let prev = self.live.insert(put.key.clone(), (next, put.value.clone()));
                    self.events.push((next, put.key, Some(put.value), prev.map(|prev| prev.1)));
                }
                TxnOp::DeleteRange(delete) => {
                    let gone: Vec<Bytes> = self
                        .live
                        .keys()
                        .filter(|key| delete.range.contains(key))
                        .cloned()
                        .collect();
                    for key in gone {
                        let prev = self.live.remove(&key).map(|prev| prev.1);
                        self.events.push((next, key, None, prev));
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        *revision += i64::from(self.events.len() > before);
    }
}

fn put(key: &Bytes, value: Bytes) -> Put {
    let (lease, prev_kv, ignore_value, ignore_lease) = (LeaseId(0), false, false, false);
    Put { key: key.clone(), value, lease, prev_kv, ignore_value, ignore_lease }
}

fn interest(range: KeyRange) -> Interest {
    Interest { range, no_put: false, no_delete: false, prev_kv: true }
}

fn create(range: KeyRange, start: Option<i64>) -> Create {
    Create {
        interest: interest(range),
        start: start.map(Revision),
        id: None,
        progress_notify: false,
        may_fragment: false,
    }
}

/// What a watch was told so far.
#[derive(Debug)]
struct Seen {
    asked: Create,
    created_at: i64,
    responses: Vec<Vec<mvccpb::Event>>,
    compacted: Option<i64>,
    canceled: bool,
    /// How far it was told to be.
    progress: i64,
}

/// A client.
struct Client {
    stream: WatchStream,
    messages: WatchMessages,
    asked: Vec<Create>,
    seen: BTreeMap<i64, Seen>,
    progress: i64,
    waits_for_cancel: Vec<i64>,
}

impl Client {
    fn new(scene: &Scene) -> Self {
        let (stream, messages) = WatchStream::open(&scene.watches);
        let (asked, seen, waits_for_cancel) = (Vec::new(), BTreeMap::new(), Vec::new());
        Self { stream, messages, asked, seen, progress: 0, waits_for_cancel }
    }

    async fn create(&mut self, create: Create) {
        self.asked.push(create.clone());
        self.stream.create(create).await;
    }

    /// Takes a message, if there is one.
    fn take(&mut self) -> bool {
        let Some(message) = self.messages.next().now_or_never() else { return false };
        match message.unwrap().unwrap() {
            Message::Created { id, revision } => {
                let asked = self.asked.remove(0);
                let (created_at, responses) = (revision.0, Vec::new());
                let (compacted, canceled, progress) = (None, false, 0);
                let seen = Seen { asked, created_at, responses, compacted, canceled, progress };
                assert!(self.seen.insert(id.0, seen).is_none(), "numbers are not used again");
            }
            Message::Events { id, revision, batch, .. } => {
                let bytes: Vec<u8> = batch.events.iter().flatten().copied().collect();
                let events = WatchResponse::decode(bytes.as_slice()).unwrap().events;
                let seen = self.seen.get_mut(&id.0).expect("created before events");
                assert!(!events.is_empty() && seen.compacted.is_none() && !seen.canceled);
                for event in &events {
                    let at = event.kv.as_ref().unwrap().mod_revision;
                    assert!(at > seen.progress, "{at} after progress {}", seen.progress);
                    assert!(at <= revision.0, "the header is behind its events");
                }
                seen.responses.push(events);
            }
            Message::Compacted { id, mark } => {
                self.seen.get_mut(&id.0).unwrap().compacted = Some(mark.0);
            }
            Message::Canceled { id, .. } => {
                self.seen.get_mut(&id.0).unwrap().canceled = true;
            }
            Message::Progress { id, revision } => {
                assert_eq!(id, WatchId::ALL);
                self.progress = self.progress.max(revision.0);
                for seen in self.seen.values_mut() {
                    seen.progress = revision.0;
                }
            }
            Message::Refused { reason, .. } => panic!("{reason}"),
        }
        true
    }

    /// Cancels a watch.
    async fn cancel(&mut self, id: i64) {
        self.waits_for_cancel.push(id);
        self.stream.cancel(WatchId(id)).await;
    }

    /// Takes everything up to this revision; those that were compacted are cancelled, as clients do.
    async fn take_all(&mut self, revision: i64) {
        loop {
            while self.take() {}
            let gone = self.seen.iter().filter(|(_, seen)| seen.compacted.is_some());
            let gone: Vec<i64> = gone.map(|(id, _)| *id).collect();
            for id in gone {
                if !self.waits_for_cancel.contains(&id) {
                    self.cancel(id).await;
                }
            }
            let is_open = |seen: &Seen| !seen.canceled;
            let is_future =
                |seen: &Seen| is_open(seen) && seen.asked.start > Some(Revision(revision));
            let all_gone = !self.seen.values().any(is_open);
            let all_there = self
                .seen
                .values()
                .filter(|seen| is_open(seen))
                .all(|seen| seen.progress >= revision);
            if self.asked.is_empty() && (all_gone || all_there) {
                return;
            }
            // Those that begin later have seen all there is, and hide how far the others are.
            let future = self.seen.iter().filter(|(_, seen)| is_future(seen));
            let future: Vec<i64> = future.map(|(id, _)| *id).collect();
            for id in future {
                self.cancel(id).await;
            }
            self.stream.progress().await;
            tokio::task::yield_now().await;
        }
    }

    /// Everything that each watch must have been told, and nothing else.
    fn check(&self, model: &Model, revision: i64) {
        for (id, seen) in &self.seen {
            let wanted = &seen.asked.interest;
            let from = seen.asked.start.map_or(seen.created_at + 1, |start| start.0);
            let expected = model.events.iter().filter(|(at, key, value, _)| {
                let filtered = if value.is_some() { wanted.no_put } else { wanted.no_delete };
                *at >= from && wanted.range.contains(key) && !filtered
            });
            let expected: Vec<_> = expected.collect();
            let found: Vec<_> = seen.responses.iter().flatten().collect();
            assert!(found.len() <= expected.len(), "watch {id} was told too much");
            for (found, expected) in found.iter().zip(&expected) {
                check_event(found, expected, wanted.prev_kv, model.mark);
            }
            let mut last = 0;
            for response in &seen.responses {
                let at = |event: &mvccpb::Event| event.kv.as_ref().unwrap().mod_revision;
                assert!(at(&response[0]) > last, "a revision came in two parts");
                last = at(&response[response.len() - 1]);
            }
            let missed = expected.get(found.len());
            match (missed, seen.compacted) {
                (None, _) => {}
                // What it needed next was gone, or it had everything up to the mark.
                (Some(missed), Some(mark)) => assert!(last < mark, "{missed:?} after {last}"),
                (Some(_), None) if seen.canceled => {}
                (Some(missed), None) => panic!("watch {id} missed {missed:?} at {revision}"),
            }
        }
    }
}

fn check_event(
    found: &mvccpb::Event,
    (at, key, value, prev): &(i64, Bytes, Option<Bytes>, Option<Bytes>),
    prev_kv: bool,
    mark: i64,
) {
    let kv = found.kv.as_ref().unwrap();
    assert_eq!((kv.mod_revision, &kv.key), (*at, key));
    let is_delete = found.r#type() == mvccpb::event::EventType::Delete;
    assert_eq!((!is_delete).then_some(&kv.value), value.as_ref());
    match found.prev_kv.as_ref().map(|kv| &kv.value) {
        // It may have been compacted before the watch came by.
        None => assert!(!prev_kv || prev.is_none() || *at <= mark, "no prev_kv at {at}"),
        Some(found) => assert_eq!(Some(found), prev.as_ref().filter(|_| prev_kv)),
    }
}

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
