//! Running a command for an event, and saying how it failed in the words etcdctl's users know.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};

use kvd_client::proto::mvccpb::Event;

use crate::quote::quote;

/// Runs the command and waits for it; the error is a line for stderr.
pub(super) async fn execute(
    program: &OsStr,
    arguments: &[OsString],
    revision: i64,
    event: &Event,
) -> Result<(), String> {
    let kv = event.kv.clone().unwrap_or_default();
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("ETCD_WATCH_REVISION", revision.to_string())
        .env("ETCD_WATCH_EVENT_TYPE", quote(event.r#type().as_str_name().as_bytes()))
        .env("ETCD_WATCH_KEY", quote(&kv.key))
        .env("ETCD_WATCH_VALUE", quote(&kv.value));
    // Elsewhere, so that the connection stays alive meanwhile.
    let status = tokio::task::spawn_blocking(move || command.status()).await;
    let reason = match status {
        Ok(Ok(status)) if status.success() => return Ok(()),
        Ok(Ok(status)) => ending(status),
        Ok(Err(error)) => not_started(program, &error),
        Err(error) => error.to_string(),
    };
    let quoted = [program].into_iter().chain(arguments.iter().map(OsString::as_os_str));
    let quoted: Vec<String> = quoted.map(|word| quote(word.as_bytes())).collect();
    Err(format!("command [{}] error ({reason})", quoted.join(" ")))
}

/// How a process ended.
pub(crate) fn ending(status: ExitStatus) -> String {
    let Some(signal) = status.signal() else {
        return format!("exit status {}", status.code().unwrap_or_default());
    };
    let name = match signal {
        1 => "hangup",
        2 => "interrupt",
        3 => "quit",
        6 => "aborted",
        9 => "killed",
        11 => "segmentation fault",
        13 => "broken pipe",
        15 => "terminated",
        _ => return format!("signal: signal {signal}"),
    };
    let dumped = if status.core_dumped() { " (core dumped)" } else { "" };
    format!("signal: {name}{dumped}")
}

/// Why a program could not be started.
pub(crate) fn not_started(program: &OsStr, error: &io::Error) -> String {
    let name = program.to_string_lossy();
    let is_path = program.as_bytes().contains(&b'/');
    match error.kind() {
        io::ErrorKind::NotFound if !is_path => {
            format!("exec: {}: executable file not found in $PATH", quote(program.as_bytes()))
        }
        io::ErrorKind::NotFound => format!("fork/exec {name}: no such file or directory"),
        io::ErrorKind::PermissionDenied => format!("fork/exec {name}: permission denied"),
        _ => format!("fork/exec {name}: {error}"),
    }
}
