//! Arrows between the rooms of the server point down: a file imports only what has a lower rank,
//! or stands in its own room.

use crate::source::{code_only, rust_files, words};

/// Rooms and files of `server/src`, by rank: the table of `server/ARCHITECTURE.md`. A file is
/// ranked by the longest row that it starts with.
const RANKS: &[(u8, &[&str])] = &[
    // Bounds, names, ports: know nothing of the server.
    (0, &["limits", "metrics", "shutdown", "config", "threads", "fatal", "fence", "net", "stores"]),
    (1, &["telemetry", "member_id", "sled_stores", "checkpoint_lane", "log_lane", "local_cluster"]),
    // What applying feeds.
    (1, &["feed", "lease_clock", "samples"]),
    // The only writer of the state; connections to peers.
    (2, &["apply", "peer"]),
    // Consensus.
    (3, &["raft"]),
    // What services call.
    (4, &["node"]),
    // One protocol each, without decisions.
    (5, &["service"]),
    (6, &["http", "proxy"]),
    // Sockets, and putting it all together.
    (7, &["listen", "bootstrap", "peer_server"]),
    (8, &["dev", "demo", "process", "run"]),
    (9, &["lib", "main"]),
];

/// Imports that point up today. Remove rows; add none.
const UPWARD: &[(&str, &str)] = &[];

#[test]
fn arrows_point_down() {
    let mut wrong = Vec::new();
    for file in rust_files() {
        let Some(module) = file.path.strip_prefix("server/src/") else { continue };
        let module = module.trim_end_matches(".rs").trim_end_matches("/mod");
        let Some(rank) = rank(module) else {
            wrong.push(format!("{module} has no rank: give it one"));
            continue;
        };
        for import in imports(&code_only(&file.text)) {
            let same_room = room(module) == room(&import);
            let lower = rank_of_import(&import).is_none_or(|imported| imported < rank);
            if !same_room && !lower && !UPWARD.contains(&(module, import.as_str())) {
                wrong.push(format!("{module} ({rank}) imports {import}, which is not lower"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The rank of a file, given as `node/reads`.
fn rank(module: &str) -> Option<u8> {
    let rows = RANKS.iter().flat_map(|(rank, rows)| rows.iter().map(move |row| (*row, *rank)));
    let mut fitting: Vec<(&str, u8)> = rows
        .filter(|(row, _)| {
            let rest = module.strip_prefix(row);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
        .collect();
    fitting.sort_by_key(|(row, _)| row.len());
    fitting.last().map(|(_, rank)| *rank)
}

/// What is imported may be an item of the room rather than a file: then the room's rank counts.
/// Items of the crate's root have none.
fn rank_of_import(import: &str) -> Option<u8> {
    rank(import).or_else(|| rank(room(import)))
}

/// The first part of a path.
fn room(module: &str) -> &str {
    module.split('/').next().unwrap_or(module)
}

/// Every path that starts with `crate::`, as `room/file`; groups in braces are taken apart at
/// their first level.
fn imports(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, start) in code.match_indices("crate::") {
        let rest = &code[at + start.len()..];
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        if let Some(group) = rest.strip_prefix('{') {
            let group = group.split(';').next().unwrap_or(group);
            let rooms = group.split(',').filter_map(|item| words(item).next());
            found.extend(rooms.filter(|room| rank(room).is_some()).map(str::to_owned));
            continue;
        }
        let path = rest.split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').next();
        let mut parts = path.unwrap_or_default().split("::").filter(|part| !part.is_empty());
        let Some(room) = parts.next() else { continue };
        found.push(parts.next().map_or_else(|| room.to_owned(), |file| format!("{room}/{file}")));
    }
    found.sort();
    found.dedup();
    found
}

#[test]
fn imports_are_found() {
    let code =
        "use crate::node::{A, b::C};\nfn f(x: crate::limits::X) {}\nuse crate::{raft::D, net};";
    assert_eq!(imports(code), ["limits/X", "net", "node", "raft"]);
    assert_eq!(rank("node/watch/hub"), rank("node"));
    assert_eq!(rank("nodes"), None);
    assert!(rank_of_import("limits/X") < rank_of_import("node"));
}
