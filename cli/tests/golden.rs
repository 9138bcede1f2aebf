//! kvctl prints what etcdctl prints: both tools are given the same invocations, each against a
//! fresh real etcd with the same addresses and so the same ids, and their outputs are compared byte
//! for byte. What differs from run to run is masked: times, numbers of leases, sizes on disk.

#[path = "../../client/tests/etcd/mod.rs"]
mod etcd;
#[path = "golden/mask.rs"]
mod mask;

use std::env;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::etcd::{Cluster, find, free_ports};
use crate::mask::{after, mask};

/// One invocation: arguments cut at blanks (`''` is an empty one, `$LEASE` the lease granted last,
/// `_` within one stands for a blank), and what is typed.
struct Case(&'static str, &'static str, Compare);

/// What must be the same besides the exit code.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Compare {
    /// stdout, and the errors on stderr.
    All,
    /// stdout; etcdctl's error tells of its own innards.
    Stdout,
    /// Nothing: one is a usage text or a panic.
    Code,
}
use Compare::{All, Code, Stdout};

const CASES: &[Case] = &[
    // Single members, before anything is written.
    Case("endpoint status", "", All),
    Case("endpoint status -w table", "", All),
    Case("endpoint status -w json", "", All),
    Case("endpoint status -w fields", "", All),
    Case("endpoint status -w protobuf", "", All),
    Case("endpoint status --cluster", "", All),
    Case("endpoint status ignored", "", All),
    Case("endpoint health", "", All),
    Case("endpoint health --cluster", "", All),
    Case("endpoint health -w json", "", All),
    Case("endpoint health -w fields", "", All),
    Case("endpoint hashkv", "", All),
    Case("member list", "", All),
    Case("member list -w table", "", All),
    Case("member list -w json", "", All),
    Case("member list -w fields", "", All),
    Case("member list -w protobuf", "", All),
    Case("--hex member list", "", All),
    Case("--hex member list -w json", "", All),
    Case("--hex member list -w fields", "", All),
    // Writing and reading.
    Case("put a 1", "", All),
    Case("put a 2 --prev-kv", "", All),
    Case("put b _x\"\\ -w json", "", All),
    Case("put b 8 --prev-kv -w json", "", All),
    Case("put b 9 --prev-kv -w fields", "", All),
    Case("put b 9 -w protobuf", "", All),
    Case("put --prev-kv c 3", "", All),
    Case("put d", "from stdin\n", All),
    Case("put d", "", All),
    Case("put", "", All),
    Case("put e 1 2", "", All),
    Case("put e --ignore-value", "", All),
    Case("put nothing --ignore-value", "", All),
    Case("put e 1 --ignore-value", "", All),
    Case("put e 1 --ignore-lease", "", All),
    Case("put e 1 --lease=12zz", "", All),
    Case("put e 1 --lease 1234", "", All),
    Case("put '' 1", "", All),
    Case("put é <ü&>", "", All),
    Case("get a", "", All),
    Case("get a -w json", "", All),
    Case("get a -w fields", "", All),
    Case("get a -w protobuf", "", All),
    Case("get a -w table", "", All),
    Case("get a -w yaml", "", All),
    Case("get nothing", "", All),
    Case("get nothing -w json", "", All),
    Case("get a d", "", All),
    Case("get a d e", "", All),
    Case("get a --prefix --limit 1 -w fields", "", All),
    Case("get --prefix '' -w json", "", All),
    Case("get --from-key '' -w fields", "", All),
    Case("get --from-key c", "", All),
    Case("get --prefix '' --keys-only", "", All),
    Case("get --prefix '' --print-value-only --order DESCEND --sort-by VALUE", "", All),
    Case("get --prefix '' --order descend --sort-by modify", "", All),
    Case("get --prefix '' --order ASCEND --sort-by KEY --limit=2 -w json", "", All),
    Case("get --prefix '' --sort-by CREATE", "", All),
    Case("get --prefix '' --count-only -w fields", "", All),
    Case("get a --count-only", "", All),
    Case("get a --count-only --keys-only", "", All),
    Case("get a --print-value-only -w json", "", All),
    Case("get a --rev 2", "", All),
    Case("get a --rev 9999", "", All),
    Case("get a --consistency s", "", All),
    Case("get a --consistency q", "", All),
    Case("get a --order up", "", All),
    Case("get a --sort-by size", "", All),
    Case("get a b --prefix", "", All),
    Case("get a --prefix --from-key", "", All),
    Case("get", "", All),
    Case("get ''", "", All),
    Case("get --hex a", "", All),
    Case("get --hex=true a -w json", "", All),
    Case("get --hex=false a", "", All),
    Case("ge a", "", All),
    Case("get --prefix=true '' --keys-only=1", "", All),
    Case("get a --prefix=false --print-value-only=true", "", All),
    Case("get a --prefix=perhaps", "", Code),
    Case("txn", "\nget a --prefix=true\nput v 1 --prev-kv=false\n\n\n", All),
    Case("get a --bogus", "", Code),
    Case("get a --limit x", "", Code),
    Case("bogus", "", Code),
    // Transactions.
    Case("txn", "val(\"a\") = \"2\"\n\nput k \"x y\"\nget a\ndel c --prev-kv\n\nput k no\n\n", All),
    Case(
        "txn",
        "value(\"a\") != \"2\"\nver(\"a\") > \"0\"\n\nput k x\n\nget a\nget \"\" --prefix\n\n",
        All,
    ),
    Case(
        "txn -w fields",
        "c(\"a\") > \"1\"\n\nget a --prefix\ndel zz\nput p u --prev-kv\nput q u\n\n\n",
        All,
    ),
    Case(
        "txn -w json",
        "m(\"a\") < \"1000\"\n\nget a\ndel zz\nput p u --prev-kv\nget zz\n\n\n",
        All,
    ),
    Case("txn -w protobuf", "version(\"a\") = \"2\"\n\nget a\n\n\n", All),
    Case("txn --hex", "create(\"a\") = \"7\"\n\nget a\n\nget b\n\n", All),
    Case("txn -i", "mod(\"zz\") = \"0\"\n\nget a\n\n\n", All),
    Case("txn", "\nput \"q r\" \"x\\ny\"\nget \"q r\" --keys-only\n\n\n", All),
    Case("txn", "\n\n\n", All),
    Case("txn", "\n\n", All),
    Case("txn", "", All),
    Case("txn", "foo\n\n\n\n", All),
    Case("txn", "foo(\"a\") = \"b\"\n\n\n\n", All),
    Case("txn", "ver(\"a\") = \"b\"\n\n\n\n", All),
    Case("txn", "val(\"a\") = b\n\n\n\n", Stdout),
    Case("txn", "\nfrob k\n\n\n", All),
    Case("txn", "\nput s 1\nput s 2\n\n\n", All),
    Case("txn extra", "", All),
    // Deleting and compacting.
    Case("del a", "", All),
    Case("del a -w json", "", All),
    Case("del b --prev-kv", "", All),
    Case("del d --prev-kv -w fields", "", All),
    Case("del e --prev-kv -w json", "", All),
    Case("del a b c", "", All),
    Case("del", "", All),
    Case("del a b --prefix", "", All),
    Case("del --prefix ''", "", All),
    Case("del --from-key z", "", All),
    Case("compaction 3", "", All),
    Case("compaction 3", "", All),
    Case("compaction 9999", "", All),
    Case("compaction x", "", All),
    Case("compaction 99999999999999999999", "", All),
    Case("compaction", "", All),
    Case("compaction 5 --physical", "", All),
    Case("get a --rev 2", "", All),
    Case("endpoint hashkv --rev 6", "", All),
    Case("endpoint hashkv -w table", "", All),
    Case("endpoint hashkv -w json", "", All),
    Case("endpoint hashkv -w fields", "", All),
    Case("endpoint hashkv --cluster", "", All),
    Case("endpoint hashkv --rev 9999", "", All),
    // Leases; after the hashes, which depend on their numbers.
    Case("lease grant 100", "", All),
    Case("put l 1 --lease $LEASE", "", All),
    Case("lease revoke $LEASE", "", All),
    Case("get l", "", All),
    Case("lease grant 60 -w json", "", All),
    Case("lease grant 60 -w fields", "", All),
    Case("lease grant 60", "", All),
    Case("lease revoke $LEASE -w json", "", All),
    Case("lease grant 60", "", All),
    Case("lease revoke $LEASE -w fields", "", All),
    Case("lease grant", "", All),
    Case("lease grant 1 2 3", "", All),
    Case("lease grant x", "", All),
    Case("lease grant 99999999999", "", All),
    Case("lease revoke", "", All),
    Case("lease revoke zz", "", All),
    Case("lease revoke 1234", "", All),
    Case("lease list", "", All),
    Case("lease list -w json", "", All),
    Case("lease list -w fields", "", All),
    Case("lease list -w protobuf", "", All),
    Case("lease list -w table", "", All),
    Case("lease grant 1000", "", All),
    Case("lease timetolive $LEASE --keys", "", All),
    Case("lease timetolive $LEASE --keys -w json", "", All),
    Case("put held/1 1 --lease $LEASE", "", All),
    Case("lease timetolive $LEASE", "", All),
    Case("lease timetolive $LEASE --keys", "", All),
    Case("lease timetolive $LEASE --keys --hex", "", All),
    Case("lease timetolive $LEASE -w json", "", All),
    Case("lease timetolive $LEASE --keys -w json", "", All),
    Case("lease timetolive $LEASE --keys -w fields", "", All),
    Case("lease timetolive $LEASE --keys -w protobuf", "", All),
    Case("lease timetolive $LEASE -w table", "", All),
    Case("lease timetolive 1234", "", All),
    Case("lease timetolive 1234 --keys -w json", "", All),
    Case("lease timetolive 1234 -w fields", "", All),
    Case("lease timetolive", "", All),
    Case("lease timetolive zz", "", All),
    Case("lease timetolive 1 2", "", All),
    Case("lease keep-alive $LEASE --once", "", All),
    Case("lease keep-alive $LEASE --once -w json", "", All),
    Case("lease keep-alive $LEASE --once -w fields", "", All),
    Case("lease keep-alive $LEASE --once -w protobuf", "", All),
    Case("lease keep-alive $LEASE --once -w table", "", All),
    Case("lease keep-alive $LEASE -w table", "", All),
    Case("lease keep-alive --once 1234", "", All),
    Case("lease keep-alive 1234", "", All),
    Case("lease keep-alive 1234 -w json", "", All),
    Case("lease keep-alive 1234 -w table", "", All),
    Case("lease keep-alive", "", All),
    Case("lease keep-alive zz", "", All),
    Case("lease keep-alive 1 2", "", All),
    Case("lease list ignored", "", All),
    Case("lease list -w fields", "", All),
    Case("lease list -w json", "", All),
    Case("lease grant 60 -w protobuf", "", All),
    // Watches that end by themselves; the others are in streams.rs.
    Case("watch", "", All),
    Case("watch --prefix", "", All),
    Case("watch --", "", All),
    Case("watch a --", "", All),
    Case("watch -- echo x", "", All),
    Case("watch a b --prefix", "", All),
    Case("watch a --rev x", "", Code),
    Case("watch a --bogus", "", Code),
    Case("watch b a", "", All),
    Case("watch b a -w json", "", All),
    Case("watch b a -w fields", "", All),
    Case("watch b a -w protobuf", "", All),
    Case("watch a --rev 2", "", All),
    Case("watch a --rev 2 -w json", "", All),
    Case("watch a --rev 2 -w fields", "", All),
    Case("watch a --rev 2 -w protobuf", "", All),
    Case("watch a --rev=-1", "", All),
    Case("watch -i", "", All),
    Case("watch -i", "watch a", All),
    Case("watch -i", "\nfoo\nwatch\nprogress\nwatch a b --prefix\n", All),
    Case("watch -i", "watch a --bogus\n", All),
    Case("watch -i", "watch a --rev x\n", All),
    Case("watch -i", "watch a --\n", All),
    Case("watch -i", "watch --rev 4\n", All),
    // A member that is not there; port 1 answers nobody.
    Case("--endpoints=127.0.0.1:1 --command-timeout=300ms get a", "", All),
    Case("--endpoints=127.0.0.1:1 --command-timeout=300ms put a b", "", All),
    Case("--endpoints=127.0.0.1:1 --command-timeout=300ms endpoint status -w json", "", All),
    Case("--endpoints=127.0.0.1:1 --command-timeout=300ms endpoint hashkv", "", All),
    Case("--endpoints=127.0.0.1:1 --command-timeout=300ms endpoint hashkv -w json", "", All),
    Case("--endpoints=127.0.0.1:1 --command-timeout=300ms endpoint hashkv -w table", "", All),
    Case("--endpoints=127.0.0.1:1 --command-timeout=300ms lease grant 5", "", All),
    Case("--endpoints=127.0.0.1:1 --command-timeout=300ms member list -w table", "", All),
    Case("--endpoints=127.0.0.1:1 --command-timeout=300ms endpoint health", "", All),
    Case("--endpoints=127.0.0.1:1 --command-timeout=300ms endpoint health -w json", "", All),
    // etcdctl writes the key before it notices.
    Case("put x 1 -w table", "", All),
];

