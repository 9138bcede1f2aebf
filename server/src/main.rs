//! The `kvd` binary: reads the command line, serves one member until told to stop, and says with its exit code
//! how it went.

use std::ffi::OsString;
use std::process::ExitCode;

use kvd::Ending;
use kvd::config::{self, Config, Invocation};
use kvd::shutdown::Shutdown;

/// Gives memory back that the C library's heap would keep between long-lived keys.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // What is not UTF-8 can be no flag; the refusal shows it.
    let text = |given: OsString| given.to_string_lossy().into_owned();
    let args: Vec<String> = std::env::args_os().skip(1).map(text).collect();
    let environment = std::env::vars_os().map(|(name, value)| (text(name), text(value)));
    match args.first().map(String::as_str) {
        Some("dev") => return kvd::dev::run(&args[1..]),
        Some("demo") => return kvd::demo::run(&args[1..]),
        _ => {}
    }
    match config::parse(&args, environment) {
        Ok(Invocation::Print(text)) => say(&text, ExitCode::SUCCESS),
        Ok(Invocation::Serve(config)) => serve(*config),
        Err(error) => complain(&error.report(), error.exit_code()),
    }
}

fn serve(config: Config) -> ExitCode {
    if let Err(error) = kvd::telemetry::install(&config.log) {
        return complain(&format!("{error}\n"), 1);
    }
    kvd::process::abort_on_panic();
    for warning in &config.warnings {
        tracing::warn!(subject = warning.subject, "{}", warning.message);
    }
    let shutdown = Shutdown::new();
    let served = kvd::process::stop_on_signals(shutdown.clone())
        .map_err(Into::into)
        .and_then(|()| kvd::run(config, shutdown));
    match served {
        // As in etcd: who was removed has nothing to be restarted for (rule C4).
        Ok(Ending::Stopped | Ending::Removed) => ExitCode::SUCCESS,
        Ok(Ending::Rebuild) => {
            let error = kvd::process::start_again();
            complain(&format!("kvd: the process could not start itself again: {error}\n"), 1)
        }
        Err(error) => complain(&format!("kvd: {error:#}\n"), 1),
    }
}

#[expect(clippy::print_stdout, reason = "what was asked for is the program's output")]
fn say(text: &str, code: ExitCode) -> ExitCode {
    print!("{text}");
    code
}

#[expect(clippy::print_stderr, reason = "the one line that says why the program ends")]
fn complain(text: &str, code: u8) -> ExitCode {
    eprint!("{text}");
    ExitCode::from(code)
}
