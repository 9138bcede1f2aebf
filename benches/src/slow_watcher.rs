//! `kvbench slow-watcher`: what one watcher that never reads costs the others.
//!
//! Promises three windows on one cluster, without, with and without the one that does not read, so
//! that a drift of the cluster is not taken for its doing. Afterwards it reads, and must get
//! everything.

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Serialize;

use crate::Common;
use crate::fan_out::{FanOut, Lag, ShapeArguments, fan_out};
use crate::report::{Measurement, Report, say};
use crate::table::{Column, table};
use crate::target::{Cluster, Target};

/// Arguments of `kvbench slow-watcher`.
#[derive(Args)]
pub(crate) struct SlowWatcherArguments {
    #[command(flatten)]
    common: Common,
    /// Watchers that read.
    #[arg(long, default_value_t = 20)]
    watchers: usize,
    /// Puts a second.
    #[arg(long, default_value_t = 500.0)]
    rate: f64,
    #[command(flatten)]
    shape: ShapeArguments,
    /// Turns of each target.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

/// The three windows of one target.
#[derive(Serialize)]
struct Round {
    target: String,
    round: usize,
    watchers: usize,
    puts_per_second: f64,
    /// Lag of those who read.
    before: Lag,
    with_slow: Lag,
    after: Lag,
    /// 99th percentile of the lag from sending: with the slow one ÷ mean of the two without.
    p99_ratio: f64,
    /// Growth of all servers' memory over each window, bytes.
    growth_before_bytes: i64,
    growth_with_slow_bytes: i64,
    growth_after_bytes: i64,
}

impl Measurement for Round {
    fn case(&self) -> String {
        format!("{} watchers, {} puts/s", self.watchers, self.puts_per_second)
    }

    fn target(&self) -> &str {
        &self.target
    }

    fn round(&self) -> usize {
        self.round
    }
}

/// Measures and writes the report.
pub(crate) async fn run(arguments: SlowWatcherArguments) -> Result<()> {
    ensure!(!arguments.common.targets.is_empty(), "there is nothing to measure; give --target");
    ensure!(arguments.watchers > 0, "--watchers must be at least one");
    arguments.shape.check()?;
    let mut report = Report::new("slow-watcher");
    for round in 1..=arguments.rounds {
        for target in &arguments.common.targets.clone() {
            let turn = one_turn(&arguments, &mut report, target, round).await;
            let row = turn.with_context(|| format!("target {}", target.name))?;
            say(&format!(
                "{:8} round {round}  lag p99 {:6} µs, with the slow one {:6} µs, after {:6} µs: {:.2}",
                row.target,
                row.before.from_sent.p99_micros,
                row.with_slow.from_sent.p99_micros,
                row.after.from_sent.p99_micros,
                row.p99_ratio
            ));
            report.rows.push(row);
        }
    }
    report.publish(&arguments.common.results, &slow_table(&report.rows))
}

async fn one_turn(
    arguments: &SlowWatcherArguments,
    report: &mut Report<Round>,
    target: &Target,
    round: usize,
) -> Result<Round> {
    let (common, shape) = (&arguments.common, arguments.shape);
    let folder = common.disk_folder()?;
    let cluster = Cluster::start(target, common.members, &folder, &common.server_flags).await?;
    report.note_target(target, cluster.version().await?);
    let (watchers, rate) = (arguments.watchers, arguments.rate);
    let before = fan_out(&cluster, shape, watchers, rate, false).await?;
    let with_slow = fan_out(&cluster, shape, watchers, rate, true).await?;
    let after = fan_out(&cluster, shape, watchers, rate, false).await?;
    let p99 = |window: &FanOut| window.lag.from_sent.p99_micros as f64;
    Ok(Round {
        target: target.name.clone(),
        round,
        watchers,
        puts_per_second: rate,
        p99_ratio: p99(&with_slow) * 2.0 / (p99(&before) + p99(&after)),
        growth_before_bytes: growth(&before)?,
        growth_with_slow_bytes: growth(&with_slow)?,
        growth_after_bytes: growth(&after)?,
        before: before.lag,
        with_slow: with_slow.lag,
        after: after.lag,
    })
}

fn growth(window: &FanOut) -> Result<i64> {
    let (before, after) = (window.usage.0.resident_bytes, window.usage.1.resident_bytes);
    Ok(i64::try_from(after)? - i64::try_from(before)?)
}

fn slow_table(rows: &[Round]) -> String {
    table(
        "Lag of the watchers that read, milliseconds from sending the put, without and with one \
         more that does not read; growth of all servers' memory over each window.",
        rows,
        &[
            Column::compared("p99 before", 2, |row: &Round| {
                row.before.from_sent.p99_micros as f64 / 1e3
            }),
            Column::compared("p99 with slow", 2, |row| {
                row.with_slow.from_sent.p99_micros as f64 / 1e3
            }),
            Column::plain("p99 after", 2, |row| row.after.from_sent.p99_micros as f64 / 1e3),
            Column::plain("with ÷ without", 2, |row| row.p99_ratio),
            Column::plain("growth before MB", 1, |row| {
                row.growth_before_bytes as f64 / 1_048_576.0
            }),
            Column::plain("growth with slow MB", 1, |row| {
                row.growth_with_slow_bytes as f64 / 1_048_576.0
            }),
            Column::plain("growth after MB", 1, |row| row.growth_after_bytes as f64 / 1_048_576.0),
        ],
    )
}
