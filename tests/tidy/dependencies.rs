//! Who depends on what, and who may name it in code.

use std::collections::BTreeMap;

use crate::source::{code_only, files, rust_files, words};

/// What each crate may depend on, for its own code and for its tests. A new row here is a change
/// of the architecture and stands in a commit of its own.
const ALLOWED: &[(&str, &[&str])] = &[
    (
        "proto",
        &["bytes", "prost", "tonic", "tonic-prost", "protox", "tonic-prost-build", "prost-types"],
    ),
    (
        "server/core",
        &["bytes", "crc32c", "thiserror", "xxhash-rust", "goldenscript", "kvd-core", "proptest"],
    ),
    (
        "server/storage",
        &[
            "bytes",
            "crc32c",
            "kvd-core",
            "kvd-syncshim",
            "rand",
            "rustix",
            "sled",
            "thiserror",
            "kvd-storage",
            "proptest",
            "tempfile",
        ],
    ),
    ("server/storage/syncshim", &[]),
    (
        "server",
        &[
            "anyhow",
            "axum",
            "bytes",
            "futures-util",
            "http",
            "http-body",
            "http-body-util",
            "hyper",
            "hyper-util",
            "kvd-client",
            "kvd-core",
            "kvd-proto",
            "kvd-storage",
            "mimalloc",
            "openraft",
            "prometheus-client",
            "prost",
            "rand",
            "rustix",
            "serde_json",
            "sha1",
            "thiserror",
            "tokio",
            "tokio-stream",
            "tonic",
            "tower",
            "tracing",
            "tracing-subscriber",
            "proptest",
            "tempfile",
        ],
    ),
    (
        "client",
        &[
            "bytes",
            "hickory-resolver",
            "http",
            "hyper-util",
            "kvd-proto",
            "rand",
            "serde_json",
            "thiserror",
            "tokio",
            "tokio-stream",
            "tonic",
            "tower",
            "tracing",
            "anyhow",
            "proptest",
            "rustix",
            "tempfile",
        ],
    ),
    (
        "cli",
        &[
            "anyhow",
            "bytes",
            "clap",
            "comfy-table",
            "kvd-client",
            "kvd-proto",
            "kvd-storage",
            "prost",
            "rustix",
            "serde",
            "serde_json",
            "tokio",
            "proptest",
            "tempfile",
        ],
    ),
    (
        "benches",
        &[
            "anyhow",
            "bytes",
            "clap",
            "hdrhistogram",
            "kvd-client",
            "kvd-core",
            "kvd-proto",
            "kvd-storage",
            "rand",
            "rustix",
            "serde",
            "serde_json",
            "tempfile",
            "tokio",
            "tokio-stream",
            "tonic",
        ],
    ),
    (
        "tests",
        &[
            "anyhow",
            "bytes",
            "futures-util",
            "goldenscript",
            "http",
            "hyper",
            "hyper-util",
            "kvd",
            "kvd-client",
            "kvd-core",
            "kvd-proto",
            "kvd-storage",
            "openraft",
            "proptest",
            "rand",
            "rustix",
            "serde_json",
            "tempfile",
            "tokio",
            "tokio-stream",
            "tonic",
            "tonic-prost",
            "tower",
            "tracing",
        ],
    ),
    ("tests/check", &["rand"]),
    (
        "tests/sim",
        &[
            "bytes",
            "clap",
            "futures-util",
            "http",
            "hyper-util",
            "kvd",
            "kvd-check",
            "kvd-core",
            "kvd-proto",
            "kvd-storage",
            "mad-turmoil",
            "rand",
            "serde",
            "serde_json",
            "tokio",
            "tokio-stream",
            "tonic",
            "tower",
            "tracing",
            "tracing-subscriber",
            "turmoil",
        ],
    ),
    ("tests/etcd_client", &["anyhow", "etcd-client", "tokio"]),
];

/// Words that only one folder may write in code.
const NAMED_ONLY_IN: &[(&str, &str)] =
    &[("openraft", "server/src/raft"), ("sled", "server/storage")];

/// Dependencies that may share one comment.
const GROUP_MAX: usize = 6;

#[test]
fn crates_keep_to_their_dependencies() {
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.iter().copied().collect();
    let mut wrong = Vec::new();
    for file in files() {
        let Some(folder) = file.path.strip_suffix("/Cargo.toml") else { continue };
        let Some(allowed) = allowed.get(folder) else {
            wrong.push(format!("{folder} is a crate without a row here"));
            continue;
        };
        let strangers = dependencies(&file.text).into_iter().filter(|name| !allowed.contains(name));
        wrong.extend(strangers.map(|name| format!("{folder} depends on {name}")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn engines_are_named_in_one_room_only() {
    let mut wrong = Vec::new();
    for file in rust_files() {
        let code = code_only(&file.text);
        for (engine, room) in NAMED_ONLY_IN {
            let elsewhere = !file.path.starts_with(&format!("{room}/"));
            if elsewhere && words(&code).any(|word| word == *engine) {
                wrong.push(format!("{} names {engine}, which is {room}'s", file.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A comment above says what it is for; a few that belong together may share one.
#[test]
fn every_dependency_has_a_keeper() {
    let root = files().into_iter().find(|file| file.path == "Cargo.toml");
    let root = root.expect("the root has a Cargo.toml").text;
    let lines = root.lines().skip_while(|line| *line != "[workspace.dependencies]").skip(1);
    let mut kept = 0;
    for line in lines.take_while(|line| !line.starts_with('[')) {
        match line {
            comment if comment.starts_with('#') => kept = GROUP_MAX,
            "" => kept = 0,
            dependency => {
                assert!(kept > 0, "no comment says what this is for: {dependency}");
                kept -= 1;
            }
        }
    }
}

/// The names in all dependency tables of a manifest.
fn dependencies(manifest: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut inside = false;
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line.ends_with("dependencies]");
        } else if inside
            && let Some((name, _)) = line.split_once(['=', '.'])
            && !name.starts_with(['#', ' '])
        {
            names.push(name.trim());
        }
    }
    names
}

#[test]
fn manifests_are_read() {
    let manifest = "[package]\nname = \"x\"\n[dependencies]\n# c = d\na = \"1\"\n[dev-dependencies]\nb.workspace = true\n";
    assert_eq!(dependencies(manifest), ["a", "b"]);
}
