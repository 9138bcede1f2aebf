//! Results: one JSON with every round, one table in Markdown with medians, ratios and spread.
//!
//! Promises that nothing measured is left out of the JSON, and that a ratio in the table compares
//! rounds that ran next to each other: it is the median of the ratios of the pairs, never the ratio
//! of two medians.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::drive::{Load, Measured};
use crate::floor::SyncFloor;
use crate::machine::Machine;
use crate::process::Usage;
use crate::target::Target;

/// Everything about one call of kvbench.
#[derive(Serialize)]
pub(crate) struct Report<Row> {
    /// Which command it was.
    pub(crate) command: &'static str,
    /// How it was called.
    pub(crate) arguments: Vec<String>,
    /// Where it ran.
    pub(crate) machine: Machine,
    /// What was measured, the one that ratios refer to first.
    pub(crate) targets: Vec<TargetAbout>,
    /// What the disk does, in the same run.
    pub(crate) sync_floors: Vec<SyncFloor>,
    /// One row for every measurement.
    pub(crate) rows: Vec<Row>,
}

/// A target as it is named in a result.
#[derive(Serialize)]
pub(crate) struct TargetAbout {
    /// Its name in the rows.
    pub(crate) name: String,
    /// The file that was started.
    pub(crate) program: PathBuf,
    /// What it answers to Status; empty for a floor.
    pub(crate) version: String,
}

impl<Row: Serialize> Report<Row> {
    /// A report without rows, of this machine and this command line.
    pub(crate) fn new(command: &'static str) -> Self {
        Self {
            command,
            arguments: std::env::args().skip(1).collect(),
            machine: Machine::here(),
            targets: Vec::new(),
            sync_floors: Vec::new(),
            rows: Vec::new(),
        }
    }

    /// Notes the target, once.
    pub(crate) fn note_target(&mut self, target: &Target, version: String) {
        if self.targets.iter().all(|known| known.name != target.name) {
            let (name, program) = (target.name.clone(), target.program.clone());
            self.targets.push(TargetAbout { name, program, version });
        }
    }

    /// Writes the JSON and the table, and prints the table.
    pub(crate) fn publish(&self, folder: &Path, table: &str) -> Result<()> {
        fs::create_dir_all(folder)?;
        let stem = format!("{}-{}", self.machine.date_in_name(), self.command);
        let text = format!("{}\n{table}", self.heading());
        fs::write(folder.join(format!("{stem}.json")), serde_json::to_string_pretty(self)?)?;
        fs::write(folder.join(format!("{stem}.md")), &text).context("writing the table")?;
        say(&text);
        say(&format!("written to {}", folder.join(stem).with_extension("{json,md}").display()));
        Ok(())
    }

    fn heading(&self) -> String {
        let machine = &self.machine;
        let memory_gib = machine.memory_bytes >> 30;
        let mut text = format!("# kvbench {}, {}\n\n", self.command, machine.date);
        let _fits = writeln!(
            text,
            "{}, {} processors, {memory_gib} GiB, Linux {}; load before {}; commit {}.\n",
            machine.processor,
            machine.processors,
            machine.kernel,
            machine.load_average,
            machine.commit
        );
        let _fits = writeln!(text, "`kvbench {}`\n", self.arguments.join(" "));
        for target in &self.targets {
            let version = Some(target.version.as_str()).filter(|version| !version.is_empty());
            let version = version.unwrap_or("none");
            let _fits = writeln!(text, "- {}: version {version}", target.name);
        }
        for floor in &self.sync_floors {
            let _fits = writeln!(
                text,
                "- fdatasync, {} at once: p50 {} µs, p99 {} µs, {:.0} a second",
                floor.threads, floor.p50_micros, floor.p99_micros, floor.syncs_per_second
            );
        }
        text
    }
}

/// A row that can be compared with the row of another target.
pub(crate) trait Measurement {
    /// What was compared, beside the target: rows of different cases never meet in a ratio.
    fn case(&self) -> String;
    /// Name of the target.
    fn target(&self) -> &str;
    /// Which repetition, from one.
    fn round(&self) -> usize;
}

impl Measurement for Round {
    fn case(&self) -> String {
        format!("{} {}", self.workload, self.clients)
    }

    fn target(&self) -> &str {
        &self.target
    }

