//! Writers that go on whatever happens, and readers among them.
//!
//! Promises that what each write was told is in the ledger, that a write's revision is above every
//! revision acknowledged before it began, and that a linearizable read sees what was acknowledged
//! before it began (behaviour.md §10.5). Never writes a key twice.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail};
use kvd_client::{Client, Error, Options};
use tokio::runtime::Builder;
use tokio::task::JoinSet;

use super::ledger::{Fate, Ledger};

/// How long a cluster may acknowledge nothing before the test gives up.
const PATIENCE: Duration = Duration::from_secs(40);
/// A write without an answer is given up after this, so that the writers end soon.
const ONE_WRITE: Duration = Duration::from_secs(3);
/// A read follows every so many writes of a writer.
const WRITES_PER_READ: u64 = 8;
/// Pause of a writer that was refused: the cluster needs the processor to recover.
const BACKOFF: Duration = Duration::from_millis(20);

/// How much is written.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Begins each key: loads on one store need different ones.
    pub prefix: String,
    /// Writers at once.
    pub writers: usize,
    /// Bytes of each value.
    pub value_bytes: usize,
}

/// A load that runs until it is stopped.
pub struct Load {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

struct Shared {
    shape: Shape,
    stop: AtomicBool,
    /// Highest revision acknowledged.
    floor: AtomicI64,
    next: AtomicU64,
    progress: Mutex<Progress>,
    acknowledged: Condvar,
}

struct Progress {
    ledger: Ledger,
    acknowledged: u64,
    wrong: Vec<String>,
}

impl Load {
    /// Starts to write to a cluster.
    pub fn start(endpoints: &[String], shape: Shape) -> anyhow::Result<Self> {
        let ledger = Ledger::new(shape.value_bytes);
        let shared = Arc::new(Shared {
            shape,
            stop: AtomicBool::new(false),
            floor: AtomicI64::new(0),
            next: AtomicU64::new(0),
            progress: Mutex::new(Progress { ledger, acknowledged: 0, wrong: Vec::new() }),
            acknowledged: Condvar::new(),
        });
        let (of_thread, endpoints) = (Arc::clone(&shared), endpoints.to_vec());
        let thread = std::thread::spawn(move || write_all(&of_thread, endpoints));
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Waits until so many more writes were acknowledged.
    pub fn wait_acknowledged(&self, more: u64) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut progress = self.shared.lock();
        let goal = progress.acknowledged + more;
        while progress.acknowledged < goal {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("{} of {goal} writes acknowledged, then no more", progress.acknowledged);
            }
            let woken = self.shared.acknowledged.wait_timeout(progress, left);
            progress = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    /// How many writes were acknowledged up to now.
    pub fn acknowledged(&self) -> u64 {
        self.shared.lock().acknowledged
    }

    /// Stops and gives what became of the writes; fails if an answer was wrong.
    pub fn stop(mut self) -> anyhow::Result<Ledger> {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().map_err(|_| anyhow!("the load panicked"))??;
        }
        let mut progress = self.shared.lock();
        if !progress.wrong.is_empty() {
            bail!("wrong answers: {:#?}", progress.wrong);
        }
        Ok(std::mem::take(&mut progress.ledger))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, key: String, fate: Fate, floor: i64) {
        let mut progress = self.lock();
        if let Fate::Acknowledged(revision) = fate {
            if revision <= floor {
                progress.wrong.push(format!("{key} at {revision}, begun when {floor} was told"));
            }
            self.floor.fetch_max(revision, Ordering::Relaxed);
            progress.acknowledged += 1;
        }
        progress.ledger.note(key, fate);
        drop(progress);
        self.acknowledged.notify_all();
    }
}

/// Runs all writers on this thread.
fn write_all(shared: &Arc<Shared>, endpoints: Vec<String>) -> anyhow::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut options = Options::new(endpoints);
        options.request_timeout = ONE_WRITE;
        // It judges members, not how soon a client leaves one that is slow.
        options.silence_timeout = ONE_WRITE;
        options.connect_timeout = Duration::from_millis(500);
        let mut writers = JoinSet::new();
        for _ in 0..shared.shape.writers {
            let client = Client::lazy(options.clone())?;
            writers.spawn(write(Arc::clone(shared), client));
        }
        while let Some(ended) = writers.join_next().await {
            ended?;
        }
        Ok(())
    })
}

async fn write(shared: Arc<Shared>, client: Client) {
    let mut written = 0;
    while !shared.stop.load(Ordering::Relaxed) {
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        let key = format!("{}{number:08}", shared.shape.prefix);
        let value = Ledger::value_of(&key, shared.shape.value_bytes);
        let floor = shared.floor.load(Ordering::Relaxed);
        let fate = match client.put(key.clone(), value).await {
            Ok(reply) => Fate::Acknowledged(reply.header.unwrap_or_default().revision),
            Err(Error::Unknown { .. }) => Fate::Unknown,
            Err(_) => Fate::Refused,
        };
        shared.note(key.clone(), fate, floor);
        if !matches!(fate, Fate::Acknowledged(_)) {
            tokio::time::sleep(BACKOFF).await;
            continue;
        }
        written += 1;
        if written % WRITES_PER_READ == 0 {
            read(&shared, &client, &key).await;
        }
    }
}

/// Reads a key that was just acknowledged, from any member.
async fn read(shared: &Shared, client: &Client, key: &str) {
    let floor = shared.floor.load(Ordering::Relaxed);
    let request = kvd_client::proto::etcdserverpb::RangeRequest {
        key: key.to_owned().into(),
        ..Default::default()
    };
    let Ok(reply) = client.range(request).await else { return };
    let revision = reply.header.unwrap_or_default().revision;
    if reply.kvs.is_empty() || revision < floor {
        let wrong = format!(
            "a read of {key} at revision {revision} found {} keys when {floor} had been told",
            reply.kvs.len()
        );
        shared.lock().wrong.push(wrong);
    }
}
