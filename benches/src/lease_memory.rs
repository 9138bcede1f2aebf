//! `kvbench lease-memory`: what many leases that nobody renews or ends take of memory.
//!
//! Promises that every member has applied all of them when its memory is taken, and that every
//! member lists all of them afterwards.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Serialize;

use crate::Common;
use crate::leases::{End, Grants, count, grant_all};
use crate::process::Usage;
use crate::report::{Measurement, Report, say};
use crate::table::{Column, table};
use crate::target::{Cluster, Target};

/// Seconds that the leases live: longer than any run.
const TTL_SECONDS: i64 = 24 * 3600;

/// Arguments of `kvbench lease-memory`.
#[derive(Args)]
pub(crate) struct LeaseMemoryArguments {
    #[command(flatten)]
    common: Common,
    /// Leases to grant.
    #[arg(long, default_value_t = 1_000_000)]
    leases: u64,
    /// A key for each lease.
    #[arg(long)]
    with_keys: bool,
    /// Clients that grant at once.
    #[arg(long, default_value_t = 128)]
    granters: usize,
    /// Turns of each target.
    #[arg(long, default_value_t = 1)]
    rounds: usize,
}

/// One target with all its leases.
#[derive(Serialize)]
struct Round {
    target: String,
    round: usize,
    leases: u64,
    with_keys: bool,
    seconds: f64,
    grants_per_second: f64,
    /// Of all servers, for one grant.
    server_cpu_micros: f64,
    /// Resident memory of each member before the first grant, in the order of the members.
    resident_idle_bytes: Vec<u64>,
    /// And after the last one.
    resident_after_bytes: Vec<u64>,
    /// Growth of the member that grew most, for one lease.
    bytes_per_lease: f64,
}

impl Measurement for Round {
    fn case(&self) -> String {
        let keys = if self.with_keys { "with a key each" } else { "without keys" };
        format!("{} leases {keys}", self.leases)
    }

    fn target(&self) -> &str {
        &self.target
    }

    fn round(&self) -> usize {
        self.round
    }
}

/// Measures and writes the report.
pub(crate) async fn run(arguments: LeaseMemoryArguments) -> Result<()> {
    ensure!(!arguments.common.targets.is_empty(), "there is nothing to measure; give --target");
    ensure!(arguments.leases > 0, "--leases must be at least one");
    let mut report = Report::new("lease-memory");
    for round in 1..=arguments.rounds {
        for target in &arguments.common.targets.clone() {
            let turn = one_turn(&arguments, &mut report, target, round).await;
            let row = turn.with_context(|| format!("target {}", target.name))?;
            let mib = |bytes: &u64| format!("{:.0}", *bytes as f64 / 1_048_576.0);
            let members: Vec<String> = row.resident_after_bytes.iter().map(mib).collect();
            say(&format!(
                "{:8} round {round}  {:.0} grants/s, RSS of the members {} MB",
                row.target,
                row.grants_per_second,
                members.join(", ")
            ));
            report.rows.push(row);
        }
    }
    report.publish(&arguments.common.results, &memory_table(&report.rows))
}

async fn one_turn(
    arguments: &LeaseMemoryArguments,
    report: &mut Report<Round>,
    target: &Target,
    round: usize,
) -> Result<Round> {
    let common = &arguments.common;
    let folder = common.disk_folder()?;
    let cluster = Cluster::start(target, common.members, &folder, &common.server_flags).await?;
    report.note_target(target, cluster.version().await?);
    let (leases, with_keys) = (arguments.leases, arguments.with_keys);
    let (idle, begin) = (cluster.usage_of_each()?, Instant::now());
    let end = End::After(TTL_SECONDS);
    grant_all(&cluster, Grants { leases, with_keys, end, granters: arguments.granters }).await?;
    let seconds = begin.elapsed().as_secs_f64();
    cluster.caught_up().await?;
    let after = cluster.usage_of_each()?;
    // The lists take memory themselves, so they come last.
    for url in cluster.urls() {
        let listed = count(&url).await?;
        ensure!(listed == leases, "{url} lists {listed} leases of {leases}");
    }
    let cpu = |usages: &[Usage]| usages.iter().map(|usage| usage.cpu_seconds).sum::<f64>();
    let resident = |usages: &[Usage]| usages.iter().map(|usage| usage.resident_bytes).collect();
    let growth = idle.iter().zip(&after);
    let growth =
        growth.map(|(idle, after)| after.resident_bytes.saturating_sub(idle.resident_bytes));
    Ok(Round {
        target: target.name.clone(),
        round,
        leases,
        with_keys,
        seconds,
        grants_per_second: leases as f64 / seconds,
        server_cpu_micros: (cpu(&after) - cpu(&idle)) * 1e6 / leases as f64,
        bytes_per_lease: growth.max().unwrap_or(0) as f64 / leases as f64,
        resident_idle_bytes: resident(&idle),
        resident_after_bytes: resident(&after),
    })
}

fn memory_table(rows: &[Round]) -> String {
    table(
        "Memory of the largest member with leases that nobody renews.",
        rows,
        &[
            Column::compared("grants/s", 0, |row: &Round| row.grants_per_second),
            Column::compared("CPU µs/grant", 0, |row| row.server_cpu_micros),
            Column::plain("RSS MB idle", 0, |row| mib_of_largest(&row.resident_idle_bytes)),
            Column::compared("RSS MB after", 0, |row| mib_of_largest(&row.resident_after_bytes)),
            Column::compared("B/lease", 0, |row| row.bytes_per_lease),
        ],
    )
}

fn mib_of_largest(members: &[u64]) -> f64 {
    members.iter().copied().max().unwrap_or(0) as f64 / 1_048_576.0
}
