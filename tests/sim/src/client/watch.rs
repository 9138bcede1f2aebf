//! Watches of all kinds, which break and go on at another member. Once clients are told to stop, none is given up
//! any more: whatever watch there is by then must hear of everything.

use std::time::Duration;

use kvd_check::{KeyRange, WatchId, WatchRequest};
use kvd_proto::etcdserverpb as pb;
use kvd_proto::etcdserverpb::watch_client::WatchClient;
use kvd_proto::etcdserverpb::watch_request::RequestUnion;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::{Scene, member};
use crate::convert;
use crate::machine::CLIENT_PORT;
use crate::net::channel;
use crate::record::now;

/// Requests that wait to be sent on a stream.
const REQUESTS: usize = 8;

/// How long a stream may take to be opened.
const OPENING: Duration = Duration::from_secs(2);

/// A stream with one watch.
pub struct Stream {
    requests: mpsc::Sender<pb::WatchRequest>,
    responses: Streaming<pb::WatchResponse>,
}

impl Stream {
    /// Opens a stream to a member, and the watch on it.
    ///
    /// # Errors
    /// If the member does not answer, or refuses.
    pub async fn open(host: &str, request: &WatchRequest) -> Result<Self, Status> {
        let (requests, sent) = mpsc::channel(REQUESTS);
        let create = RequestUnion::CreateRequest(convert::watch(request));
        let create = pb::WatchRequest { request_union: Some(create) };
        requests.send(create).await.map_err(|_closed| Status::cancelled("closed"))?;
        let mut client = WatchClient::new(channel(host, CLIENT_PORT));
        let sent = tokio_stream::wrappers::ReceiverStream::new(sent);
        let opened = tokio::time::timeout(OPENING, client.watch(sent)).await;
        let opened = opened.map_err(|_elapsed| Status::deadline_exceeded("no answer"))?;
        Ok(Self { requests, responses: opened?.into_inner() })
    }

    /// The next response.
    ///
    /// # Errors
    /// When the stream breaks.
    pub async fn next(&mut self) -> Result<Option<pb::WatchResponse>, Status> {
        self.responses.message().await
    }

    /// Asks how far the watch is.
    pub async fn ask_progress(&self) {
        let ask = RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
        // A broken stream is noticed where it is read.
        let _broken = self.requests.send(pb::WatchRequest { request_union: Some(ask) }).await;
    }
}

/// How a stream ended.
enum End {
    /// It broke, or its client had enough; the next revision is known.
    Broken(Option<i64>),
    /// The server ended it.
    Canceled,
}

/// Watches until all is over.
pub async fn work(scene: Scene, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    while !scene.is_over() {
        scene.pause(&mut rng).await;
        let mut request = draw(&scene, &mut rng);
        let mut lives: u32 = rng.random_range(1..6);
        while lives > 0 || !scene.goes_on() {
            lives = lives.saturating_sub(1);
            let watch = scene.record.watch(&request);
            let end = live(&scene, &mut rng, watch, &request).await;
            scene.record.watch_end(watch);
            let End::Broken(Some(next)) = end else { break };
            let at = rng.random_range(0..scene.members.len());
            let resumes = Some(watch);
            request = WatchRequest { member: member(at), start_revision: next, resumes, ..request };
            scene.pause(&mut rng).await;
        }
    }
}

fn draw(scene: &Scene, rng: &mut StdRng) -> WatchRequest {
    let keys = match rng.random_range(0..4) {
        0 => KeyRange::one(format!("k/{}", rng.random_range(0..6))),
        1 => KeyRange::prefix(b"k/"),
        2 => KeyRange::between("k/3", "m"),
        _ => KeyRange::all(),
    };
    let newest = scene.record.newest();
    let start_revision = match rng.random_range(0..4) {
        0 | 1 => 0,
        2 => (newest - rng.random_range(0..80)).max(1),
        _ => newest + rng.random_range(1..10),
    };
    let at = rng.random_range(0..scene.members.len());
    WatchRequest {
        no_put: rng.random_bool(0.1),
        no_delete: rng.random_bool(0.1),
        prev_kv: rng.random_bool(0.5),
        fragment: rng.random_bool(0.2),
        ..WatchRequest::of(member(at), keys, start_revision)
    }
}

/// One stream's life; returns how it ended.
async fn live(scene: &Scene, rng: &mut StdRng, watch: WatchId, request: &WatchRequest) -> End {
    let mut next = (request.start_revision > 0).then_some(request.start_revision);
    let at = usize::try_from(request.member - 1).unwrap_or(0);
    let Ok(mut stream) = Stream::open(scene.members[at], request).await else {
        return End::Broken(next);
    };
    let enough = tokio::time::Instant::now() + Duration::from_millis(rng.random_range(100..3000));
    loop {
        if rng.random_bool(0.35) {
            stream.ask_progress().await;
        }
        let next_one = tokio::select! {
            biased;
            next_one = stream.next() => next_one,
            () = enough_of(scene, enough) => break,
        };
        let Ok(Some(response)) = next_one else { break };
        let response = convert::watch_response(now(), &response);
        let (newest, whole) = (response.revision, !response.fragment);
        let last = response.events.last().map(|event| event.kv.mod_revision);
        let (canceled, created) = (response.canceled, response.created);
        let compacted = response.compact_revision;
        let progress = response.is_progress();
        scene.record.watch_response(watch, response);
        if canceled {
            assert!(compacted > 0, "a watch was ended without a reason");
            return End::Canceled;
        }
        // What is known to be complete: a header says so only where nothing else waits to be sent.
        next = match last {
            Some(last) if whole => Some(last + 1),
            None if progress => Some(next.unwrap_or(0).max(newest + 1)),
            None if created && next.is_none() => Some(newest + 1),
            _ => next,
        };
    }
    End::Broken(next)
}

/// The moment at which a client has enough; it never has once clients were told to stop.
async fn enough_of(scene: &Scene, enough: tokio::time::Instant) {
    tokio::time::sleep_until(enough).await;
    if !scene.goes_on() {
        std::future::pending::<()>().await;
    }
}
