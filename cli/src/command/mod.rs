//! The commands, one file a family, and how a command ends.

mod compaction;
mod del;
mod elect;
mod endpoint;
pub(crate) mod execute;
mod get;
mod lease;
mod lock;
mod member;
mod number;
mod put;
mod txn;
mod watch;
mod words;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use bytes::Bytes;
use clap::Subcommand;

use crate::failure::Failure;
use crate::global::Global;
use crate::held;

/// What to do.
#[derive(Subcommand)]
pub(crate) enum Action {
    /// Read a key or a range of keys
    Get(get::Get),
    /// Write a key
    Put(put::Put),
    /// Delete a key or a range of keys
    Del(del::Del),
    /// Compare, then do one of two lists of operations, read from stdin
    Txn(txn::Txn),
    /// Print what happens to a key or a range of keys
    Watch(watch::Watch),
    /// Forget the history before a revision
    Compaction(compaction::Compaction),
    /// Look at single members
    Endpoint(endpoint::Endpoint),
    /// Look at the membership
    Member(member::Member),
    /// Grant, revoke, look at and keep alive leases
    Lease(lease::Lease),
    /// Hold a lock, until interrupted or while a command runs
    Lock(lock::Lock),
    /// Lead an election, until interrupted or while a command runs; or tell who leads
    Elect(elect::Elect),
    /// Ends a command of lock or elect in time
    #[command(name = held::guard::NAME, hide = true)]
    Guard(held::guard::Guard),
    /// Print the version
    Version(Version),
}

/// Takes and ignores arguments, as etcdctl does.
#[derive(clap::Args)]
pub(crate) struct Version {
    #[arg(hide = true)]
    ignored: Vec<OsString>,
}

impl Action {
    pub(crate) async fn run(self, global: &Global) -> Result<Outcome, Failure> {
        match self {
            Self::Get(command) => command.run(global).await,
            Self::Put(command) => command.run(global).await,
            Self::Del(command) => command.run(global).await,
            Self::Txn(command) => command.run(global).await,
            Self::Watch(command) => command.run(global).await,
            Self::Compaction(command) => command.run(global).await,
            Self::Endpoint(command) => command.run(global).await,
            Self::Member(command) => command.run(global).await,
            Self::Lease(command) => command.run(global).await,
            Self::Lock(command) => command.run(global).await,
            Self::Elect(command) => command.run(global).await,
            Self::Guard(guard) => guard.run(),
            Self::Version(_) => Ok(Outcome::printed(version())),
        }
    }
}

/// What a command leaves behind.
pub(crate) struct Outcome {
    pub(crate) stdout: Vec<u8>,
    /// Lines.
    pub(crate) stderr: Vec<String>,
    /// Exit code.
    pub(crate) code: u8,
}

impl Outcome {
    pub(crate) fn printed(stdout: impl Into<Vec<u8>>) -> Self {
        Self { stdout: stdout.into(), stderr: Vec::new(), code: 0 }
    }

    pub(crate) fn failed(stdout: Vec<u8>, failure: Failure) -> Self {
        let text = format!("Error: {}", failure.text);
        let stderr = failure.detail.into_iter().chain([text]).collect();
        Self { stdout, stderr, code: failure.code }
    }
}

/// The interface that the messages are of is that of etcd 3.6.
fn version() -> String {
    format!("kvctl version: {}\nAPI version: 3.6\n", env!("CARGO_PKG_VERSION"))
}

/// Arguments are bytes; keys and values need not be text.
fn bytes_of(argument: &OsString) -> Bytes {
    argument.clone().into_vec().into()
}
