//! What was typed → [`Config`]: etcd's flags and environment names, checked, with every default filled in.
//!
//! Reads no file and touches no disk. What it accepts cannot be wrong in form; whether it fits the data
//! directory and the cluster is for bootstrap to say.

mod args;
mod duration;
mod env;
mod flags;
mod resolve;
mod table;
mod unserved;
mod url;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

pub use self::url::{Scheme, Url, UrlError};

/// The version of etcd's interface that kvd answers to (behaviour.md 6.1).
pub const ETCD_VERSION: &str = "3.6.14";

/// The version of the stored data that goes with it (behaviour.md 5.3).
pub const STORAGE_VERSION: &str = "3.6.0";

/// Everything a member is told at its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Human-readable name.
    pub name: String,
    /// Folder of the member's data.
    pub data_dir: PathBuf,
    /// Where to listen for clients.
    pub listen_client_urls: Vec<Url>,
    /// Where clients are told to find this member.
    pub advertise_client_urls: Vec<String>,
    /// Where to listen for other members.
    pub listen_peer_urls: Vec<Url>,
    /// Where other members are told to find this member.
    pub initial_advertise_peer_urls: Vec<String>,
    /// Peer URLs of every member of a new cluster, by name.
    pub initial_cluster: BTreeMap<String, Vec<String>>,
    /// Tells clusters with the same members apart.
    pub initial_cluster_token: String,
    /// Whether a cluster is started or joined.
    pub initial_cluster_state: ClusterState,
    /// Where else metrics and health are served.
    pub listen_metrics_urls: Vec<Url>,
    /// Milliseconds between heartbeats.
    pub heartbeat_ms: u64,
    /// Milliseconds without a leader until an election.
    pub election_ms: u64,
    /// Ask before an election whether it could be won.
    pub pre_vote: bool,
    /// Applied entries between two checkpoints at most.
    pub snapshot_count: u64,
    /// Applied entries that the log keeps.
    pub snapshot_catchup_entries: u64,
    /// Bytes of data as configured: 0 means the default, negative means no limit.
    pub quota_bytes: i64,
    /// Bytes of the largest write.
    pub request_bytes_max: usize,
    /// Operations of the largest transaction.
    pub txn_ops_max: usize,
    /// Concurrent requests of one connection.
    pub max_concurrent_streams: u32,
    /// Members without a vote.
    pub learners_max: usize,
    /// Refuse changes of the membership that would cost the quorum.
    pub strict_reconfig_check: bool,
    /// Silence after which a connection is asked whether it lives; `None` for never.
    pub keepalive_interval: Option<Duration>,
    /// Time that such a connection has to answer.
    pub keepalive_timeout: Duration,
    /// Pause between two notes of progress on a quiet watch.
    pub watch_progress_interval: Duration,
    /// What is logged, and how.
    pub log: LogConfig,
    /// What was given and has no effect; logged once logging works.
    pub warnings: Vec<Warning>,
}

/// Whether a cluster is started or joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterState {
    /// All members of `initial_cluster` start together.
    New,
    /// The cluster runs and has added this member.
    Existing,
}

/// What is logged, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// From which severity on.
    pub level: LogLevel,
    /// In which form.
    pub format: LogFormat,
    /// Where to.
    pub output: LogOutput,
}

/// Severities of etcd's logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Per request.
    Debug,
    /// Changes of state.
    Info,
    /// Unexpected, but it went on.
    Warn,
    /// A person must look; `panic` and `fatal` are logged at this level too.
    Error,
}

/// Form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Console,
}

/// Where log lines go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogOutput {
    /// Standard error.
    Stderr,
    /// Standard output.
    Stdout,
}

/// Something given that has no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// What about it.
    pub message: &'static str,
    /// Which flag or variable.
    pub subject: String,
}

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invocation {
    /// Start a member.
    Serve(Box<Config>),
    /// Print this and exit with 0.
    Print(String),
}

/// Why no member can be started.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// The command line cannot be read: the usage follows the message, and the exit code is 2 (rule F1).
    #[error("{0}")]
    Usage(String),
    /// It can be read, but not be followed: the exit code is 1.
    #[error("{0}")]
    Invalid(String),
}

impl ConfigError {
    /// What the process says on standard error before it exits.
    #[must_use]
    pub fn report(&self) -> String {
        match self {
            Self::Usage(message) => format!("{message}\n{}", flags::help()),
            Self::Invalid(message) => format!("{message}\n"),
        }
    }

    /// What the process exits with.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Invalid(_) => 1,
        }
    }
}

impl Config {
    /// Checks what must hold before a member without data may start a cluster or join one (rule F6): it
    /// stands in the initial cluster under its name, with exactly its peer URLs.
    pub fn verify_bootstrap(&self) -> Result<(), ConfigError> {
        resolve::verify_bootstrap(self)
    }
}

/// Reads a command line (without the program's name) and an environment.
pub fn parse(
    args: &[String],
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Invocation, ConfigError> {
    let mut given = match args::read(args)? {
        args::Read::Help => return Ok(Invocation::Print(flags::help())),
        args::Read::Given(given) => given,
    };
    let warnings = env::read(environment, &mut given)?;
    if given.bool("version") {
        return Ok(Invocation::Print(version()));
    }
    resolve::config(&given, warnings).map(|config| Invocation::Serve(Box::new(config)))
}

/// The four lines of `--version` (rule F2); tools read the first.
fn version() -> String {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!(
        "etcd Version: {ETCD_VERSION}\nGit SHA: kvd-{}\nGo Version: none (Rust)\nGo OS/Arch: {}/{arch}\n",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
    )
}

#[cfg(test)]
mod tests;