    fn round(&self) -> usize {
        self.round
    }
}

/// One window of one target.
#[derive(Clone, Serialize)]
pub(crate) struct Round {
    /// Name of the workload.
    pub(crate) workload: &'static str,
    /// Clients at once.
    pub(crate) clients: usize,
    /// Which repetition, from one.
    pub(crate) round: usize,
    /// Name of the target.
    pub(crate) target: String,
    /// Operations that succeeded in the window.
    pub(crate) operations: u64,
    /// Length of the window, seconds.
    pub(crate) seconds: f64,
    /// Operations a second.
    pub(crate) per_second: f64,
    /// Latencies, microseconds: median.
    pub(crate) p50_micros: u64,
    /// 99th percentile.
    pub(crate) p99_micros: u64,
    /// 99.9th percentile.
    pub(crate) p999_micros: u64,
    /// The longest.
    pub(crate) max_micros: u64,
    /// Operations that failed, in and around the window.
    pub(crate) errors: u64,
    /// The words of one of them.
    pub(crate) error: Option<String>,
    /// CPU time of all servers for one operation, microseconds.
    pub(crate) server_cpu_micros: f64,
    /// CPU time of the load generator for one operation, microseconds.
    pub(crate) client_cpu_micros: f64,
    /// Bytes written to the device for one operation, by whomever.
    pub(crate) device_bytes: Option<f64>,
    /// Bytes that the servers handed to the disk for one operation, by their own count.
    pub(crate) server_written_bytes: f64,
    /// Resident memory of all servers before the first load, bytes.
    pub(crate) resident_idle_bytes: u64,
    /// Resident memory of all servers after this window, bytes.
    pub(crate) resident_after_bytes: u64,
}

impl Round {
    /// The row of one window.
    pub(crate) fn new(
        target: &Target,
        load: Load,
        round: usize,
        measured: &Measured,
        idle: Usage,
        after: Usage,
    ) -> Self {
        let operations = measured.operations();
        let each = |sum: f64| sum / (operations.max(1) as f64);
        let quantile = |quantile| measured.latencies.value_at_quantile(quantile);
        Self {
            workload: load.workload.name(),
            clients: load.clients,
            round,
            target: target.name.clone(),
            operations,
            seconds: measured.seconds,
            per_second: operations as f64 / measured.seconds,
            p50_micros: quantile(0.5),
            p99_micros: quantile(0.99),
            p999_micros: quantile(0.999),
            max_micros: measured.latencies.max(),
            errors: measured.errors.0,
            error: measured.errors.1.clone(),
            server_cpu_micros: each(measured.server_cpu_seconds * 1e6),
            client_cpu_micros: each(measured.client_cpu_seconds * 1e6),
            device_bytes: measured.device_written_bytes.map(|bytes| each(bytes as f64)),
            server_written_bytes: each(measured.server_written_bytes as f64),
            resident_idle_bytes: idle.resident_bytes,
            resident_after_bytes: after.resident_bytes,
        }
    }
}

