//! `lease`: grants, revokes, looks at and keeps alive leases.

use std::ffi::OsString;
use std::ops::ControlFlow;

use clap::{Args, Subcommand};

use super::{Outcome, number};
use crate::failure::Failure;
use crate::global::{Format, Global};
use crate::print::{self, MESSAGE_FORMATS, Reply};

/// As typed.
#[derive(Args)]
#[command(infer_subcommands = true, disable_help_subcommand = true)]
pub(crate) struct Lease {
    #[command(subcommand)]
    command: LeaseCommand,
}

#[derive(Subcommand)]
enum LeaseCommand {
    /// Grant a lease
    Grant {
        /// Seconds it shall live
        #[arg(value_name = "TTL", allow_negative_numbers = true)]
        arguments: Vec<String>,
    },
    /// Revoke a lease and delete its keys
    Revoke {
        /// The lease, in hexadecimal
        #[arg(value_name = "ID", allow_negative_numbers = true)]
        arguments: Vec<String>,
    },
    /// Print how long a lease has to live
    Timetolive {
        /// The lease, in hexadecimal
        #[arg(value_name = "ID", allow_negative_numbers = true)]
        arguments: Vec<String>,
        /// Print the keys it holds, too
        #[arg(long)]
        keys: bool,
    },
    /// List the leases there are
    List {
        #[arg(hide = true)]
        ignored: Vec<OsString>,
    },
    /// Renew a lease until it is gone
    KeepAlive {
        /// The lease, in hexadecimal
        #[arg(value_name = "ID", allow_negative_numbers = true)]
        arguments: Vec<String>,
        /// Renew it only once
        #[arg(long)]
        once: bool,
    },
}

impl Lease {
    pub(super) async fn run(self, global: &Global) -> Result<Outcome, Failure> {
        let reply = match self.command {
            LeaseCommand::KeepAlive { arguments, once: false } => {
                return keep_alive(global, &arguments).await;
            }
            LeaseCommand::Grant { arguments } => grant(global, &arguments).await?,
            LeaseCommand::Revoke { arguments } => revoke(global, &arguments).await?,
            LeaseCommand::Timetolive { arguments, keys } => {
                time_to_live(global, &arguments, keys).await?
            }
            LeaseCommand::List { .. } => list(global).await?,
            LeaseCommand::KeepAlive { arguments, .. } => renew(global, &arguments).await?,
        };
        Ok(Outcome::printed(reply.print(global)))
    }
}

async fn grant(global: &Global, arguments: &[String]) -> Result<Reply, Failure> {
    let [ttl] = arguments else {
        return Err(Failure::bad_args("lease grant command needs TTL argument"));
    };
    global.allow(&MESSAGE_FORMATS)?;
    let ttl =
        number::decimal(ttl).map_err(|reason| Failure::bad_args(format!("bad TTL ({reason})")))?;
    let granted = global.client()?.lease_grant(ttl, 0).await;
    let granted = granted.map_err(|error| Failure::from(error).within("failed to grant lease"))?;
    Ok(Reply::LeaseGrant(granted))
}

async fn revoke(global: &Global, arguments: &[String]) -> Result<Reply, Failure> {
    let [id] = arguments else {
        return Err(Failure::bad_args("lease revoke command needs 1 argument"));
    };
    global.allow(&MESSAGE_FORMATS)?;
    let id = lease_id(id)?;
    let revoked = global.client()?.lease_revoke(id).await;
    let response =
        revoked.map_err(|error| Failure::from(error).within("failed to revoke lease"))?;
    Ok(Reply::LeaseRevoke { id, response })
}

async fn time_to_live(
    global: &Global,
    arguments: &[String],
    with_keys: bool,
) -> Result<Reply, Failure> {
    let [id] = arguments else {
        return Err(Failure::bad_args("lease timetolive command needs lease ID as argument"));
    };
    let id = lease_id(id)?;
    global.allow(&MESSAGE_FORMATS)?;
    let response = global.client()?.lease_time_to_live(id, with_keys).await;
    let response = response.map_err(|error| Failure::from(error).into_bad_connection())?;
    Ok(Reply::LeaseTimeToLive { response, with_keys })
}

async fn list(global: &Global) -> Result<Reply, Failure> {
    global.allow(&MESSAGE_FORMATS)?;
    let leases = global.client()?.lease_leases().await;
    leases.map(Reply::LeaseList).map_err(|error| Failure::from(error).into_bad_connection())
}

async fn renew(global: &Global, arguments: &[String]) -> Result<Reply, Failure> {
    let id = lease_to_keep(arguments)?;
    let renewed = global.client()?.lease_keep_alive_once(id).await;
    let renewed = renewed.map_err(|error| Failure::from(error).into_bad_connection())?;
    global.allow(&MESSAGE_FORMATS)?;
    Ok(Reply::LeaseKeepAlive(renewed))
}

/// Prints every renewal. The end is told in the simple form alone. A form that the command does not
/// have is refused at the first renewal, as etcdctl does.
async fn keep_alive(global: &Global, arguments: &[String]) -> Result<Outcome, Failure> {
    let id = lease_to_keep(arguments)?;
    let mut keeper = global.client()?.lease_keeper(id);
    while let Some(renewed) =
        keeper.renewed().await.map_err(|error| Failure::from(error).into_bad_connection())?
    {
        global.allow(&MESSAGE_FORMATS)?;
        let printed = print::now(&Reply::LeaseKeepAlive(renewed).print(global))?;
        if let ControlFlow::Break(outcome) = printed {
            return Ok(outcome);
        }
    }
    let told = global.format == Format::Simple;
    let end = if told { format!("lease {id:016x} expired or revoked.\n") } else { String::new() };
    Ok(Outcome::printed(end))
}

fn lease_to_keep(arguments: &[String]) -> Result<i64, Failure> {
    let [id] = arguments else {
        return Err(Failure::bad_args("lease keep-alive command needs lease ID as argument"));
    };
    lease_id(id)
}

fn lease_id(id: &str) -> Result<i64, Failure> {
    number::hexadecimal(id).map_err(|reason| {
        Failure::bad_args(format!("bad lease ID arg ({reason}), expecting ID in Hex"))
    })
}
