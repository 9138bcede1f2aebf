//! The program measures what it starts: the floor always, a real etcd where there is one.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the message")]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

/// Runs kvbench with short windows and returns its report.
fn report(folder: &Path, arguments: &[&str]) -> Value {
    let output = kvbench(folder, arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let files = std::fs::read_dir(folder.join("results")).unwrap();
    let json = files
        .map(|file| file.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "json"));
    serde_json::from_slice(&std::fs::read(json.unwrap()).unwrap()).unwrap()
}

fn kvbench(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kvbench"))
        .args(arguments)
        .args(["--allow-tmpfs", "--folder"])
        .arg(folder)
        .arg("--results")
        .arg(folder.join("results"))
        .output()
        .unwrap()
}

fn etcd() -> Option<String> {
    let path = std::env::var("KVD_ETCD").map(|folder| format!("{folder}/etcd")).ok();
    if path.is_none() {
        assert!(std::env::var_os("KVD_REQUIRE_ALL").is_none(), "KVD_ETCD names no etcd");
        eprintln!("SKIPPED: KVD_ETCD names no etcd");
    }
    path
}

/// What is left in the folder beside the results.
fn leftovers(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count() - 1
}

#[test]
fn the_floor_is_measured_for_every_number_of_clients_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let report = report(folder.path(), &["run", "--clients=1,33", "--seconds=0.2", "--rounds=2"]);
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 4);
    for row in rows {
        assert!(row["operations"].as_u64().unwrap() > 0, "{row}");
        assert!(row["p50_micros"].as_u64() <= row["p99_micros"].as_u64(), "{row}");
        assert_eq!(row["errors"], 0, "{row}");
    }
    assert_eq!(report["sync_floors"].as_array().unwrap().len(), 2);
    assert_eq!(leftovers(folder.path()), 0);
}

#[test]
fn every_workload_succeeds_on_a_real_etcd() {
    let Some(etcd) = etcd() else { return };
    let folder = tempfile::tempdir().unwrap();
    let target = format!("--target=etcd={etcd}");
    let workloads = [
        "put",
        "put-follower",
        "get",
        "get-serializable",
        "mixed",
        "range",
        "txn",
        "grant",
        "keep-alive",
    ];
    let workloads = format!("--workload={}", workloads.join(","));
    let report = report(
        folder.path(),
        &["run", &target, &workloads, "--clients=2", "--seconds=0.3", "--rounds=1", "--no-floor"],
    );
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 9);
    for row in rows {
        assert!(row["operations"].as_u64().unwrap() > 0, "{row}");
        assert!(row["server_cpu_micros"].as_f64().unwrap() > 0.0, "{row}");
        assert_eq!(row["errors"], 0, "{row}");
    }
    assert_eq!(leftovers(folder.path()), 0);
}

#[test]
fn a_real_etcd_comes_back_after_kill() {
    let Some(etcd) = etcd() else { return };
    let folder = tempfile::tempdir().unwrap();
    let target = format!("--target=etcd={etcd}");
    let report = report(folder.path(), &["restart", &target, "--keys=1000", "--rounds=1"]);
    let row = &report["rows"][0];
    assert!(row["follower_linearizable_seconds"].as_f64().unwrap() > 0.0, "{row}");
    assert!(row["failover_seconds"].as_f64().unwrap() > 0.0, "{row}");
    assert_eq!(leftovers(folder.path()), 0);
}

#[test]
fn every_watcher_of_a_real_etcd_gets_every_event_on_streams_of_its_own_or_shared() {
    let Some(etcd) = etcd() else { return };
    let target = format!("--target=etcd={etcd}");
    for more in [&["--keys=5"][..], &["--streams=3", "--connections=2"]] {
        let folder = tempfile::tempdir().unwrap();
        let usual =
            ["fan-out", &target, "--members=1", "--watchers=12", "--events=1200", "--seconds=0.5"];
        let report = report(folder.path(), &[&usual[..], more, &["--rounds=1"]].concat());
        let row = &report["rows"][0];
        let lag = &row["lag"]["from_sent"];
        // Fifty puts are due in the window; a busy machine sends some of them too late, or sends
        // some of the warm-up's in it.
        let events = lag["count"].as_u64().unwrap();
        assert!((300..=1200).contains(&events) && events.is_multiple_of(12), "{row}");
        assert!(lag["p50_micros"].as_u64().unwrap() > 0, "{row}");
        assert!(lag["p50_micros"].as_u64() <= lag["max_micros"].as_u64(), "{row}");
        assert!(
            row["lag"]["from_answer"]["p50_micros"].as_u64() <= lag["p50_micros"].as_u64(),
            "{row}"
        );
        assert_eq!(leftovers(folder.path()), 0);
    }
}

