//! Watches by the thousand, of clients that vanish, without a leader, and on a member that was away (behaviour.md
//! §3).

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use kvd_client::proto::etcdserverpb::watch_client::WatchClient;
use kvd_client::proto::etcdserverpb::watch_request::RequestUnion;
use kvd_client::proto::etcdserverpb::{
    CompactionRequest, WatchCreateRequest, WatchRequest, WatchResponse,
};
use kvd_tests::cluster::process::{Cluster, Program};
use kvd_tests::fault::caller::Caller;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};

use crate::away::{metric, sent_bytes};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Watches, on one stream and each on its own.
const MANY: usize = 10_000;
/// Streams on one connection.
const STREAMS_PER_CONNECTION: usize = 500;
/// A log that forgets after a few entries.
const FORGETFUL: [&str; 2] = ["--snapshot-count=100", "--snapshot-catchup-entries=10"];

/// One stream of watches.
struct Stream {
    requests: mpsc::Sender<WatchRequest>,
    responses: Streaming<WatchResponse>,
}

impl Stream {
    async fn open(channel: &Channel, wants_leader: bool) -> Result<Self, Status> {
        let (requests, queue) = mpsc::channel::<WatchRequest>(64);
        let queue = futures_util::stream::unfold(queue, |mut queue| async {
            queue.recv().await.map(|request| (request, queue))
        });
        let mut request = Request::new(queue);
        if wants_leader {
            let wish = "true".parse().map_err(|_| Status::internal("ASCII"))?;
            request.metadata_mut().insert("hasleader", wish);
        }
        let mut client = WatchClient::new(channel.clone()).max_decoding_message_size(usize::MAX);
        let responses = client.watch(request).await?.into_inner();
        Ok(Self { requests, responses })
    }

    async fn create(&self, key: &str, start_revision: i64) -> anyhow::Result<()> {
        let key = key.to_owned().into();
        let create = WatchCreateRequest { key, start_revision, ..Default::default() };
        let request_union = Some(RequestUnion::CreateRequest(create));
        Ok(self.requests.send(WatchRequest { request_union }).await?)
    }

    /// The next response; an error where none comes.
    async fn next(&mut self) -> anyhow::Result<Result<WatchResponse, Status>> {
        let message = tokio::time::timeout(PATIENCE, self.responses.message()).await;
        match message.context("nothing came")? {
            Ok(Some(response)) => Ok(Ok(response)),
            Ok(None) => anyhow::bail!("the stream ended without a word"),
            Err(status) => Ok(Err(status)),
        }
    }

    async fn response(&mut self) -> anyhow::Result<WatchResponse> {
        Ok(self.next().await??)
    }

    async fn created(&mut self) -> anyhow::Result<WatchResponse> {
        let response = self.response().await?;
        ensure!(response.created && !response.canceled, "{response:?}");
        Ok(response)
    }
}

fn runtime() -> anyhow::Result<Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

async fn connect(endpoint: &str) -> anyhow::Result<Channel> {
    Ok(Endpoint::from_shared(endpoint.to_owned())?.connect().await?)
}

/// Waits until a member has so many watches.
fn wait_watchers(endpoint: &str, count: u64) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let now = metric(endpoint, "etcd_debugging_mvcc_watcher_total")?;
        if now == Some(count) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{now:?} watches for ever, not {count}");
    }
}

/// Ten thousand on one stream, and as many with a stream of their own; all of them see what is theirs, and
/// when their clients go nothing of them stays.
#[test]
fn ten_thousand_watches_on_one_stream_and_on_as_many() -> anyhow::Result<()> {
    let cluster = Cluster::start(&Program::kvd()?, 1, &[])?;
    let endpoint = cluster.endpoints()[0].clone();
    let caller = Caller::new(&cluster.endpoints())?;
    let runtime = runtime()?;
    let mut one = runtime.block_on(async {
        let mut stream = Stream::open(&connect(&endpoint).await?, false).await?;
        for number in 0..MANY {
            stream.create(&format!("many/{number}"), 0).await?;
            ensure!(stream.created().await?.watch_id == i64::try_from(number)?);
        }
        anyhow::Ok(stream)
    })?;
    let mut streams = runtime.block_on(async {
        let mut streams = Vec::new();
        for number in 0..MANY {
            if number % STREAMS_PER_CONNECTION == 0 {
                streams.push((connect(&endpoint).await?, Vec::new()));
            }
            let Some((channel, open)) = streams.last_mut() else { continue };
            let mut stream = Stream::open(channel, false).await?;
            stream.create("all", 0).await?;
            stream.created().await?;
            open.push(stream);
        }
        anyhow::Ok(streams)
    })?;
    wait_watchers(&endpoint, 2 * MANY as u64)?;
    let begun = Instant::now();
    let mine = caller.put("many/7777", "v")?;
    let all = caller.put("all", "v")?;
    runtime.block_on(async {
        let response = one.response().await?;
        ensure!(response.watch_id == 7777 && response.events.len() == 1, "{response:?}");
        ensure!(response.header.is_some_and(|header| header.revision == mine));
        for stream in streams.iter_mut().flat_map(|(_, open)| open) {
            let response = stream.response().await?;
            ensure!(response.events.len() == 1, "{response:?}");
            ensure!(response.header.is_some_and(|header| header.revision == all));
        }
        anyhow::Ok(())
    })?;
    eprintln!("{MANY} streams had their event after {:?}", begun.elapsed());
    drop((one, streams));
    drop(runtime);
    wait_watchers(&endpoint, 0)
}

