//! `/metrics`: sets the figures that the node and the process keep, then writes everything out.

use std::fs;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};

use super::Member;
use crate::metrics::Figures;
use crate::node::Status;
use crate::service::convert::maintenance::quota_bytes;

/// The metrics as text; as OpenMetrics if asked for.
pub(super) async fn answer(State(member): State<Member>, headers: HeaderMap) -> Response {
    let metrics = &member.metrics;
    let status = member.node.status();
    set_node(metrics.figures(), &status);
    metrics.set_state_differs(status.state_differs.iter().map(|(id, odd)| (id.to_string(), *odd)));
    set_process(metrics.figures());
    let version = member.node.view().cluster_version();
    metrics.set_cluster_version(version.map(|it| format!("{}.{}", it.major, it.minor)));
    let (content_type, text) = if wants_open_metrics(&headers) {
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", metrics.open_metrics())
    } else {
        ("text/plain; version=0.0.4; charset=utf-8", metrics.prometheus_text())
    };
    match text {
        Ok(text) => ([(CONTENT_TYPE, content_type)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn wants_open_metrics(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.into_iter().any(|value| value.contains("application/openmetrics-text"))
}

fn set_node(figures: &Figures, status: &Status) {
    let leads = status.leader == Some(status.header.member_id);
    figures.has_leader.set(i64::from(status.leader.is_some()));
    figures.is_leader.set(i64::from(leads));
    figures.is_learner.set(i64::from(status.is_learner));
    figures.proposals_committed.set(signed(status.committed.0));
    figures.proposals_applied.set(signed(status.applied.0));
    figures.proposals_pending.set(signed(status.proposals_pending));
    figures.set_proposals_failed(status.proposals_failed);
    figures.set_leader_changes(status.leader_changes);
    figures.set_snapshot_sent_bytes(status.snapshot_sent_bytes);
    figures.quota_bytes.set(quota_bytes(status.quota_bytes));
    figures.db_bytes.set(signed(status.db_size));
    figures.watch_streams.set(signed(status.watches.streams as u64));
    figures.watchers.set(signed(status.watches.watchers as u64));
    figures.slow_watchers.set(signed(status.watches.lagging as u64));
    figures.compaction_blocked_seconds.set(signed(status.compaction_waited.as_secs()));
    figures.request_sessions.set(signed(status.requests.sessions as u64));
    figures.request_answers.set(signed(status.requests.answers as u64));
    figures.db_in_use_bytes.set(signed(status.db_size_in_use));
}

/// From Linux' process files; what cannot be read stays as it was.
fn set_process(figures: &Figures) {
    if let Ok(stat) = fs::read_to_string("/proc/self/stat")
        && let Some(usage) = Usage::parse(&stat)
    {
        figures.set_cpu_seconds(usage.cpu_seconds);
        figures.virtual_bytes.set(usage.virtual_bytes);
        figures.resident_bytes.set(usage.resident_bytes);
        if let Some(booted) = booted_at() {
            figures.start_seconds.set(booted + usage.started_after_boot);
        }
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // One of them is the listing itself.
        figures.open_fds.set(signed(open.count() as u64).saturating_sub(1));
    }
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    figures.max_fds.set(limit.map_or(i64::MAX, signed));
}

/// What the process has used.
#[derive(Debug, PartialEq)]
struct Usage {
    cpu_seconds: f64,
    started_after_boot: f64,
    virtual_bytes: i64,
    resident_bytes: i64,
}

impl Usage {
    /// Reads the kernel's line. The name in brackets may hold anything, so fields count from its end.
    #[expect(clippy::cast_precision_loss, reason = "ticks of a process stay far below 2^52")]
    fn parse(stat: &str) -> Option<Self> {
        let (_, fields) = stat.rsplit_once(") ")?;
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        let number = |place: usize| fields.get(place).and_then(|field| field.parse::<u64>().ok());
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let resident_pages = number(21)?;
        Some(Self {
            cpu_seconds: (number(11)? + number(12)?) as f64 / ticks,
            started_after_boot: number(19)? as f64 / ticks,
            virtual_bytes: signed(number(20)?),
            resident_bytes: signed(resident_pages * rustix::param::page_size() as u64),
        })
    }
}

/// Seconds since 1970 at which the machine started.
fn booted_at() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_line_is_read_behind_any_name() {
        let stat = "7 (a) b) c) S 1 7 7 0 -1 0 1 2 3 4 150 50 5 6 20 0 3 0 1000 4096 2 0";
        let usage = Usage::parse(stat).unwrap();
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        assert_eq!(usage.cpu_seconds, 200.0 / ticks);
        assert_eq!(usage.started_after_boot, 1000.0 / ticks);
        assert_eq!(usage.virtual_bytes, 4096);
        assert_eq!(usage.resident_bytes, 2 * rustix::param::page_size() as i64);
        assert_eq!(Usage::parse("nonsense"), None);
    }

    #[test]
    fn the_own_process_is_measured() {
        let figures = Figures::default();
        set_process(&figures);
        assert!(figures.resident_bytes.get() > 0);
        assert!(figures.open_fds.get() > 0);
        assert!(figures.start_seconds.get() > 1e9);
    }
}
