//! `kvbench restart`: how long a member and a whole cluster are away after kill -9.
//!
//! Promises that the store holds what was asked for before anything is killed, and that "back" is
//! an answer to a request, not an open port.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;
use serde::Serialize;

use crate::Common;
use crate::bulk::fill;
use crate::report::{Report, median, say};
use crate::target::{Cluster, Target};

/// Arguments of `kvbench restart`.
#[derive(Args)]
pub(crate) struct RestartArguments {
    #[command(flatten)]
    common: Common,
    /// Keys in the store.
    #[arg(long, default_value_t = 100_000)]
    keys: u64,
    /// Bytes of a value.
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
    /// Kills of each kind for each target, on one loaded cluster.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

/// What was killed and how long until each kind of answer.
#[derive(Serialize)]
struct Restarted {
    target: String,
    round: usize,
    keys: u64,
    /// One follower: from its start to its first serializable answer, seconds.
    follower_serializable_seconds: f64,
    /// One follower: from its start to its first linearizable answer.
    follower_linearizable_seconds: f64,
    /// All members: from their start to the first linearizable answer of one of them.
    cluster_linearizable_seconds: f64,
    /// The leader: from its death to the first linearizable answer of a survivor.
    failover_seconds: f64,
}

/// Measures and writes the report.
pub(crate) async fn run(arguments: RestartArguments) -> Result<()> {
    ensure!(!arguments.common.targets.is_empty(), "there is nothing to measure; give --target");
    let mut report = Report::new("restart");
    let common = &arguments.common;
    let folder = common.disk_folder()?;
    for target in &common.targets {
        let mut cluster =
            Cluster::start(target, common.members, &folder, &common.server_flags).await?;
        report.note_target(target, cluster.version().await?);
        fill(&cluster, arguments.keys, arguments.value_bytes, 1).await?;
        for round in 1..=arguments.rounds {
            let row = one_round(&arguments, &mut cluster, target, round).await?;
            say(&format!(
                "{:8} round {round}  follower {:.3} s  cluster {:.3} s  fail-over {:.3} s",
                row.target,
                row.follower_linearizable_seconds,
                row.cluster_linearizable_seconds,
                row.failover_seconds
            ));
            report.rows.push(row);
        }
    }
    report.publish(&common.results, &table(&common.targets, &report.rows))
}

async fn one_round(
    arguments: &RestartArguments,
    cluster: &mut Cluster,
    target: &Target,
    round: usize,
) -> Result<Restarted> {
    let members = arguments.common.members;
    let follower = (cluster.leader().await? + 1) % members;
    cluster.kill(follower)?;
    cluster.restart(follower)?;
    let begin = Instant::now();
    cluster.answers(follower, true).await?;
    let serializable = begin.elapsed();
    cluster.answers(follower, false).await?;
    let linearizable = begin.elapsed();

    let failover = fail_over(cluster, members).await?;

    for number in 0..members {
        cluster.kill(number)?;
    }
    for number in 0..members {
        cluster.restart(number)?;
    }
    let whole = cluster.answers(0, false).await?;
    cluster.ready().await?;
    Ok(Restarted {
        target: target.name.clone(),
        round,
        keys: arguments.keys,
        follower_serializable_seconds: serializable.as_secs_f64(),
        follower_linearizable_seconds: linearizable.as_secs_f64(),
        cluster_linearizable_seconds: whole.as_secs_f64(),
        failover_seconds: failover.as_secs_f64(),
    })
}

/// Kills the leader and waits for a survivor; nothing to measure where there is none.
async fn fail_over(cluster: &mut Cluster, members: usize) -> Result<Duration> {
    if members < 3 {
        return Ok(Duration::ZERO);
    }
    let leader = cluster.leader().await?;
    cluster.kill(leader)?;
    let failover = cluster.answers((leader + 1) % members, false).await?;
    cluster.restart(leader)?;
    cluster.ready().await?;
    Ok(failover)
}

fn table(targets: &[Target], rows: &[Restarted]) -> String {
    let mut text = String::from(
        "Seconds from the start of the process (fail-over: from the death of the leader) to an \
         answer; medians (longest).\n\n\
         | target | keys | follower, serializable | follower, linearizable | all members | fail-over |\n\
         |---|--:|--:|--:|--:|--:|\n",
    );
    for target in targets {
        let own: Vec<&Restarted> = rows.iter().filter(|row| row.target == target.name).collect();
        let Some(row) = own.first() else { continue };
        let cell = |figure: fn(&Restarted) -> f64| {
            let figures: Vec<f64> = own.iter().map(|row| figure(row)).collect();
            let longest = figures.iter().copied().fold(0.0, f64::max);
            format!("{:.3} ({longest:.3})", median(figures))
        };
        text.push_str(&format!(
            "| {} | {} | {} | {} | {} | {} |\n",
            row.target,
            row.keys,
            cell(|row| row.follower_serializable_seconds),
            cell(|row| row.follower_linearizable_seconds),
            cell(|row| row.cluster_linearizable_seconds),
            cell(|row| row.failover_seconds),
        ));
    }
    text
}
