//! The flusher's thread in production; the simulator drives it as a task.

use std::io;
use std::thread::JoinHandle;
use std::time::Duration;

use super::LogError;
use super::flusher::{Flusher, Step};

/// How long the production thread waits for work before it writes a committed position that nothing carried
/// (hazard B9), and before it tries again on a full disk.
const IDLE: Duration = Duration::from_millis(100);

/// Runs the flusher on a thread of its own until the log is closed. `on_fatal` is told why it ended otherwise.
pub fn spawn(
    flusher: Flusher,
    on_fatal: impl FnOnce(LogError) + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("log-flusher".to_owned()).spawn(move || {
        if let Err(error) = run(flusher) {
            on_fatal(error);
        }
    })
}

fn run(mut flusher: Flusher) -> Result<(), LogError> {
    let shared = flusher.shared();
    loop {
        if shared.inner().closing {
            return flusher.close();
        }
        if flusher.step()? == Step::Idle && !flusher.wait(IDLE) {
            flusher.step_after_idle()?;
        }
    }
}
