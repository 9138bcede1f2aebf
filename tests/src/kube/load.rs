//! One apiserver's work, in a process of its own until its stdin ends: counters that all fight
//! for, objects that come and go, events with leases, a master's lease, compactions, and readers
//! who compare what the cache holds with what the store says.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::check::{COUNTERS, EVENTS, MASTERS, REGISTRY, counted};
use super::compactor::{Compactor, follow};
use super::lease::{Leases, Reuse};
use super::ledger::{Fate, Intent, Ledger, Op};
use super::reader;
use super::reflector::Reflector;
use super::requests;
use super::store::{Store, Written};

/// The environment variable that makes a process do this.
const JOB: &str = "KVD_KUBE_JOB";
/// Counters that all processes increment.
const COUNTER_KEYS: usize = 3;
/// Tasks that increment.
const INCREMENTERS: usize = 2;
/// Objects of these names are created and deleted by everybody.
const SHARED_NAMES: usize = 4;
/// Between two writes of one task.
const PACE: Duration = Duration::from_millis(10);
/// Before a task goes on after a write without an outcome.
const BACKOFF: Duration = Duration::from_millis(100);
/// Events with leases that really end during a run; kube-apiserver's own rule would take an hour.
const SHORT_EVENTS: Reuse = Reuse { ttl: 3, time: Duration::from_secs(1), objects: 10 };
/// Between two rounds of a master's lease, whose TTL is kube-apiserver's.
const MASTER_EVERY: Duration = Duration::from_secs(2);
/// Seconds.
const MASTER_TTL: i64 = 15;
/// How long a cache may take until it has everything, once the load has ended.
const LAST_WAIT: Duration = Duration::from_secs(30);

/// What one process does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its number.
    pub process: usize,
    /// The members.
    pub endpoints: Vec<String>,
    /// Between two rounds of compaction, in milliseconds.
    pub compact_every_ms: u64,
    /// Where it leaves its ledger.
    pub ledger: PathBuf,
}

impl Job {
    /// The job that this process was started for, if it was.
    pub fn of_this_process() -> Option<Self> {
        let text = std::env::var(JOB).ok()?;
        let job: Value = serde_json::from_str(&text).ok()?;
        let endpoints = job["endpoints"].as_array()?.iter();
        Some(Self {
            process: usize::try_from(job["process"].as_u64()?).ok()?,
            endpoints: endpoints.filter_map(|name| name.as_str().map(str::to_owned)).collect(),
            compact_every_ms: job["compact_every_ms"].as_u64()?,
            ledger: Path::new(job["ledger"].as_str()?).to_owned(),
        })
    }

    /// What tells a process to do it.
    pub fn environment(&self) -> (&'static str, String) {
        let job = json!({
            "process": self.process,
            "endpoints": self.endpoints,
            "compact_every_ms": self.compact_every_ms,
            "ledger": self.ledger.display().to_string(),
        });
        (JOB, job.to_string())
    }

    /// Does it until stdin ends.
    pub fn run(self) -> anyhow::Result<()> {
        let (ended, end) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let mut rest = Vec::new();
            // An error ends it as well.
            let _read = std::io::stdin().read_to_end(&mut rest);
            let _heard = ended.send(());
        });
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let path = self.ledger.clone();
        let ledger = runtime.block_on(async move {
            let apiserver = Apiserver::new(self)?;
            anyhow::Ok(apiserver.serve(end).await)
        })?;
        // Tasks that wait for a dead member are of no more use.
        runtime.shutdown_background();
        ledger.save(&path)
    }
}

/// What the tasks of one process share.
pub(super) struct Apiserver {
    job: Job,
    pub(super) store: Store,
    /// Of everything, and of the counters alone.
    pub(super) whole: Reflector,
    counters: Reflector,
    /// The newest revision that this process was told.
    pub(super) floor: AtomicI64,
    ops: Mutex<Vec<Op>>,
    next: AtomicU64,
    stop: AtomicBool,
    pub(super) reads: reader::Counts,
    goal: AtomicI64,
}

impl Apiserver {
    fn new(job: Job) -> anyhow::Result<Arc<Self>> {
        let store = Store::new(&job.endpoints, job.process)?;
        Ok(Arc::new(Self {
            job,
            store,
            whole: Reflector::new(REGISTRY, 10),
            counters: Reflector::new(COUNTERS, 10_000),
            floor: AtomicI64::new(0),
            ops: Mutex::new(Vec::new()),
            next: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            reads: reader::Counts::default(),
            goal: AtomicI64::new(0),
        }))
    }

