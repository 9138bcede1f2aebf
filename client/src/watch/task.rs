//! The task that serves all watches of a client, on one stream after the other.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use kvd_proto::etcdserverpb::watch_request::RequestUnion;
use kvd_proto::etcdserverpb::{
    WatchCancelRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, sleep_until};
use tonic::Code;

use super::follow::{Follow, News};
use super::hub::{Order, Ready, Update};
use super::stream::{WatchAnswer, WatchEnd, WatchStream};
use crate::balance::{Failing, Id};
use crate::client::Client;
use crate::error::Error;

/// Answers that wait to be read, of one watch; more take it from the stream.
const UPDATES_MAX: usize = 64;
/// Watches of one client; etcd's servers have no limit, their memory has.
const WATCHES_MAX: usize = 100_000;
/// A stream that says nothing for so long is asked for progress, and its endpoint whether it lives; dropped watches are
/// looked for as often.
const QUIET: Duration = Duration::from_secs(2);
/// What a server says about all watches of a stream it says about this one.
const EVERY_WATCH: i64 = -1;
/// Pause between two attempts to open a stream.
const REOPEN: Duration = Duration::from_millis(50);

/// One watch as the task knows it.
#[derive(Debug)]
struct Entry {
    follow: Follow,
    updates: mpsc::Sender<Result<Update, WatchEnd>>,
    /// Who asked for it, until it exists.
    asker: Option<Asker>,
    /// Its number on the stream, while it has one.
    on_stream: Option<i64>,
    /// Its reader is slow: it is on no stream until there is room.
    waits_for_room: bool,
}

/// Who waits for a watch to exist, and what they get then.
#[derive(Debug)]
struct Asker {
    ready: oneshot::Sender<Result<Ready, Error>>,
    updates: mpsc::Receiver<Result<Update, WatchEnd>>,
}

impl Asker {
    fn tell(self, created_at: i64) {
        let _gone = self.ready.send(Ok(Ready { updates: self.updates, created_at }));
    }
}

/// What became of an answer.
enum Handed {
    On,
    /// There is no room for it; it comes again on another stream.
    Full,
    /// Nobody reads.
    Gone,
}

/// Serves all watches of a client, one stream after the other.
pub(super) struct Task {
    client: Client,
    queue: mpsc::Receiver<Order>,
    watches: BTreeMap<u64, Entry>,
    next_key: u64,
    /// Watches whose readers are slow, until there is room.
    full: JoinSet<u64>,
}

/// What belongs to one stream.
#[derive(Default)]
struct OnStream {
    /// Requests to be sent.
    to_send: VecDeque<RequestUnion>,
    /// Watches whose creation is not answered yet, in the order of their requests.
    asked: VecDeque<u64>,
    by_id: BTreeMap<i64, u64>,
    /// A request for progress waits to be sent.
    asks_for_progress: bool,
}

impl Task {
    pub(super) fn new(client: Client, queue: mpsc::Receiver<Order>) -> Self {
        Self { client, queue, watches: BTreeMap::new(), next_key: 0, full: JoinSet::new() }
    }

    pub(super) async fn run(mut self) {
        let mut current = self.client.balance().current();
        loop {
            while self.watches.is_empty() {
                // None is left: who comes now starts another task.
                if self.queue.is_empty() {
                    self.queue.close();
                }
                let Some(order) = self.queue.recv().await else { return };
                self.take(order);
            }
            let Some((&first, entry)) =
                self.watches.iter().find(|(_, entry)| !entry.waits_for_room)
            else {
                tokio::select! {
                    Some(Ok(key)) = self.full.join_next() => self.has_room(key),
                    Some(order) = self.queue.recv() => drop(self.take(order)),
                    () = sleep(QUIET) => drop(self.forget_dropped()),
                }
                continue;
            };
            match self.client.watch_stream(entry.follow.request()).await {
                Ok(stream) => {
                    current.mark_unchanged();
                    self.serve(stream, first, &mut current).await;
                    self.watches.values_mut().for_each(Entry::leave_stream);
                }
                Err(Error::Etcd(error)) => self.end(first, WatchEnd::Refused(error.to_string())),
                Err(Error::Refused { text, .. }) => self.end(first, WatchEnd::Refused(text)),
                Err(_) => sleep(REOPEN).await,
            }
            self.forget_dropped();
        }
    }

