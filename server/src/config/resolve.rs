//! From values given to a [`Config`]: defaults that depend on other values, and the checks of rules F5 to
//! F7 and F14, with etcd's texts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use super::args::Given;
use super::flags::{self, Flag, Role};
use super::{
    ClusterState, Config, ConfigError, LogConfig, LogFormat, LogLevel, LogOutput, Scheme, Url,
    Warning, duration, url,
};

/// Milliseconds; above it an election would take for ever (rule F7, server/embed/config.go).
const ELECTION_MS_MAX: u64 = 50_000;

/// Fills in and checks.
pub(crate) fn config(given: &Given, mut warnings: Vec<Warning>) -> Result<Config, ConfigError> {
    refuse_unserved(given, &mut warnings)?;
    let name = given.text("name").to_owned();
    let initial_advertise_peer_urls = texts(&urls(given, "initial-advertise-peer-urls")?);
    let config = Config {
        data_dir: data_dir(given, &name),
        listen_client_urls: listen_urls(given, "listen-client-urls")?,
        advertise_client_urls: advertise_client_urls(given)?,
        listen_peer_urls: listen_urls(given, "listen-peer-urls")?,
        initial_cluster: initial_cluster(given, &name, &initial_advertise_peer_urls)?,
        initial_cluster_token: given.text("initial-cluster-token").to_owned(),
        initial_cluster_state: cluster_state(given)?,
        listen_metrics_urls: listen_urls(given, "listen-metrics-urls")?,
        heartbeat_ms: number(given, "heartbeat-interval")?,
        election_ms: number(given, "election-timeout")?,
        pre_vote: given.bool("pre-vote"),
        snapshot_count: number(given, "snapshot-count")?,
        snapshot_catchup_entries: number(given, "snapshot-catchup-entries")?,
        quota_bytes: number(given, "quota-backend-bytes")?,
        request_bytes_max: number(given, "max-request-bytes")?,
        txn_ops_max: number(given, "max-txn-ops")?,
        max_concurrent_streams: number(given, "max-concurrent-streams")?,
        learners_max: learners_max(given)?,
        strict_reconfig_check: given.bool("strict-reconfig-check"),
        keepalive_interval: Some(duration(given, "grpc-keepalive-interval")?)
            .filter(|interval| !interval.is_zero()),
        keepalive_timeout: duration(given, "grpc-keepalive-timeout")?,
        watch_progress_interval: watch_progress_interval(given)?,
        log: log(given)?,
        initial_advertise_peer_urls,
        name,
        warnings,
    };
    check_times(&config)?;
    Ok(config)
}

/// Rule F6. Names are compared as written: nobody is asked for addresses.
pub(crate) fn verify_bootstrap(config: &Config) -> Result<(), ConfigError> {
    let Some(in_cluster) = config.initial_cluster.get(&config.name) else {
        return Err(invalid(format!(
            "couldn't find local name {:?} in the initial cluster configuration",
            config.name
        )));
    };
    let mut seen = BTreeSet::new();
    for url in config.initial_cluster.values().flatten() {
        if !seen.insert(url) {
            return Err(invalid(format!(
                "initial cluster {} has duplicate url",
                cluster_text(&config.initial_cluster)
            )));
        }
    }
    let advertised = &config.initial_advertise_peer_urls;
    if let Some(url) = in_cluster.iter().find(|url| !advertised.contains(url)) {
        return Err(invalid(format!(
            "--initial-cluster has {url} but missing from --initial-advertise-peer-urls={}",
            advertised.join(",")
        )));
    }
    if let Some(url) = advertised.iter().find(|url| !in_cluster.contains(url)) {
        return Err(invalid(format!(
            "--initial-advertise-peer-urls has {url} but missing from --initial-cluster={}",
            cluster_text(&config.initial_cluster)
        )));
    }
    Ok(())
}

