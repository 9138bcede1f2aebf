//! The guard: runs the command in a process group of its own, and ends that group when it is told to, when it is not
//! told in time that it may go on, and when kvctl is gone.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use clap::Args;
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};

use super::orders::{Order, now};
use crate::command::Outcome;
use crate::command::execute::{ending, not_started};
use crate::failure::Failure;

/// The command that kvctl starts it with; nobody types it.
pub(crate) const NAME: &str = "__guard";
/// How long what is left of a group may take to end when it is asked.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Between two looks whether a group is gone.
const LOOK: Duration = Duration::from_millis(10);

/// As kvctl starts it.
#[derive(Args)]
pub(crate) struct Guard {
    /// The pipes of orders and of the report, and the command
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

/// What the guard hears.
enum Event {
    Order(Order),
    /// kvctl is gone.
    Abandoned,
    Ended(io::Result<ExitStatus>),
}

impl Guard {
    pub(crate) fn run(self) -> Result<Outcome, Failure> {
        let [orders, report, program, arguments @ ..] = self.arguments.as_slice() else {
            return Err(Failure::bad_args("lock and elect run this"));
        };
        let failed = |error: io::Error| Failure::error(error.to_string());
        let pipe = |pipe: &OsString| Path::new("/proc/self/fd").join(pipe);
        let orders = File::open(pipe(orders)).map_err(failed)?;
        let mut report = File::options().write(true).open(pipe(report)).map_err(failed)?;
        let (sender, events) = sync_channel(16);
        let heard = sender.clone();
        std::thread::spawn(move || listen(orders, &heard));
        // It was written before this process was started; with what it says may the command begin.
        let first = match events.recv() {
            Ok(Event::Order(Order::Until { asked, killed })) if now() < asked => (asked, killed),
            _ => return Err(Failure::error("the lease is gone, or may be")),
        };
        let mut command = Command::new(program);
        if io::stdin().is_terminal() {
            // In a group that does not have the terminal, whoever reads from it stands still.
            command.stdin(Stdio::null());
        }
        let child = command.args(arguments).process_group(0).spawn();
        let mut child = child.map_err(|error| Failure::error(not_started(program, &error)))?;
        let group = Pid::from_child(&child);
        // Where nobody reads it, kvctl is gone, which is heard.
        let _heard = writeln!(report, "{}", group.as_raw_nonzero());
        std::thread::spawn(move || sender.send(Event::Ended(child.wait())));
        let status = attend(group, first, &events).map_err(failed)?;
        if status.success() {
            return Ok(Outcome::printed(""));
        }
        let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX);
        Err(Failure { code, ..Failure::error(ending(status)) })
    }
}

fn listen(pipe: File, events: &SyncSender<Event>) {
    for line in BufReader::new(pipe).lines().map_while(Result::ok) {
        if let Some(order) = Order::parse(&line)
            && events.send(Event::Order(order)).is_err()
        {
            return;
        }
    }
    // An error means that the guard is about to end itself.
    let _ending = events.send(Event::Abandoned);
}

/// Until the command has ended, and with it its group.
fn attend(
    group: Pid,
    (mut asked, mut killed): (Duration, Duration),
    events: &Receiver<Event>,
) -> io::Result<ExitStatus> {
    let mut was_asked = false;
    loop {
        let next = if was_asked { killed } else { asked };
        match events.recv_timeout(next.saturating_sub(now())) {
            Ok(Event::Order(Order::Until { asked: at, killed: end })) if !was_asked => {
                (asked, killed) = (at, end);
            }
            // Once it was asked to end there is no way back.
            Ok(Event::Order(Order::Until { killed: end, .. })) => killed = killed.min(end),
            Ok(Event::Order(Order::Signal(number))) => {
                Signal::from_named_raw(number).into_iter().for_each(|signal| tell(group, signal));
            }
            Ok(Event::Abandoned) => {
                (asked, killed) = (now(), killed.min(now() + LAST_WORDS));
            }
            Ok(Event::Ended(status)) => {
                end_rest(group, killed);
                return status;
            }
            Err(RecvTimeoutError::Timeout) if !was_asked => {
                was_asked = true;
                tell(group, Signal::TERM);
            }
            Err(_) => {
                tell(group, Signal::KILL);
                killed = Duration::MAX;
            }
        }
    }
}

/// What the command left behind in its group goes, too.
fn end_rest(group: Pid, killed: Duration) {
    tell(group, Signal::TERM);
    until_gone(group, killed.min(now() + LAST_WORDS));
    kill(group);
}

/// Kills a group, and waits until it is gone: some may stand in the kernel, and some only wait to be noticed by
/// whoever started them, which is not waited for long.
pub(super) fn kill(group: Pid) {
    tell(group, Signal::KILL);
    until_gone(group, now() + LAST_WORDS);
}

fn until_gone(group: Pid, end: Duration) {
    while test_kill_process_group(group).is_ok() && now() < end {
        std::thread::park_timeout(LOOK);
    }
}

/// A group that is gone cannot be told, which is as well.
fn tell(group: Pid, signal: Signal) {
    let _gone = kill_process_group(group, signal);
}