/// A client that falls silent without closing: its connection is asked whether it lives, and nothing of it
/// stays.
#[test]
fn a_client_that_falls_silent_leaves_nothing() -> anyhow::Result<()> {
    let flags = ["--grpc-keepalive-interval=1s", "--grpc-keepalive-timeout=1s"];
    let cluster = Cluster::start(&Program::kvd()?, 1, &flags.map(str::to_owned))?;
    let endpoint = cluster.endpoints()[0].clone();
    // A runtime that does not run is a client that neither reads nor answers.
    let silent = runtime()?;
    let stream = silent.block_on(async {
        let mut stream = Stream::open(&connect(&endpoint).await?, false).await?;
        stream.create("k", 0).await?;
        stream.created().await?;
        anyhow::Ok(stream)
    })?;
    wait_watchers(&endpoint, 1)?;
    wait_watchers(&endpoint, 0)?;
    ensure!(metric(&endpoint, "etcd_debugging_mvcc_watch_stream_total")? == Some(0));
    drop(stream);
    Ok(())
}

/// A client that creates watches and reads no answer is not read either: what it costs is bounded, and nobody
/// else waits.
#[test]
fn a_flood_of_creates_waits_for_its_own_client() -> anyhow::Result<()> {
    let cluster = Cluster::start(&Program::kvd()?, 1, &[])?;
    let endpoint = cluster.endpoints()[0].clone();
    let caller = Caller::new(&cluster.endpoints())?;
    let runtime = runtime()?;
    let (flood, sent, mut other) = runtime.block_on(async {
        let flood = Stream::open(&connect(&endpoint).await?, false).await?;
        let mut sent = 0;
        while sent < 10 * MANY {
            let create = flood.create("k", 0);
            if tokio::time::timeout(Duration::from_secs(2), create).await.is_err() {
                break;
            }
            sent += 1;
        }
        let mut other = Stream::open(&connect(&endpoint).await?, false).await?;
        other.create("k", 0).await?;
        other.created().await?;
        anyhow::Ok((flood, sent, other))
    })?;
    let watchers = metric(&endpoint, "etcd_debugging_mvcc_watcher_total")?.unwrap_or(0);
    eprintln!("{sent} creates were sent, {watchers} are watches");
    // As many as fit their answers into what the connection holds for a client that does not read.
    ensure!(watchers < 2 * MANY as u64, "{watchers} watches of {sent} creates");
    let revision = caller.put("k", "v")?;
    let response = runtime.block_on(other.response())?;
    ensure!(response.header.is_some_and(|header| header.revision == revision), "{response:?}");
    drop((flood, other, runtime));
    wait_watchers(&endpoint, 0)
}

/// A request that cannot be read ends the stream in etcd's words: nobody waits for an answer to it for ever.
#[test]
fn a_request_that_is_too_large_ends_the_stream() -> anyhow::Result<()> {
    let cluster = Cluster::start(&Program::kvd()?, 1, &[])?;
    let endpoint = cluster.endpoints()[0].clone();
    let runtime = runtime()?;
    let ended = runtime.block_on(async {
        let mut stream = Stream::open(&connect(&endpoint).await?, false).await?;
        stream.create("k", 0).await?;
        stream.created().await?;
        stream.create(&"k".repeat(3 << 20), 0).await?;
        stream.next().await
    })?;
    let status = ended.err().context("an answer to what is too large")?;
    ensure!(status.code() == Code::ResourceExhausted, "{status:?}");
    let text = status.message();
    ensure!(text.starts_with("grpc: received message larger than max ("), "{status:?}");
    ensure!(text.ends_with(" vs. 2097152)"), "{status:?}");
    wait_watchers(&endpoint, 0)
}

