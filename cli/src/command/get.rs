//! `get`: reads a key or a range.

use std::ffi::OsString;

use bytes::Bytes;
use clap::Args;
use kvd_client::proto::etcdserverpb::RangeRequest;
use kvd_client::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use kvd_client::{FROM_KEY, prefix_end};

use super::{Outcome, bytes_of};
use crate::failure::Failure;
use crate::global::{Format, Global};
use crate::print::{MESSAGE_FORMATS, Reply};

/// As typed.
#[derive(Args)]
pub(crate) struct Get {
    /// First key, and the key to stop before
    #[arg(value_name = "KEY [END]")]
    keys: Vec<OsString>,
    /// Linearizable (l), or serializable (s): from one member, possibly behind
    #[arg(long, value_name = "l|s", default_value = "l")]
    consistency: String,
    /// Direction of the sort: ASCEND or DESCEND
    #[arg(long, default_value = "", hide_default_value = true)]
    order: String,
    /// What to sort by: CREATE, KEY, MODIFY, VALUE or VERSION
    #[arg(long, default_value = "", hide_default_value = true)]
    sort_by: String,
    /// At most so many keys; 0 is no limit
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    limit: i64,
    /// All keys with the prefix
    #[arg(long)]
    prefix: bool,
    /// All keys from the first one on
    #[arg(long)]
    from_key: bool,
    /// As of this revision; 0 is the newest
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    rev: i64,
    /// Leave the values out
    #[arg(long)]
    keys_only: bool,
    /// Only count the keys; needs --write-out=fields
    #[arg(long)]
    count_only: bool,
    /// Print only the values; needs --write-out=simple
    #[arg(long)]
    print_value_only: bool,
    /// Only keys created at this revision or later
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    min_create_rev: i64,
    /// Only keys created at this revision or earlier
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    max_create_rev: i64,
    /// Only keys last changed at this revision or later
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    min_mod_rev: i64,
    /// Only keys last changed at this revision or earlier
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    max_mod_rev: i64,
}

impl Get {
    pub(super) async fn run(self, global: &Global) -> Result<Outcome, Failure> {
        let request = self.request()?;
        if self.count_only && global.format != Format::Fields {
            return Err(Failure::bad_args("--count-only is only for `--write-out=fields`"));
        }
        if self.print_value_only && global.format != Format::Simple {
            return Err(Failure::bad_args("print-value-only is only for `--write-out=simple`"));
        }
        global.allow(&MESSAGE_FORMATS)?;
        let response = global.client()?.range(request).await?;
        let reply = Reply::Get { response, values_only: self.print_value_only };
        Ok(Outcome::printed(reply.print(global)))
    }

    /// The request that is meant; also an operation of a transaction.
    pub(super) fn request(&self) -> Result<RangeRequest, Failure> {
        if self.keys_only && self.count_only {
            return Err(Failure::bad_args(
                "`--keys-only` and `--count-only` cannot be set at the same time, choose one",
            ));
        }
        let usage = "get command needs one argument as key and an optional argument as range_end";
        let (key, range_end) = range(&self.keys, self.prefix, self.from_key, usage)?;
        let serializable = match self.consistency.as_str() {
            "l" => false,
            "s" => true,
            other => {
                return Err(Failure::bad_feature(format!("unknown consistency flag {other:?}")));
            }
        };
        let (sort_order, sort_target) = self.sort()?;
        Ok(RangeRequest {
            key,
            range_end,
            limit: self.limit,
            revision: self.rev,
            sort_order: sort_order.into(),
            sort_target: sort_target.into(),
            serializable,
            keys_only: self.keys_only,
            count_only: self.count_only,
            min_mod_revision: self.min_mod_rev,
            max_mod_revision: self.max_mod_rev,
            min_create_revision: self.min_create_rev,
            max_create_revision: self.max_create_rev,
        })
    }

    fn sort(&self) -> Result<(SortOrder, SortTarget), Failure> {
        let order = match self.order.to_uppercase().as_str() {
            "" => SortOrder::None,
            "ASCEND" => SortOrder::Ascend,
            "DESCEND" => SortOrder::Descend,
            _ => return Err(Failure::bad_feature(format!("bad sort order {}", self.order))),
        };
        let target = match self.sort_by.to_uppercase().as_str() {
            "" | "KEY" => SortTarget::Key,
            "CREATE" => SortTarget::Create,
            "MODIFY" => SortTarget::Mod,
            "VALUE" => SortTarget::Value,
            "VERSION" => SortTarget::Version,
            _ => return Err(Failure::bad_feature(format!("bad sort target {}", self.sort_by))),
        };
        Ok((order, target))
    }
}

/// First key and end, as the arguments and the flags say (behaviour.md §2.1).
pub(super) fn range(
    arguments: &[OsString],
    prefix: bool,
    from_key: bool,
    usage: &str,
) -> Result<(Bytes, Bytes), Failure> {
    if prefix && from_key {
        return Err(Failure::bad_args(
            "`--prefix` and `--from-key` cannot be set at the same time, choose one",
        ));
    }
    let (first, more) = arguments.split_first().ok_or_else(|| Failure::bad_args(usage))?;
    let key = bytes_of(first);
    if !prefix && !from_key {
        return Ok((key, more.first().map(bytes_of).unwrap_or_default()));
    }
    if !more.is_empty() {
        return Err(Failure::bad_args(
            "too many arguments, only accept one argument when `--prefix` or `--from-key` is set",
        ));
    }
    let end = if prefix { prefix_end(&key) } else { FROM_KEY };
    // The first key there can be: an empty one is refused.
    let key = if key.is_empty() { Bytes::from_static(&[0]) } else { key };
    Ok((key, end))
}
