//! Where blocking work runs: on named OS threads in production, on the one thread of the simulator there.
//!
//! The same code runs in both; only this file knows the difference (decision D15).

use std::io;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

/// Threads that answer blocking reads; more would only queue at the disk (hazard C6).
const READERS: usize = 2;

/// Blocking reads that may wait for a reader; the next one waits with its caller.
const READS_QUEUED_MAX: usize = 256;

/// Which kind of process this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// A server: blocking work has threads of its own.
    Os,
    /// A simulated server: everything shares one deterministic thread.
    Simulated,
}

/// Something that works off a queue, one item after another.
pub trait Worker<T>: Send + 'static {
    /// Does one item.
    fn handle(&mut self, item: T);

    /// Does one bounded step of background work, if there is any; returns whether there is more.
    fn idle(&mut self) -> bool {
        false
    }
}

/// Drops something large without holding up the caller.
pub fn drop_aside<T: Send + 'static>(threads: Threads, value: T) {
    match threads {
        Threads::Os => {
            // Without a thread it is dropped here: late is better than never.
            let dropped = std::thread::Builder::new().name("drop".to_owned());
            if let Err(error) = dropped.spawn(move || drop(value)) {
                tracing::debug!(%error, "no thread to drop a state on");
            }
        }
        Threads::Simulated => drop(value),
    }
}

/// Runs a worker until its queue closes, and what is queued by then is done.
pub fn serve_queue<T: Send + 'static>(
    threads: Threads,
    name: &str,
    mut queue: mpsc::Receiver<T>,
    mut worker: impl Worker<T>,
) -> io::Result<()> {
    match threads {
        Threads::Os => {
            std::thread::Builder::new().name(name.to_owned()).spawn(move || {
                while let Some(item) = next_item(&mut queue, &mut worker) {
                    worker.handle(item);
                }
            })?;
        }
        Threads::Simulated => {
            tokio::spawn(async move {
                while let Some(item) = queue.recv().await {
                    worker.handle(item);
                    while queue.is_empty() && worker.idle() {
                        tokio::task::yield_now().await;
                    }
                }
            });
        }
    }
    Ok(())
}

/// The next item; background work fills the time while there is none.
fn next_item<T>(queue: &mut mpsc::Receiver<T>, worker: &mut impl Worker<T>) -> Option<T> {
    loop {
        match queue.try_recv() {
            Ok(item) => return Some(item),
            Err(mpsc::error::TryRecvError::Disconnected) => return None,
            Err(mpsc::error::TryRecvError::Empty) => {
                if !worker.idle() {
                    return queue.blocking_recv();
                }
            }
        }
    }
}

/// Blocking reads off the async threads.
#[derive(Clone)]
pub struct ReaderPool {
    queue: Option<mpsc::Sender<Job>>,
}

type Job = Box<dyn FnOnce() + Send>;

impl ReaderPool {
    /// Starts the readers; in the simulator reads run where they are asked for, after others had a turn.
    pub fn start(threads: Threads) -> io::Result<Self> {
        if threads == Threads::Simulated {
            return Ok(Self { queue: None });
        }
        let (queue, jobs) = mpsc::channel::<Job>(READS_QUEUED_MAX);
        let jobs = Arc::new(std::sync::Mutex::new(jobs));
        for reader in 0..READERS {
            let jobs = Arc::clone(&jobs);
            std::thread::Builder::new().name(format!("reader-{reader}")).spawn(move || {
                loop {
                    // The lock is held while waiting: one reader waits for the queue, the other for the lock.
                    let job = jobs.lock().ok().and_then(|mut jobs| jobs.blocking_recv());
                    match job {
                        Some(job) => job(),
                        None => return,
                    }
                }
            })?;
        }
        Ok(Self { queue: Some(queue) })
    }

    /// Runs a blocking read; `None` only while the process ends.
    pub async fn run<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let Some(queue) = &self.queue else {
            // A device takes its time, and others go on meanwhile.
            tokio::task::yield_now().await;
            return Some(read());
        };
        let (sender, receiver) = oneshot::channel();
        let job: Job = Box::new(move || {
            // The asker may have gone; then nobody wants the answer.
            let _unwanted = sender.send(read());
        });
        queue.send(job).await.ok()?;
        receiver.await.ok()
    }
}
