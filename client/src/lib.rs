//! A client of etcd's v3 interface: kvd's, or any etcd's.
//!
//! Promises that every call ends by its deadline, that a call goes to another endpoint when one
//! fails, and that a write is never sent twice unless it is certain that the first time nothing
//! happened. Where that is not certain the caller gets [`Error::Unknown`]. Speaks the messages of
//! the wire; knows nothing of how servers carry them out.

mod attempts;
mod balance;
mod cache;
mod client;
pub mod concurrency;
mod discover;
mod error;
mod etcd_error;
mod namespace;
mod once;
mod options;
mod pages;
mod range_end;
mod rpc;
mod txn;
mod watch;

pub use kvd_proto as proto;

pub use crate::cache::{Cache, Change};
pub use crate::client::Client;
pub use crate::error::Error;
pub use crate::etcd_error::EtcdError;
pub use crate::options::{Discovery, Options};
pub use crate::pages::Pages;
pub use crate::range_end::{FROM_KEY, prefix_end};
pub use crate::rpc::{Leaders, LeaseKeeper, RangeStream, SnapshotStream};
pub use crate::txn::{Committed, Compare, CompareNumber, CompareValue, Op, Txn};
pub use crate::watch::{Update, Watch, WatchAnswer, WatchEnd, WatchStream};
