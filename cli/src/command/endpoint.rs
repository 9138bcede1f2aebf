//! `endpoint`: asks members one by one. One that does not answer is named; the others are printed.

use std::ffi::OsString;
use std::time::Instant;

use clap::{Args, Subcommand};
use kvd_client::proto::etcdserverpb::AlarmType;
use kvd_client::{Client, Error, EtcdError};
use tokio::task::JoinSet;

use super::Outcome;
use crate::failure::Failure;
use crate::global::{Format, Global};
use crate::print::{EndpointHash, EndpointHealth, EndpointStatus, LIST_FORMATS, Reply};

/// As typed.
#[derive(Args)]
#[command(infer_subcommands = true, disable_help_subcommand = true)]
pub(crate) struct Endpoint {
    /// Ask all members of the cluster
    #[arg(long, global = true)]
    cluster: bool,
    #[command(subcommand)]
    command: EndpointCommand,
}

#[derive(Subcommand)]
enum EndpointCommand {
    /// Check that members serve requests
    Health {
        #[arg(hide = true)]
        ignored: Vec<OsString>,
    },
    /// Print how members are doing
    Status {
        #[arg(hide = true)]
        ignored: Vec<OsString>,
    },
    /// Print hashes of the key history, to compare members
    Hashkv {
        /// Hash up to this revision; 0 is the newest
        #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
        rev: i64,
        #[arg(hide = true)]
        ignored: Vec<OsString>,
    },
}

impl Endpoint {
    pub(super) async fn run(self, global: &Global) -> Result<Outcome, Failure> {
        global.allow(&LIST_FORMATS)?;
        let client = global.client()?;
        let endpoints = if self.cluster {
            let members = client.member_list().await?.members;
            members.into_iter().flat_map(|member| member.client_ur_ls).collect()
        } else {
            global.options.endpoints.clone()
        };
        match self.command {
            EndpointCommand::Health { .. } => health(global, &client, endpoints).await,
            EndpointCommand::Status { .. } => Ok(status(global, &client, endpoints).await),
            EndpointCommand::Hashkv { rev, .. } => Ok(hash(global, &client, endpoints, rev).await),
        }
    }
}

async fn status(global: &Global, client: &Client, endpoints: Vec<String>) -> Outcome {
    let (mut answers, mut stderr, mut code) = (Vec::new(), Vec::new(), 0);
    for endpoint in endpoints {
        match client.status(&endpoint).await {
            Ok(status) => answers.push(EndpointStatus { endpoint, status }),
            Err(error) => {
                let failure = Failure::from(error);
                let text = &failure.text;
                stderr.extend(failure.detail);
                stderr.push(format!("Failed to get the status of endpoint {endpoint} ({text})"));
                code = 1;
            }
        }
    }
    Outcome { stdout: Reply::Statuses(answers).print(global), stderr, code }
}

async fn hash(global: &Global, client: &Client, endpoints: Vec<String>, rev: i64) -> Outcome {
    let (mut answers, mut stderr, mut failed) = (Vec::new(), Vec::new(), None);
    for endpoint in endpoints {
        match client.hash_kv(&endpoint, rev).await {
            Ok(hash) => answers.push(EndpointHash { endpoint, hash }),
            Err(error) => {
                let mut failure = Failure::from(error);
                let text = &failure.text;
                stderr.extend(failure.detail.take());
                stderr.push(format!("Failed to get the hash of endpoint {endpoint} ({text})"));
                failed = Some(failure);
            }
        }
    }
    let stdout = Reply::Hashes(answers).print(global);
    let last = failed.map(|failure| Outcome::failed(Vec::new(), failure));
    let (last, code) = last.map_or((Vec::new(), 0), |last| (last.stderr, 1));
    stderr.extend(last);
    Outcome { stdout, stderr, code }
}

/// All at once, printed as they answer.
async fn health(
    global: &Global,
    client: &Client,
    endpoints: Vec<String>,
) -> Result<Outcome, Failure> {
    let mut checks = JoinSet::new();
    for endpoint in endpoints {
        let client = client.at(&endpoint)?;
        checks.spawn(async move {
            let start = Instant::now();
            let error = sickness(&client).await;
            EndpointHealth { endpoint, error, took: start.elapsed() }
        });
    }
    let mut answers = Vec::new();
    while let Some(health) = checks.join_next().await {
        answers.push(health.map_err(|error| Failure::error(error.to_string()))?);
    }
    let sick = answers.iter().filter_map(|at| Some((&at.endpoint, at.error.as_ref()?)));
    let mut stderr: Vec<String> = sick
        .map(|(endpoint, error)| {
            format!("{endpoint} is unhealthy: failed to commit proposal: {error}")
        })
        .collect();
    let code = u8::from(!stderr.is_empty());
    if global.format != Format::Simple {
        stderr.clear();
    }
    if code != 0 {
        stderr.push("Error: unhealthy cluster".to_owned());
    }
    Ok(Outcome { stdout: Reply::Healths(answers).print(global), stderr, code })
}

/// What keeps a member from serving; a member that denies access serves (etcdctl.md §3).
async fn sickness(client: &Client) -> Option<String> {
    match client.get("health").await {
        Ok(_) | Err(Error::Etcd(EtcdError::PermissionDenied)) => {}
        Err(error) => return Some(Failure::from(error).text),
    }
    match client.alarm_list().await {
        Ok(response) if response.alarms.is_empty() => None,
        Ok(response) => {
            let names = response.alarms.iter().map(|alarm| match alarm.alarm() {
                AlarmType::None => "NONE ",
                AlarmType::Nospace => "NOSPACE ",
                AlarmType::Corrupt => "CORRUPT ",
            });
            Some(format!("Active Alarm(s): {}", names.collect::<String>()))
        }
        Err(_) => Some("Unable to fetch the alarm list".to_owned()),
    }
}
