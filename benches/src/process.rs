//! What the kernel says about a process: CPU time, memory, bytes written.
//!
//! Promises figures of the whole process, threads included. A process that is gone reads as zero
//! nowhere: it is an error.

use std::fs;

use anyhow::{Context, Result};

/// Consumption of one or more processes at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// User and system time, seconds.
    pub(crate) cpu_seconds: f64,
    /// Resident memory, bytes.
    pub(crate) resident_bytes: u64,
    /// Bytes handed to block devices (`write_bytes` of /proc/PID/io). Counts whole folios on ext4,
    /// so it is an upper bound; the device's own counter is the better one.
    pub(crate) written_bytes: u64,
}

impl Usage {
    /// Of all these processes together.
    pub(crate) fn of_all(pids: &[u32]) -> Result<Self> {
        let mut sum = Self::default();
        for &pid in pids {
            let one = Self::of(pid).with_context(|| format!("process {pid}"))?;
            sum.cpu_seconds += one.cpu_seconds;
            sum.resident_bytes += one.resident_bytes;
            sum.written_bytes += one.written_bytes;
        }
        Ok(sum)
    }

    /// Of one process.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        // Only the owner may read it; without it one column of the report is zero.
        let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
        Ok(Self {
            cpu_seconds: cpu_seconds(&stat).context("/proc/PID/stat in an unknown form")?,
            resident_bytes: field(&status, "VmRSS:").unwrap_or(0) * 1024,
            written_bytes: field(&io, "write_bytes:").unwrap_or(0),
        })
    }
}

/// Fields 14 and 15 of /proc/PID/stat (proc_pid_stat(5)), counted after the command's name, which
/// may itself hold spaces and brackets.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    let ticks_per_second = u32::try_from(rustix::param::clock_ticks_per_second()).ok()?;
    Some((f64::from(user) + f64::from(system)) / f64::from(ticks_per_second))
}

/// The first number after `name` in a file of `name value` lines.
fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_behind_a_name_with_brackets() {
        let stat = "42 (a) b (c)) S 1 1 1 0 -1 4194304 100 0 0 0 150 50 0 0 20 0 3 0 100 0 0";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        assert_eq!(cpu_seconds("42 (cut"), None);
    }

    #[test]
    fn this_process_has_memory() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.resident_bytes > 100_000, "{usage:?}");
    }

    #[test]
    fn a_field_is_found_at_the_start_of_its_line() {
        let text = "read_bytes: 1\nwrite_bytes: 4096\ncancelled_write_bytes: 7\n";
        assert_eq!(field(text, "write_bytes:"), Some(4096));
        assert_eq!(field(text, "bytes:"), None);
    }
}
