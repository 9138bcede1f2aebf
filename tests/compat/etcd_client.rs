//! The Rust crate etcd-client, as its users build it, against three members.
//!
//! It needs a protoc on the system, which kvd must not, so it is built in a workspace of its own
//! (`tests/etcd_client`).

use std::env;
use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use kvd_tests::cluster::process::{Cluster, Program};
use kvd_tests::tools;

#[test]
fn etcd_client_works_with_kvd() -> anyhow::Result<()> {
    exercise("etcd_client_works_with_kvd", Program::kvd)
}

/// What the exercise asks for is what a real etcd does.
#[test]
fn etcd_client_works_with_a_real_etcd() -> anyhow::Result<()> {
    let test = "etcd_client_works_with_a_real_etcd";
    if let Err(error) = Program::etcd() {
        tools::skip(test, &format!("{error:#}"));
        return Ok(());
    }
    exercise(test, Program::etcd)
}

/// Builds the client where a protoc is, and lets it work on three members.
fn exercise(test: &str, program: fn() -> anyhow::Result<Program>) -> anyhow::Result<()> {
    if let Err(error) = protoc() {
        tools::skip(test, &format!("{error:#}"));
        return Ok(());
    }
    let cluster = Cluster::start(&program()?, 3, &[])?;
    let manifest = tools::workspace().join("tests/etcd_client/Cargo.toml");
    let output = tools::cargo()
        .args(["run", "--quiet", "--locked", "--manifest-path"])
        .arg(manifest)
        .arg("--target-dir")
        .arg(tools::target_dir()?.join("etcd_client"))
        .arg("--")
        .args(cluster.endpoints())
        .output()
        .context("running cargo")?;
    ensure!(
        output.status.success(),
        "the client failed:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Whether there is a protoc, and the descriptions that it includes, which Debian packs apart.
fn protoc() -> anyhow::Result<()> {
    let protoc = tools::in_path("protoc").context("no protoc in PATH to build the crate with")?;
    let beside = protoc.ancestors().nth(2).map(|prefix| prefix.join("include"));
    let named = env::var_os("PROTOC_INCLUDE").map(PathBuf::from);
    let mut folders = named.into_iter().chain(beside);
    let found = folders.any(|folder| folder.join("google/protobuf/descriptor.proto").is_file());
    ensure!(found, "protoc lacks google/protobuf/*.proto: install libprotobuf-dev");
    Ok(())
}