    async fn serve(self: Arc<Self>, end: tokio::sync::oneshot::Receiver<()>) -> Ledger {
        let mut caches = JoinSet::new();
        let this = Arc::clone(&self);
        caches.spawn(async move { this.whole.run(&this.store).await });
        let this = Arc::clone(&self);
        caches.spawn(async move { this.counters.run(&this.store).await });
        let this = Arc::clone(&self);
        caches.spawn(async move {
            while !this.is_over() {
                follow(&this.store, |goal| this.goal.store(goal, Ordering::Relaxed)).await;
                sleep(BACKOFF).await;
            }
        });
        // No write before the cache is filled: the history must hold them all.
        if !self.whole.wait(1, LAST_WAIT).await || !self.counters.wait(1, LAST_WAIT).await {
            self.store.accuse("the caches were never filled".to_owned());
        }
        let mut tasks = JoinSet::new();
        for task in 0..INCREMENTERS {
            tasks.spawn(increment(Arc::clone(&self), task));
        }
        tasks.spawn(churn(Arc::clone(&self)));
        tasks.spawn(events(Arc::clone(&self)));
        tasks.spawn(master(Arc::clone(&self)));
        tasks.spawn(reader::read(Arc::clone(&self)));
        tasks.spawn(compactions(Arc::clone(&self)));
        // A parent that died has closed the pipe as well.
        let _ended = end.await;
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                self.store.accuse(format!("a task failed: {error}"));
            }
        }
        self.finish().await
    }

    /// Waits until the caches have everything, then writes down all of it.
    async fn finish(&self) -> Ledger {
        let last = match self.store.get("/registry/pods").await {
            Ok((_, revision)) => revision,
            Err(identity) => {
                self.store.accuse(format!("no revision at the end: {identity:?}"));
                0
            }
        };
        let mut ledger = Ledger::default();
        for reflector in [&self.whole, &self.counters] {
            if !reflector.wait(last, LAST_WAIT).await {
                self.store.accuse(format!("a cache never came to {last}"));
            }
            let (watched, wrong) = reflector.report();
            let name = watched.prefix.clone();
            let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            ledger.counts.push((format!("{name} resumed"), count(&reflector.resumed)));
            ledger.counts.push((format!("{name} listed again"), count(&reflector.listed_again)));
            ledger.counts.push((format!("{name} progress"), count(&reflector.progressed)));
            ledger.watches.push(watched);
            ledger.wrong.extend(wrong);
        }
        ledger.ops = std::mem::take(&mut *self.ops.lock().expect("nobody panics with it"));
        ledger.wrong.extend(self.store.wrong());
        ledger.counts.extend(self.reads.told());
        let goal = u64::try_from(self.goal.load(Ordering::Relaxed)).unwrap_or(0);
        ledger.counts.push(("followed compaction to".to_owned(), goal));
        ledger
    }

    pub(super) fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Who writes: nobody else writes this text.
    fn stamp(&self) -> String {
        format!("{}-{}", self.job.process, self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Sends one write and notes it.
    async fn write(
        &self,
        key: &str,
        intent: Intent,
        request: kvd_proto::etcdserverpb::TxnRequest,
    ) -> Written {
        let floor = self.floor.load(Ordering::Relaxed);
        let written = self.store.txn(request).await;
        let fate = match &written {
            Written::Done(revision) if *revision <= floor => {
                self.store.accuse(format!("{key} written at {revision} after {floor} was told"));
                Fate::Acked(*revision)
            }
            Written::Done(revision) => Fate::Acked(*revision),
            Written::Unknown => Fate::Unknown,
            Written::Conflict(..) | Written::Refused(_) => Fate::Failed,
        };
        if let Written::Done(revision) | Written::Conflict(_, revision) = &written {
            if *revision < floor {
                self.store.accuse(format!("{key}: told {revision} after {floor}"));
            }
            self.floor.fetch_max(*revision, Ordering::Relaxed);
        }
        let op = Op { key: key.to_owned(), intent, fate };
        self.ops.lock().expect("nobody panics with it").push(op);
        if matches!(written, Written::Unknown | Written::Refused(_)) {
            sleep(BACKOFF).await;
        }
        written
    }

    async fn create(&self, key: &str, value: &str, lease: i64) -> Written {
        let intent = Intent::Put(value.to_owned());
        self.write(key, intent, requests::create(key, value, lease)).await
    }

    async fn update(&self, key: &str, value: &str, lease: i64, since: i64) -> Written {
        let intent = Intent::Put(value.to_owned());
        self.write(key, intent, requests::update(key, value, lease, since)).await
    }

    async fn delete(&self, key: &str, since: i64) -> Written {
        self.write(key, Intent::Delete(since), requests::delete(key, since)).await
    }
}

/// Guaranteed updates: from the cache, and after a conflict from what the store answered.
async fn increment(this: Arc<Apiserver>, task: usize) {
    let mut rng = StdRng::seed_from_u64((this.job.process * INCREMENTERS + task) as u64);
    while !this.is_over() {
        let key = format!("{COUNTERS}counter-{}", rng.random_range(0..COUNTER_KEYS));
        let cached = this.counters.get(&key).map(|held| (held.value, held.changed));
        let Some(mut known) = cached else {
            // Everybody tries; one creates it.
            let value = format!("0 {}", this.stamp());
            this.create(&key, &value, 0).await;
            sleep(PACE).await;
            continue;
        };
        loop {
            let (value, since) = &known;
            let number = counted(value).unwrap_or(u64::MAX - 1) + 1;
            let value = format!("{number} {}", this.stamp());
            match this.update(&key, &value, 0, *since).await {
                Written::Conflict(Some(kv), _) if kv.mod_revision == *since => {
                    this.store.accuse(format!("{key} conflicts at {since}, but is there: {kv:?}"));
                    break;
                }
                Written::Conflict(Some(kv), _) => {
                    known = (super::change::text(&kv.value), kv.mod_revision);
                }
                Written::Conflict(None, _) => {
                    this.store.accuse(format!("{key} is gone, but nobody deletes it"));
                    break;
                }
                _ => break,
            }
        }
        sleep(PACE).await;
    }
}

/// Objects that are created, updated and deleted; some by everybody at once.
async fn churn(this: Arc<Apiserver>) {
    let mut rng = StdRng::seed_from_u64(this.job.process as u64);
    while !this.is_over() {
        let stamp = this.stamp();
        let shared = rng.random_range(0..SHARED_NAMES);
        let is_shared = rng.random_bool(0.5);
        let name = if is_shared { format!("shared-{shared}") } else { format!("p{stamp}") };
        let key = format!("/registry/pods/ns-{}/{name}", shared % 2);
        let mut since = match this.create(&key, &format!("created {stamp}"), 0).await {
            Written::Done(revision) => revision,
            Written::Conflict(..) => match this.store.get(&key).await {
                Ok((Some(kv), _)) => kv.mod_revision,
                _ => continue,
            },
            _ => continue,
        };
        for _ in 0..rng.random_range(0..3) {
            let value = format!("updated {}", this.stamp());
            match this.update(&key, &value, 0, since).await {
                Written::Done(revision) => since = revision,
                Written::Conflict(Some(kv), _) => since = kv.mod_revision,
                _ => break,
            }
        }
        // Some stay for the lists; the next run's conflicts delete the shared ones.
        if is_shared || rng.random_bool(0.8) {
            this.delete(&key, since).await;
        }
        sleep(PACE).await;
    }
}

/// Events: created with a lease that several share, then left alone.
async fn events(this: Arc<Apiserver>) {
    let mut leases = Leases::new(SHORT_EVENTS);
    while !this.is_over() {
        if let Ok(lease) = leases.next(&this.store).await {
            let stamp = this.stamp();
            let key = format!("{EVENTS}default/e{stamp}");
            if let Written::Refused(_) = this.create(&key, &format!("event {stamp}"), lease).await {
                leases.forget();
            }
        } else {
            sleep(BACKOFF).await;
        }
        sleep(PACE * 4).await;
    }
}

/// A master's key: a new lease and an update each round, so that it never ends.
async fn master(this: Arc<Apiserver>) {
    let key = format!("{MASTERS}10.0.0.{}", this.job.process);
    while !this.is_over() {
        let known = this.store.get(&key).await;
        if let (Ok((kv, _)), Ok(lease)) = (known, this.store.grant(MASTER_TTL).await) {
            let value = format!("master {}", this.stamp());
            match kv {
                Some(kv) => this.update(&key, &value, lease, kv.mod_revision).await,
                None => this.create(&key, &value, lease).await,
            };
        }
        sleep(MASTER_EVERY).await;
    }
}

async fn compactions(this: Arc<Apiserver>) {
    let mut compactor = Compactor::default();
    while !this.is_over() {
        compactor.round(&this.store).await;
        sleep(Duration::from_millis(this.job.compact_every_ms)).await;
    }
    this.ops.lock().expect("nobody panics with it").append(&mut compactor.claims);
    this.reads.won.fetch_add(compactor.won, Ordering::Relaxed);
}