#[test]
fn both_tools_print_the_same() -> Result<()> {
    let (Some(server), Some(etcdctl)) = (find("etcd"), find("etcdctl")) else { return Ok(()) };
    let ports = free_ports(2)?;
    let theirs = answers(&server, &etcdctl, &etcdctl, &ports)?;
    let ours = answers(&server, Path::new(env!("CARGO_BIN_EXE_kvctl")), &etcdctl, &ports)?;
    let mut differences = 0;
    for ((case, theirs), ours) in CASES.iter().zip(&theirs).zip(&ours) {
        let Case(arguments, input, compare) = case;
        let same_stdout = *compare == Code || ours.stdout == theirs.stdout;
        let same_errors = *compare != All || ours.errors == theirs.errors;
        if !(same_stdout && same_errors && ours.code == theirs.code) {
            differences += 1;
            eprintln!("--- {arguments} {input:?}\netcdctl {theirs:?}\nkvctl   {ours:?}");
        }
    }
    ensure!(differences == 0, "{differences} of {} invocations differ", CASES.len());
    Ok(())
}

/// What an invocation left, masked.
#[derive(Debug)]
struct Answer {
    stdout: String,
    errors: Vec<String>,
    code: Option<i32>,
}

/// Gives every invocation to `tool`, against an etcd that has seen nothing else.
fn answers(server: &Path, tool: &Path, etcdctl: &Path, ports: &[u16]) -> Result<Vec<Answer>> {
    let cluster = Cluster::start_on(server, ports)?;
    let endpoint = &cluster.members[0].endpoint;
    let ready = invoke(etcdctl, endpoint, "get started --command-timeout=60s", "", "")?;
    ensure!(ready.code == Some(0), "etcd did not start: {ready:?}");
    let mut lease = String::new();
    let mut answers = Vec::new();
    for Case(arguments, input, _) in CASES {
        let mut answer = invoke(tool, endpoint, arguments, input, &lease)?;
        if let Some(id) = after(&answer.stdout, "lease ") {
            lease = id.to_owned();
        }
        mask(&mut answer);
        answers.push(answer);
    }
    Ok(answers)
}

