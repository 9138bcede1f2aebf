//! A limit on the memory of a process: a control group of version 1, whose out-of-memory killer
//! ends who takes more.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// Where the controller is mounted.
const CONTROLLER: &str = "/sys/fs/cgroup/memory";

/// A limit that processes can be put under.
pub struct MemoryLimit {
    group: PathBuf,
}

impl MemoryLimit {
    /// Whether this machine has what it takes.
    pub fn is_possible() -> bool {
        Path::new(CONTROLLER).join("memory.limit_in_bytes").exists()
    }

    /// A new limit.
    pub fn new(bytes: u64) -> anyhow::Result<Self> {
        let group = Path::new(CONTROLLER).join(format!("kvd-test-{}", std::process::id()));
        fs::create_dir(&group).with_context(|| format!("making {}", group.display()))?;
        let limit = Self { group };
        limit.write("memory.limit_in_bytes", &bytes.to_string())?;
        Ok(limit)
    }

    /// Puts a process under it. What the process holds already stays charged elsewhere.
    pub fn hold(&self, pid: u32) -> anyhow::Result<()> {
        self.write("cgroup.procs", &pid.to_string())
    }

    /// How often the limit has killed.
    pub fn kills(&self) -> anyhow::Result<u64> {
        let text = fs::read_to_string(self.group.join("memory.oom_control"))?;
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.context("the kernel counts kills")?.trim().parse().context("a number of kills")
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let path = self.group.join(name);
        fs::write(&path, text).with_context(|| format!("writing {text} to {}", path.display()))
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        // Refused while a process is left in it, which a failed test may leave.
        let _left = fs::remove_dir(&self.group);
    }
}

/// The most memory that a process has held at once, in bytes.
pub fn peak_resident_bytes(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kibibytes: u64 = kibibytes.context("the kernel tells the peak")?.trim().parse()?;
    Ok(kibibytes * 1024)
}
