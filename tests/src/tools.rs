//! Programs that tests need and cargo does not bring: a real etcd, protoc, kvd's own binary.
//!
//! A test whose program is missing says so on stderr and passes; with `KVD_REQUIRE_ALL=1`, as in
//! the gate, it fails instead.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context as _, bail, ensure};

/// The release that transcripts are recorded from.
pub const ETCD_VERSION: &str = "3.5.16";

/// The program `name` (`etcd`, `etcdctl`) of a real etcd: in the folder that `KVD_ETCD` names,
/// in `target/etcd` where `tests/get-etcd` puts it, or in `PATH`.
pub fn etcd(name: &str) -> Option<PathBuf> {
    if let Some(folder) = env::var_os("KVD_ETCD") {
        let program = PathBuf::from(folder).join(name);
        return program.is_file().then_some(program);
    }
    let fetched = workspace().join("target/etcd").join(name);
    if fetched.is_file() { Some(fetched) } else { in_path(name) }
}

/// A real etcd of the release that transcripts are recorded from, or why there is none.
pub fn recorded_etcd() -> anyhow::Result<PathBuf> {
    let program = etcd("etcd").context("no etcd: run tests/get-etcd, or set KVD_ETCD")?;
    let output = Command::new(&program).arg("--version").output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        text.contains(&format!("etcd Version: {ETCD_VERSION}\n")),
        "{} is not etcd {ETCD_VERSION}",
        program.display()
    );
    Ok(program)
}

/// The first program of this name in `PATH`.
pub fn in_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(name)).find(|program| program.is_file())
}

/// kvd's binary, built once for each test process, or the one that `KVD_BINARY` names.
pub fn kvd() -> anyhow::Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| build_kvd().map_err(|error| format!("{error:#}")));
    built.clone().map_err(anyhow::Error::msg)
}

/// Cargo decides whether the binary is stale; tests of another package cannot ask it to be fresh.
fn build_kvd() -> anyhow::Result<PathBuf> {
    if let Some(binary) = env::var_os("KVD_BINARY") {
        return Ok(binary.into());
    }
    let profile = profile_dir()?;
    let mut build = cargo();
    build.args(["build", "--quiet", "--package", "kvd", "--bin", "kvd"]);
    if profile.ends_with("release") {
        build.arg("--release");
    }
    build.arg("--target-dir").arg(target_dir()?);
    let output = build.current_dir(workspace()).output().context("running cargo")?;
    if !output.status.success() {
        bail!("kvd does not build:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(profile.join("kvd"))
}

/// The cargo that runs this test.
pub fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Where cargo puts what it builds.
pub fn target_dir() -> anyhow::Result<PathBuf> {
    let profile = profile_dir()?;
    Ok(profile.parent().context("a profile lies in a target folder")?.to_owned())
}

/// `<target>/<profile>`, from where this test is: `<target>/<profile>/deps/<test>`.
fn profile_dir() -> anyhow::Result<PathBuf> {
    let test = env::current_exe()?;
    Ok(test.ancestors().nth(2).context("a test lies in a target folder")?.to_owned())
}

/// The root of the source tree.
pub fn workspace() -> &'static Path {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests)
}

/// Ends a test that cannot run here.
///
/// # Panics
/// With `KVD_REQUIRE_ALL=1`: nothing may be skipped there.
pub fn skip(test: &str, why: &str) {
    assert!(
        env::var_os("KVD_REQUIRE_ALL").is_none_or(|value| value != "1"),
        "{test} may not be skipped: {why}"
    );
    eprintln!("SKIPPED {test}: {why}");
}
