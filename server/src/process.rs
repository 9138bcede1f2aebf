//! What belongs to the process and not to a member: signals, and what a panic does.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use tokio::signal::unix::{SignalKind, signal};

use crate::local_cluster;
use crate::shutdown::Shutdown;

/// A panic ends the process at once, wherever it happens: state behind it can no longer be trusted. Only while
/// a checkpoint store is opened it is caught, so that a broken directory can be set aside (hazard A4).
pub fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if kvd_storage::sled_store::is_opening() {
            tracing::warn!(%panic, "the checkpoint store is broken");
            return;
        }
        report(panic);
        std::process::abort();
    }));
}

/// Starts this program again in the same process, with the same arguments: what a member does that needs
/// another state, whether or not somebody watches over it. Returns only where that fails.
///
/// Every file, socket and lock is closed by it, and every thread ends.
#[must_use]
pub fn start_again() -> io::Error {
    match std::env::current_exe() {
        Ok(program) => {
            let mut again = Command::new(program);
            let mut words = std::env::args_os();
            // The name counts: called etcd, it answers as etcd does.
            if let Some(name) = words.next() {
                again.arg0(name);
            }
            again.args(words).exec()
        }
        Err(error) => error,
    }
}

/// Stops on SIGTERM and SIGINT, and when a parent that asked for it has gone.
pub fn stop_on_signals(shutdown: Shutdown) -> io::Result<()> {
    if std::env::var_os(local_cluster::EXIT_WITH_STDIN).is_some() {
        local_cluster::stop_when_stdin_closes(shutdown.clone())?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut terminate, mut interrupt) = runtime.block_on(async {
        io::Result::Ok((signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?))
    })?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
        tracing::info!("received signal; shutting down");
        shutdown.begin();
    })?;
    Ok(())
}
