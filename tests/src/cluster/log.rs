//! What a process logs, kept and waited for.

use std::fmt;
use std::io::{BufRead as _, BufReader, Read};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Lines kept of one process; a process that logs more is itself the failure.
const LOG_LINES_MAX: usize = 200_000;

/// What a process wrote to stderr, line by line.
#[derive(Default)]
pub(super) struct Log {
    read: Mutex<Lines>,
    changed: Condvar,
}

#[derive(Default)]
pub(super) struct Lines {
    pub(super) lines: Vec<String>,
    /// The process has closed its stderr, so it is gone.
    ended: bool,
}

impl Log {
    pub(super) fn read(&self, stderr: impl Read) {
        for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
            let mut read = self.lock();
            if read.lines.len() < LOG_LINES_MAX {
                read.lines.push(String::from_utf8_lossy(&line).into_owned());
            }
            drop(read);
            self.changed.notify_all();
        }
        self.lock().ended = true;
        self.changed.notify_all();
    }

    /// A reader that panicked leaves whole lines behind.
    pub(super) fn lock(&self) -> MutexGuard<'_, Lines> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `found` came true before the log ended or time was up.
    pub(super) fn wait_until(&self, patience: Duration, found: impl Fn(&[String]) -> bool) -> bool {
        let deadline = Instant::now() + patience;
        let mut read = self.lock();
        loop {
            if found(&read.lines) {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if read.ended || left.is_zero() {
                return false;
            }
            let woken = self.changed.wait_timeout(read, left);
            read = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Whether the process ended before time was up.
    pub(super) fn wait_end(&self, patience: Duration) -> bool {
        self.wait_until(patience, |_| false);
        self.lock().ended
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Log({} lines)", self.lock().lines.len())
    }
}
