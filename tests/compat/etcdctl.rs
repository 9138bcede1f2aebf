//! Runs the same etcdctl commands against two clusters and compares exit codes and outputs.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, str};

use anyhow::{Context as _, bail};
use kvd_tests::cluster::process::{Cluster, Program};
use kvd_tests::tools;

use crate::mask::Mask;

/// The commands, in order: they build on each other. `|` separates standard input, `@0` and `@all`
/// stand for endpoints of the cluster.
const COMMANDS: &[&str] = &[
    // Reading nothing.
    "get a",
    "get a -w json",
    "get a -w fields",
    "get a -w table",
    // Writing, and what comes back.
    "put a 1",
    "put a 2 --prev-kv",
    "put b 3 -w json",
    "put b 4 -w json --prev-kv",
    "put c 5 -w fields",
    "put c 6 -w fields --prev-kv",
    "put d |from standard input",
    "put e --ignore-value",
    "put a --ignore-value",
    "put a 2 --ignore-lease",
    "put a 2 --lease=1234",
    "put a",
    "put",
    // Reading, with every option.
    "get a z",
    "get a z -w json",
    "get a z -w fields",
    "get a z --keys-only",
    "get a z --print-value-only",
    "get a z --count-only -w fields",
    "get a z --count-only",
    "get a z --limit=2 -w json",
    "get a z --sort-by=VALUE --order=DESCEND",
    "get a z --sort-by=MODIFY --limit=1",
    "get a z --sort-by=NOTHING",
    "get --prefix a",
    "get --prefix \"\"",
    "get --from-key c",
    "get a --rev=2",
    "get a --rev=100",
    "get a --rev=100 -w json",
    "get a --consistency=s",
    "get a z --hex",
    "get",
    // Transactions, in etcdctl's grammar.
    "txn |value(\"a\") = \"2\"\n\nput f 1\nget f\n\nget a\n\n",
    "txn -w json |mod(\"a\") > \"100\"\n\nput f 1\n\nget a\nget b\n\n",
    "txn -w fields |version(\"f\") = \"1\"\n\ndel f\n\nget f\n\n",
    "txn |\n\nput a 1\nput a 2\n\n\n",
    "txn |\n\nput g 1 --prev-kv\ndel b --prev-kv\n\n\n",
    "txn |what is this\n\n\n\n",
    // Deleting.
    "del c",
    "del c",
    "del d --prev-kv",
    "del a -w json --prev-kv",
    "del nothing -w fields",
    "del --prefix g -w json",
    "del",
    // Compacting.
    "put h 1",
    "compaction 5",
    "compaction 5",
    "compaction 1000",
    "compaction 6 --physical",
    "compaction x",
    "get a --rev=2",
    // Watching what is gone: the one watch that ends by itself.
    "watch a --rev=2",
    "watch --prefix a --rev=3 --prev-kv",
    "watch a --rev=2 -w json",
    // Leases that are not there.
    "lease list",
    "lease list -w json",
    "lease timetolive 1234",
    "lease timetolive 1234 --keys -w json",
    "lease keep-alive 1234 --once",
    "lease keep-alive 1234",
    "lease revoke 1234",
    // The cluster as a whole: every member must have applied all for its hash to be comparable.
    "get h --endpoints=@0",
    "get h --endpoints=@1",
    "get h --endpoints=@2",
    "endpoint hashkv --endpoints=@all",
    "endpoint hashkv --endpoints=@all -w json",
    "endpoint hashkv --endpoints=@all -w table",
    "endpoint hashkv --endpoints=@all -w fields",
    "endpoint hashkv --endpoints=@all --rev=9",
    "endpoint hashkv --endpoints=@all --rev=2",
    "endpoint status --endpoints=@all",
    "endpoint status --endpoints=@all -w json",
    "endpoint status --endpoints=@all -w table",
    "endpoint status --endpoints=@all -w fields",
    "endpoint status --cluster",
    "endpoint health --endpoints=@all",
    "endpoint health --endpoints=@all -w json",
    "endpoint health --cluster",
    "member list",
    "member list -w json",
    "member list -w table",
    "member list -w fields",
    "alarm list",
    "nonsense",
];

/// How a tool is told where the members are, and which commands are known to fail with kvd.
struct Manner {
    scheme: &'static str,
    known_wrong: &'static [&'static str],
}

const LIKE_URLS: Manner = Manner { scheme: "http://", known_wrong: &[] };

/// Given URLs, etcdctl 3.4 sends them whole as `:authority` in maintenance calls, with the scheme.
/// That is no authority, and our HTTP/2 library resets such a stream before anything of ours sees
/// it; a real etcd does not look. So 3.4 gets bare addresses, and where it takes URLs from the
/// member list it fails.
const LIKE_ADDRESSES: Manner = Manner { scheme: "", known_wrong: &["endpoint status --cluster"] };

#[test]
fn etcdctl_of_the_recorded_release() -> anyhow::Result<()> {
    let tool = tools::etcd("etcdctl");
    compare("etcdctl_of_the_recorded_release", tool, tools::ETCD_VERSION, &LIKE_URLS)
}

#[test]
fn etcdctl_3_4_of_debian() -> anyhow::Result<()> {
    compare("etcdctl_3_4_of_debian", tools::in_path("etcdctl"), "3.4.23", &LIKE_ADDRESSES)
}

