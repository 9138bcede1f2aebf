//! `kvbench idle-watches`: what watches on keys that nobody writes cost the puts of other keys.
//!
//! Promises that all watches are there over the whole window: afterwards each of them gets the one
//! event it waits for. The windows without them stand before and after, on the same cluster.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::Args;
use kvd_proto::etcdserverpb::kv_client::KvClient;
use kvd_proto::etcdserverpb::request_op::Request;
use kvd_proto::etcdserverpb::{PutRequest, RequestOp, TxnRequest};
use serde::Serialize;

use crate::Common;
use crate::bulk::BATCH;
use crate::drive::{Load, drive};
use crate::fan_out::Quantiles;
use crate::pace::{LAST, SEQUENCE_BYTES, value};
use crate::process::Usage;
use crate::report::{Measurement, Report, say};
use crate::table::{Column, table};
use crate::target::{Cluster, Target, connect};
use crate::watchers::{KeyRange, Plan, Reading, Watchers};
use crate::workload::{Workload, value_pool};

/// Arguments of `kvbench idle-watches`.
#[derive(Args)]
pub(crate) struct IdleWatchesArguments {
    #[command(flatten)]
    common: Common,
    /// Watches, each on a key of its own that nobody writes.
    #[arg(long, default_value_t = 10_000)]
    watches: usize,
    /// Streams that the watches share, measured one number after the other.
    #[arg(long, value_delimiter = ',', default_value = "1,10000")]
    streams: Vec<usize>,
    /// Connections that the streams share, spread over all members.
    #[arg(long, default_value_t = 20)]
    connections: usize,
    /// Clients that put in a closed loop.
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// Bytes of a value.
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
    /// Keys that are written.
    #[arg(long, default_value_t = 20_000)]
    keys: u64,
    /// Length of a window; each turn has three.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Turns of each target for each number of streams.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Threads of the load generator.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

/// The three windows of one target.
#[derive(Serialize)]
struct Round {
    target: String,
    round: usize,
    watches: usize,
    streams: usize,
    clients: usize,
    before: Puts,
    with_watches: Puts,
    after: Puts,
    /// Puts a second: with the watches ÷ mean of the two windows without.
    ratio: f64,
    /// Memory of all servers for one watch that is open.
    bytes_per_watch: f64,
}

/// One window of puts.
#[derive(Clone, Copy, Serialize)]
struct Puts {
    per_second: f64,
    latency: Quantiles,
    errors: u64,
    /// Of all servers, for one put.
    server_cpu_micros: f64,
}

impl Measurement for Round {
    fn case(&self) -> String {
        format!("{} watches on {} streams, {} clients", self.watches, self.streams, self.clients)
    }

    fn target(&self) -> &str {
        &self.target
    }

