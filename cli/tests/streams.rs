//! kvctl prints what etcdctl prints, where they go on printing: watches and leases that are kept
//! alive. Each tool meets a fresh real etcd with the same addresses; what a command line awaits is
//! read from its stdout before the next thing is done, so that nothing depends on time.

#[path = "../../client/tests/etcd/mod.rs"]
mod etcd;

use std::env;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::etcd::{Cluster, find, free_ports};

/// How a process that goes on is ended.
#[derive(Clone, Copy)]
enum End {
    /// By an interrupt, as from a keyboard.
    Interrupt,
    /// By the end of its stdin.
    Eof,
    /// It ends by itself.
    Itself,
    /// It ends when its lease is revoked; how often it was renewed until then is not compared.
    Revoked,
}
use End::{Eof, Interrupt, Itself, Revoked};

/// One command line: its arguments (`$LEASE` is a fresh lease of two seconds), its environment, what is typed, how many lines of stdout are
/// awaited, and how it ends then.
struct Case(
    &'static [&'static str],
    &'static [(&'static str, &'static str)],
    &'static str,
    usize,
    End,
);

const NONE: &[(&str, &str)] = &[];
const KEY: &[(&str, &str)] = &[("ETCDCTL_WATCH_KEY", "b")];
const RANGE: &[(&str, &str)] = &[("ETCDCTL_WATCH_KEY", "a"), ("ETCDCTL_WATCH_RANGE_END", "c")];
const SHOW: &str =
    "echo $0 $ETCD_WATCH_REVISION $ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_KEY $ETCD_WATCH_VALUE";

/// The history has a=1, a=2, b="1 \xff", no b, c=3 at revisions 2 to 6; the first is compacted.
const CASES: &[Case] = &[
    Case(&["watch", "a", "--rev", "3"], NONE, "", 3, Interrupt),
    Case(&["watch", "a", "c", "--rev", "3", "--prev-kv"], NONE, "", 11, Interrupt),
    Case(&["watch", "", "--prefix", "--rev", "3"], NONE, "", 12, Interrupt),
    Case(&["watch", "b", "--prefix", "--rev", "3", "--hex"], NONE, "", 6, Interrupt),
    Case(&["watch", "b", "--rev", "3", "--prev-kv", "-w", "json"], NONE, "", 1, Interrupt),
    Case(&["watch", "b", "--rev", "3", "--prev-kv", "-w", "fields"], NONE, "", 24, Interrupt),
    Case(&["watch", "a", "--rev", "3", "-w", "table"], NONE, "", 0, Itself),
    // Of three keys only the first counts.
    Case(&["watch", "a", "b", "c", "--rev", "3"], NONE, "", 3, Interrupt),
    Case(&["watch", "--rev", "3"], KEY, "", 6, Interrupt),
    Case(&["watch", "--rev", "3"], RANGE, "", 9, Interrupt),
    Case(&["watch", "b", "--rev", "3"], KEY, "", 0, Itself),
    Case(&["watch", "--prefix", "--rev", "3"], RANGE, "", 0, Itself),
    Case(&["watch"], &[("ETCDCTL_WATCH_RANGE_END", "c")], "", 0, Itself),
    Case(&["watch", "b", "--rev", "3", "--", "sh", "-c", SHOW, "x y"], NONE, "", 8, Interrupt),
    Case(&["watch", "--rev", "3", "--", "echo", "ran"], KEY, "", 8, Interrupt),
    Case(&["watch", "b", "--", "echo", "ran"], KEY, "", 0, Itself),
    Case(&["watch", "b", "--rev", "3", "--", "false"], NONE, "", 0, Itself),
    Case(&["watch", "b", "--rev", "3", "--", "sh", "-c", "kill -9 $$", "\""], NONE, "", 0, Itself),
    Case(&["watch", "b", "--rev", "3", "--", "/none", "x"], NONE, "", 0, Itself),
    Case(&["watch", "b", "--rev", "3", "--", "no-such-program"], NONE, "", 0, Itself),
    Case(&["watch", "zz", "--progress-notify"], NONE, "", 2, Interrupt),
    Case(&["watch", "zz", "--progress-notify", "-w", "json"], NONE, "", 2, Interrupt),
    Case(&["watch", "zz", "--progress-notify", "-w", "fields"], NONE, "", 5, Interrupt),
    Case(&["watch", "-i"], NONE, "watch b --rev 3\n", 6, Eof),
    Case(&["watch", "-i"], NONE, "watch \"b\" --rev 3 --prev-kv\n", 8, Eof),
    Case(&["watch", "-i"], NONE, "watch b --rev 3 -- echo \"x y\" z\n", 8, Eof),
    Case(&["watch", "-i"], NONE, "watch b --rev 3 -- false\n", 0, Itself),
    Case(&["watch", "-i"], NONE, "watch zz\nwatch yy\nprogress\n", 2, Eof),
    Case(&["watch", "-i"], NONE, "watch b a\nwatch b --rev 3\n", 6, Eof),
    Case(&["watch", "-i"], KEY, "watch --rev 3\n", 6, Eof),
    Case(&["watch", "-i"], KEY, "watch b\n", 0, Itself),
    Case(&["lease", "keep-alive", "$LEASE"], NONE, "", 2, Interrupt),
    Case(&["lease", "keep-alive", "$LEASE"], NONE, "", 1, Revoked),
    Case(&["lease", "keep-alive", "$LEASE", "-w", "json"], NONE, "", 2, Interrupt),
    Case(&["lease", "keep-alive", "$LEASE", "-w", "fields"], NONE, "", 12, Interrupt),
];

