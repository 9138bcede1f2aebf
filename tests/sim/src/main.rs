//! Lives through one seed and tells of it: a report as JSON on stdout, or what cannot be true on stderr.

use std::process::ExitCode;

use clap::Parser;
use kvd_sim::run::run;
use mad_turmoil::time::SimClocksGuard;
use rand::SeedableRng;
use rand::rngs::StdRng;

/// Simulates a cluster under faults; everything follows from the seed.
#[derive(Parser)]
struct Arguments {
    /// What everything follows from.
    seed: u64,
    /// Write the members' log to stderr, with simulated time.
    #[arg(long)]
    log: bool,
    /// Put this mistake into the members, by its name.
    #[cfg(feature = "mutants")]
    #[arg(long)]
    mutant: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    #[cfg(feature = "mutants")]
    if let Err(unknown) = put_in(arguments.mutant.as_deref()) {
        eprintln!("no mutant is called {unknown}");
        return ExitCode::from(2);
    }
    if arguments.log {
        kvd_sim::log::to_stderr();
    }
    // As in the server: a panic anywhere is the end, also in a task that nobody waits for.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
    // Before anything asks for randomness or time: hash maps' keys, tokio's and openraft's draws.
    mad_turmoil::rand::set_rng(StdRng::seed_from_u64(arguments.seed));
    let clocks = SimClocksGuard::init();
    // A thread of its own: what this one drew before, for its log or its arguments, must not matter.
    let result = std::thread::spawn(move || run(arguments.seed)).join();
    drop(clocks);
    let Ok(result) = result else { return ExitCode::FAILURE };
    match result.map(|report| serde_json::to_string(&report)) {
        Ok(Ok(report)) => {
            kvd_sim::log::print(&report);
            ExitCode::SUCCESS
        }
        Ok(Err(error)) => {
            eprintln!("a report that cannot be written: {error}");
            ExitCode::FAILURE
        }
        Err(violation) => {
            eprintln!("{violation}");
            ExitCode::FAILURE
        }
    }
}

/// Puts the mutant in that was asked for.
#[cfg(feature = "mutants")]
fn put_in(name: Option<&str>) -> Result<(), String> {
    use kvd_core::mutants::{Mutant, select};

    let Some(name) = name else { return Ok(()) };
    let mutant = Mutant::ALL.iter().find(|mutant| mutant.name() == name);
    select(*mutant.ok_or_else(|| name.to_owned())?);
    Ok(())
}
