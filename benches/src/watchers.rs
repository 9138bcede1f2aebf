//! Watchers: any number of watches on any number of streams and connections, and what they got.
//!
//! Promises that a watch has got every event up to the last one of the run, in the order of their
//! revisions and none twice, or says which one has not. Runs on threads of its own, so that the
//! writer does not wait for the readers.

use std::pin::pin;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use kvd_proto::etcdserverpb::watch_client::WatchClient;
use kvd_proto::etcdserverpb::watch_request::RequestUnion;
use kvd_proto::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::pace::{LAST, sequence_of};
use crate::target::{connect, connect_with_small_windows};

/// How long a watcher may take to be told of the last put after it was answered.
const LAST_EVENT_MAX: Duration = Duration::from_secs(60);

/// What one watch watches.
#[derive(Clone, Debug)]
pub(crate) struct KeyRange {
    /// The first key.
    pub(crate) key: Bytes,
    /// As in a range request; empty for the key alone.
    pub(crate) range_end: Bytes,
}

/// Which watches there shall be.
pub(crate) struct Plan {
    /// The watches of each stream.
    pub(crate) streams: Vec<Vec<KeyRange>>,
    /// Members that the connections go to, in turns.
    pub(crate) urls: Vec<String>,
    /// Connections that the streams share, in turns.
    pub(crate) connections: usize,
    /// Threads of this process.
    pub(crate) threads: usize,
    /// Whether they begin without reading, over connections that hold little.
    pub(crate) reading: Reading,
}

/// Whether watchers read what is sent to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// At once.
    Now,
    /// When the run is over.
    Later,
}

/// An event that a watch got.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Receipt {
    /// Of the put.
    pub(crate) sequence: u32,
    /// When the watcher had it.
    pub(crate) at: Instant,
}

/// The receipts of every watch of a stream.
type StreamReceipts = Vec<Vec<Receipt>>;

/// Watches that are open.
pub(crate) struct Watchers {
    streams: usize,
    done: mpsc::Receiver<Result<StreamReceipts>>,
    orders: watch::Sender<Order>,
}

/// What the watchers are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Wait,
    Read,
    GiveUp,
}

impl Watchers {
    /// Opens all watches and returns when each of them is acknowledged.
    pub(crate) async fn open(plan: Plan) -> Result<Self> {
        let streams = plan.streams.len();
        let first = if plan.reading == Reading::Now { Order::Read } else { Order::Wait };
        let orders = watch::Sender::new(first);
        let (ready_sender, mut ready) = mpsc::channel(streams.max(1));
        let (done_sender, mut done) = mpsc::channel(streams.max(1));
        let threads = plan.threads.clamp(1, plan.connections.max(1));
        for (number, share) in shares(plan, threads).into_iter().enumerate() {
            let (orders, ready, done) =
                (orders.subscribe(), ready_sender.clone(), done_sender.clone());
            let name = format!("watchers-{number}");
            std::thread::Builder::new()
                .name(name)
                .spawn(move || watchers_thread(share, &orders, &ready, &done))?;
        }
        drop((ready_sender, done_sender));
        for _ in 0..streams {
            if ready.recv().await.is_none() {
                // A stream that could not be opened has said why.
                let ended = done.recv().await.context("a thread of watchers vanished")?;
                ended.context("opening a watch")?;
                bail!("a watch ended before the run");
            }
        }
        Ok(Self { streams, done, orders })
    }

    /// Waits until every watch has got the last put, and returns what each of them got.
    pub(crate) async fn finish(mut self) -> Result<Vec<Vec<Receipt>>> {
        self.orders.send_replace(Order::Read);
        let limit = tokio::time::Instant::now() + LAST_EVENT_MAX;
        let mut all = Vec::new();
        for _ in 0..self.streams {
            let done = tokio::time::timeout_at(limit, self.done.recv()).await;
            let stream = match done {
                Ok(stream) => stream,
                Err(_too_late) => {
                    self.orders.send_replace(Order::GiveUp);
                    self.done.recv().await
                }
            };
            all.extend(stream.context("a thread of watchers vanished")??);
        }
        Ok(all)
    }
}

/// The connections of one thread, each with its streams.
struct Share {
    connections: Vec<(String, Vec<Vec<KeyRange>>)>,
    reading: Reading,
}