#[test]
fn both_tools_go_on_alike() -> Result<()> {
    let (Some(server), Some(etcdctl)) = (find("etcd"), find("etcdctl")) else { return Ok(()) };
    let ports = free_ports(2)?;
    let theirs = answers(&server, &etcdctl, &etcdctl, &ports)?;
    let ours = answers(&server, Path::new(env!("CARGO_BIN_EXE_kvctl")), &etcdctl, &ports)?;
    let mut differences = 0;
    for ((case, theirs), ours) in CASES.iter().zip(&theirs).zip(&ours) {
        if ours != theirs {
            differences += 1;
            eprintln!("--- {:?} {:?}\netcdctl {theirs:?}\nkvctl   {ours:?}", case.0, case.2);
        }
    }
    ensure!(differences == 0, "{differences} of {} command lines differ", CASES.len());
    Ok(())
}

/// What a command line left: what was awaited of stdout (all of it where it ends by itself),
/// stderr, exit code and signal.
#[derive(Debug, PartialEq)]
struct Answer {
    stdout: String,
    stderr: String,
    code: Option<i32>,
    signal: Option<i32>,
}

fn answers(server: &Path, tool: &Path, etcdctl: &Path, ports: &[u16]) -> Result<Vec<Answer>> {
    let cluster = Cluster::start_on(server, ports)?;
    let endpoint = &cluster.members[0].endpoint;
    run(etcdctl, endpoint, &["get", "started", "--command-timeout=60s"])?;
    let history: [&[&str]; 6] = [
        &["put", "a", "1"],
        &["put", "a", "2"],
        &["put", "b", "1 é"],
        &["del", "b"],
        &["put", "c", "3"],
        &["compaction", "3"],
    ];
    for arguments in history {
        run(etcdctl, endpoint, arguments)?;
    }
    CASES.iter().map(|case| answer(tool, etcdctl, endpoint, case)).collect()
}

fn answer(tool: &Path, etcdctl: &Path, endpoint: &str, case: &Case) -> Result<Answer> {
    let Case(arguments, environment, input, awaited, end) = case;
    let mut lease = String::new();
    if arguments.contains(&"$LEASE") {
        let granted = run(etcdctl, endpoint, &["lease", "grant", "2"])?;
        lease = granted.split(' ').nth(1).context("a grant names its lease")?.to_owned();
    }
    let arguments = arguments.iter().map(|&word| if word == "$LEASE" { &lease } else { word });
    let mut command = command(tool, endpoint);
    command.args(arguments).envs(environment.iter().copied());
    let mut process = Process::start(command)?;
    process.stdin.write_all(input.as_bytes())?;
    let mut stdout = process.lines(*awaited)?;
    match end {
        Interrupt => {
            let interrupt = Command::new("kill").args(["-INT", &process.id()]).status()?;
            ensure!(interrupt.success(), "there is nobody to interrupt");
        }
        Revoked => drop(run(etcdctl, endpoint, &["lease", "revoke", &lease])?),
        Eof | Itself => {}
    }
    let (rest, stderr, status) = process.finish(matches!(end, Eof))?;
    match end {
        Interrupt => {}
        Revoked => stdout = rest.lines().next_back().unwrap_or_default().to_owned(),
        Eof | Itself => stdout.push_str(&rest),
    }
    if !lease.is_empty() {
        let decimal = i64::from_str_radix(&lease, 16)?.to_string();
        stdout = stdout.replace(&lease, "LEASE").replace(&decimal, "LEASE");
    }
    Ok(Answer { stdout, stderr, code: status.code(), signal: status.signal() })
}

/// A tool under way.
struct Process {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Process {
    fn start(mut command: Command) -> Result<Self> {
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn()?;
        let stdin = child.stdin.take().context("stdin is piped")?;
        let stdout = child.stdout.take().context("stdout is piped")?;
        Ok(Self { child, stdin, stdout: BufReader::new(stdout) })
    }

    fn id(&self) -> String {
        self.child.id().to_string()
    }

    /// Waits for that many lines, or for the end.
    fn lines(&mut self, count: usize) -> Result<String> {
        let mut lines = String::new();
        for _ in 0..count {
            self.stdout.read_line(&mut lines)?;
        }
        Ok(lines)
    }

    /// Waits for the end, with or without an end of its input.
    fn finish(mut self, close: bool) -> Result<(String, String, std::process::ExitStatus)> {
        let held = (!close).then_some(self.stdin);
        let (mut rest, mut stderr) = (String::new(), String::new());
        self.stdout.read_to_string(&mut rest)?;
        self.child.stderr.take().context("stderr is piped")?.read_to_string(&mut stderr)?;
        let status = self.child.wait()?;
        drop(held);
        Ok((rest, stderr, status))
    }
}

fn run(etcdctl: &Path, endpoint: &str, arguments: &[&str]) -> Result<String> {
    let output = command(etcdctl, endpoint).args(arguments).output()?;
    ensure!(output.status.success(), "{arguments:?}: {output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

/// Nothing that is set where the test runs changes what the tools do.
fn command(tool: &Path, endpoint: &str) -> Command {
    let mut command = Command::new(tool);
    for (name, _) in env::vars_os() {
        let name_text = name.to_string_lossy();
        if name_text.starts_with("ETCDCTL_") || name_text.starts_with("KVCTL_") {
            command.env_remove(&name);
        }
    }
    command.arg(format!("--endpoints={endpoint}"));
    command
}