    /// Until the stream ends, or another is better.
    async fn serve(
        &mut self,
        mut stream: WatchStream,
        first: u64,
        current: &mut watch::Receiver<Id>,
    ) {
        // It moved while the stream was opened; what moves later is told.
        if !self.client.balance().is_current(stream.endpoint()) {
            return;
        }
        let mut on = self.asked_for(first);
        let requests = stream.requests();
        let mut quiet_until = Instant::now() + QUIET;
        let mut forget = interval(QUIET);
        while !self.watches.is_empty() {
            tokio::select! {
                answer = stream.next() => match answer {
                    Ok(Some(answer)) => {
                        quiet_until = Instant::now() + QUIET;
                        self.answer(&mut on, answer);
                    }
                    Ok(None) | Err(_) => {
                        sleep(REOPEN).await;
                        return;
                    }
                },
                permit = requests.reserve(), if !on.to_send.is_empty() => {
                    let (Ok(permit), Some(next)) = (permit, on.to_send.pop_front()) else {
                        sleep(REOPEN).await;
                        return;
                    };
                    on.asks_for_progress &= !matches!(next, RequestUnion::ProgressRequest(_));
                    permit.send(WatchRequest { request_union: Some(next) });
                }
                Some(order) = self.queue.recv() => match order {
                    Order::Progress => on.ask_for_progress(),
                    order => if let Some(key) = self.take(order)
                        && let Some(entry) = self.watches.get(&key)
                    {
                        on.create(key, entry);
                    },
                },
                Some(Ok(key)) = self.full.join_next() => {
                    self.has_room(key);
                    if let Some(entry) = self.watches.get(&key) {
                        on.create(key, entry);
                    }
                }
                // Another endpoint came into use: this stream's failed, or the client is at home again.
                _ = current.changed() => return,
                _ = forget.tick() => for id in self.forget_dropped() {
                    on.cancel(id);
                },
                () = sleep_until(quiet_until) => {
                    let endpoint = stream.endpoint();
                    if endpoint.health(Instant::now()).await.is_none() {
                        self.client.balance().failed(endpoint, Failing::Silent);
                        return;
                    }
                    // Moves the places from which the watches go on.
                    on.ask_for_progress();
                    quiet_until = Instant::now() + QUIET;
                }
            }
        }
    }

    /// All watches that have room, of which the first was asked for when the stream was opened.
    fn asked_for(&self, first: u64) -> OnStream {
        let mut on = OnStream { asked: VecDeque::from([first]), ..OnStream::default() };
        let others =
            self.watches.iter().filter(|(key, entry)| **key != first && !entry.waits_for_room);
        for (key, entry) in others {
            on.create(*key, entry);
        }
        on
    }

    /// Takes up a watch; answers its key.
    fn take(&mut self, order: Order) -> Option<u64> {
        let Order::Watch { request, ready } = order else { return None };
        if self.watches.len() >= WATCHES_MAX {
            let text = format!("a client has at most {WATCHES_MAX} watches");
            let _gone = ready.send(Err(Error::Refused { code: Code::ResourceExhausted, text }));
            return None;
        }
        let (updates, reader) = mpsc::channel(UPDATES_MAX);
        let asker = Some(Asker { ready, updates: reader });
        let follow = Follow::new(request);
        self.next_key += 1;
        self.watches.insert(
            self.next_key,
            Entry { follow, updates, asker, on_stream: None, waits_for_room: false },
        );
        Some(self.next_key)
    }

