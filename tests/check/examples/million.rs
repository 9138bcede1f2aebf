//! How long the certificate takes for a million operations of a hundred clients, of which nobody knows what
//! became of about six thousand. Prints the figures; fails above two seconds on a core, or as much for each of as many
//! as it is told to take.
//!
//! `cargo run --release -p kvd-check --example million`
#![expect(clippy::print_stdout, reason = "it prints figures")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use common::feed::tell;
use common::{Feed, Shape, generate_into};
use kvd_check::{Checker, Limits};

/// Microseconds on a core that an operation may take.
const LIMIT_US: u64 = 2;

const SHAPE: Shape = Shape {
    operations: 1_000_000,
    clients: 100,
    keys: 10,
    watches: 0,
    unknown_ppm: 6_000,
    everything: false,
};

fn main() -> ExitCode {
    let asked = std::env::args().nth(1).and_then(|text| text.parse().ok());
    let shape = Shape { operations: asked.unwrap_or(SHAPE.operations), ..SHAPE };
    let limits = Limits { revisions_kept: 1_000, window_operations: 0, ..Limits::usual() };
    let mut checker = Checker::new(limits);
    let (mut wall, mut cpu) = (Duration::ZERO, Some(Duration::ZERO));
    // As it happens, so the checker finds what it is told of where it has just been made.
    let end = generate_into(42, shape, &mut |feeds| {
        // Responses are the witness's to drop.
        let mut sent = Vec::with_capacity(feeds.len());
        let (begun, before) = (Instant::now(), cpu_time());
        for feed in feeds {
            match feed {
                Feed::Witness(member, response) => {
                    checker.witness(member, std::slice::from_ref(&response));
                    sent.push(response);
                }
                feed => tell(&mut checker, feed),
            }
        }
        wall += begun.elapsed();
        cpu = cpu_time().zip(before).and_then(|(after, before)| Some(cpu? + (after - before)));
    });
    let summary = checker.finish(end.ended, &end.finals).expect("a correct history");
    println!("{summary:#?}");
    // On a machine that does other things too, only the time on a core says something.
    let (took, operations) = (cpu.unwrap_or(wall), summary.operations);
    println!("{took:.2?} on a core, {wall:.2?} in all, for {operations} operations");
    let limit = Duration::from_micros(LIMIT_US * operations);
    if took > limit {
        println!("that is more than {limit:.2?}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// How long this thread has been on a core, where the system tells.
fn cpu_time() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}
