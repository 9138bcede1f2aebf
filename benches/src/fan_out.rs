//! `kvbench fan-out`: how long an event takes to many watchers, at a rate that is given.
//!
//! Promises that every watcher has got every put exactly once and in the order of the revisions,
//! or the run fails; and that the lag begins when the put was sent, whatever it waited for.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::Args;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::Common;
use crate::drive::{Measured, WARM_UP, Window, consumption};
use crate::pace::{Pace, SEQUENCE_BYTES, Writer, Written, spans, write_last};
use crate::process::Usage;
use crate::report::{Measurement, Report, say};
use crate::table::{Column, table};
use crate::target::{Cluster, Target};
use crate::watchers::{KeyRange, Plan, Reading, Receipt, Watchers};

/// Where the keys of all puts begin, and the end of a range of them all.
const PREFIX: &str = "watched/";
const PREFIX_END: &str = "watched0";

/// Arguments of `kvbench fan-out`.
#[derive(Args)]
pub(crate) struct FanOutArguments {
    #[command(flatten)]
    common: Common,
    /// Watchers at once, measured one number after the other.
    #[arg(long, value_delimiter = ',', default_value = "200")]
    watchers: Vec<usize>,
    /// Events a second that all watchers together shall get; the puts are as many times fewer as
    /// there are watchers.
    #[arg(long, default_value_t = 40_000.0)]
    events: f64,
    #[command(flatten)]
    shape: ShapeArguments,
    /// Windows of each target for each number of watchers.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

/// How watchers and puts look, for every command that has both.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct ShapeArguments {
    /// Streams that the watchers share [default: each its own].
    #[arg(long)]
    streams: Option<usize>,
    /// Connections that the streams share, spread over all members.
    #[arg(long, default_value_t = 20)]
    connections: usize,
    /// Keys that are written in turns. Of one key, the key is watched; of more, their prefix.
    #[arg(long, default_value_t = 1)]
    keys: u32,
    /// Bytes of a value.
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
    /// Length of a window.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Threads of the watchers; the puts have one of their own.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

impl ShapeArguments {
    /// Refuses what cannot be measured.
    pub(crate) fn check(&self) -> Result<()> {
        ensure!(self.seconds > 0.0, "--seconds must be more than nothing");
        ensure!(
            self.value_bytes >= SEQUENCE_BYTES,
            "--value-bytes must be {SEQUENCE_BYTES} or more"
        );
        ensure!(self.keys > 0, "--keys must be at least one");
        ensure!(self.connections > 0, "--connections must be at least one");
        ensure!(self.streams != Some(0), "--streams must be at least one");
        Ok(())
    }
}

/// One window of one target.
#[derive(Serialize)]
struct Round {
    target: String,
    round: usize,
    watchers: usize,
    streams: usize,
    puts_per_second: f64,
    /// Events that all watchers together got of the puts of the window, a second.
    events_per_second: f64,
    lag: Lag,
    /// Of all servers, for one event.
    server_cpu_micros: f64,
    /// Of the load generator, for one event.
    client_cpu_micros: f64,
    resident_before_bytes: u64,
    resident_after_bytes: u64,
}

impl Measurement for Round {
    fn case(&self) -> String {
        format!("{} watchers on {} streams", self.watchers, self.streams)
    }

    fn target(&self) -> &str {
        &self.target
    }

    fn round(&self) -> usize {
        self.round
    }
}

/// Quantiles of a latency in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Quantiles {
    /// How many values there are.
    pub(crate) count: u64,
    /// Median.
    pub(crate) p50_micros: u64,
    /// 99th percentile.
    pub(crate) p99_micros: u64,
    /// 99.9th percentile.
    pub(crate) p999_micros: u64,
    /// The longest.
    pub(crate) max_micros: u64,
}

impl Quantiles {
    /// Of these values.
    pub(crate) fn of(values: &Histogram<u64>) -> Self {
        Self {
            count: values.len(),
            p50_micros: values.value_at_quantile(0.5),
            p99_micros: values.value_at_quantile(0.99),
            p999_micros: values.value_at_quantile(0.999),
            max_micros: values.max(),
        }
    }
}

/// How late events were.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Lag {
    /// From sending the put to the event's receipt.
    pub(crate) from_sent: Quantiles,
    /// From the answer of the put to the event's receipt; zero where the event came first.
    pub(crate) from_answer: Quantiles,
    /// From sending the put to its answer.
    pub(crate) put: Quantiles,
    /// From the moment when a put was due to its sending: the load generator's own delay, which
    /// is part of nothing above.
    pub(crate) delay: Quantiles,
}

/// What one window of a fan-out has shown.
pub(crate) struct FanOut {
    /// How late events were.
    pub(crate) lag: Lag,
    /// What it cost. The latencies in it are empty.
    pub(crate) cost: Measured,
    /// Of the servers, before the watches were opened and after the last put of the window.
    pub(crate) usage: (Usage, Usage),
}