    fn round(&self) -> usize {
        self.round
    }
}

/// Measures and writes the report.
pub(crate) async fn run(arguments: IdleWatchesArguments) -> Result<()> {
    ensure!(!arguments.common.targets.is_empty(), "there is nothing to measure; give --target");
    ensure!(arguments.seconds > 0.0, "--seconds must be more than nothing");
    ensure!(arguments.watches > 0, "--watches must be at least one");
    ensure!(!arguments.streams.contains(&0), "--streams must be at least one");
    let mut report = Report::new("idle-watches");
    for &streams in &arguments.streams {
        for round in 1..=arguments.rounds {
            for target in &arguments.common.targets.clone() {
                let turn = one_turn(&arguments, &mut report, target, (streams, round)).await;
                let row = turn.with_context(|| format!("target {}", target.name))?;
                say(&format!(
                    "{:6} streams  round {round}  {:8}  {:8.0} puts/s, with the watches {:8.0}, after {:8.0}: {:.2}",
                    row.streams,
                    row.target,
                    row.before.per_second,
                    row.with_watches.per_second,
                    row.after.per_second,
                    row.ratio
                ));
                report.rows.push(row);
            }
        }
    }
    report.publish(&arguments.common.results, &idle_table(&report.rows))
}

async fn one_turn(
    arguments: &IdleWatchesArguments,
    report: &mut Report<Round>,
    target: &Target,
    (streams, round): (usize, usize),
) -> Result<Round> {
    let common = &arguments.common;
    let folder = common.disk_folder()?;
    let cluster = Cluster::start(target, common.members, &folder, &common.server_flags).await?;
    report.note_target(target, cluster.version().await?);
    let before = puts(arguments, &cluster).await?;
    let without: Usage = cluster.usage()?;
    let streams = streams.min(arguments.watches);
    let watchers = Watchers::open(plan(arguments, &cluster, streams).await?).await?;
    let opened: Usage = cluster.usage()?;
    let with_watches = puts(arguments, &cluster).await?;
    // One event for each watch shows that all of them were there.
    write_idle_keys(&cluster, arguments.watches).await?;
    let _receipts = watchers.finish().await?;
    let after = puts(arguments, &cluster).await?;
    let growth = opened.resident_bytes.saturating_sub(without.resident_bytes);
    Ok(Round {
        target: target.name.clone(),
        round,
        watches: arguments.watches,
        streams,
        clients: arguments.clients,
        ratio: with_watches.per_second * 2.0 / (before.per_second + after.per_second),
        before,
        with_watches,
        after,
        bytes_per_watch: growth as f64 / arguments.watches as f64,
    })
}

async fn puts(arguments: &IdleWatchesArguments, cluster: &Cluster) -> Result<Puts> {
    let load = Load {
        workload: Workload::Put,
        clients: arguments.clients,
        window: Duration::from_secs_f64(arguments.seconds),
        keys: arguments.keys,
        value_bytes: arguments.value_bytes,
        threads: arguments.threads,
    };
    let measured = drive(cluster, load).await?;
    let operations = measured.operations().max(1) as f64;
    Ok(Puts {
        per_second: measured.operations() as f64 / measured.seconds,
        latency: Quantiles::of(&measured.latencies),
        errors: measured.errors.0,
        server_cpu_micros: measured.server_cpu_seconds * 1e6 / operations,
    })
}

fn idle_key(number: usize) -> Bytes {
    format!("idle/{number:010}").into()
}

async fn plan(arguments: &IdleWatchesArguments, cluster: &Cluster, count: usize) -> Result<Plan> {
    let mut streams = vec![Vec::new(); count];
    for number in 0..arguments.watches {
        let range = KeyRange { key: idle_key(number), range_end: Bytes::new() };
        streams[number % count].push(range);
    }
    Ok(Plan {
        streams,
        urls: cluster.urls_leader_first().await?,
        connections: arguments.connections,
        threads: arguments.threads,
        reading: Reading::Now,
    })
}

/// Puts every idle key once, with the value that ends a run.
async fn write_idle_keys(cluster: &Cluster, keys: usize) -> Result<()> {
    let mut kv = KvClient::new(connect(&cluster.urls_leader_first().await?[0]).await?);
    let last = value(&value_pool(SEQUENCE_BYTES), SEQUENCE_BYTES, LAST);
    let numbers: Vec<usize> = (0..keys).collect();
    for batch in numbers.chunks(usize::try_from(BATCH)?) {
        let puts = batch.iter().map(|&number| {
            let (key, value) = (idle_key(number), last.clone());
            let put = PutRequest { key, value, ..Default::default() };
            RequestOp { request: Some(Request::RequestPut(put)) }
        });
        kv.txn(TxnRequest { success: puts.collect(), ..Default::default() }).await?;
    }
    Ok(())
}

fn idle_table(rows: &[Round]) -> String {
    table(
        "Puts a second in a closed loop, without and with the watches.",
        rows,
        &[
            Column::compared("before/s", 0, |row: &Round| row.before.per_second),
            Column::compared("with watches/s", 0, |row| row.with_watches.per_second),
            Column::plain("after/s", 0, |row| row.after.per_second),
            Column::plain("with ÷ without", 3, |row| row.ratio),
            Column::plain("p99 before ms", 2, |row| row.before.latency.p99_micros as f64 / 1e3),
            Column::plain("p99 with ms", 2, |row| row.with_watches.latency.p99_micros as f64 / 1e3),
            Column::compared("CPU µs/put with", 0, |row| row.with_watches.server_cpu_micros),
            Column::compared("RSS B/watch", 0, |row| row.bytes_per_watch),
            Column::plain("errors", 0, |row| {
                (row.before.errors + row.with_watches.errors + row.after.errors) as f64
            }),
        ],
    )
}