/// Spreads the streams over the connections and the connections over members and threads, each in
/// turns.
fn shares(plan: Plan, threads: usize) -> Vec<Share> {
    let count = plan.connections.clamp(1, plan.streams.len().max(1));
    let mut connections: Vec<(String, Vec<Vec<KeyRange>>)> =
        (0..count).map(|place| (plan.urls[place % plan.urls.len()].clone(), Vec::new())).collect();
    for (place, stream) in plan.streams.into_iter().enumerate() {
        connections[place % count].1.push(stream);
    }
    let mut shares: Vec<Share> =
        (0..threads).map(|_| Share { connections: Vec::new(), reading: plan.reading }).collect();
    for (place, connection) in connections.into_iter().enumerate() {
        shares[place % threads].connections.push(connection);
    }
    shares
}

fn watchers_thread(
    share: Share,
    orders: &watch::Receiver<Order>,
    ready: &mpsc::Sender<()>,
    done: &mpsc::Sender<Result<StreamReceipts>>,
) {
    let ended = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("a runtime for watchers")
        .and_then(|runtime| runtime.block_on(watch_all(share, orders, ready, done)));
    if let Err(error) = ended {
        // Nobody listens any more only if the command was interrupted.
        let _sent = done.blocking_send(Err(error));
    }
}

async fn watch_all(
    share: Share,
    orders: &watch::Receiver<Order>,
    ready: &mpsc::Sender<()>,
    done: &mpsc::Sender<Result<StreamReceipts>>,
) -> Result<()> {
    let mut streams = JoinSet::new();
    for (url, connection) in share.connections {
        let channel = match share.reading {
            Reading::Now => connect(&url).await?,
            Reading::Later => connect_with_small_windows(&url).await?,
        };
        for ranges in connection {
            let client = WatchClient::new(channel.clone()).max_decoding_message_size(usize::MAX);
            streams.spawn(one_stream(client, ranges, ready.clone(), orders.clone()));
        }
    }
    while let Some(stream) = streams.join_next().await {
        // Nobody listens any more only if the command was interrupted.
        let _sent = done.send(stream?).await;
    }
    Ok(())
}

async fn one_stream(
    mut client: WatchClient<Channel>,
    ranges: Vec<KeyRange>,
    ready: mpsc::Sender<()>,
    mut orders: watch::Receiver<Order>,
) -> Result<StreamReceipts> {
    // One request at a time, because each is acknowledged before the next one.
    let (requests, outgoing) = mpsc::channel(1);
    let mut ranges_left = ranges.iter().zip(1..);
    let (range, id) = ranges_left.next().context("a stream without a watch")?;
    requests.send(create_request(range, id)).await?;
    let mut answers = client.watch(ReceiverStream::new(outgoing)).await?.into_inner();
    expect_created(&mut answers, id).await?;
    for (range, id) in ranges_left {
        requests.send(create_request(range, id)).await?;
        expect_created(&mut answers, id).await?;
    }
    ready.send(()).await?;
    drop(ready);
    wait_until(&mut orders, |order| order != Order::Wait).await;
    let mut log = StreamLog::new(ranges.len());
    let mut give_up = pin!(wait_until(&mut orders, |order| order == Order::GiveUp));
    while log.open > 0 {
        tokio::select! {
            answer = answers.message() => {
                log.take(answer?.context("the server ended a watch stream")?, Instant::now())?;
            }
            () = &mut give_up => bail!(
                "{} of {} watches of a stream miss the last event; the first one has {} events",
                log.open,
                ranges.len(),
                log.watches[0].receipts.len()
            ),
        }
    }
    Ok(log.watches.into_iter().map(|watch| watch.receipts).collect())
}

/// Returns when the order is such a one; a command that ended gives none any more.
async fn wait_until(orders: &mut watch::Receiver<Order>, is_it: impl Fn(Order) -> bool) {
    // An error means that the sender is gone: the command was interrupted, and nobody listens.
    let _order = orders.wait_for(|order| is_it(*order)).await;
}

fn create_request(range: &KeyRange, watch_id: i64) -> WatchRequest {
    let (key, range_end) = (range.key.clone(), range.range_end.clone());
    let create = WatchCreateRequest { key, range_end, watch_id, ..Default::default() };
    WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }
}

async fn expect_created(answers: &mut Streaming<WatchResponse>, id: i64) -> Result<()> {
    let answer = answers.message().await?.context("the server ended a watch stream")?;
    ensure!(
        answer.created && !answer.canceled && answer.watch_id == id,
        "watch {id} was not created: {answer:?}"
    );
    Ok(())
}

