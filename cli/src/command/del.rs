//! `del`: deletes a key or a range.

use std::ffi::OsString;

use clap::Args;
use kvd_client::proto::etcdserverpb::DeleteRangeRequest;

use super::{Outcome, get};
use crate::failure::Failure;
use crate::global::Global;
use crate::print::{MESSAGE_FORMATS, Reply};

/// As typed.
#[derive(Args)]
pub(crate) struct Del {
    /// First key, and the key to stop before
    #[arg(value_name = "KEY [END]")]
    keys: Vec<OsString>,
    /// All keys with the prefix
    #[arg(long)]
    prefix: bool,
    /// All keys from the first one on
    #[arg(long)]
    from_key: bool,
    /// Say that two keys are meant as a range; changes nothing
    #[arg(long)]
    range: bool,
    /// Print the deleted pairs
    #[arg(long)]
    prev_kv: bool,
}

impl Del {
    pub(super) async fn run(self, global: &Global) -> Result<Outcome, Failure> {
        global.allow(&MESSAGE_FORMATS)?;
        let response = global.client()?.delete_range(self.request()?).await?;
        Ok(Outcome::printed(Reply::Delete(response).print(global)))
    }

    /// The request that is meant; also an operation of a transaction.
    pub(super) fn request(&self) -> Result<DeleteRangeRequest, Failure> {
        let usage = "del command needs one argument as key and an optional argument as range_end";
        if self.keys.len() > 2 {
            return Err(Failure::bad_args(usage));
        }
        let (key, range_end) = get::range(&self.keys, self.prefix, self.from_key, usage)?;
        Ok(DeleteRangeRequest { key, range_end, prev_kv: self.prev_kv })
    }
}
