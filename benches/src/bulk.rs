//! Loading: many keys as fast as a target takes them, and `kvbench load`, which reports it.
//!
//! Promises that every key is acknowledged before the clock stops. Keys go in by transactions of
//! puts, as bulk loaders do; the size of the transactions is the same for every target.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Result, ensure};
use bytes::Bytes;
use clap::Args;
use kvd_proto::etcdserverpb::kv_client::KvClient;
use kvd_proto::etcdserverpb::request_op::Request;
use kvd_proto::etcdserverpb::{PutRequest, RequestOp, TxnRequest};
use serde::Serialize;
use tokio::task::JoinSet;

use crate::Common;
use crate::machine::{Device, disk_bytes};
use crate::process::Usage;
use crate::report::{Report, median, say};
use crate::target::{Cluster, Target, connect};
use crate::workload::{key, value_pool};

/// Puts of one transaction; etcd's --max-txn-ops is 128.
pub(crate) const BATCH: u64 = 100;

/// Transactions under way on each connection.
const IN_FLIGHT: usize = 8;

/// Arguments of `kvbench load`.
#[derive(Args)]
pub(crate) struct LoadArguments {
    #[command(flatten)]
    common: Common,
    /// Keys to load.
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    /// Bytes of a value.
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
    /// Loads of each target.
    #[arg(long, default_value_t = 1)]
    rounds: usize,
}

/// One load of one target.
#[derive(Serialize)]
struct Loaded {
    target: String,
    round: usize,
    keys: u64,
    value_bytes: usize,
    seconds: f64,
    keys_per_second: f64,
    /// Of all servers, for one key.
    server_cpu_micros: f64,
    /// Written to the device for one key, by whomever.
    device_bytes: Option<f64>,
    /// Space of all data directories at the end.
    disk_bytes: u64,
    resident_idle_bytes: u64,
    resident_after_bytes: u64,
}

/// Measures and writes the report.
pub(crate) async fn run(arguments: LoadArguments) -> Result<()> {
    ensure!(!arguments.common.targets.is_empty(), "there is nothing to measure; give --target");
    let mut report = Report::new("load");
    for round in 1..=arguments.rounds {
        for target in &arguments.common.targets {
            let loaded = one_load(&arguments, &mut report, target, round).await?;
            say(&format!(
                "{:8} round {round}  {:.0} keys/s",
                loaded.target, loaded.keys_per_second
            ));
            report.rows.push(loaded);
        }
    }
    report.publish(&arguments.common.results, &table(&arguments.common.targets, &report.rows))
}

async fn one_load(
    arguments: &LoadArguments,
    report: &mut Report<Loaded>,
    target: &Target,
    round: usize,
) -> Result<Loaded> {
    let (common, keys) = (&arguments.common, arguments.keys);
    let folder = common.disk_folder()?;
    let cluster = Cluster::start(target, common.members, &folder, &common.server_flags).await?;
    report.note_target(target, cluster.version().await?);
    let device = Device::under(cluster.folder())?;
    let (before, bytes_before, begin) = (cluster.usage()?, device.written_bytes(), Instant::now());
    fill(&cluster, keys, arguments.value_bytes, 1).await?;
    let seconds = begin.elapsed().as_secs_f64();
    let (after, bytes_after): (Usage, _) = (cluster.usage()?, device.written_bytes());
    let each = |sum: f64| sum / (keys.max(1) as f64);
    let loaded = Loaded {
        target: target.name.clone(),
        round,
        keys,
        value_bytes: arguments.value_bytes,
        seconds,
        keys_per_second: keys as f64 / seconds,
        server_cpu_micros: each((after.cpu_seconds - before.cpu_seconds) * 1e6),
        device_bytes: bytes_after
            .zip(bytes_before)
            .map(|(after, before)| each(after.saturating_sub(before) as f64)),
        disk_bytes: disk_bytes(cluster.folder())?,
        resident_idle_bytes: before.resident_bytes,
        resident_after_bytes: after.resident_bytes,
    };
    Ok(loaded)
}

/// Puts the keys from zero to `keys` and returns when all are acknowledged.
pub(crate) async fn fill(
    cluster: &Cluster,
    keys: u64,
    value_bytes: usize,
    channels_per_member: usize,
) -> Result<()> {
    let (next, values) = (Arc::new(AtomicU64::new(0)), value_pool(value_bytes));
    // Transactions stay well below the 1.5 MiB that a request may have (etcd's default).
    let batch = BATCH.min(1_000_000 / (value_bytes as u64 + 64)).max(1);
    let mut loaders = JoinSet::new();
    for url in cluster.urls() {
        for _ in 0..channels_per_member {
            let channel = connect(&url).await?;
            for _ in 0..IN_FLIGHT {
                let kv = KvClient::new(channel.clone());
                let (next, values) = (Arc::clone(&next), values.clone());
                loaders.spawn(load_batches(kv, next, keys, batch, values, value_bytes));
            }
        }
    }
    while let Some(done) = loaders.join_next().await {
        done??;
    }
    Ok(())
}

async fn load_batches(
    mut kv: KvClient<tonic::transport::Channel>,
    next: Arc<AtomicU64>,
    keys: u64,
    batch: u64,
    values: Bytes,
    value_bytes: usize,
) -> Result<()> {
    loop {
        let first = next.fetch_add(batch, Ordering::Relaxed);
        if first >= keys {
            return Ok(());
        }
        let puts = (first..keys.min(first + batch)).map(|number| {
            let start = usize::try_from(number).unwrap_or(0) % (values.len() - value_bytes + 1);
            let value = values.slice(start..start + value_bytes);
            let put = PutRequest { key: key(number), value, ..Default::default() };
            RequestOp { request: Some(Request::RequestPut(put)) }
        });
        kv.txn(TxnRequest { success: puts.collect(), ..Default::default() }).await?;
    }
}

fn table(targets: &[Target], rows: &[Loaded]) -> String {
    let mut text = String::from(
        "Medians of the rounds; memory and disk of all members together.\n\n\
         | target | keys | value B | s | keys/s | CPU µs/key | device B/key | disk MB | RSS MB idle → after |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for target in targets {
        let own: Vec<&Loaded> = rows.iter().filter(|row| row.target == target.name).collect();
        let Some(row) = own.first() else { continue };
        let middle =
            |figure: fn(&Loaded) -> f64| median(own.iter().map(|row| figure(row)).collect());
        let mib = |bytes: f64| bytes / 1_048_576.0;
        text.push_str(&format!(
            "| {} | {} | {} | {:.2} | {:.0} | {:.1} | {:.0} | {:.0} | {:.0} → {:.0} |\n",
            row.target,
            row.keys,
            row.value_bytes,
            middle(|row| row.seconds),
            middle(|row| row.keys_per_second),
            middle(|row| row.server_cpu_micros),
            middle(|row| row.device_bytes.unwrap_or(0.0)),
            mib(middle(|row| row.disk_bytes as f64)),
            mib(middle(|row| row.resident_idle_bytes as f64)),
            mib(middle(|row| row.resident_after_bytes as f64)),
        ));
    }
    text
}
