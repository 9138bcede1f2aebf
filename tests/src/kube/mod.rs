//! A kube-apiserver's client, as far as the store can tell: every request of kube-apiserver.md §2,
//! and a judge of everything that its §3, §4, §5 and §7 rely on.
//!
//! - [`requests`]: the requests, in the shapes kube-apiserver sends them.
//! - [`identity`], [`feature`]: which errors it tells apart, and what it concludes from a version.
//! - [`store`]: sending them as the Go client does.
//! - [`change`], [`cache`]: a watch cache that checks each response against the contract.
//! - [`reflector`]: the list and the watch that fill a cache, again and again.
//! - [`lease`], [`compactor`]: the lease manager and the compaction protocol.
//! - [`load`]: one apiserver's work, as a process of its own; `reader` its reads.
//! - [`processes`]: several of them at once.
//! - [`ledger`], [`check`]: what each process did and saw, and whether all of it agrees.

pub mod cache;
pub mod change;
pub mod check;
pub mod compactor;
pub mod feature;
pub mod identity;
pub mod lease;
pub mod ledger;
pub mod load;
pub mod processes;
mod reader;
pub mod reflector;
pub mod requests;
pub mod store;