#[test]
fn a_real_etcd_is_measured_with_and_without_idle_watches() {
    let Some(etcd) = etcd() else { return };
    let folder = tempfile::tempdir().unwrap();
    let target = format!("--target=etcd={etcd}");
    let numbers = ["--watches=150", "--streams=1,150", "--clients=2", "--seconds=0.2"];
    let usual = ["idle-watches", &target, "--members=1", "--rounds=1"];
    let report = report(folder.path(), &[&usual[..], &numbers].concat());
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    for row in rows {
        assert!(row["ratio"].as_f64().unwrap() > 0.0, "{row}");
        assert!(row["with_watches"]["latency"]["count"].as_u64().unwrap() > 0, "{row}");
        assert_eq!(row["with_watches"]["errors"], 0, "{row}");
    }
    assert_eq!(leftovers(folder.path()), 0);
}

#[test]
fn a_watcher_of_a_real_etcd_that_did_not_read_still_gets_everything() {
    let Some(etcd) = etcd() else { return };
    let folder = tempfile::tempdir().unwrap();
    let target = format!("--target=etcd={etcd}");
    // More than the windows of a connection hold.
    let load = ["--watchers=3", "--rate=400", "--value-bytes=2000", "--seconds=0.5"];
    let usual = ["slow-watcher", &target, "--members=1", "--rounds=1"];
    let report = report(folder.path(), &[&usual[..], &load].concat());
    let row = &report["rows"][0];
    for window in ["before", "with_slow", "after"] {
        assert!(row[window]["from_sent"]["count"].as_u64().unwrap() >= 300, "{row}");
    }
    assert!(row["p99_ratio"].as_f64().unwrap() > 0.0, "{row}");
    assert_eq!(leftovers(folder.path()), 0);
}

#[test]
fn leases_of_a_real_etcd_end_with_their_keys_and_without() {
    let Some(etcd) = etcd() else { return };
    let target = format!("--target=etcd={etcd}");
    for more in [&["--leases=250"][..], &["--leases=250", "--without-keys"]] {
        let folder = tempfile::tempdir().unwrap();
        let usual = ["lease-expiry", &target, "--members=1", "--rate=100"];
        // The shortest lease that etcd grants lives two seconds.
        let times = ["--ttl=5", "--quiet-seconds=0.5", "--gone-seconds-max=30"];
        let report = report(folder.path(), &[&usual[..], &times, more].concat());
        let row = &report["rows"][0];
        assert!((25..=100).contains(&row["quiet"]["count"].as_u64().unwrap()), "{row}");
        assert!(row["expiry"]["count"].as_u64().unwrap() > 0, "{row}");
        assert!(row["all_gone_seconds"].as_f64().unwrap() > 0.0, "{row}");
        assert_eq!(row["errors"], 0, "{row}");
        assert_eq!(leftovers(folder.path()), 0);
    }
}

#[test]
fn leases_that_are_granted_too_slowly_are_an_error() {
    let Some(etcd) = etcd() else { return };
    let folder = tempfile::tempdir().unwrap();
    let target = format!("--target=etcd={etcd}");
    let usual = ["lease-expiry", &target, "--members=1", "--leases=10", "--ttl=4"];
    let output = kvbench(folder.path(), &[&usual[..], &["--quiet-seconds=5"]].concat());
    assert!(!output.status.success());
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("give --ttl"), "{message}");
}

#[test]
fn the_memory_of_each_member_of_a_real_etcd_is_taken() {
    let Some(etcd) = etcd() else { return };
    let folder = tempfile::tempdir().unwrap();
    let target = format!("--target=etcd={etcd}");
    let report = report(folder.path(), &["lease-memory", &target, "--leases=400"]);
    let row = &report["rows"][0];
    let members = row["resident_after_bytes"].as_array().unwrap();
    assert_eq!(members.len(), 3);
    assert!(members.iter().all(|bytes| bytes.as_u64().unwrap() > 1_000_000), "{row}");
    assert_eq!(leftovers(folder.path()), 0);
}

#[test]
fn nothing_to_measure_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    for command in
        ["load", "fan-out", "idle-watches", "slow-watcher", "lease-expiry", "lease-memory"]
    {
        assert!(!kvbench(folder.path(), &[command]).status.success(), "{command}");
    }
    assert!(!kvbench(folder.path(), &["run", "--no-floor"]).status.success());
}