/// Measures and writes the report.
pub(crate) async fn run(arguments: FanOutArguments) -> Result<()> {
    ensure!(!arguments.common.targets.is_empty(), "there is nothing to measure; give --target");
    ensure!(!arguments.watchers.contains(&0), "--watchers must be at least one");
    arguments.shape.check()?;
    let mut report = Report::new("fan-out");
    for round in 1..=arguments.rounds {
        for target in &arguments.common.targets.clone() {
            one_turn(&arguments, &mut report, target, round).await?;
        }
    }
    report.publish(&arguments.common.results, &fan_out_table(&report.rows))
}

async fn one_turn(
    arguments: &FanOutArguments,
    report: &mut Report<Round>,
    target: &Target,
    round: usize,
) -> Result<()> {
    let common = &arguments.common;
    let folder = common.disk_folder()?;
    for &watchers in &arguments.watchers {
        let cluster = Cluster::start(target, common.members, &folder, &common.server_flags).await?;
        report.note_target(target, cluster.version().await?);
        let puts_per_second = arguments.events / watchers as f64;
        let measured = fan_out(&cluster, arguments.shape, watchers, puts_per_second, false)
            .await
            .with_context(|| format!("target {}", target.name))?;
        let events = measured.lag.from_sent.count;
        let each = |seconds: f64| seconds * 1e6 / (events.max(1) as f64);
        let row = Round {
            target: target.name.clone(),
            round,
            watchers,
            streams: arguments.shape.streams.unwrap_or(watchers),
            puts_per_second,
            events_per_second: events as f64 / measured.cost.seconds,
            lag: measured.lag,
            server_cpu_micros: each(measured.cost.server_cpu_seconds),
            client_cpu_micros: each(measured.cost.client_cpu_seconds),
            resident_before_bytes: measured.usage.0.resident_bytes,
            resident_after_bytes: measured.usage.1.resident_bytes,
        };
        say(&format!(
            "{:6} watchers  round {round}  {:8}  {:9.0} events/s  lag p50 {:7} µs  p99 {:7} µs",
            row.watchers,
            row.target,
            row.events_per_second,
            row.lag.from_sent.p50_micros,
            row.lag.from_sent.p99_micros
        ));
        report.rows.push(row);
    }
    Ok(())
}

/// Opens the watches, puts at the rate, and checks and measures what arrived. With `slow`, one
/// watcher more reads nothing until the window is over; its events are checked, not measured.
pub(crate) async fn fan_out(
    cluster: &Cluster,
    shape: ShapeArguments,
    watchers: usize,
    puts_per_second: f64,
    slow: bool,
) -> Result<FanOut> {
    let urls = cluster.urls_leader_first().await?;
    // A member that is behind would send its new watchers the puts of the window before.
    cluster.caught_up().await?;
    let before = cluster.usage()?;
    let readers = Watchers::open(plan(shape, &urls, watchers)).await?;
    let sleeper = if slow { Some(Watchers::open(slow_plan(shape, &urls)).await?) } else { None };
    let pace = Pace {
        per_second: puts_per_second,
        prefix: PREFIX,
        keys: shape.keys,
        value_bytes: shape.value_bytes,
    };
    let window = Window::after_warm_up(Duration::from_secs_f64(shape.seconds));
    let writer = Writer::start(&urls[0], pace, window.from - WARM_UP)?;
    let cost = consumption(cluster, window).await?;
    let after = cluster.usage()?;
    let written = writer.finish().await?;
    ensure!(written.errors.0 == 0, "{} puts failed: {:?}", written.errors.0, written.errors.1);
    write_last(&urls[0], pace).await?;
    let receipts = readers.finish().await?;
    check_all(&written, &receipts)?;
    if let Some(sleeper) = sleeper {
        let receipts = sleeper.finish().await.context("the watcher that did not read")?;
        check_all(&written, &receipts).context("the watcher that did not read")?;
    }
    let lag = lag(&written, &receipts, window)?;
    Ok(FanOut { lag, cost, usage: (before, after) })
}

fn watched(shape: ShapeArguments) -> KeyRange {
    if shape.keys == 1 {
        KeyRange { key: format!("{PREFIX}{:06}", 0).into(), range_end: Bytes::new() }
    } else {
        KeyRange { key: PREFIX.into(), range_end: PREFIX_END.into() }
    }
}

fn plan(shape: ShapeArguments, urls: &[String], watchers: usize) -> Plan {
    let count = shape.streams.unwrap_or(watchers).min(watchers);
    let mut streams = vec![Vec::new(); count];
    for watcher in 0..watchers {
        streams[watcher % count].push(watched(shape));
    }
    let (connections, threads) = (shape.connections, shape.threads);
    Plan { streams, urls: urls.to_vec(), connections, threads, reading: Reading::Now }
}

