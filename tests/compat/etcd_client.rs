//! The Rust crate etcd-client, as its users build it, against three members.
//!
//! It needs a protoc on the system, which kvd must not, so it is built in a workspace of its own
//! (`tests/etcd_client`).

use std::env;
use std::process::Command;

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
    exercise("etcd_client_works_with_a_real_etcd", Program::etcd)
}

/// Builds the client where a protoc is, and lets it work on three members.
fn exercise(test: &str, program: fn() -> anyhow::Result<Program>) -> anyhow::Result<()> {
    if tools::in_path("protoc").is_none() {
        tools::skip(test, "no protoc in PATH, which building the crate needs");
        return Ok(());
    }
    let cluster = Cluster::start(&program()?, 3, &[])?;
    let manifest = tools::workspace().join("tests/etcd_client/Cargo.toml");
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["run", "--quiet", "--locked", "--manifest-path"])
        .arg(manifest)
        .arg("--target-dir")
        .arg(tools::workspace().join("target/etcd_client"))
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