/// What the watches of one stream have got.
struct StreamLog {
    watches: Vec<WatchLog>,
    /// Watches that miss the last event.
    open: usize,
}

#[derive(Default)]
struct WatchLog {
    receipts: Vec<Receipt>,
    revision: i64,
    ended: bool,
}

impl StreamLog {
    fn new(watches: usize) -> Self {
        Self { watches: (0..watches).map(|_| WatchLog::default()).collect(), open: watches }
    }

    /// Takes an answer that came at this moment.
    fn take(&mut self, answer: WatchResponse, at: Instant) -> Result<()> {
        let id = answer.watch_id;
        ensure!(!answer.canceled, "the server ended watch {id}: {}", answer.cancel_reason);
        ensure!(!answer.events.is_empty(), "an answer without events for watch {id}");
        let place = usize::try_from(id - 1).unwrap_or(usize::MAX);
        let watch = self.watches.get_mut(place).with_context(|| format!("no watch {id}"))?;
        for event in answer.events {
            let kv = event.kv.context("an event without its key")?;
            let revision = kv.mod_revision;
            ensure!(
                revision > watch.revision,
                "watch {id} got revision {revision} after revision {}",
                watch.revision
            );
            watch.revision = revision;
            ensure!(!watch.ended, "watch {id} got revision {revision} after the last put");
            let sequence = sequence_of(&kv.value).context("an event of a value not ours")?;
            if sequence == LAST {
                watch.ended = true;
                self.open -= 1;
            } else {
                watch.receipts.push(Receipt { sequence, at });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use kvd_proto::mvccpb::{Event, KeyValue};

    use super::*;
    use crate::pace::value;
    use crate::workload::value_pool;

    fn answer(watch_id: i64, events: &[(i64, u32)]) -> WatchResponse {
        let event = |&(mod_revision, sequence): &(i64, u32)| {
            let value = value(&value_pool(8), 8, sequence);
            let kv = KeyValue { mod_revision, value, ..Default::default() };
            Event { kv: Some(kv), ..Default::default() }
        };
        let events = events.iter().map(event).collect();
        WatchResponse { watch_id, events, ..Default::default() }
    }

    #[test]
    fn a_stream_is_done_when_each_watch_has_the_last_put() {
        let mut log = StreamLog::new(2);
        log.take(answer(1, &[(2, 0), (3, LAST)]), Instant::now()).unwrap();
        assert_eq!(log.open, 1);
        log.take(answer(2, &[(2, 0)]), Instant::now()).unwrap();
        log.take(answer(2, &[(3, LAST)]), Instant::now()).unwrap();
        assert_eq!(log.open, 0);
        assert!(log.watches.iter().all(|watch| watch.receipts.len() == 1));
    }

    #[test]
    fn an_event_twice_or_out_of_order_or_for_nobody_is_an_error() {
        let mut log = StreamLog::new(1);
        log.take(answer(1, &[(5, 0)]), Instant::now()).unwrap();
        assert!(log.take(answer(1, &[(5, 0)]), Instant::now()).is_err());
        assert!(log.take(answer(1, &[(4, 1)]), Instant::now()).is_err());
        assert!(log.take(answer(2, &[(6, 1)]), Instant::now()).is_err());
        assert!(log.take(answer(0, &[(6, 1)]), Instant::now()).is_err());
        log.take(answer(1, &[(6, LAST)]), Instant::now()).unwrap();
        assert!(log.take(answer(1, &[(7, 2)]), Instant::now()).is_err());
    }

    #[test]
    fn streams_are_spread_over_connections_members_and_threads() {
        let range = KeyRange { key: "a".into(), range_end: Bytes::new() };
        let plan = Plan {
            streams: vec![vec![range]; 10],
            urls: vec!["one".to_owned(), "other".to_owned()],
            connections: 4,
            threads: 2,
            reading: Reading::Now,
        };
        let shares = shares(plan, 2);
        let connections: Vec<_> = shares.iter().flat_map(|share| &share.connections).collect();
        let streams: Vec<usize> = connections.iter().map(|(_, streams)| streams.len()).collect();
        assert_eq!(streams, [3, 2, 3, 2]);
        assert_eq!(connections.iter().filter(|(url, _)| url == "one").count(), 2);
    }
}
