//! What fills a watch cache and keeps it fresh: a list at one revision, a watch from the next one,
//! again from the resume point when the stream ends, from a new list when history is gone
//! (kube-apiserver.md §2, §3).

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream;
use kvd_proto::etcdserverpb as pb;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;

use super::cache::{Cache, Heard};
use super::change::Held;
use super::identity::Identity;
use super::ledger::Watched;
use super::requests;
use super::store::{Listed, Paging, ReadResult, Store};

/// How often progress is asked for while a reader waits.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// Requests on the way to a stream.
const REQUESTS_MAX: usize = 16;
/// How long the Go client waits before it opens a broken stream again.
const BACKOFF: Duration = Duration::from_millis(100);

/// A cache and the stream that keeps it.
#[derive(Debug)]
pub struct Reflector {
    prefix: String,
    /// Keys of one page of the list.
    limit: i64,
    cache: Mutex<Cache>,
    /// The cache's revision, for those who wait.
    fresh: watch::Sender<i64>,
    /// To the stream there is now.
    requests: Mutex<Option<mpsc::Sender<pb::WatchRequest>>>,
    /// Streams that ended and were resumed.
    pub resumed: AtomicU64,
    /// Lists after the first.
    pub listed_again: AtomicU64,
    /// Progress responses.
    pub progressed: AtomicU64,
}

/// Why a stream is over.
enum End {
    /// It can be resumed.
    Resume,
    /// A list is needed.
    List,
}

impl Reflector {
    /// One of this prefix, not yet filled.
    pub fn new(prefix: &str, limit: i64) -> Self {
        Self {
            prefix: prefix.to_owned(),
            limit,
            cache: Mutex::new(Cache::new(prefix)),
            fresh: watch::Sender::new(0),
            requests: Mutex::new(None),
            resumed: AtomicU64::new(0),
            listed_again: AtomicU64::new(0),
            progressed: AtomicU64::new(0),
        }
    }

    /// Lists and watches for ever.
    pub async fn run(&self, store: &Store) {
        let mut first = true;
        loop {
            match self.list(store).await {
                Ok(listed) => {
                    self.with_cache(|cache| cache.fill(&listed.kvs, listed.revision));
                    self.fresh.send_replace(listed.revision);
                }
                Err(identity) => {
                    if !identity.is_worth_reading_again() && identity != Identity::Compacted {
                        store.accuse(format!("{}: a list failed: {identity:?}", self.prefix));
                    }
                    sleep(BACKOFF).await;
                    continue;
                }
            }
            if !std::mem::take(&mut first) {
                self.listed_again.fetch_add(1, Ordering::Relaxed);
            }
            while let End::Resume = self.watch(store).await {
                self.resumed.fetch_add(1, Ordering::Relaxed);
                sleep(BACKOFF).await;
            }
        }
    }

    /// Waits until it holds everything up to `revision`, asking for progress meanwhile. Whether it
    /// came that far in time.
    pub async fn wait(&self, revision: i64, limit: Duration) -> bool {
        let mut fresh = self.fresh.subscribe();
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            let reached = fresh.wait_for(|held| *held >= revision);
            if timeout(ASK_EVERY, reached).await.is_ok() {
                return true;
            }
            let requests = self.requests.lock().expect("nobody panics while holding it").clone();
            if let Some(requests) = requests {
                // Full or closed: the next tick asks again.
                let _asked = requests.try_send(requests::progress());
            }
        }
        false
    }

    /// What it holds of one key.
    pub fn get(&self, key: &str) -> Option<Held> {
        self.with_cache(|cache| cache.get(key).cloned())
    }

    /// All that it holds, and as of which revision.
    pub fn snapshot(&self) -> (BTreeMap<String, Held>, i64) {
        self.with_cache(|cache| cache.snapshot())
    }

    /// Its history and every breach.
    pub fn report(&self) -> (Watched, Vec<String>) {
        self.with_cache(|cache| {
            let segments = cache.segments().to_vec();
            (Watched { prefix: self.prefix.clone(), segments }, cache.wrong().to_vec())
        })
    }

    /// As a stream where the server has one, else in pages by the flag `more`.
    async fn list(&self, store: &Store) -> ReadResult<Listed> {
        let request = requests::page(&self.prefix, None, 0, 0);
        match store.range_stream(request).await? {
            Some(listed) => Ok(listed),
            None => store.list(&self.prefix, self.limit, 0, Paging::More).await,
        }
    }

    async fn watch(&self, store: &Store) -> End {
        let start = self.with_cache(|cache| {
            cache.begin_stream();
            cache.resume_point()
        });
        let (requests, stream) = match open(store, requests::watch(&self.prefix, start)).await {
            Ok(opened) => opened,
            Err(status) => return self.ended(store, &status),
        };
        *self.requests.lock().expect("nobody panics while holding it") = Some(requests);
        let end = self.read(store, stream).await;
        *self.requests.lock().expect("nobody panics while holding it") = None;
        end
    }

    async fn read(&self, store: &Store, mut stream: tonic::Streaming<pb::WatchResponse>) -> End {
        loop {
            let response = match stream.message().await {
                Ok(Some(response)) => response,
                Ok(None) => {
                    store.accuse(format!("{}: the stream ended without a status", self.prefix));
                    return End::Resume;
                }
                Err(status) => return self.ended(store, &status),
            };
            let (heard, revision) =
                self.with_cache(|cache| (cache.take(&response), cache.revision()));
            self.fresh.send_replace(revision);
            match heard {
                Heard::Created | Heard::Events => {}
                Heard::Progress(_) => {
                    self.progressed.fetch_add(1, Ordering::Relaxed);
                }
                Heard::Compacted(_) | Heard::Broken => return End::List,
            }
        }
    }

    fn ended(&self, store: &Store, status: &Status) -> End {
        if Identity::of(status).is_worth_watching_again() {
            return End::Resume;
        }
        store.accuse(format!("{}: the stream ended with {status:?}", self.prefix));
        End::List
    }

    fn with_cache<T>(&self, use_it: impl FnOnce(&mut Cache) -> T) -> T {
        use_it(&mut self.cache.lock().expect("nobody panics while holding it"))
    }
}

/// Opens a stream with its first request on the way, as etcd answers nothing before.
pub async fn open(
    store: &Store,
    first: pb::WatchRequest,
) -> Result<(mpsc::Sender<pb::WatchRequest>, tonic::Streaming<pb::WatchResponse>), Status> {
    let (sender, receiver) = mpsc::channel(REQUESTS_MAX);
    sender.try_send(first).expect("an empty queue has room");
    let requests = stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|request| (request, receiver))
    });
    Ok((sender, store.watch(requests).await?))
}
