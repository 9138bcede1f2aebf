//! The members' own log, with simulated time: what a failing seed is read by, and what two runs must share.

use std::fmt;
use std::io::{self, Write};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

/// Levels of a log that nobody asked for differently, in `KVD_LOG`'s words.
const LEVELS: &str = "warn,kvd=debug,kvd_sim=debug,turmoil=info,openraft=info";

/// Milliseconds since the beginning of the simulation.
struct SimulatedTime;

impl FormatTime for SimulatedTime {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let elapsed = turmoil::sim_elapsed().unwrap_or_default();
        write!(writer, "{:>9.3}", elapsed.as_secs_f64() * 1e3)
    }
}

/// Writes the log of all members to stderr; `KVD_LOG` chooses levels as for a member.
pub fn to_stderr() {
    let levels = std::env::var("KVD_LOG").unwrap_or_else(|_unset| LEVELS.to_owned());
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(levels))
        .with_timer(SimulatedTime)
        .with_ansi(false)
        .with_writer(io::stderr)
        .init();
}

/// Prints a line to stdout.
pub fn print(line: &str) {
    // Nobody listens: then there is nobody to tell.
    let _closed = writeln!(io::stdout(), "{line}");
}
