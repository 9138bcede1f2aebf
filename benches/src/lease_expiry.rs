//! `kvbench lease-expiry`: what the end of many leases in the same second costs everyone else.
//!
//! Promises that the puts are asked for at the same rate before and during the expiry, so that a
//! server that stalls cannot hide it, and that every lease and key is gone at the end.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Serialize;

use crate::Common;
use crate::drive::{WARM_UP, Window};
use crate::fan_out::Quantiles;
use crate::leases::{Deletions, End, Grants, all_gone, count, grant_all};
use crate::pace::{Pace, SEQUENCE_BYTES, Writer};
use crate::process::Usage;
use crate::report::{Measurement, Report, say};
use crate::table::{Column, table};
use crate::target::{Cluster, Target};

/// Arguments of `kvbench lease-expiry`.
#[derive(Args)]
pub(crate) struct LeaseExpiryArguments {
    #[command(flatten)]
    common: Common,
    /// Leases that end in the same second.
    #[arg(long, default_value_t = 100_000)]
    leases: u64,
    /// Leases without a key each.
    #[arg(long)]
    without_keys: bool,
    /// Seconds from the first grant to the end; all must be granted before the quiet window.
    #[arg(long, default_value_t = 90)]
    ttl: u64,
    /// Length of the quiet window before the end.
    #[arg(long, default_value_t = 10.0)]
    quiet_seconds: f64,
    /// Puts a second, before and during the expiry.
    #[arg(long, default_value_t = 500.0)]
    rate: f64,
    /// Keys that are written in turns.
    #[arg(long, default_value_t = 20_000)]
    keys: u32,
    /// Bytes of a value.
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
    /// Clients that grant at once.
    #[arg(long, default_value_t = 128)]
    granters: usize,
    /// Seconds after which leases that are still there are an error.
    #[arg(long, default_value_t = 600)]
    gone_seconds_max: u64,
    /// Turns of each target.
    #[arg(long, default_value_t = 1)]
    rounds: usize,
}

/// One expiry of one target. Latencies are of puts, from sending to the answer.
#[derive(Serialize)]
struct Round {
    target: String,
    round: usize,
    leases: u64,
    with_keys: bool,
    puts_per_second: f64,
    granting_seconds: f64,
    quiet: Quantiles,
    /// From the moment when the first lease may end until none is left.
    expiry: Quantiles,
    /// 99th percentile: expiry ÷ quiet.
    p99_ratio: f64,
    /// From the moment when the first lease may end to the first deletion; nothing without keys.
    first_gone_seconds: Option<f64>,
    /// From the same moment until all keys, or without keys all leases, are gone at the leader.
    all_gone_seconds: f64,
    /// Puts that failed over the whole time, and the words of one of them.
    errors: u64,
    error: Option<String>,
    /// Longest delay of the load generator itself before a put was sent, microseconds.
    delay_max_micros: u64,
    /// Of all servers, for one lease, over the expiry; the puts' share is in it.
    server_cpu_micros: f64,
    resident_quiet_bytes: u64,
    resident_after_bytes: u64,
}

impl Measurement for Round {
    fn case(&self) -> String {
        let keys = if self.with_keys { "with a key each" } else { "without keys" };
        format!("{} leases {keys}, {} puts/s", self.leases, self.puts_per_second)
    }

    fn target(&self) -> &str {
        &self.target
    }

    fn round(&self) -> usize {
        self.round
    }
}

/// Measures and writes the report.
pub(crate) async fn run(arguments: LeaseExpiryArguments) -> Result<()> {
    ensure!(!arguments.common.targets.is_empty(), "there is nothing to measure; give --target");
    ensure!(arguments.leases > 0, "--leases must be at least one");
    ensure!(arguments.quiet_seconds > 0.0, "--quiet-seconds must be more than nothing");
    ensure!(
        arguments.value_bytes >= SEQUENCE_BYTES,
        "--value-bytes must be {SEQUENCE_BYTES} or more"
    );
    let mut report = Report::new("lease-expiry");
    for round in 1..=arguments.rounds {
        for target in &arguments.common.targets.clone() {
            let turn = one_turn(&arguments, &mut report, target, round).await;
            let row = turn.with_context(|| format!("target {}", target.name))?;
            say(&format!(
                "{:8} round {round}  p99 {:6} µs quiet, {:6} µs in the expiry: {:.2}; all gone after {:.1} s",
                row.target,
                row.quiet.p99_micros,
                row.expiry.p99_micros,
                row.p99_ratio,
                row.all_gone_seconds
            ));
            report.rows.push(row);
        }
    }
    report.publish(&arguments.common.results, &expiry_table(&report.rows))
}

