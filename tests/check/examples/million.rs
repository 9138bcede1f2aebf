//! How long the certificate takes for a million operations of a hundred clients, of which nobody knows what
//! became of about six thousand. Prints the figures; fails above two seconds.
//!
//! `cargo run --release -p kvd-check --example million`
#![expect(clippy::print_stdout, reason = "it prints figures")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::{Duration, Instant};

use common::{Shape, generate, limits};

const SHAPE: Shape = Shape {
    operations: 1_000_000,
    clients: 100,
    keys: 10,
    watches: 0,
    unknown_ppm: 6_000,
    everything: false,
};

fn main() {
    let asked = std::env::args().nth(1).and_then(|text| text.parse().ok());
    let shape = Shape { operations: asked.unwrap_or(SHAPE.operations), ..SHAPE };
    let begun = Instant::now();
    let recorded = generate(42, shape);
    println!("made in {:.2?}", begun.elapsed());
    let limits = kvd_check::Limits { serializable_monotone: true, ..limits() };
    let (begun, cpu) = (Instant::now(), cpu_time());
    let summary = recorded.into_check(limits).expect("a correct history");
    let (wall, operations) = (begun.elapsed(), summary.operations);
    println!("{summary:#?}");
    // On a machine that does other things too, only the time on a core says something.
    let took = cpu_time().zip(cpu).map_or(wall, |(after, before)| after - before);
    println!("{took:.2?} on a core, {wall:.2?} in all, for {operations} operations");
    assert!(took.as_secs() < 2, "over two seconds");
}

/// How long this thread has been on a core, where the system tells.
fn cpu_time() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}