/// Flags that kvd knows and does not serve, unless they say what would happen anyway.
fn refuse_unserved(given: &Given, warnings: &mut Vec<Warning>) -> Result<(), ConfigError> {
    for (name, value) in given.iter() {
        let Some(flag) = flags::find(name) else { continue };
        match flag.role {
            Role::Served | Role::Always => {}
            Role::Ignored => {
                let message = "flag has no effect";
                warnings.push(Warning { message, subject: format!("--{name}") });
            }
            Role::Unserved if is_default(flag, value) => {}
            // What is acknowledged must survive a power cut, so this one never will be.
            Role::Unserved if name == "unsafe-no-fsync" => {
                return Err(invalid("flag --unsafe-no-fsync is refused: kvd always syncs".into()));
            }
            Role::Unserved => {
                return Err(invalid(format!("flag --{name} is not served yet")));
            }
        }
    }
    Ok(())
}

/// Whether a value is the default, in whatever spelling.
fn is_default(flag: &Flag, value: &str) -> bool {
    use flags::Kind;
    match flag.kind {
        Kind::Bool => flags::parse_bool(value) == flags::parse_bool(flag.default),
        Kind::Duration => duration::parse(value) == duration::parse(flag.default),
        Kind::Uint | Kind::Uint32 => value.parse::<u64>().ok() == flag.default.parse::<u64>().ok(),
        Kind::Int => value.parse::<i64>().ok() == flag.default.parse::<i64>().ok(),
        Kind::Text | Kind::Urls => value == flag.default,
    }
}

fn data_dir(given: &Given, name: &str) -> PathBuf {
    match given.text("data-dir") {
        "" => PathBuf::from(format!("{name}.kvd")),
        folder => PathBuf::from(folder),
    }
}

/// Rule F5: what clients are told must not be a guess once the address is chosen.
fn advertise_client_urls(given: &Given) -> Result<Vec<String>, ConfigError> {
    if given.has("listen-client-urls") && !given.has("advertise-client-urls") {
        return Err(invalid(
            "--advertise-client-urls is required when --listen-client-urls is set explicitly"
                .into(),
        ));
    }
    Ok(texts(&urls(given, "advertise-client-urls")?))
}

/// Sockets to open: each must be an address of this host, and of a kind that is served.
fn listen_urls(given: &Given, name: &str) -> Result<Vec<Url>, ConfigError> {
    let urls = urls(given, name)?;
    for url in &urls {
        if url.scheme != Scheme::Http {
            return Err(invalid(format!(
                "--{name}: {url}: only http:// is served yet, not {}://",
                url.scheme
            )));
        }
        if !url.is_bindable() {
            return Err(invalid(format!("--{name}: expected IP in URL for binding ({url})")));
        }
    }
    Ok(urls)
}

/// `name=url` pairs; a name with several URLs stands several times (rule F6).
fn initial_cluster(
    given: &Given,
    name: &str,
    advertised: &[String],
) -> Result<BTreeMap<String, Vec<String>>, ConfigError> {
    if !given.has("initial-cluster") {
        return Ok(BTreeMap::from([(name.to_owned(), advertised.to_vec())]));
    }
    let mut cluster: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for pair in given.text("initial-cluster").split(',') {
        let (member, url) = pair
            .trim()
            .split_once('=')
            .filter(|(member, _)| !member.is_empty())
            .ok_or_else(|| invalid(format!("--initial-cluster: {pair:?} is not name=url")))?;
        let url =
            Url::parse(url).map_err(|error| invalid(format!("--initial-cluster: {error}")))?;
        cluster.entry(member.to_owned()).or_default().push(url.to_string());
    }
    for urls in cluster.values_mut() {
        urls.sort();
    }
    Ok(cluster)
}

fn cluster_state(given: &Given) -> Result<ClusterState, ConfigError> {
    match given.text("initial-cluster-state") {
        "new" => Ok(ClusterState::New),
        "existing" => Ok(ClusterState::Existing),
        other => Err(invalid(format!(
            "invalid value {other:?} for flag -initial-cluster-state: must be new or existing"
        ))),
    }
}

