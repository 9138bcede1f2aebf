//! What the member counts, under etcd's names (behaviour.md 13): one registry a node, no globals.
//!
//! Figures that others keep (terms, sizes, indexes) are set here when somebody asks for the metrics. Knows
//! nothing of where they come from.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// One gRPC method as label values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrpcMethod {
    /// Service with its package, as in the path.
    pub service: &'static str,
    /// Name of the method.
    pub name: &'static str,
    /// `unary`, `client_stream`, `server_stream` or `bidi_stream`.
    pub kind: &'static str,
}

/// Names of the gRPC codes in the order of their numbers, as gRPC for Go writes them.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

type Label = (&'static str, &'static str);

/// A node's metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    grpc_started: Family<[Label; 3], Counter>,
    grpc_handled: Family<[Label; 4], Counter>,
    cluster_version: Family<[(&'static str, String); 1], Gauge>,
    state_differs: Family<[(&'static str, String); 1], Gauge>,
    figures: Figures,
    /// Seconds that syncs of the Raft log took.
    pub wal_fsync_seconds: Histogram,
}

/// Figures that are set when somebody asks for the metrics.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    /// 1 with a leader.
    pub(crate) has_leader: Gauge,
    /// 1 on the leader.
    pub(crate) is_leader: Gauge,
    /// 1 on a member without a vote.
    pub(crate) is_learner: Gauge,
    /// The committed index.
    pub(crate) proposals_committed: Gauge,
    /// The applied index.
    pub(crate) proposals_applied: Gauge,
    /// Proposals that wait for their answer.
    pub(crate) proposals_pending: Gauge,
    /// The quota in bytes.
    pub(crate) quota_bytes: Gauge,
    /// Streams of watches.
    pub(crate) watch_streams: Gauge,
    /// Watches.
    pub(crate) watchers: Gauge,
    /// Watches that are behind.
    pub(crate) slow_watchers: Gauge,
    /// Bytes on the device.
    pub(crate) db_bytes: Gauge,
    /// Bytes of live and uncompacted records.
    pub(crate) db_in_use_bytes: Gauge,
    /// Sessions of clients that give their requests ids.
    pub(crate) request_sessions: Gauge,
    /// Answers remembered for repetitions of their requests.
    pub(crate) request_answers: Gauge,
    /// Seconds that compaction has waited for a reader.
    pub(crate) compaction_blocked_seconds: Gauge,
    /// Resident memory of the process in bytes.
    pub(crate) resident_bytes: Gauge,
    /// Virtual memory of the process in bytes.
    pub(crate) virtual_bytes: Gauge,
    /// Descriptors that the process has open.
    pub(crate) open_fds: Gauge,
    /// Descriptors that it may have open.
    pub(crate) max_fds: Gauge,
    /// Seconds since 1970 at which it started.
    pub(crate) start_seconds: Gauge<f64, AtomicU64>,
    leader_changes: Counter,
    proposals_failed: Counter,
    snapshot_sent_bytes: Counter,
    cpu_seconds: Counter<f64, AtomicU64>,
}

impl Figures {
    /// Leader changes since start.
    pub(crate) fn set_leader_changes(&self, changes: u64) {
        self.leader_changes.inner().store(changes, Ordering::Relaxed);
    }

    /// Proposals that failed since start.
    pub(crate) fn set_proposals_failed(&self, failed: u64) {
        self.proposals_failed.inner().store(failed, Ordering::Relaxed);
    }

    /// Bytes of snapshots sent to other members since start.
    pub(crate) fn set_snapshot_sent_bytes(&self, bytes: u64) {
        self.snapshot_sent_bytes.inner().store(bytes, Ordering::Relaxed);
    }

    /// Processor time of the process in seconds.
    pub(crate) fn set_cpu_seconds(&self, seconds: f64) {
        self.cpu_seconds.inner().store(seconds.to_bits(), Ordering::Relaxed);
    }
}

impl Metrics {
    /// Metrics of the member with this id, that calls itself this version.
    #[must_use]
    pub fn new(member_id: &str, version: &str) -> Self {
        // etcd's buckets of everything that waits for the disk.
        let wal_fsync_seconds = Histogram::new(exponential_buckets(0.001, 2.0, 14));
        let mut metrics = Self {
            registry: Registry::default(),
            grpc_started: Family::default(),
            grpc_handled: Family::default(),
            cluster_version: Family::default(),
            state_differs: Family::default(),
            figures: Figures::default(),
            wal_fsync_seconds,
        };
        metrics.register_identity(member_id, version);
        metrics.register_raft();
        metrics.register_storage();
        metrics.register_grpc();
        metrics.register_process();
        metrics
    }

    /// The figures to set.
    pub(crate) fn figures(&self) -> &Figures {
        &self.figures
    }

    /// The cluster's version, `major.minor`; `None` while it is not decided.
    pub(crate) fn set_cluster_version(&self, version: Option<String>) {
        self.cluster_version.clear();
        if let Some(version) = version {
            self.cluster_version.get_or_create(&[("cluster_version", version)]).set(1);
        }
    }

    /// Each member, and whether its state is known to differ from the majority's.
    pub(crate) fn set_state_differs(&self, members: impl Iterator<Item = (String, bool)>) {
        self.state_differs.clear();
        for (member, differs) in members {
            self.state_differs.get_or_create(&[("member", member)]).set(i64::from(differs));
        }
    }

    /// Shows these methods with zero calls before the first one.
    pub(crate) fn prepare_grpc(&self, methods: &[GrpcMethod]) {
        for method in methods {
            drop(self.grpc_started.get_or_create(&started_labels(method)));
            for code in CODES {
                drop(self.grpc_handled.get_or_create(&handled_labels(method, code)));
            }
        }
    }

    /// A call came in.
    pub(crate) fn grpc_started(&self, method: &GrpcMethod) {
        self.grpc_started.get_or_create(&started_labels(method)).inc();
    }

    /// A call ended with the code of that number.
    pub(crate) fn grpc_handled(&self, method: &GrpcMethod, code: i32) {
        let place = usize::try_from(code).unwrap_or(usize::MAX);
        let code = CODES.get(place).copied().unwrap_or("Unknown");
        self.grpc_handled.get_or_create(&handled_labels(method, code)).inc();
    }

    /// Everything in OpenMetrics' text form.
    pub(crate) fn open_metrics(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// Everything in Prometheus' older text form, which is what etcd answers unless asked otherwise.
    pub(crate) fn prometheus_text(&self) -> Result<String, fmt::Error> {
        self.open_metrics().map(|text| as_prometheus_text(&text))
    }

    fn register_identity(&mut self, member_id: &str, version: &str) {
        let id: Family<[(&'static str, String); 1], Gauge> = Family::default();
        id.get_or_create(&[("server_id", member_id.to_owned())]).set(1);
        let versions: Family<[(&'static str, String); 1], Gauge> = Family::default();
        versions.get_or_create(&[("server_version", version.to_owned())]).set(1);
        let cluster_version = self.cluster_version.clone();
        let registry = &mut self.registry;
        registry.register("etcd_server_id", "Id of this member in hex, as label", id);
        registry.register("etcd_server_version", "Version of this server, as label", versions);
        registry.register(
            "etcd_cluster_version",
            "Version of the cluster, as label",
            cluster_version,
        );
        registry.register(
            "kvd_state_hash_diverged",
            "Whether a member's state is known here to differ from the majority's",
            self.state_differs.clone(),
        );
    }

    fn register_raft(&mut self) {
        let gauges = [
            ("etcd_server_has_leader", "Whether there is a leader", &self.figures.has_leader),
            ("etcd_server_is_leader", "Whether this member leads", &self.figures.is_leader),
            ("etcd_server_is_learner", "Whether it has no vote", &self.figures.is_learner),
            (
                "etcd_server_proposals_committed_total",
                "Index up to which the log is committed",
                &self.figures.proposals_committed,
            ),
            (
                "etcd_server_proposals_applied_total",
                "Index up to which the log is applied",
                &self.figures.proposals_applied,
            ),
            (
                "etcd_server_proposals_pending",
                "Proposals that wait for their answer",
                &self.figures.proposals_pending,
            ),
        ];
        for (name, help, gauge) in gauges {
            self.registry.register(name, help, gauge.clone());
        }
        // The registry appends `_total` to counters.
        let changes = self.figures.leader_changes.clone();
        let failed = self.figures.proposals_failed.clone();
        let registry = &mut self.registry;
        registry.register("etcd_server_leader_changes_seen", "Leader changes seen", changes);
        registry.register("etcd_server_proposals_failed", "Proposals that failed", failed);
        let sent = self.figures.snapshot_sent_bytes.clone();
        registry.register("kvd_snapshot_sent_bytes", "Bytes of snapshots sent to members", sent);
    }

    fn register_storage(&mut self) {
        let gauges = [
            ("etcd_server_quota_backend_bytes", "Quota of the store", &self.figures.quota_bytes),
            (
                "etcd_mvcc_db_total_size_in_bytes",
                "Bytes that the store takes on the device",
                &self.figures.db_bytes,
            ),
            (
                "etcd_mvcc_db_total_size_in_use_in_bytes",
                "Bytes of live and uncompacted records",
                &self.figures.db_in_use_bytes,
            ),
            (
                "etcd_debugging_mvcc_watch_stream_total",
                "Streams of watches",
                &self.figures.watch_streams,
            ),
            (
                "kvd_compaction_blocked_seconds",
                "Seconds for which compaction has waited for a reader of what it would remove",
                &self.figures.compaction_blocked_seconds,
            ),
            (
                "kvd_request_sessions",
                "Sessions of clients that give their requests ids",
                &self.figures.request_sessions,
            ),
            (
                "kvd_request_answers",
                "Answers remembered for repetitions of their requests",
                &self.figures.request_answers,
            ),
            ("etcd_debugging_mvcc_watcher_total", "Watches", &self.figures.watchers),
            (
                "etcd_debugging_mvcc_slow_watcher_total",
                "Watches that are behind and read history",
                &self.figures.slow_watchers,
            ),
        ];
        for (name, help, gauge) in gauges {
            self.registry.register(name, help, gauge.clone());
        }
        let fsync = self.wal_fsync_seconds.clone();
        let help = "Seconds that syncs of the Raft log took";
        self.registry.register("etcd_disk_wal_fsync_duration_seconds", help, fsync);
    }

    fn register_grpc(&mut self) {
        let (started, handled) = (self.grpc_started.clone(), self.grpc_handled.clone());
        let registry = &mut self.registry;
        registry.register("grpc_server_started", "Calls that came in", started);
        registry.register("grpc_server_handled", "Calls that ended, by code", handled);
    }

    fn register_process(&mut self) {
        let gauges = [
            ("process_resident_memory_bytes", "Resident memory", &self.figures.resident_bytes),
            ("process_virtual_memory_bytes", "Virtual memory", &self.figures.virtual_bytes),
            ("process_open_fds", "Open descriptors", &self.figures.open_fds),
            ("process_max_fds", "Descriptors that may be open", &self.figures.max_fds),
        ];
        for (name, help, gauge) in gauges {
            self.registry.register(name, help, gauge.clone());
        }
        let cpu = self.figures.cpu_seconds.clone();
        let start = self.figures.start_seconds.clone();
        let registry = &mut self.registry;
        registry.register("process_cpu_seconds", "Processor time in seconds", cpu);
        registry.register("process_start_time_seconds", "Start, in seconds since 1970", start);
    }
}

fn started_labels(method: &GrpcMethod) -> [Label; 3] {
    [("grpc_method", method.name), ("grpc_service", method.service), ("grpc_type", method.kind)]
}

fn handled_labels(method: &GrpcMethod, code: &'static str) -> [Label; 4] {
    let [name, service, kind] = started_labels(method);
    [("grpc_code", code), name, service, kind]
}

/// OpenMetrics names a counter's family without `_total` and ends with a mark; the older form does neither.
fn as_prometheus_text(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut lines = open_metrics.lines().peekable();
    while let Some(line) = lines.next() {
        if line == "# EOF" {
            continue;
        }
        let is_counter = |line: &str| line.starts_with("# TYPE ") && line.ends_with(" counter");
        let heads_counter = line.starts_with("# HELP ")
            && lines.peek().is_some_and(|next| is_counter(next))
            || is_counter(line);
        let mut words = line.splitn(4, ' ');
        match (heads_counter, words.next(), words.next(), words.next(), words.next()) {
            (true, Some(mark), Some(keyword), Some(name), Some(rest)) => {
                text.push_str(&format!("{mark} {keyword} {name}_total {rest}\n"));
            }
            _ => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUT: GrpcMethod = GrpcMethod { service: "etcdserverpb.KV", name: "Put", kind: "unary" };

    fn metrics() -> Metrics {
        let metrics = Metrics::new("8e9e05c52164694d", "3.6.14");
        metrics.prepare_grpc(&[PUT]);
        metrics
    }

    /// Behaviour.md 13: the names that dashboards and alerts use come out exactly, with their types.
    #[test]
    fn names_and_types_are_etcds() {
        let metrics = metrics();
        metrics.set_cluster_version(Some("3.6".into()));
        metrics.wal_fsync_seconds.observe(0.0015);
        metrics.figures().set_leader_changes(2);
        let members = [("1a".to_owned(), false), ("2b".to_owned(), true)];
        metrics.set_state_differs(members.into_iter());
        let text = metrics.prometheus_text().unwrap();
        let lines: std::collections::BTreeSet<&str> = text.lines().collect();
        for line in [
            "etcd_server_id{server_id=\"8e9e05c52164694d\"} 1",
            "etcd_server_version{server_version=\"3.6.14\"} 1",
            "etcd_cluster_version{cluster_version=\"3.6\"} 1",
            "# TYPE kvd_state_hash_diverged gauge",
            "kvd_state_hash_diverged{member=\"1a\"} 0",
            "kvd_state_hash_diverged{member=\"2b\"} 1",
            "# TYPE etcd_server_has_leader gauge",
            "etcd_server_has_leader 0",
            "etcd_server_is_leader 0",
            "etcd_server_is_learner 0",
            "# TYPE etcd_server_leader_changes_seen_total counter",
            "etcd_server_leader_changes_seen_total 2",
            "# TYPE etcd_server_proposals_committed_total gauge",
            "etcd_server_proposals_committed_total 0",
            "etcd_server_proposals_applied_total 0",
            "etcd_server_proposals_pending 0",
            "# TYPE etcd_server_proposals_failed_total counter",
            "etcd_server_proposals_failed_total 0",
            "# TYPE kvd_snapshot_sent_bytes_total counter",
            "kvd_snapshot_sent_bytes_total 0",
            "etcd_server_quota_backend_bytes 0",
            "etcd_mvcc_db_total_size_in_bytes 0",
            "etcd_mvcc_db_total_size_in_use_in_bytes 0",
            "# TYPE etcd_disk_wal_fsync_duration_seconds histogram",
            "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.001\"} 0",
            "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.002\"} 1",
            "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"8.192\"} 1",
            "etcd_disk_wal_fsync_duration_seconds_count 1",
            "# TYPE process_cpu_seconds_total counter",
            "process_resident_memory_bytes 0",
            "process_open_fds 0",
            "process_max_fds 0",
            "process_start_time_seconds 0.0",
        ] {
            assert!(lines.contains(line), "{line} is missing in:\n{text}");
        }
        assert!(!text.contains("# EOF"));
        assert!(metrics.open_metrics().unwrap().ends_with("# EOF\n"));
    }

    #[test]
    fn calls_are_counted_by_method_and_code() {
        let metrics = metrics();
        metrics.grpc_started(&PUT);
        metrics.grpc_handled(&PUT, 14);
        metrics.grpc_handled(&PUT, 99);
        let text = metrics.prometheus_text().unwrap();
        let labels = "grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"";
        for line in [
            format!("grpc_server_started_total{{{labels}}} 1"),
            format!("grpc_server_handled_total{{grpc_code=\"Unavailable\",{labels}}} 1"),
            format!("grpc_server_handled_total{{grpc_code=\"Unknown\",{labels}}} 1"),
            format!("grpc_server_handled_total{{grpc_code=\"OK\",{labels}}} 0"),
        ] {
            assert!(text.contains(&line), "{line} is missing in:\n{text}");
        }
    }
}