fn invoke(tool: &Path, endpoint: &str, line: &str, input: &str, lease: &str) -> Result<Answer> {
    let mut command = Command::new(tool);
    for (name, _) in env::vars_os() {
        let name_text = name.to_string_lossy();
        if name_text.starts_with("ETCDCTL_") || name_text.starts_with("KVCTL_") {
            command.env_remove(&name);
        }
    }
    if !line.contains("--endpoints") {
        command.arg(format!("--endpoints={endpoint}"));
    }
    for word in line.split_whitespace() {
        command.arg(match word {
            "''" => String::new(),
            "$LEASE" => lease.to_owned(),
            word => word.replace('_', " "),
        });
    }
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = piped.spawn().with_context(|| format!("starting {}", tool.display()))?;
    let mut stdin = process.stdin.take().context("stdin is piped")?;
    // A tool that needs no input may be gone already.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = process.wait_with_output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    let is_error = |line: &&str| {
        ["Error: ", "Failed to ", "Invalid command", "watch was canceled"]
            .iter()
            .any(|start| line.starts_with(start))
            || line.contains(" is unhealthy: ")
    };
    let errors = stderr.lines().filter(is_error).map(str::to_owned).collect();
    // Every byte counts, also those that are no text.
    let stdout = output.stdout.utf8_chunks().fold(String::new(), |text, chunk| {
        let invalid: String = chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")).collect();
        text + chunk.valid() + &invalid
    });
    Ok(Answer { stdout, errors, code: output.status.code() })
}