/// The table of `run`. Ratios are the first target's figure divided by the row's.
pub(crate) fn run_table(rows: &[Round]) -> String {
    let mut text = String::from(
        "Medians of the rounds. × is the first target's figure ÷ this target's, the median of the \
         pairs (their range). CPU is of all servers / of the load generator.\n\n\
         | workload | clients | target | ops/s | × (range) | p50 ms | × | p99 ms | × | p99.9 ms \
         | × | CPU µs/op | device B/op | RSS MB idle → after | errors |\n\
         |---|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    let mut groups: Vec<(&str, usize, &str)> = Vec::new();
    for row in rows {
        let group = (row.workload, row.clients, row.target.as_str());
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    // Targets of one workload and one number of clients stand together.
    groups.sort_by_key(|group| {
        rows.iter().position(|row| (row.workload, row.clients) == (group.0, group.1))
    });
    for (workload, clients, target) in groups {
        let of_load = |row: &&Round| row.workload == workload && row.clients == clients;
        let load: Vec<&Round> = rows.iter().filter(of_load).collect();
        text.push_str(&table_row(&load, target));
    }
    text
}

fn table_row(load: &[&Round], target: &str) -> String {
    let own: Vec<&Round> = load.iter().copied().filter(|row| row.target == target).collect();
    let (Some(row), Some(first)) = (own.first(), load.first()) else { return String::new() };
    let middle = |figure: fn(&Round) -> f64| median(own.iter().map(|row| figure(row)).collect());
    let pairs = |figure: fn(&Round) -> f64| ratios(load, &first.target, target, figure);
    let ratio = |figure: fn(&Round) -> f64| format!("{:.2}", median(pairs(figure)));
    let throughput = pairs(|row| row.per_second);
    let low = throughput.iter().copied().fold(f64::INFINITY, f64::min);
    let high = throughput.iter().copied().fold(0.0, f64::max);
    let errors: u64 = own.iter().map(|row| row.errors).sum();
    let mib = |bytes: f64| bytes / 1_048_576.0;
    format!(
        "| {} | {} | {target} | {:.0} | {:.2} ({low:.2}–{high:.2}) | {:.2} | {} | {:.2} | {} | \
         {:.2} | {} | {:.0} / {:.0} | {:.0} | {:.0} → {:.0} | {errors} |\n",
        row.workload,
        row.clients,
        middle(|row| row.per_second),
        median(throughput),
        middle(|row| row.p50_micros as f64) / 1e3,
        ratio(|row| row.p50_micros as f64),
        middle(|row| row.p99_micros as f64) / 1e3,
        ratio(|row| row.p99_micros as f64),
        middle(|row| row.p999_micros as f64) / 1e3,
        ratio(|row| row.p999_micros as f64),
        middle(|row| row.server_cpu_micros),
        middle(|row| row.client_cpu_micros),
        middle(|row| row.device_bytes.unwrap_or(0.0)),
        mib(middle(|row| row.resident_idle_bytes as f64)),
        mib(middle(|row| row.resident_after_bytes as f64)),
    )
}

/// The first target's figure divided by the other's, round by round, within one case.
pub(crate) fn ratios<Row: Measurement>(
    rows: &[&Row],
    first: &str,
    other: &str,
    figure: fn(&Row) -> f64,
) -> Vec<f64> {
    let of = |target: &str, round: usize| {
        let mut rows = rows.iter().filter(|row| row.target() == target);
        rows.find(|row| row.round() == round).map(|row| figure(row))
    };
    let rounds = rows.iter().filter(|row| row.target() == first).map(|row| row.round());
    rounds
        .filter_map(|round| Some(of(first, round)? / of(other, round)?))
        .filter(|ratio| ratio.is_finite())
        .collect()
}

/// The middle of these figures; zero of none.
pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    match figures.len() {
        0 => 0.0,
        count if count % 2 == 1 => figures[count / 2],
        count => (figures[count / 2 - 1] + figures[count / 2]) / 2.0,
    }
}

/// A line for whoever watches.
#[expect(clippy::print_stdout, reason = "the one place where kvbench speaks")]
pub(crate) fn say(line: &str) {
    println!("{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(target: &str, round: usize, per_second: f64) -> Round {
        Round {
            workload: "put",
            clients: 1,
            round,
            target: target.to_owned(),
            operations: 1,
            seconds: 1.0,
            per_second,
            p50_micros: 500,
            p99_micros: 900,
            p999_micros: 1000,
            max_micros: 1100,
            errors: 0,
            error: None,
            server_cpu_micros: 40.0,
            client_cpu_micros: 20.0,
            device_bytes: None,
            server_written_bytes: 0.0,
            resident_idle_bytes: 1 << 20,
            resident_after_bytes: 2 << 20,
        }
    }

    #[test]
    fn a_median_is_the_middle_or_the_mean_of_the_two_middles() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(vec![4.0, 1.0]) - 2.5).abs() < 1e-9);
        assert!(median(Vec::new()).abs() < 1e-9);
    }

    #[test]
    fn a_ratio_is_taken_between_rounds_that_ran_together() {
        // The machine became twice as slow after the first round; the ratio does not see it.
        let rows =
            [round("a", 1, 200.0), round("b", 1, 100.0), round("a", 2, 100.0), round("b", 2, 50.0)];
        let table = run_table(&rows);
        assert!(table.contains("| put | 1 | b | 75 | 2.00 (2.00–2.00) |"), "{table}");
        assert!(table.contains("| put | 1 | a | 150 | 1.00 (1.00–1.00) |"), "{table}");
    }
}
