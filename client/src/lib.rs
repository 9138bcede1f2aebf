//! A client of etcd's v3 interface: kvd's, or any etcd's.
//!
//! The store holds *keys* with *values*, both bytes, in the order of the keys. Every change gets the next *revision*,
//! one number for the whole store; a key remembers the revision that created it, the one that changed it last, and how
//! often it was put (its *version*). What the store was like at a revision can be read until it is *compacted*. A
//! *watch* tells what happens to keys from any revision on. A *lease* lives as long as somebody renews it, and takes
//! its keys along when it ends. A *transaction* compares and then does one of two lists of operations, all at once.
//!
//! ```no_run
//! use kvd_client::{Client, Compare, Op, Options, Txn};
//!
//! # async fn run() -> Result<(), kvd_client::Error> {
//! let client = Client::connect(Options::new(["10.0.0.1:2379", "10.0.0.2:2379"])).await?;
//! client.put("color", "blue").await?;
//! let color = client.get("color").await?.expect("it was just put");
//! // Only if nobody changed it meanwhile.
//! let unchanged = Compare::mod_revision("color").equals(color.mod_revision);
//! let done = client.commit(Txn::new().when(unchanged).then(Op::put("color", "green"))).await?;
//! assert!(done.succeeded);
//! # Ok(())
//! # }
//! ```
//!
//! # What it promises
//!
//! - Every call ends by its deadline ([`Client::with_timeout`]).
//! - A member that is down, stands still or is cut off is left within a second, and used again some time after it is
//!   back. Slow is not dead: who waits for long asks the member whether it lives.
//! - A write is never sent twice unless it is certain that the first time nothing happened. Where that is not certain
//!   the caller gets [`Error::Unknown`] and decides; [`Client::exactly_once`] gives requests ids, by which kvd's servers
//!   carry them out once, and such doubts are gone.
//! - A [`Watch`] goes on across members, every revision once.
//!
//! # Where to find what
//!
//! - [`Options`]: endpoints and times; [`Discovery`]: endpoints from DNS, or from the members themselves.
//! - [`Client`]: every call of the wire, by its own messages ([`proto`]), and shorter forms of the usual ones.
//! - [`Txn`], [`Compare`], [`Op`]: transactions, built step by step.
//! - [`Client::watch`], [`Client::cache`]: following keys; [`Client::pages`]: ranges of any size;
//!   [`Client::within`]: a part of the keys for all of them.
//! - [`concurrency`]: locks, elections and the like.
//!
//! It speaks the messages of the wire; it knows nothing of how servers carry them out.

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
