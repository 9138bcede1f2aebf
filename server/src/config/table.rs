//! The flags that kvd serves, in the order in which `--help` shows them.

use super::flags::{Flag, Kind, Role};

const fn served(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Flag {
    Flag { name, kind, default, role: Role::Served, help }
}

/// The served flags.
pub(crate) const SERVED: &[Flag] = &[
    served("name", Kind::Text, "default", "Human-readable name of this member."),
    served("data-dir", Kind::Text, "", "Folder of this member's data; `<name>.kvd` unless given."),
    served(
        "listen-client-urls",
        Kind::Urls,
        "http://localhost:2379",
        "URLs to listen on for clients.",
    ),
    served(
        "advertise-client-urls",
        Kind::Urls,
        "http://localhost:2379",
        "URLs that clients are told to use; required when `--listen-client-urls` is given.",
    ),
    served(
        "listen-peer-urls",
        Kind::Urls,
        "http://localhost:2380",
        "URLs to listen on for other members.",
    ),
    served(
        "initial-advertise-peer-urls",
        Kind::Urls,
        "http://localhost:2380",
        "URLs that the other members are told to use.",
    ),
    served(
        "initial-cluster",
        Kind::Text,
        "default=http://localhost:2380",
        "Members of a new cluster as `name=url,…`; this member alone unless given.",
    ),
    served(
        "initial-cluster-token",
        Kind::Text,
        "etcd-cluster",
        "Token that tells clusters with the same members apart.",
    ),
    served(
        "initial-cluster-state",
        Kind::Text,
        "new",
        "`new` to start a cluster, `existing` to join one.",
    ),
    served("listen-metrics-urls", Kind::Urls, "", "More URLs to serve /metrics and /health on."),
    served(
        "heartbeat-interval",
        Kind::Uint,
        "100",
        "Milliseconds between two heartbeats of the leader.",
    ),
    served(
        "election-timeout",
        Kind::Uint,
        "1000",
        "Milliseconds without a leader until a member stands for election.",
    ),
    served(
        "pre-vote",
        Kind::Bool,
        "true",
        "Ask before an election whether it could be won, so that a returning member disturbs nobody.",
    ),
    served(
        "snapshot-count",
        Kind::Uint,
        "10000",
        "Applied entries after which the state is checkpointed at the latest.",
    ),
    served(
        "snapshot-catchup-entries",
        Kind::Uint,
        "5000",
        "Applied entries that the log keeps for slow members.",
    ),
    served(
        "quota-backend-bytes",
        Kind::Int,
        "0",
        "Bytes of data above which growing writes are refused; 0 means 2 GiB, negative means no limit.",
    ),
    served("max-request-bytes", Kind::Uint, "1572864", "Largest write in bytes."),
    served("max-txn-ops", Kind::Uint, "128", "Most operations in a transaction."),
    served(
        "max-concurrent-streams",
        Kind::Uint32,
        "4294967295",
        "Most concurrent requests of one connection.",
    ),
    served("max-learners", Kind::Int, "1", "Most members without a vote."),
    served(
        "strict-reconfig-check",
        Kind::Bool,
        "true",
        "Refuse changes of the membership that would cost the quorum.",
    ),
    served(
        "grpc-keepalive-interval",
        Kind::Duration,
        "2h0m0s",
        "Time after which a silent connection is asked whether it lives; 0 means never.",
    ),
    served(
        "grpc-keepalive-timeout",
        Kind::Duration,
        "20s",
        "Time after which a connection that does not answer is closed.",
    ),
    served(
        "watch-progress-notify-interval",
        Kind::Duration,
        "0s",
        "Pause between two notes of progress on a quiet watch; 0 for ten minutes, at least 100ms.",
    ),
    served(
        "experimental-watch-progress-notify-interval",
        Kind::Duration,
        "0s",
        "The older name of `--watch-progress-notify-interval`.",
    ),
    served("logger", Kind::Text, "zap", "Only `zap`: structured lines."),
    served(
        "log-level",
        Kind::Text,
        "info",
        "`debug`, `info`, `warn`, `error`, `panic` or `fatal`.",
    ),
    served("log-format", Kind::Text, "json", "`json` or `console`."),
    served("log-outputs", Kind::Text, "default", "`default` or `stderr`, or `stdout`."),
    served("version", Kind::Bool, "false", "Print the version and exit."),
];
