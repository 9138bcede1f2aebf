//! `lease`: grants and revokes leases.

use clap::{Args, Subcommand};

use super::{Outcome, number};
use crate::failure::Failure;
use crate::global::Global;
use crate::print::{MESSAGE_FORMATS, Reply};

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
}

impl Lease {
    pub(super) async fn run(self, global: &Global) -> Result<Outcome, Failure> {
        global.allow(&MESSAGE_FORMATS)?;
        let reply = match self.command {
            LeaseCommand::Grant { arguments } => grant(global, &arguments).await?,
            LeaseCommand::Revoke { arguments } => revoke(global, &arguments).await?,
        };
        Ok(Outcome::printed(reply.print(global)))
    }
}

async fn grant(global: &Global, arguments: &[String]) -> Result<Reply, Failure> {
    let [ttl] = arguments else {
        return Err(Failure::bad_args("lease grant command needs TTL argument"));
    };
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
    let id = number::hexadecimal(id).map_err(|reason| {
        Failure::bad_args(format!("bad lease ID arg ({reason}), expecting ID in Hex"))
    })?;
    let revoked = global.client()?.lease_revoke(id).await;
    let response =
        revoked.map_err(|error| Failure::from(error).within("failed to revoke lease"))?;
    Ok(Reply::LeaseRevoke { id, response })
}
