//! `kvbench run`: workloads × numbers of clients × rounds, the targets taking turns.
//!
//! Promises that only one cluster runs at a time, that each starts with fresh data, and that the
//! rounds of a workload go A B A B, so that a drift of the machine meets all targets alike.

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;

use crate::Common;
use crate::bulk::fill;
use crate::drive::{Load, drive};
use crate::floor::measure_sync;
use crate::report::{Report, Round, run_table, say};
use crate::target::{Cluster, Target};
use crate::workload::Workload;

/// How long the disk is measured at most; never longer than a window.
const SYNC_FLOOR_MAX: Duration = Duration::from_secs(2);

/// Arguments of `kvbench run`.
#[derive(Args)]
pub(crate) struct RunArguments {
    #[command(flatten)]
    common: Common,
    /// What the clients do.
    #[arg(long = "workload", value_delimiter = ',', default_value = "put")]
    workloads: Vec<Workload>,
    /// Clients at once, measured one after the other.
    #[arg(long, value_delimiter = ',', default_value = "1,16,64,256")]
    clients: Vec<usize>,
    /// Bytes of a value.
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
    /// Keys that are written over or read; workloads that read find them there.
    #[arg(long, default_value_t = 20_000)]
    keys: u64,
    /// Length of a window.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Windows of each target for each workload and number of clients.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Threads of the load generator.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Leave out the server that does nothing and the raw disk.
    #[arg(long)]
    no_floor: bool,
}

/// Measures and writes the report.
pub(crate) async fn run(arguments: RunArguments) -> Result<()> {
    ensure!(arguments.seconds > 0.0, "--seconds must be more than nothing");
    ensure!(!arguments.clients.contains(&0), "--clients must be at least one");
    ensure!(
        !(arguments.no_floor && arguments.common.targets.is_empty()),
        "there is nothing to measure; give --target"
    );
    let folder = arguments.common.disk_folder()?;
    let mut report = Report::new("run");
    if !arguments.no_floor {
        let length = SYNC_FLOOR_MAX.min(Duration::from_secs_f64(arguments.seconds));
        for threads in [1, arguments.common.members.max(2)] {
            report.sync_floors.push(measure_sync(&folder, threads, length)?);
        }
    }
    for &workload in &arguments.workloads {
        for round in 1..=arguments.rounds {
            for target in turn(&arguments, workload)? {
                one_turn(&arguments, &mut report, &target, workload, round).await?;
            }
        }
    }
    report.publish(&arguments.common.results, &run_table(&report.rows))
}

/// The targets of a round. The floor knows puts only.
fn turn(arguments: &RunArguments, workload: Workload) -> Result<Vec<Target>> {
    let mut targets = arguments.common.targets.clone();
    if !arguments.no_floor && workload == Workload::Put {
        targets.push(Target::floor()?);
    }
    Ok(targets)
}

/// One target's turn: a fresh cluster, all numbers of clients.
async fn one_turn(
    arguments: &RunArguments,
    report: &mut Report<Round>,
    target: &Target,
    workload: Workload,
    round: usize,
) -> Result<()> {
    let common = &arguments.common;
    let folder = common.disk_folder()?;
    let cluster = Cluster::start(target, common.members, &folder, &common.server_flags).await?;
    report.note_target(target, cluster.version().await?);
    let idle = cluster.usage()?;
    if workload.reads() {
        fill(&cluster, arguments.keys, arguments.value_bytes, arguments.threads).await?;
    }
    for &clients in &arguments.clients {
        let load = Load {
            workload,
            clients,
            window: Duration::from_secs_f64(arguments.seconds),
            keys: arguments.keys,
            value_bytes: arguments.value_bytes,
            threads: arguments.threads,
        };
        let measured = drive(&cluster, load).await?;
        let row = Round::new(target, load, round, &measured, idle, cluster.usage()?);
        say(&format!(
            "{:16} {:4} clients  round {round}  {:8}  {:9.0} ops/s  p50 {:7} µs  p99 {:7} µs  {} errors",
            row.workload,
            row.clients,
            row.target,
            row.per_second,
            row.p50_micros,
            row.p99_micros,
            row.errors
        ));
        report.rows.push(row);
    }
    Ok(())
}