#[test]
fn etcdctl_3_5_1_of_pypi() -> anyhow::Result<()> {
    let named = env::var_os("KVD_ETCDCTL_351").map(PathBuf::from);
    compare("etcdctl_3_5_1_of_pypi", named, "3.5.1", &LIKE_URLS)
}

/// Two clusters of the real etcd print alike too: the masks hide all that differs from run to run.
#[test]
fn two_real_clusters_print_alike() -> anyhow::Result<()> {
    let Some((tool, etcd)) = found("two_real_clusters_print_alike", tools::etcd("etcdctl"), "")?
    else {
        return Ok(());
    };
    differences(&tool, &etcd, &etcd, &LIKE_URLS)
}

/// Compares kvd with the real etcd through this etcdctl.
fn compare(
    test: &str,
    tool: Option<PathBuf>,
    version: &str,
    manner: &Manner,
) -> anyhow::Result<()> {
    let Some((tool, etcd)) = found(test, tool, version)? else { return Ok(()) };
    differences(&tool, &etcd, &Program::kvd()?, manner)
}

/// The tool, if it is of this version, and an etcd to compare with.
fn found(
    test: &str,
    tool: Option<PathBuf>,
    version: &str,
) -> anyhow::Result<Option<(PathBuf, Program)>> {
    let Some(tool) = tool else {
        tools::skip(test, &format!("no etcdctl {version} here"));
        return Ok(None);
    };
    let output = Command::new(&tool).arg("version").env("ETCDCTL_API", "3").output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !text.starts_with(&format!("etcdctl version: {version}")) {
        tools::skip(test, &format!("{} is not etcdctl {version}", tool.display()));
        return Ok(None);
    }
    match Program::etcd() {
        Ok(etcd) => Ok(Some((tool, etcd))),
        Err(error) => {
            tools::skip(test, &format!("{error:#}"));
            Ok(None)
        }
    }
}

fn differences(
    tool: &Path,
    expected: &Program,
    found: &Program,
    manner: &Manner,
) -> anyhow::Result<()> {
    let expected = Session::start(tool, expected, manner)?;
    let found = Session::start(tool, found, manner)?;
    let mut report = String::new();
    for command in COMMANDS {
        let (expected, found) = (expected.run(command)?, found.run(command)?);
        if manner.known_wrong.contains(command) {
            if expected == found {
                writeln!(report, "\netcdctl {command} works now: say so")?;
            }
        } else if expected != found {
            writeln!(report, "\netcdctl {command}\n expected:\n{expected} found:\n{found}")?;
        }
    }
    if report.is_empty() { Ok(()) } else { bail!("{} prints differently:{report}", tool.display()) }
}

/// One tool and one cluster.
struct Session<'a> {
    tool: &'a Path,
    cluster: Cluster,
    endpoints: Vec<String>,
    mask: Mask,
}

impl<'a> Session<'a> {
    fn start(tool: &'a Path, program: &Program, manner: &Manner) -> anyhow::Result<Self> {
        let cluster = Cluster::start(program, 3, &[])?;
        let urls = cluster.endpoints().into_iter();
        let endpoints = urls.map(|url| url.replace("http://", manner.scheme)).collect();
        let mut session = Self { tool, cluster, endpoints, mask: Mask::default() };
        let members = session.output(&["member", "list", "-w", "json"], "")?;
        session.mask = Mask::of(&members.stdout, &session.cluster)?;
        Ok(session)
    }

    /// The exit code and all that was printed, masked.
    fn run(&self, command: &str) -> anyhow::Result<String> {
        let (line, input) = command.split_once('|').unwrap_or((command, ""));
        let endpoints = &self.endpoints;
        let line = line.replace("@all", &endpoints.join(","));
        let line = (0..3).fold(line, |line, at| line.replace(&format!("@{at}"), &endpoints[at]));
        let words: Vec<&str> =
            line.split_whitespace().map(|word| if word == "\"\"" { "" } else { word }).collect();
        let output = self.output(&words, input)?;
        let mut text = format!("  exit {}\n", output.code);
        let spoken = output.stderr.lines().filter(|line| !line.starts_with('{'));
        for printed in output.stdout.lines().chain(spoken) {
            writeln!(text, "  {}", self.mask.line(command, printed))?;
        }
        Ok(text)
    }

    fn output(&self, words: &[&str], input: &str) -> anyhow::Result<Output> {
        let mut child = Command::new(self.tool)
            .args(words)
            .env("ETCDCTL_API", "3")
            .envs(endpoints_unless_given(words, &self.endpoints))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut stdin = child.stdin.take().context("its stdin is a pipe")?;
        // A command that reads nothing may be gone before it is written to.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        let output = child.wait_with_output()?;
        Ok(Output {
            code: output.status.code().context("etcdctl was killed")?,
            stdout: str::from_utf8(&output.stdout)?.to_owned(),
            stderr: str::from_utf8(&output.stderr)?.to_owned(),
        })
    }
}

struct Output {
    code: i32,
    stdout: String,
    stderr: String,
}

/// The first member, by the environment: etcdctl refuses flag and variable together.
fn endpoints_unless_given(words: &[&str], endpoints: &[String]) -> Option<(&'static str, String)> {
    let given = words.iter().any(|word| word.starts_with("--endpoints"));
    (!given).then(|| ("ETCDCTL_ENDPOINTS", endpoints[0].clone()))
}
