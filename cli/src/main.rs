//! kvctl: the command line of kvd, with etcdctl's commands, flags, output forms and exit codes
//! (etcdctl.md). Promises that what is not built is not offered. Knows the cluster only through the
//! client library.

mod command;
mod duration;
mod failure;
mod global;
mod held;
mod print;
mod quote;
mod switches;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser};

use crate::command::{Action, Outcome};
use crate::failure::Failure;
use crate::global::{Global, GlobalArgs};

/// Reads, writes and looks after a kvd or etcd cluster.
///
/// Commands may be shortened as long as they are not ambiguous.
#[derive(Parser)]
#[command(name = "kvctl", infer_subcommands = true, disable_help_subcommand = true)]
struct CommandLine {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    action: Action,
}

fn main() -> ExitCode {
    let outcome = run(std::env::args_os());
    finish(&outcome.unwrap_or_else(|failure| Outcome::failed(Vec::new(), failure)))
}

fn run(arguments: impl Iterator<Item = OsString>) -> Result<Outcome, Failure> {
    let mut syntax = switches::take_values(CommandLine::command());
    let matches = syntax.try_get_matches_from_mut(arguments);
    let line = match matches.and_then(|matches| CommandLine::from_arg_matches(&matches)) {
        Ok(line) => line,
        Err(error) if is_help(&error) => return Ok(Outcome::printed(error.to_string())),
        Err(error) => return Err(Failure::from_syntax(&error)),
    };
    let global = Global::resolve(line.global, |name| std::env::var(name).ok())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::error(error.to_string()))?;
    runtime.block_on(line.action.run(&global))
}

/// A family of commands without one of them shows what there is, which is no failure.
fn is_help(error: &clap::Error) -> bool {
    !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
}

fn finish(outcome: &Outcome) -> ExitCode {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(&outcome.stdout).and_then(|()| stdout.flush());
    for line in &outcome.stderr {
        eprintln!("{line}");
    }
    match written {
        // The reader has seen enough, as in `kvctl get a z | head`.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("Error: {error}");
            ExitCode::FAILURE
        }
        _ => ExitCode::from(outcome.code),
    }
}
