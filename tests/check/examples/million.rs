//! How long the certificate takes for a million operations of a hundred clients, of which nobody knows what
//! became of about six thousand. Prints the figures; fails above two seconds.
//!
//! `cargo run --release -p kvd-check --example million`
#![expect(clippy::print_stdout, reason = "it prints figures")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::Instant;

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
    let recorded = generate(42, SHAPE);
    let limits = kvd_check::Limits { serializable_monotone: true, ..limits() };
    let begun = Instant::now();
    let summary = recorded.into_check(limits).expect("a correct history");
    let took = begun.elapsed();
    println!("{summary:#?}");
    println!("{took:.2?} for {} operations", summary.operations);
    assert!(took.as_secs() < 2, "over two seconds");
}
