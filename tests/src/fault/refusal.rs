//! A start that must be refused: with an exit code, one line that says why and what to do, and
//! nothing destroyed.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use serde_json::Value;

/// Seconds that a start which must be refused may take.
const SECONDS_MAX: &str = "30";

/// How a start ended.
#[derive(Debug)]
pub struct Refusal {
    /// The exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// What it said on stderr besides its log.
    pub said: Vec<String>,
    /// Everything on stderr.
    pub stderr: String,
}

impl Refusal {
    /// Runs a program until it ends, or for half a minute; under another user's id if one is given.
    pub fn of(program: &Path, arguments: &[String], user: Option<u32>) -> anyhow::Result<Self> {
        let mut command = Command::new("timeout");
        command.args(["--signal=KILL", SECONDS_MAX]);
        if let Some(user) = user {
            command.arg("setpriv").arg(format!("--reuid={user}")).arg("--clear-groups");
        }
        let output = command
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .output()
            .context("running timeout")?;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let is_log = |line: &&str| serde_json::from_str::<Value>(line).is_ok();
        let said = stderr.lines().filter(|line| !is_log(line)).map(str::to_owned).collect();
        Ok(Self { code: output.status.code(), said, stderr })
    }

    /// Proves that it was refused in one line that holds each of these texts.
    pub fn ensure_says(&self, texts: &[&str]) -> anyhow::Result<()> {
        ensure!(self.code.is_some_and(|code| code != 0), "not refused:\n{}", self.stderr);
        ensure!(self.said.len() == 1, "not one line:\n{}", self.stderr);
        for text in texts {
            ensure!(self.said[0].contains(text), "no {text:?} in:\n{}", self.said[0]);
        }
        Ok(())
    }
}

/// What lies in a folder: each file with its size and content's hash. Two pictures tell whether
/// anything was changed between them.
pub fn picture(folder: &Path) -> anyhow::Result<BTreeMap<PathBuf, (u64, u32)>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next)? {
            let (path, kind) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))?;
            if kind.is_dir() {
                folders.push(path);
            } else {
                let bytes = fs::read(&path)?;
                files.insert(path.clone(), (fs::metadata(&path)?.size(), crc(&bytes)));
            }
        }
    }
    Ok(files)
}

/// Enough to notice a change; not an attacker's.
fn crc(bytes: &[u8]) -> u32 {
    bytes.chunks(8).fold(0, |sum: u32, chunk| {
        chunk
            .iter()
            .fold(sum.rotate_left(5), |sum, byte| sum.wrapping_mul(16_777_619) ^ u32::from(*byte))
    })
}
