//! `member`: the membership.

use std::ffi::OsString;

use clap::{Args, Subcommand};

use super::Outcome;
use crate::failure::Failure;
use crate::global::Global;
use crate::print::{ALL_FORMATS, Reply};

/// As typed.
#[derive(Args)]
#[command(infer_subcommands = true, disable_help_subcommand = true)]
pub(crate) struct Member {
    #[command(subcommand)]
    command: MemberCommand,
}

#[derive(Subcommand)]
enum MemberCommand {
    /// List the members
    List {
        /// Linearizable (l), or serializable (s): as far as the asked member knows
        #[arg(long, value_name = "l|s", default_value = "l")]
        consistency: String,
        #[arg(hide = true)]
        ignored: Vec<OsString>,
    },
}

impl Member {
    pub(super) async fn run(self, global: &Global) -> Result<Outcome, Failure> {
        let MemberCommand::List { consistency, ignored: _ } = self.command;
        global.allow(&ALL_FORMATS)?;
        let client = global.client()?;
        let members = match consistency.as_str() {
            "l" => client.member_list().await?,
            "s" => client.member_list_serializable().await?,
            other => {
                return Err(Failure::bad_feature(format!("unknown consistency flag {other:?}")));
            }
        };
        Ok(Outcome::printed(Reply::Members(members).print(global)))
    }
}
