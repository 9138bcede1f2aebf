//! Command lines as people, kubeadm and harnesses write them.

use super::*;

fn args(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

fn parse_with(line: &str, environment: &[(&str, &str)]) -> Result<Invocation, ConfigError> {
    let environment = environment.iter().map(|(name, value)| ((*name).into(), (*value).into()));
    parse(&args(line), environment)
}

fn config(line: &str) -> Config {
    match parse_with(line, &[]) {
        Ok(Invocation::Serve(config)) => *config,
        other => panic!("{line}: {other:?}"),
    }
}

fn usage_error(line: &str) -> String {
    match parse_with(line, &[]) {
        Err(ConfigError::Usage(message)) => message,
        other => panic!("{line}: {other:?}"),
    }
}

fn invalid(line: &str) -> String {
    match parse_with(line, &[]) {
        Err(ConfigError::Invalid(message)) => message,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn alone_it_is_a_single_member() {
    let config = config("");
    assert_eq!(config.name, "default");
    assert_eq!(config.data_dir, PathBuf::from("default.kvd"));
    assert_eq!(config.listen_client_urls[0].to_string(), "http://localhost:2379");
    assert_eq!(config.listen_peer_urls[0].to_string(), "http://localhost:2380");
    let alone = BTreeMap::from([("default".into(), vec!["http://localhost:2380".into()])]);
    assert_eq!(config.initial_cluster, alone);
    assert_eq!((config.heartbeat_ms, config.election_ms), (100, 1000));
    assert_eq!((config.request_bytes_max, config.txn_ops_max), (1_572_864, 128));
    assert_eq!(config.quota_bytes, 0);
    assert_eq!(config.max_concurrent_streams, u32::MAX);
    config.verify_bootstrap().unwrap();
}

/// Rule F1: both dashes, both forms of a value, and bare booleans.
#[test]
fn flags_are_written_as_in_go() {
    let written =
        config("-name a --snapshot-count=7 --data-dir /x --pre-vote=f -strict-reconfig-check");
    assert_eq!((written.name.as_str(), written.snapshot_count), ("a", 7));
    assert_eq!(written.data_dir, PathBuf::from("/x"));
    assert!(!written.pre_vote && written.strict_reconfig_check);
    assert_eq!(config("--name=a --name=b").name, "b", "the last one counts");
}

/// Rule F1: what cannot be read ends with the usage and code 2, what is stray with code 1.
#[test]
fn unreadable_lines_are_refused() {
    assert_eq!(usage_error("--nonsense"), "flag provided but not defined: -nonsense");
    assert_eq!(usage_error("--name"), "flag needs an argument: -name");
    assert_eq!(
        usage_error("--snapshot-count=x"),
        "invalid value \"x\" for flag -snapshot-count: parse error"
    );
    assert_eq!(
        usage_error("--pre-vote=maybe"),
        "invalid boolean value \"maybe\" for flag -pre-vote: parse error"
    );
    assert!(usage_error("--listen-peer-urls=ftp://a:1").contains("URL scheme must be http"));
    assert_eq!(invalid("--pre-vote true"), "\"true\" is not a valid flag");
    assert_eq!(invalid("serve"), "\"serve\" is not a valid flag");
    let error = ConfigError::Usage("x".into());
    assert_eq!(error.exit_code(), 2);
    assert!(error.report().starts_with("x\n") && error.report().contains("--data-dir"));
}

/// Rule F2.
#[test]
fn help_and_version_are_printed() {
    for line in ["-h", "--help", "--name x --help"] {
        assert!(matches!(parse_with(line, &[]), Ok(Invocation::Print(_))), "{line}");
    }
    let Ok(Invocation::Print(version)) = parse_with("--version", &[]) else { panic!() };
    assert_eq!(version.lines().next(), Some("etcd Version: 3.6.14"));
    assert_eq!(version.lines().count(), 4);
}

/// Rule F3.
#[test]
fn the_environment_gives_flags_too() {
    let environment =
        [("ETCD_NAME", "a"), ("ETCD_VERIFY", "all"), ("HOME", "/"), ("ETCD_CORS", "")];
    let Ok(Invocation::Serve(config)) = parse_with("", &environment) else { panic!() };
    assert_eq!(config.name, "a");
    let subjects: Vec<_> = config.warnings.iter().map(|warning| &warning.subject).collect();
    assert_eq!(subjects, ["ETCD_VERIFY=all"]);

    let error = parse_with("--name b", &environment).unwrap_err();
    assert!(error.to_string().starts_with("conflicting environment variable \"ETCD_NAME\""));
    let error = parse_with("", &[("ETCD_MAX_WALS", "x")]).unwrap_err();
    assert_eq!(error.to_string(), "invalid value \"x\" for ETCD_MAX_WALS: parse error");
}

/// Rule F5.
#[test]
fn chosen_client_urls_must_be_advertised() {
    assert_eq!(
        invalid("--listen-client-urls http://127.0.0.1:1"),
        "--advertise-client-urls is required when --listen-client-urls is set explicitly"
    );
    let config = config(
        "--listen-client-urls http://127.0.0.1:1,http://[::1]:1 --advertise-client-urls http://me:1",
    );
    assert_eq!(config.listen_client_urls.len(), 2);
    assert_eq!(config.advertise_client_urls, ["http://me:1"]);
}

#[test]
fn only_plain_addresses_are_listened_on() {
    assert_eq!(
        invalid("--listen-peer-urls https://127.0.0.1:1"),
        "--listen-peer-urls: https://127.0.0.1:1: only http:// is served yet, not https://"
    );
    assert!(invalid("--listen-peer-urls unix://a:1").contains("not unix://"));
    assert_eq!(
        invalid("--listen-peer-urls http://example.org:1"),
        "--listen-peer-urls: expected IP in URL for binding (http://example.org:1)"
    );
}

/// Rule F6.
#[test]
fn a_member_stands_in_its_initial_cluster() {
    let three = "--initial-cluster a=http://h:1,b=http://h:2,a=http://h:3";
    let member =
        config(&format!("--name a --initial-advertise-peer-urls http://h:3,http://h:1 {three}"));
    assert_eq!(member.initial_cluster["a"], ["http://h:1", "http://h:3"]);
    member.verify_bootstrap().unwrap();

    let refusal = |line: &str| config(line).verify_bootstrap().unwrap_err().to_string();
    assert_eq!(
        refusal(&format!("--name c {three}")),
        "couldn't find local name \"c\" in the initial cluster configuration"
    );
    assert!(
        refusal(&format!("--name b {three}")).starts_with("--initial-cluster has http://h:2 but")
    );
    let more = "--name a --initial-advertise-peer-urls http://h:1,http://h:2 --initial-cluster a=http://h:1";
    assert!(refusal(more).starts_with("--initial-advertise-peer-urls has http://h:2 but"));
    let twice = "--name a --initial-cluster a=http://localhost:2380,b=http://localhost:2380";
    assert!(refusal(twice).ends_with("has duplicate url"));
    assert!(invalid("--initial-cluster nonsense").contains("is not name=url"));
}

/// Rule F7.
#[test]
fn elections_take_five_heartbeats() {
    assert_eq!(config("--heartbeat-interval 200").heartbeat_ms, 200);
    assert_eq!(
        invalid("--heartbeat-interval 201"),
        "--election-timeout[1000ms] should be at least as 5 times as --heartbeat-interval[201ms]"
    );
    assert_eq!(config("--election-timeout 50000").election_ms, 50_000);
    assert!(invalid("--election-timeout 50001").contains("is too long"));
    assert!(invalid("--heartbeat-interval 0").contains("must be >0"));
    assert!(invalid(&format!("--heartbeat-interval {}", u64::MAX)).contains("at least as 5 times"));
}

/// Rule F14.
#[test]
fn flags_without_effect_are_noted() {
    let config = config("--cluster-active-size 9 --snapshot 1");
    let subjects: Vec<_> = config.warnings.iter().map(|warning| &warning.subject).collect();
    assert_eq!(subjects, ["--cluster-active-size", "--snapshot"]);
}

#[test]
fn unserved_flags_are_refused_by_name_unless_default() {
    assert_eq!(invalid("--auth-token=jwt"), "flag --auth-token is not served yet");
    config("--auth-token simple --auto-tls=false --corrupt-check-time 0 --max-wals=05");
    assert!(invalid("--unsafe-no-fsync").contains("refused"));
    config("--unsafe-no-fsync=false");
    assert_eq!(invalid("--logger capnslog"), "unknown logger option \"capnslog\"");
    assert!(invalid("--log-outputs /tmp/x").contains("not served yet"));
}

#[test]
fn comparisons_of_the_data_may_be_asked_for() {
    let flags = "--corrupt-check-time=10m --experimental-compact-hash-check-enabled \
                 --compact-hash-check-time=1s --experimental-corrupt-check-time=1h";
    assert!(config(flags).warnings.is_empty());
    usage_error("--corrupt-check-time=often");
    assert!(invalid("--experimental-initial-corrupt-check").contains("not served yet"));
}

#[test]
fn numbers_keep_to_their_range() {
    assert_eq!(config("--quota-backend-bytes -1").quota_bytes, -1);
    usage_error("--max-concurrent-streams 4294967296");
    usage_error("--snapshot-count -1");
    assert!(invalid("--max-learners 0").contains("greater than 0"));
    assert_eq!(config("--grpc-keepalive-interval 0s").keepalive_interval, None);
    let interval = |flags: &str| config(flags).watch_progress_interval.as_millis();
    assert_eq!(interval(""), 600_000);
    assert_eq!(interval("--watch-progress-notify-interval=5s"), 5000);
    assert_eq!(interval("--experimental-watch-progress-notify-interval=7s"), 7000);
    assert_eq!(interval("--watch-progress-notify-interval=1ms"), 100, "the least");
}
