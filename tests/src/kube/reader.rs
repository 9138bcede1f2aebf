//! Reads of all kinds, each judged by what is known: consistent lists from the cache, lists in
//! pages, counts, keys, and readers who come too late or too early.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kvd_proto::etcdserverpb as pb;
use tokio::time::sleep;

use super::cache::{Cache, Heard};
use super::change::{Held, text};
use super::check::REGISTRY;
use super::identity::Identity;
use super::load::Apiserver;
use super::reflector::open;
use super::requests;
use super::store::Paging;

/// How long a consistent list waits for the cache before it asks the store.
const CACHE_WAIT: Duration = Duration::from_secs(3);
/// Between two rounds.
const PACE: Duration = Duration::from_millis(50);
/// Before a read that failed is tried again.
const BACKOFF: Duration = Duration::from_millis(100);

/// How often what happened.
#[derive(Debug, Default)]
pub(super) struct Counts {
    consistent: AtomicU64,
    fell_back: AtomicU64,
    compared: AtomicU64,
    too_late: AtomicU64,
    too_early: AtomicU64,
    late_watches: AtomicU64,
    /// Compactions that this process claimed.
    pub(super) won: AtomicU64,
}

impl Counts {
    /// All of it, by name.
    pub(super) fn told(&self) -> Vec<(String, u64)> {
        let all = [
            ("consistent lists from cache", &self.consistent),
            ("fell back to the store", &self.fell_back),
            ("caches compared with a list", &self.compared),
            ("lists at compacted revisions", &self.too_late),
            ("lists at future revisions", &self.too_early),
            ("watches at compacted revisions", &self.late_watches),
            ("claims won", &self.won),
        ];
        all.iter().map(|(name, n)| ((*name).to_owned(), n.load(Ordering::Relaxed))).collect()
    }
}

/// Reads until told to stop.
pub(super) async fn read(this: Arc<Apiserver>) {
    let mut round = 0_u64;
    let mut old = 0;
    while !this.is_over() {
        round += 1;
        if consistent_list(&this).await.is_none() {
            sleep(BACKOFF).await;
            continue;
        }
        match round % 10 {
            2 => compare(&this).await,
            4 => count_and_keys(&this).await,
            6 => too_early(&this).await,
            8 => {
                // The same one until it is compacted.
                if too_late(&this, old).await || old == 0 {
                    old = this.whole.snapshot().1;
                }
                watch_too_late(&this).await;
            }
            _ => {}
        }
        sleep(PACE).await;
    }
}

/// The store's revision, then the cache once it is there: it holds everything that was told before.
async fn consistent_list(this: &Apiserver) -> Option<()> {
    let floor = this.floor.load(Ordering::Relaxed);
    let (_, revision) = this.store.get("/registry/pods").await.ok()?;
    if revision < floor {
        this.store.accuse(format!("stale: the store is at {revision} after {floor} was told"));
    }
    this.floor.fetch_max(revision, Ordering::Relaxed);
    if this.whole.wait(revision, CACHE_WAIT).await {
        this.reads.consistent.fetch_add(1, Ordering::Relaxed);
    } else {
        this.reads.fell_back.fetch_add(1, Ordering::Relaxed);
    }
    Some(())
}

/// What the apiserver's consistency checker does: lists the whole of it at the cache's revision.
async fn compare(this: &Apiserver) {
    let (held, revision) = this.whole.snapshot();
    let listed = match this.store.list(REGISTRY, 20, revision, Paging::Count).await {
        Ok(listed) => listed,
        // Compacted meanwhile, or nobody leads.
        Err(Identity::Compacted | Identity::Unavailable | Identity::Transport) => return,
        Err(identity) => {
            this.store.accuse(format!("a list at {revision} failed: {identity:?}"));
            return;
        }
    };
    this.reads.compared.fetch_add(1, Ordering::Relaxed);
    let found: Vec<(String, Held)> =
        listed.kvs.iter().map(|kv| (text(&kv.key), Held::of(kv))).collect();
    let held: Vec<(String, Held)> = held.into_iter().collect();
    if found != held {
        let odd: Vec<_> = found.iter().filter(|pair| !held.contains(pair)).take(3).collect();
        let other: Vec<_> = held.iter().filter(|pair| !found.contains(pair)).take(3).collect();
        this.store.accuse(format!("at {revision} the list has {odd:?}, the cache {other:?}"));
    }
}

/// Count and keys are those of a list at the same revision, the health key reads as absent.
async fn count_and_keys(this: &Apiserver) {
    let prefix = "/registry/pods/";
    let Ok(keys) = this.store.range(requests::keys(prefix)).await else { return };
    if keys.kvs.iter().any(|kv| !kv.value.is_empty()) || keys.more {
        this.store.accuse(format!("keys with values, or not all: {keys:?}"));
    }
    let revision = keys.header.map_or(0, |header| header.revision);
    let count = pb::RangeRequest { revision, ..requests::count(prefix) };
    let Ok(counted) = this.store.range(count).await else { return };
    if usize::try_from(counted.count) != Ok(keys.kvs.len()) {
        this.store.accuse(format!("{} keys, but a count of {}", keys.kvs.len(), counted.count));
    }
    if let Ok((Some(kv), _)) = this.store.get(requests::HEALTH_KEY).await {
        this.store.accuse(format!("the health key holds {kv:?}"));
    }
}

/// A revision that is not there yet: an error, with its identity.
async fn too_early(this: &Apiserver) {
    let revision = i64::MAX / 2;
    match this.store.range(requests::page(REGISTRY, None, 1, revision)).await {
        Err(Identity::Future) => {
            this.reads.too_early.fetch_add(1, Ordering::Relaxed);
        }
        Err(identity) if identity.is_worth_reading_again() => {}
        other => this.store.accuse(format!("a list at {revision} gives {other:?}")),
    }
}

/// A page of a list that began long ago; whether its revision is gone.
async fn too_late(this: &Apiserver, old: i64) -> bool {
    if old == 0 {
        return false;
    }
    match this.store.range(requests::page(REGISTRY, None, 1, old)).await {
        Err(Identity::Compacted) => {
            this.reads.too_late.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        Ok(_) => {}
        Err(identity) if identity.is_worth_reading_again() => {}
        Err(identity) => this.store.accuse(format!("a list at {old} failed with {identity:?}")),
    }
    false
}

/// A watch from the oldest revision: 410 Gone.
async fn watch_too_late(this: &Apiserver) {
    // Revision 1 is gone with the first compaction; before it there is nothing to tell.
    match this.store.range(requests::page(REGISTRY, None, 1, 1)).await {
        Err(Identity::Compacted) => {}
        _ => return,
    }
    let mut cache = Cache::new(REGISTRY);
    cache.fill(&[], 0);
    cache.begin_stream();
    let watch = requests::watch(REGISTRY, 1);
    let Ok((_requests, mut stream)) = open(&this.store, watch).await else { return };
    while let Ok(Some(response)) = stream.message().await {
        match cache.take(&response) {
            Heard::Created => {}
            Heard::Compacted(_) => {
                this.reads.late_watches.fetch_add(1, Ordering::Relaxed);
                break;
            }
            // A watch is served by whichever member it reached, and that one may not have applied the
            // compaction yet: then it tells what it still has.
            Heard::Events => break,
            other => {
                this.store.accuse(format!("a watch from 1 tells {other:?}: {response:?}"));
                break;
            }
        }
    }
    for wrong in cache.wrong() {
        this.store.accuse(wrong.clone());
    }
}
