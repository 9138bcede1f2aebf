//! `kvd dev`: a local cluster in one command, for trying things and for tests of applications.
//!
//! Promises that all members end with this process however it ends, and that temporary data goes
//! with it. The cluster has no security: whoever can reach loopback can use it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use crate::local_cluster::{Folder, LocalCluster, LocalClusterError, Logs, MEMBERS_MAX, say};

/// How often members are looked at for having ended.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);

const USAGE: &str = "usage: kvd dev [--members N] [--data-dir DIR]

Starts a cluster on free loopback ports and keeps it running until Ctrl-C.

  --members N     how many members, 1 to 9 (default 3)
  --data-dir DIR  keep the data there and use it again next time (default: temporary data)";

/// Runs a cluster until a signal ends it.
#[must_use]
pub fn run(args: &[String]) -> ExitCode {
    let asked = match parse(args) {
        Ok(Parsed::Run(asked)) => asked,
        Ok(Parsed::Help) => {
            say(USAGE);
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("kvd dev: {error}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.map_err(|error| error.to_string()).and_then(|runtime| {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        runtime.block_on(Box::pin(keep_running(&program, &asked, stop_signal())))
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kvd dev: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What was typed.
#[derive(Debug, PartialEq, Eq)]
enum Parsed {
    Run(Asked),
    Help,
}

#[derive(Debug, PartialEq, Eq)]
struct Asked {
    members: usize,
    data_dir: Option<PathBuf>,
}

/// Takes `--flag value` and `--flag=value`.
fn parse(args: &[String]) -> Result<Parsed, String> {
    let mut asked = Asked { members: 3, data_dir: None };
    let mut words = args.iter();
    while let Some(word) = words.next() {
        if word == "--help" || word == "-h" {
            return Ok(Parsed::Help);
        }
        let (flag, value) = match word.split_once('=') {
            Some((flag, value)) => (flag, Some(value.to_owned())),
            None => (word.as_str(), None),
        };
        let mut value = || value.clone().or_else(|| words.next().cloned());
        match flag {
            "--members" => asked.members = parse_members(value())?,
            "--data-dir" => match value() {
                Some(path) if !path.is_empty() => asked.data_dir = Some(path.into()),
                _ => return Err("--data-dir needs a folder".to_owned()),
            },
            _ => return Err(format!("unknown argument {word}")),
        }
    }
    Ok(Parsed::Run(asked))
}

fn parse_members(value: Option<String>) -> Result<usize, String> {
    let count = value.and_then(|value| value.parse().ok());
    count
        .filter(|count| (1..=MEMBERS_MAX).contains(count))
        .ok_or_else(|| format!("--members needs a number from 1 to {MEMBERS_MAX}"))
}

/// Returns when somebody wants the cluster to end.
async fn stop_signal() {
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::hangup()));
    let (Ok(mut terminate), Ok(mut hangup)) = signals else { return };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
}

/// Starts the cluster and keeps it until `stop` returns or nobody is left.
async fn keep_running(
    program: &Path,
    asked: &Asked,
    stop: impl Future<Output = ()>,
) -> Result<(), String> {
    let folder = match &asked.data_dir {
        Some(path) => Folder::lasting(path),
        None => Folder::temporary("dev"),
    };
    let mut cluster = folder
        .and_then(|folder| LocalCluster::start(program, asked.members, folder, Logs::Print))
        .map_err(|error| error.to_string())?;
    let done = tokio::select! {
        done = run_cluster(&mut cluster) => done.map_err(|error| error.to_string()),
        () = stop => Ok(()),
    };
    say("ending all members");
    cluster.stop().await;
    done
}

/// Returns only when something is wrong.
async fn run_cluster(cluster: &mut LocalCluster) -> Result<(), LocalClusterError> {
    for number in 0..cluster.len() {
        cluster.wait_for(number).await?;
    }
    announce(cluster).await;
    let mut running = cluster.len();
    loop {
        tokio::time::sleep(WATCH_INTERVAL).await;
        for number in 0..cluster.len() {
            let Some(status) = cluster.ended(number)? else { continue };
            let name = cluster.name(number).to_owned();
            running -= 1;
            if running == 0 {
                return Err(LocalClusterError::Ended { name, status });
            }
            say(&format!("member {name} ended: {status}; {running} are still running"));
        }
    }
}

async fn announce(cluster: &LocalCluster) {
    let leader = cluster.leader().await;
    let count = cluster.len();
    let mut text = format!("\ncluster of {count} members is up\n");
    for number in 0..count {
        let (name, url) = (cluster.name(number), cluster.url(number));
        let role = if leader == Some(number) { "  leader" } else { "" };
        text.push_str(&format!("  {name}  {url}{role}\n"));
    }
    let folder = cluster.folder();
    let fate = if folder.is_temporary() { ", removed at the end" } else { ", kept" };
    let urls: Vec<&str> = (0..count).map(|number| cluster.url(number)).collect();
    text.push_str(&format!(
        "data in {}{fate}\nCtrl-C ends all members\n\nexport ETCDCTL_ENDPOINTS={}\n",
        folder.path().display(),
        urls.join(",")
    ));
    say(&text);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(words: &[&str]) -> Result<Parsed, String> {
        parse(&words.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn flags_take_their_value_either_way() {
        let asked = Parsed::Run(Asked { members: 5, data_dir: Some("/x".into()) });
        assert_eq!(parse_words(&["--members=5", "--data-dir", "/x"]), Ok(asked));
        let asked = Parsed::Run(Asked { members: 3, data_dir: None });
        assert_eq!(parse_words(&[]), Ok(asked));
        assert_eq!(parse_words(&["-h"]), Ok(Parsed::Help));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for words in [
            &["--members", "0"][..],
            &["--members", "10"],
            &["--members"],
            &["--members=three"],
            &["--data-dir="],
            &["--data-dir"],
            &["--listen", "x"],
        ] {
            assert!(parse_words(words).is_err(), "{words:?}");
        }
    }

    #[tokio::test]
    async fn a_cluster_that_ends_is_an_error() {
        let asked = Asked { members: 1, data_dir: None };
        let never = std::future::pending();
        let done = Box::pin(keep_running(Path::new("/bin/false"), &asked, never)).await;
        assert!(done.is_err_and(|error| error.starts_with("member a ended")));
    }

    /// `KVD_ETCD=/usr/bin cargo test -p kvd dev`.
    #[tokio::test]
    async fn a_cluster_of_a_real_etcd_is_found_again_in_its_folder() {
        let Some(program) = crate::local_cluster::real_etcd() else { return };
        let folder = Folder::temporary("dev-test").unwrap();
        let start = || {
            let folder = Folder::lasting(folder.path()).unwrap();
            LocalCluster::start(&program, 3, folder, Logs::Keep).unwrap()
        };
        let mut cluster = start();
        cluster.wait_for(2).await.unwrap();
        cluster.client(None).unwrap().put("kept", "yes").await.unwrap();
        cluster.stop().await;

        let mut cluster = start();
        cluster.wait_for(0).await.unwrap();
        let found = cluster.client(Some(2)).unwrap().get("kept").await.unwrap();
        assert_eq!(found.map(|kv| kv.value.to_vec()), Some(b"yes".to_vec()));
        cluster.stop().await;
    }
}