/// Rule W29: who asked for a leader is told that there is none; the others go on when there is one again.
#[test]
fn a_stream_ends_without_a_leader_if_it_asked_for_one() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&Program::kvd()?, 3, &[])?;
    let endpoint = cluster.endpoints()[0].clone();
    let caller = Caller::new(&cluster.endpoints())?;
    let runtime = runtime()?;
    let (mut with, mut without) = runtime.block_on(async {
        let channel = connect(&endpoint).await?;
        let mut with = Stream::open(&channel, true).await?;
        let mut without = Stream::open(&channel, false).await?;
        for stream in [&mut with, &mut without] {
            stream.create("k", 0).await?;
            stream.created().await?;
        }
        anyhow::Ok((with, without))
    })?;
    cluster.member(1).kill()?;
    cluster.member(2).kill()?;
    let ended = runtime.block_on(with.next())?;
    let status = ended.err().context("an event without a leader")?;
    ensure!(status.code() == Code::Unavailable, "{status:?}");
    ensure!(status.message() == "etcdserver: no leader", "{status:?}");
    let refused = runtime.block_on(async {
        let channel = connect(&endpoint).await?;
        anyhow::Ok(Stream::open(&channel, true).await.err())
    })?;
    let refused = refused.context("a stream that wants a leader was opened without one")?;
    ensure!(refused.message() == "etcdserver: no leader", "{refused:?}");
    cluster.member(1).spawn()?;
    cluster.member(2).spawn()?;
    let revision = caller.put("k", "again")?;
    let response = runtime.block_on(without.response())?;
    ensure!(response.header.is_some_and(|header| header.revision == revision), "{response:?}");
    Ok(())
}

/// A member that stood still for longer than the log is kept takes a snapshot: its watches miss nothing, and
/// those whose history is gone are told so (behaviour.md §3.6).
#[test]
fn watches_outlive_the_snapshot_of_their_member() -> anyhow::Result<()> {
    for compacts in [false, true] {
        let cluster = Cluster::start(&Program::kvd()?, 3, &FORGETFUL.map(str::to_owned))?;
        let endpoints = cluster.endpoints();
        let caller = Caller::new(&endpoints)?;
        let follower = (caller.leader()? + 1) % 3;
        let runtime = runtime()?;
        let first = caller.put("k", "0")?;
        let mut stream = runtime.block_on(async {
            let mut stream = Stream::open(&connect(&endpoints[follower]).await?, false).await?;
            stream.create("k", first).await?;
            stream.created().await?;
            stream.response().await?;
            anyhow::Ok(stream)
        })?;
        let before = sent_bytes(&cluster)?;
        cluster.members()[follower].pause()?;
        let mut others = endpoints.clone();
        others.remove(follower);
        let elsewhere = Caller::new(&others)?;
        let mut expected = Vec::new();
        // Until the log before has been let go.
        for number in 0..3000 {
            expected.push(elsewhere.put("k", format!("{number}"))?);
        }
        let last = *expected.last().context("something was written")?;
        if compacts {
            let request = CompactionRequest { revision: last, physical: false };
            elsewhere.run(|client| async move { client.compact(request).await })?;
        }
        cluster.members()[follower].resume()?;
        let seen = runtime.block_on(until(&mut stream, last))?;
        let sent = sent_bytes(&cluster)? - before;
        ensure!(sent > 0, "no snapshot was sent: the log still had it");
        match seen {
            Seen::Events(seen) => {
                ensure!(seen == expected, "{} events of {}", seen.len(), expected.len());
                ensure!(!compacts, "events that were compacted");
            }
            Seen::Compacted(mark) => ensure!(compacts && mark == last, "compacted at {mark}"),
        }
        eprintln!("compacted {compacts}: snapshots of {sent} bytes");
    }
    Ok(())
}

enum Seen {
    Events(Vec<i64>),
    Compacted(i64),
}

async fn until(stream: &mut Stream, last: i64) -> anyhow::Result<Seen> {
    let mut revisions = Vec::new();
    while revisions.last() != Some(&last) {
        let response = stream.response().await?;
        if response.canceled {
            return Ok(Seen::Compacted(response.compact_revision));
        }
        let kvs = response.events.iter().filter_map(|event| event.kv.as_ref());
        revisions.extend(kvs.map(|kv| kv.mod_revision));
    }
    Ok(Seen::Events(revisions))
}