    fn answer(&mut self, on: &mut OnStream, answer: WatchAnswer) {
        match answer {
            WatchAnswer::Created(response) => {
                let Some(key) = on.asked.pop_front() else { return };
                match self.watches.get_mut(&key) {
                    Some(entry) => {
                        entry.created(&response);
                        on.by_id.insert(response.watch_id, key);
                    }
                    None => on.cancel(response.watch_id),
                }
            }
            WatchAnswer::Ended { reason, response } => {
                let key = match response.created {
                    true => on.asked.pop_front(),
                    false => on.by_id.remove(&response.watch_id),
                };
                if let Some(key) = key {
                    self.end(key, reason);
                }
            }
            WatchAnswer::Progress(response) if response.watch_id == EVERY_WATCH => {
                for key in on.by_id.values() {
                    if let Some(entry) = self.watches.get_mut(key) {
                        entry.hand_on(response.clone());
                    }
                }
            }
            WatchAnswer::Events(response) | WatchAnswer::Progress(response) => {
                let id = response.watch_id;
                let Some(key) = on.by_id.get(&id).copied() else { return };
                let Some(entry) = self.watches.get_mut(&key) else { return };
                match entry.hand_on(response) {
                    Handed::On => return,
                    Handed::Full => {
                        entry.on_stream = None;
                        let updates = entry.updates.clone();
                        self.full.spawn(async move {
                            // Room for some; with an error the reader is gone, which shows soon.
                            let _room = updates.reserve_many(UPDATES_MAX / 2).await;
                            key
                        });
                        entry.waits_for_room = true;
                    }
                    Handed::Gone => drop(self.watches.remove(&key)),
                }
                on.by_id.remove(&id);
                on.cancel(id);
            }
        }
    }

    fn has_room(&mut self, key: u64) {
        if let Some(entry) = self.watches.get_mut(&key) {
            entry.waits_for_room = false;
        }
    }

    /// The last word of a watch.
    fn end(&mut self, key: u64, reason: WatchEnd) {
        let Some(entry) = self.watches.remove(&key) else { return };
        let last = match reason {
            WatchEnd::Compacted { revision } => Ok(Update::Resync { compacted: revision }),
            reason => Err(reason),
        };
        if let Some(asker) = entry.asker {
            asker.tell(0);
        }
        // Behind what waits to be read.
        tokio::spawn(async move {
            let _gone = entry.updates.send(last).await;
        });
    }

    /// Forgets watches whose readers are gone; answers their numbers on the stream.
    fn forget_dropped(&mut self) -> Vec<i64> {
        let dropped = self.watches.extract_if(.., |_, entry| entry.is_dropped());
        dropped.filter_map(|(_, entry)| entry.on_stream).collect()
    }
}

impl Entry {
    fn leave_stream(&mut self) {
        self.on_stream = None;
    }

    fn is_dropped(&self) -> bool {
        let asker_left = self.asker.as_ref().is_some_and(|asker| asker.ready.is_closed());
        asker_left || self.updates.is_closed()
    }

    fn created(&mut self, response: &WatchResponse) {
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        self.follow.created(revision);
        self.on_stream = Some(response.watch_id);
        if let Some(asker) = self.asker.take() {
            asker.tell(revision);
        }
    }

    fn hand_on(&mut self, response: WatchResponse) -> Handed {
        let permit = match self.updates.try_reserve() {
            Ok(permit) => permit,
            // The next progress says as much.
            Err(TrySendError::Full(())) if response.events.is_empty() => return Handed::On,
            Err(TrySendError::Full(())) => return Handed::Full,
            Err(TrySendError::Closed(())) => return Handed::Gone,
        };
        match self.follow.take(response) {
            Some(News::Events { revision, events }) => {
                permit.send(Ok(Update::Events { revision, events }));
            }
            Some(News::Progress { revision }) => permit.send(Ok(Update::Progress { revision })),
            None => {}
        }
        Handed::On
    }
}

impl OnStream {
    fn create(&mut self, key: u64, entry: &Entry) {
        self.asked.push_back(key);
        self.to_send.push_back(RequestUnion::CreateRequest(entry.follow.request()));
    }

    fn ask_for_progress(&mut self) {
        if !std::mem::replace(&mut self.asks_for_progress, true) {
            let request = RequestUnion::ProgressRequest(WatchProgressRequest {});
            self.to_send.push_back(request);
        }
    }

    fn cancel(&mut self, watch_id: i64) {
        self.by_id.remove(&watch_id);
        self.to_send.push_back(RequestUnion::CancelRequest(WatchCancelRequest { watch_id }));
    }
}