async fn one_turn(
    arguments: &LeaseExpiryArguments,
    report: &mut Report<Round>,
    target: &Target,
    round: usize,
) -> Result<Round> {
    let common = &arguments.common;
    let folder = common.disk_folder()?;
    let cluster = Cluster::start(target, common.members, &folder, &common.server_flags).await?;
    report.note_target(target, cluster.version().await?);
    let begin = Instant::now();
    let end = begin + Duration::from_secs(arguments.ttl);
    let grants = Grants {
        leases: arguments.leases,
        with_keys: !arguments.without_keys,
        end: End::At(end),
        granters: arguments.granters,
    };
    grant_all(&cluster, grants).await?;
    let granting = begin.elapsed();
    let quiet_from = quiet_begin(arguments, end, granting)?;
    let granted = count(&cluster.urls_leader_first().await?[0]).await?;
    ensure!(granted == arguments.leases, "{granted} leases are there");
    expire(arguments, &cluster, target, round, (quiet_from, end, granting)).await
}

/// When the quiet window begins, which granting must not reach.
fn quiet_begin(
    arguments: &LeaseExpiryArguments,
    end: Instant,
    granting: Duration,
) -> Result<Instant> {
    let quiet = Duration::from_secs_f64(arguments.quiet_seconds);
    let from = end.checked_sub(quiet).filter(|from| *from > Instant::now() + WARM_UP);
    from.with_context(|| {
        format!(
            "granting took {granting:?}, too long for leases of {} s; give --ttl",
            arguments.ttl
        )
    })
}

async fn expire(
    arguments: &LeaseExpiryArguments,
    cluster: &Cluster,
    target: &Target,
    round: usize,
    (quiet_from, end, granting): (Instant, Instant, Duration),
) -> Result<Round> {
    let urls = cluster.urls_leader_first().await?;
    let limit = end + Duration::from_secs(arguments.gone_seconds_max);
    let with_keys = !arguments.without_keys;
    let deletions = if with_keys { Some(Deletions::watch(&urls[0]).await?) } else { None };
    let pace = Pace {
        per_second: arguments.rate,
        prefix: "bench/",
        keys: arguments.keys,
        value_bytes: arguments.value_bytes,
    };
    let writer = Writer::start(&urls[0], pace, quiet_from - WARM_UP)?;
    tokio::time::sleep_until(end.into()).await;
    let usage: Usage = cluster.usage()?;
    let (first, last) = match deletions {
        Some(deletions) => {
            let (first, last) = deletions.wait(arguments.leases, limit).await?;
            (Some(first), last)
        }
        None => {
            all_gone(&urls[..1], limit).await?;
            (None, Instant::now())
        }
    };
    let usage_after: Usage = cluster.usage()?;
    let written = writer.finish().await?;
    all_gone(&urls, limit).await?;
    let quiet = Quantiles::of(&written.latencies(Window { from: quiet_from, until: end })?);
    let expiry = Quantiles::of(&written.latencies(Window { from: end, until: last })?);
    let delays = written.delays(Window { from: quiet_from, until: last })?;
    let cpu_seconds = usage_after.cpu_seconds - usage.cpu_seconds;
    Ok(Round {
        target: target.name.clone(),
        round,
        leases: arguments.leases,
        with_keys,
        puts_per_second: arguments.rate,
        granting_seconds: granting.as_secs_f64(),
        p99_ratio: expiry.p99_micros as f64 / quiet.p99_micros.max(1) as f64,
        quiet,
        expiry,
        first_gone_seconds: first.map(|first| first.saturating_duration_since(end).as_secs_f64()),
        all_gone_seconds: last.saturating_duration_since(end).as_secs_f64(),
        errors: written.errors.0,
        error: written.errors.1,
        delay_max_micros: delays.max(),
        server_cpu_micros: cpu_seconds * 1e6 / arguments.leases as f64,
        resident_quiet_bytes: usage.resident_bytes,
        resident_after_bytes: usage_after.resident_bytes,
    })
}

fn expiry_table(rows: &[Round]) -> String {
    table(
        "Latency of puts at a given rate, milliseconds, before and during the expiry of leases \
         that all end in one second; seconds until all of them are gone.",
        rows,
        &[
            Column::compared("quiet p99", 2, |row: &Round| row.quiet.p99_micros as f64 / 1e3),
            Column::compared("expiry p50", 2, |row| row.expiry.p50_micros as f64 / 1e3),
            Column::compared("expiry p99", 2, |row| row.expiry.p99_micros as f64 / 1e3),
            Column::plain("expiry max", 2, |row| row.expiry.max_micros as f64 / 1e3),
            Column::plain("expiry ÷ quiet p99", 2, |row| row.p99_ratio),
            Column::compared("all gone s", 1, |row| row.all_gone_seconds),
            Column::compared("granting s", 1, |row| row.granting_seconds),
            Column::compared("CPU µs/lease", 0, |row| row.server_cpu_micros),
            Column::plain("errors", 0, |row| row.errors as f64),
        ],
    )
}
