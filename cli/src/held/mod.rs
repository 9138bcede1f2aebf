//! A command that runs while something is held: a lock, a leadership.
//!
//! Promises that the command and its whole process group are gone before what is held can be somebody else's, also when
//! kvctl is killed or stands still: a *guard*, a process between the two, ends the group unless it is told in time that
//! the lease was renewed. Both read one clock, which counts for all processes of the machine.

pub(crate) mod guard;
mod orders;

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use kvd_client::concurrency::Session;
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::Pid;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval};

use self::orders::{Order, now};
use crate::command::Outcome;
use crate::failure::Failure;

/// Of the lease's time, what the group has left when it is asked to end, and when it is killed.
const ASKED: f64 = 0.25;
const KILLED: f64 = 0.1;
/// In a lease's time, the guard is told so often until when it is held.
const TOLD: u32 = 20;

/// Where a command finds its fencing token.
pub(crate) const TOKEN: &str = "KVD_FENCING_TOKEN";

/// The signals that end kvctl, handed on to the command.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub(crate) fn new() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|error| Failure::error(error.to_string()));
        let interrupt = listen(SignalKind::interrupt())?;
        Ok(Self { interrupt, terminate: listen(SignalKind::terminate())? })
    }

    /// The number of the next one.
    pub(crate) async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt().as_raw_value(),
            _ = self.terminate.recv() => SignalKind::terminate().as_raw_value(),
        }
    }
}

/// Runs a command while `lost` does not end and the session is held; answers how it ended. What it needs to know
/// stands in its environment.
pub(crate) async fn run(
    session: &Session,
    ttl: Duration,
    signals: &mut Signals,
    lost: impl Future<Output = ()>,
    environment: &[(&str, OsString)],
    command: &[OsString],
) -> Result<Outcome, Failure> {
    let failed = |error: std::io::Error| Failure::error(error.to_string());
    let (orders, mut writer) = std::io::pipe().map_err(failed)?;
    let (reports, report) = std::io::pipe().map_err(failed)?;
    for inherited in [orders.as_fd(), report.as_fd()] {
        fcntl_setfd(inherited, FdFlags::empty()).map_err(|error| failed(error.into()))?;
    }
    // The very program that runs, whatever lies at its path by now.
    let mut program = Command::new("/proc/self/exe");
    let pipes = [orders.as_raw_fd(), report.as_raw_fd()].map(|pipe| pipe.to_string());
    program.arg(guard::NAME).arg("--").args(pipes).args(command);
    // A group of its own: a keyboard's interrupt goes to kvctl, which hands it on.
    program.envs(environment.iter().map(|(name, value)| (name, value))).process_group(0);
    until(session, ttl).write(&mut writer).map_err(failed)?;
    let mut guard = program.spawn().map_err(failed)?;
    drop((orders, report));
    let ended = tokio::task::spawn_blocking(move || {
        let status = guard.wait()?;
        let mut group = String::new();
        // All writers have ended: this does not wait.
        let _unread = BufReader::new(reports).read_line(&mut group);
        Ok((status, group.trim().parse().ok().and_then(Pid::from_raw)))
    });
    let mut ended = std::pin::pin!(ended);
    let mut lost = std::pin::pin!(lost);
    let mut ticks = interval((ttl / TOLD).max(Duration::from_millis(10)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_lost = false;
    loop {
        let order = tokio::select! {
            status = ended.as_mut() => {
                let status = status.map_err(|error| Failure::error(error.to_string()))?;
                let (status, group) = status.map_err(failed)?;
                // A guard that was killed has ended nobody.
                if let (None, Some(group)) = (status.code(), group) {
                    guard::kill(group);
                }
                let code = status.code().and_then(|code| u8::try_from(code).ok());
                return Ok(Outcome { code: code.unwrap_or(u8::MAX), ..Outcome::printed("") });
            }
            () = lost.as_mut(), if !is_lost => {
                is_lost = true;
                Order::Until { asked: now(), killed: now() }
            }
            number = signals.next() => Order::Signal(number),
            _ = ticks.tick(), if !is_lost => until(session, ttl),
        };
        // A guard that takes no orders has ended, which shows next.
        let _ended = order.write(&mut writer);
    }
}

/// Until when the group may live.
fn until(session: &Session, ttl: Duration) -> Order {
    let left = session.held_until().saturating_duration_since(Instant::now());
    let end = now() + left;
    let before = |part: f64| end.saturating_sub(ttl.mul_f64(part));
    Order::Until { asked: before(ASKED), killed: before(KILLED) }
}