/// One watcher at the leader.
fn slow_plan(shape: ShapeArguments, urls: &[String]) -> Plan {
    Plan {
        streams: vec![vec![watched(shape)]],
        urls: urls.to_vec(),
        connections: 1,
        threads: 1,
        reading: Reading::Later,
    }
}

/// Every watcher must have every put, in the order of the revisions.
fn check_all(written: &Written, receipts: &[Vec<Receipt>]) -> Result<()> {
    let mut puts: Vec<(i64, u32)> =
        written.puts.iter().map(|put| (put.revision, put.sequence)).collect();
    puts.sort_unstable();
    for (number, watcher) in receipts.iter().enumerate() {
        let same = watcher.iter().zip(&puts).take_while(|(got, put)| got.sequence == put.1).count();
        ensure!(
            same == puts.len() && same == watcher.len(),
            "watcher {number} has {} events of {} puts; they differ after {same}",
            watcher.len(),
            puts.len()
        );
    }
    Ok(())
}

/// The lags of the events whose puts were sent inside the window.
fn lag(written: &Written, receipts: &[Vec<Receipt>], window: Window) -> Result<Lag> {
    let mut puts: Vec<_> = written.puts.iter().collect();
    puts.sort_unstable_by_key(|put| put.sequence);
    // Nothing failed, so that the number of a put is its place.
    let of = |receipt: &Receipt| usize::try_from(receipt.sequence).ok().and_then(|at| puts.get(at));
    let inside = || {
        let all = receipts.iter().flatten();
        all.filter_map(|receipt| Some((**of(receipt)?, receipt.at)))
            .filter(|(put, _)| put.sent >= window.from && put.sent < window.until)
    };
    Ok(Lag {
        from_sent: Quantiles::of(&spans(inside().map(|(put, at)| (put.sent, at)))?),
        from_answer: Quantiles::of(&spans(inside().map(|(put, at)| (put.answered, at)))?),
        put: Quantiles::of(&written.latencies(window)?),
        delay: Quantiles::of(&written.delays(window)?),
    })
}

fn fan_out_table(rows: &[Round]) -> String {
    table(
        "Lag of events, milliseconds from sending the put to the watcher; CPU of all servers and \
         of the load generator for one event.",
        rows,
        &[
            Column::plain("events/s", 0, |row: &Round| row.events_per_second),
            Column::compared("lag p50 ms", 2, |row| row.lag.from_sent.p50_micros as f64 / 1e3),
            Column::compared("lag p99 ms", 2, |row| row.lag.from_sent.p99_micros as f64 / 1e3),
            Column::compared("lag p99.9 ms", 2, |row| row.lag.from_sent.p999_micros as f64 / 1e3),
            Column::plain("max ms", 2, |row| row.lag.from_sent.max_micros as f64 / 1e3),
            Column::compared("from answer p99 ms", 2, |row| {
                row.lag.from_answer.p99_micros as f64 / 1e3
            }),
            Column::compared("put p99 ms", 2, |row| row.lag.put.p99_micros as f64 / 1e3),
            Column::compared("CPU µs/event", 1, |row| row.server_cpu_micros),
            Column::plain("own CPU µs/event", 1, |row| row.client_cpu_micros),
            Column::plain("RSS MB before", 0, |row| row.resident_before_bytes as f64 / 1_048_576.0),
            Column::plain("RSS MB after", 0, |row| row.resident_after_bytes as f64 / 1_048_576.0),
        ],
    )
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::pace::Put;

    fn written(now: Instant) -> Written {
        // The second put sent was the first one applied.
        let put = |sequence, revision| Put {
            sequence,
            due: now,
            sent: now,
            answered: now + Duration::from_micros(100),
            revision,
        };
        let mut written = Written::default();
        written.puts.extend([put(0, 3), put(1, 2)]);
        written
    }

    fn receipts(at: Instant, sequences: &[u32]) -> Vec<Receipt> {
        sequences.iter().map(|&sequence| Receipt { sequence, at }).collect()
    }

    #[test]
    fn a_watcher_that_misses_or_repeats_or_turns_events_fails_the_run() {
        let now = Instant::now();
        let check = |sequences: &[u32]| check_all(&written(now), &[receipts(now, sequences)]);
        assert!(check(&[1, 0]).is_ok());
        for wrong in [&[0, 1][..], &[1], &[1, 0, 0], &[]] {
            assert!(check(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_lag_begins_at_sending_and_separately_at_the_answer() {
        let now = Instant::now();
        let window = Window { from: now, until: now + Duration::from_secs(1) };
        let all = [receipts(now + Duration::from_micros(350), &[1, 0])];
        let lag = lag(&written(now), &all, window).unwrap();
        assert_eq!((lag.from_sent.count, lag.from_sent.max_micros), (2, 350));
        assert_eq!(lag.from_answer.max_micros, 250);
        assert_eq!(lag.put.max_micros, 100);
    }
}
