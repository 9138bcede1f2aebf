//! `put`: writes a key.

use std::ffi::OsString;
use std::io::{self, Read};

use bytes::Bytes;
use clap::Args;
use kvd_client::proto::etcdserverpb::PutRequest;

use super::{Outcome, bytes_of, number};
use crate::failure::Failure;
use crate::global::Global;
use crate::print::{MESSAGE_FORMATS, Reply};

const USAGE: &str = "put command needs 1 argument and input from stdin or 2 arguments";

/// As typed.
#[derive(Args)]
pub(crate) struct Put {
    /// The key, and its value unless that is read from stdin
    #[arg(value_name = "KEY [VALUE]")]
    arguments: Vec<OsString>,
    /// Lease to attach the key to, in hexadecimal
    #[arg(long, value_name = "ID", default_value = "0", hide_default_value = true)]
    lease: String,
    /// Print the pair that was there before
    #[arg(long)]
    prev_kv: bool,
    /// Keep the value the key has
    #[arg(long)]
    ignore_value: bool,
    /// Keep the lease the key has
    #[arg(long)]
    ignore_lease: bool,
}

impl Put {
    pub(super) async fn run(self, global: &Global) -> Result<Outcome, Failure> {
        global.allow(&MESSAGE_FORMATS)?;
        let request = self.request(stdin)?;
        let response = global.client()?.put_request(request).await?;
        Ok(Outcome::printed(Reply::Put(response).print(global)))
    }

    /// The request that is meant; also an operation of a transaction, which has no stdin of its
    /// own.
    pub(super) fn request(
        &self,
        missing_value: impl FnOnce() -> Option<Bytes>,
    ) -> Result<PutRequest, Failure> {
        let (key, values) = self.arguments.split_first().ok_or_else(|| Failure::bad_args(USAGE))?;
        if self.ignore_value && !values.is_empty() {
            return Err(Failure::bad_args(
                "put command needs only 1 argument when 'ignore-value' is set",
            ));
        }
        let value = match values.first() {
            _ if self.ignore_value => Bytes::new(),
            Some(value) => bytes_of(value),
            None => missing_value().ok_or_else(|| Failure::bad_args(USAGE))?,
        };
        let lease = number::hexadecimal(&self.lease).map_err(|reason| {
            Failure::bad_args(format!("bad lease ID ({reason}), expecting ID in Hex"))
        })?;
        Ok(PutRequest {
            key: bytes_of(key),
            value,
            lease,
            prev_kv: self.prev_kv,
            ignore_value: self.ignore_value,
            ignore_lease: self.ignore_lease,
        })
    }
}

/// Everything there is; nothing counts as no value.
fn stdin() -> Option<Bytes> {
    let mut value = Vec::new();
    io::stdin().lock().read_to_end(&mut value).ok()?;
    (!value.is_empty()).then(|| value.into())
}
