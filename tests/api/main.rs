//! The API as transcripts: what a real etcd answers, and that kvd answers alike.
//!
//! `cargo test -p kvd-tests --test api` checks; `KVD_RECORD=1` before it writes the answers of
//! the real etcd into the files; `KVD_SCRIPT=text` takes only scripts with that in their name.

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use kvd_tests::cluster::process::Program;
use kvd_tests::script::transcript::Transcript;
use kvd_tests::tools;

/// Scripts that run at once. They mostly wait for servers to start.
const AT_ONCE: usize = 4;

#[test]
fn recorded_from_real_etcd() -> anyhow::Result<()> {
    let program = match Program::etcd() {
        Ok(program) => program,
        Err(error) => {
            tools::skip("recorded_from_real_etcd", &format!("{error:#}"));
            return Ok(());
        }
    };
    if recording() {
        let record = |transcript: &Transcript| {
            let text = transcript.run(&program)?;
            Ok(fs::write(&transcript.path, text).map(|()| None)?)
        };
        return each(&record);
    }
    each(&|transcript| differences(transcript, &program))
}

#[test]
fn kvd_answers_alike() -> anyhow::Result<()> {
    if recording() {
        tools::skip("kvd_answers_alike", "recording");
        return Ok(());
    }
    let program = Program::kvd()?;
    each(&|transcript| differences(transcript, &program))
}

/// Whether the answers of the real etcd are to be written rather than compared.
fn recording() -> bool {
    env::var_os("KVD_RECORD").is_some()
}

/// Runs `check` on all chosen scripts and fails with what it found wrong in any.
fn each(check: &Check<'_>) -> anyhow::Result<()> {
    let wanted = env::var("KVD_SCRIPT").unwrap_or_default();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("api/scripts");
    let mut transcripts = Transcript::all(&folder)?;
    transcripts.retain(|transcript| transcript.name.contains(&wanted));
    assert!(!transcripts.is_empty(), "no script has {wanted:?} in its name");
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(BTreeMap::new());
    let work = || {
        while let Some(transcript) = transcripts.get(next.fetch_add(1, Ordering::Relaxed)) {
            let found = check(transcript).unwrap_or_else(|error| Some(format!("{error:#}\n")));
            if let Some(found) = found {
                let mut failures = failures.lock().expect("no other worker panics holding it");
                failures.insert(&transcript.name, found);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(work);
        }
    });
    let failures = failures.into_inner().expect("no worker panicked, or the scope had");
    let mut report = String::new();
    for (name, found) in &failures {
        write!(
            report,
            "\n{name}\n{found}  repeat: KVD_SCRIPT={name} cargo test -p kvd-tests --test api\n"
        )?;
    }
    assert!(
        failures.is_empty(),
        "{} of {} scripts differ:\n{report}",
        failures.len(),
        transcripts.len()
    );
    Ok(())
}

type Check<'a> = dyn Fn(&Transcript) -> anyhow::Result<Option<String>> + Sync + 'a;

/// Where the answers of `program` are not those expected.
fn differences(transcript: &Transcript, program: &Program) -> anyhow::Result<Option<String>> {
    let (expected, found) = (transcript.expected(program), transcript.run(program)?);
    Ok((expected != found).then(|| compared(&expected, &found)))
}

/// The lines that differ. Commands are the same on both sides, so blocks pair up.
fn compared(expected: &str, found: &str) -> String {
    let mut report = String::new();
    let mut pairs = expected.split("\n\n").zip(found.split("\n\n"));
    let mut describe = |expected: &str, found: &str| {
        let ours: Vec<&str> = found.lines().collect();
        for line in expected.lines().filter(|line| !ours.contains(line)) {
            let _ = writeln!(report, "  expected {line}");
        }
        let theirs: Vec<&str> = expected.lines().collect();
        for line in ours.iter().filter(|line| !theirs.contains(line)) {
            let _ = writeln!(report, "  found    {line}");
        }
        if report.is_empty() {
            let _ = writeln!(report, "  the same lines in another order:\n{found}");
        }
    };
    for (expected, found) in pairs.by_ref().filter(|(expected, found)| expected != found) {
        let command = expected.lines().find(|line| !line.starts_with('#')).unwrap_or_default();
        describe(&format!("at {command}\n{expected}"), found);
    }
    report
}
