//! The log and the one who writes it: a named thread in production, a task in the simulator.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kvd_storage::fs::Disk;
use kvd_storage::log::{self, Flusher, LogError, Options, RaftLog, Step};

use crate::fatal::FatalSignal;
use crate::threads::Threads;

/// How long a simulated flusher waits for work before it does what is done when there is none.
const IDLE: Duration = Duration::from_millis(100);

/// Where random numbers come from.
pub(crate) type Random = Arc<Mutex<dyn FnMut() -> u64 + Send>>;

/// How long the next sync takes a simulated device; a real one is not asked, it takes its time.
pub(crate) type SyncDelay = Arc<dyn Fn() -> Duration + Send + Sync>;

/// Opens the log in a folder of the disk. Its flusher waits to be started.
pub(crate) fn open(
    disk: &Arc<dyn Disk>,
    folder: &Path,
    segment_bytes: u64,
    random: &Random,
) -> Result<(RaftLog, Flusher), LogError> {
    let random = Arc::clone(random);
    let options = Options {
        segment_bytes,
        spares: 2,
        tail_bytes: 16 << 20,
        frame_bytes_max: 4 << 20,
        nonce: Box::new(move || (random.lock().unwrap_or_else(PoisonError::into_inner))()),
    };
    RaftLog::open(Arc::clone(disk), folder, options)
}

/// Starts the flusher; `fatal` is told why it stopped.
pub(crate) fn start(
    threads: Threads,
    log: &RaftLog,
    flusher: Flusher,
    delay: SyncDelay,
    fatal: FatalSignal,
) -> std::io::Result<()> {
    match threads {
        Threads::Os => {
            log::spawn(flusher, move |error| fatal.raise(error.to_string()))?;
        }
        Threads::Simulated => {
            tokio::spawn(flush_as_task(log.clone(), flusher, delay, fatal));
        }
    }
    Ok(())
}

/// A step whenever something is queued. The device's time passes before the step, so that what arrives
/// meanwhile is written with it, as in production, and a crash meanwhile loses it.
async fn flush_as_task(log: RaftLog, mut flusher: Flusher, delay: SyncDelay, fatal: FatalSignal) {
    let queued = Arc::new(tokio::sync::Notify::new());
    let waker = Arc::clone(&queued);
    log.set_waker(Box::new(move || waker.notify_one()));
    loop {
        tokio::time::sleep(delay()).await;
        let idle = match flusher.step() {
            Ok(Step::Worked) => false,
            Ok(Step::Idle) => true,
            Err(error) => return fatal.raise(error.to_string()),
        };
        if idle
            && tokio::time::timeout(IDLE, queued.notified()).await.is_err()
            && let Err(error) = flusher.step_after_idle()
        {
            return fatal.raise(error.to_string());
        }
    }
}
