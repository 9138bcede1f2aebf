//! `compaction`: forgets the history before a revision.

use clap::Args;
use kvd_client::proto::etcdserverpb::CompactionRequest;

use super::{Outcome, number};
use crate::failure::Failure;
use crate::global::Global;

/// As typed.
#[derive(Args)]
pub(crate) struct Compaction {
    /// The oldest revision to keep readable
    #[arg(value_name = "REVISION", allow_negative_numbers = true)]
    arguments: Vec<String>,
    /// Wait until the space is free
    #[arg(long)]
    physical: bool,
}

impl Compaction {
    pub(super) async fn run(self, global: &Global) -> Result<Outcome, Failure> {
        let [revision] = self.arguments.as_slice() else {
            return Err(Failure::bad_args("compaction command needs 1 argument"));
        };
        let revision = number::decimal(revision).map_err(Failure::error)?;
        let request = CompactionRequest { revision, physical: self.physical };
        global.client()?.compact(request).await?;
        Ok(Outcome::printed(format!("compacted revision {revision}\n")))
    }
}
