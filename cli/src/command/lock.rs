//! `lock`: holds a lock until interrupted, or while a command runs (etcdctl.md §3).

use std::ffi::OsString;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use kvd_client::Client;
use kvd_client::concurrency::{Held, Mutex, Session};
use kvd_client::proto::etcdserverpb::RangeRequest;

use super::{Outcome, bytes_of};
use crate::failure::Failure;
use crate::global::Global;
use crate::held::{self, Signals};
use crate::print::{self, Reply};

/// Acquire a lock, and hold it until interrupted or until a command has ended.
///
/// The command and everything in its process group is ended before the lock can be somebody else's. It finds the lock's
/// key in `ETCD_LOCK_KEY`, and in `KVD_FENCING_TOKEN` (and `ETCD_LOCK_REV`) a number that is greater than those of all
/// holders before: give it to what the lock protects, which must refuse smaller ones.
#[derive(Args)]
pub(crate) struct Lock {
    /// The lock's name, and what to run while it is held
    #[arg(value_name = "NAME [COMMAND [ARGUMENT]...]")]
    arguments: Vec<OsString>,
    /// The same, where it begins with hyphens
    #[arg(last = true, value_name = "COMMAND [ARGUMENT]...")]
    more: Vec<OsString>,
    /// Seconds for which the lock stays taken when its holder is lost
    #[arg(long, default_value_t = 10)]
    ttl: u32,
}

impl Lock {
    pub(super) async fn run(self, global: &Global) -> Result<Outcome, Failure> {
        let arguments = [self.arguments, self.more].concat();
        let [name, command @ ..] = arguments.as_slice() else {
            let text = "lock takes a lock name argument and an optional command to execute";
            return Err(Failure::bad_args(text));
        };
        let (client, mut signals) = (global.client()?, Signals::new()?);
        let ttl = Duration::from_secs(u64::from(self.ttl.max(1)));
        let session = Session::with_ttl(&client, ttl).await?;
        let mutex = Mutex::new(bytes_of(name));
        let lock = tokio::select! {
            lock = mutex.lock(&session) => lock.map_err(Failure::from),
            _ = signals.next() => Err(Failure::error("context canceled")),
        };
        let lock: Held = match lock {
            Ok(lock) => lock,
            // Nothing is left behind, as far as it can be reached.
            Err(failure) => {
                let _goes_by_itself = session.end().await;
                return Err(failure);
            }
        };
        let outcome = if command.is_empty() {
            hold(global, &client, lock.key().clone(), &mut signals, lock.lost()).await
        } else {
            let token = OsString::from(lock.token().number().to_string());
            let key = String::from_utf8_lossy(lock.key()).into_owned().into();
            let environment =
                [("ETCD_LOCK_KEY", key), ("ETCD_LOCK_REV", token.clone()), (held::TOKEN, token)];
            held::run(&session, ttl, &mut signals, lock.lost(), &environment, command).await
        };
        let given_back = lock.unlock().await;
        let ended = session.end().await;
        let outcome = outcome?;
        given_back?;
        ended?;
        Ok(outcome)
    }
}

/// Prints what is held, and holds it until interrupted or lost.
pub(super) async fn hold(
    global: &Global,
    client: &Client,
    key: Bytes,
    signals: &mut Signals,
    lost: impl Future<Output = ()>,
) -> Result<Outcome, Failure> {
    let response = client.range(RangeRequest { key, ..Default::default() }).await?;
    let reply = Reply::Get { response, values_only: false };
    if let std::ops::ControlFlow::Break(outcome) = print::now(&reply.print(global))? {
        return Ok(outcome);
    }
    tokio::select! {
        _ = signals.next() => Ok(Outcome::printed("")),
        () = lost => Err(Failure::error("session expired")),
    }
}