fn learners_max(given: &Given) -> Result<usize, ConfigError> {
    match number::<i64>(given, "max-learners").map(usize::try_from)? {
        Ok(learners) if learners > 0 => Ok(learners),
        _ => Err(invalid("--max-learners must be greater than 0".into())),
    }
}

/// Rule F7.
fn check_times(config: &Config) -> Result<(), ConfigError> {
    let (heartbeat_ms, election_ms) = (config.heartbeat_ms, config.election_ms);
    if heartbeat_ms == 0 {
        return Err(invalid("--heartbeat-interval must be >0 (set to 0ms)".into()));
    }
    if election_ms == 0 {
        return Err(invalid("--election-timeout must be >0 (set to 0ms)".into()));
    }
    if heartbeat_ms.checked_mul(5).is_none_or(|least_ms| least_ms > election_ms) {
        return Err(invalid(format!(
            "--election-timeout[{election_ms}ms] should be at least as 5 times as \
             --heartbeat-interval[{heartbeat_ms}ms]"
        )));
    }
    if election_ms > ELECTION_MS_MAX {
        return Err(invalid(format!(
            "--election-timeout[{election_ms}ms] is too long, and should be set less than \
             {ELECTION_MS_MAX}ms"
        )));
    }
    Ok(())
}

fn log(given: &Given) -> Result<LogConfig, ConfigError> {
    match given.text("logger") {
        "zap" => {}
        other => return Err(invalid(format!("unknown logger option {other:?}"))),
    }
    let level = match given.text("log-level") {
        "debug" => LogLevel::Debug,
        "info" => LogLevel::Info,
        "warn" => LogLevel::Warn,
        "error" | "dpanic" | "panic" | "fatal" => LogLevel::Error,
        other => return Err(invalid(format!("--log-level: unknown level {other:?}"))),
    };
    let format = match given.text("log-format") {
        "json" => LogFormat::Json,
        "console" => LogFormat::Console,
        other => return Err(invalid(format!("unknown log-format {other:?} supplied"))),
    };
    let output = match given.text("log-outputs") {
        "default" | "stderr" => LogOutput::Stderr,
        "stdout" => LogOutput::Stdout,
        other => return Err(invalid(format!("--log-outputs={other} is not served yet"))),
    };
    Ok(LogConfig { level, format, output })
}

/// A value of kind number; the range of the wanted type is checked here.
fn number<T: std::str::FromStr>(given: &Given, name: &str) -> Result<T, ConfigError> {
    let text = given.text(name);
    text.parse().map_err(|_out_of_range| {
        ConfigError::Usage(format!("invalid value {text:?} for flag -{name}: value out of range"))
    })
}

/// Rules F15 and W21.
fn watch_progress_interval(given: &Given) -> Result<Duration, ConfigError> {
    let least = Duration::from_millis(100);
    let names = ["watch-progress-notify-interval", "experimental-watch-progress-notify-interval"];
    for name in names {
        let interval = duration(given, name)?;
        if !interval.is_zero() {
            return Ok(interval.max(least));
        }
    }
    Ok(Duration::from_secs(600))
}

fn duration(given: &Given, name: &str) -> Result<Duration, ConfigError> {
    let text = given.text(name);
    duration::parse(text).ok_or_else(|| {
        ConfigError::Usage(format!("invalid value {text:?} for flag -{name}: parse error"))
    })
}

/// URLs of a flag; none where the default is empty.
fn urls(given: &Given, name: &str) -> Result<Vec<Url>, ConfigError> {
    match given.text(name) {
        "" => Ok(Vec::new()),
        text => url::parse_list(text).map_err(|error| invalid(format!("--{name}: {error}"))),
    }
}

fn texts(urls: &[Url]) -> Vec<String> {
    urls.iter().map(ToString::to_string).collect()
}

fn cluster_text(cluster: &BTreeMap<String, Vec<String>>) -> String {
    let pairs =
        cluster.iter().flat_map(|(name, urls)| urls.iter().map(move |url| format!("{name}={url}")));
    pairs.collect::<Vec<_>>().join(",")
}

fn invalid(message: String) -> ConfigError {
    ConfigError::Invalid(message)
}
