//! A gate that is closed by one and opened by one, while many wait.

use bytes::Bytes;
use kvd_proto::etcdserverpb::{RangeRequest, WatchCreateRequest};
use tokio::time::sleep;

use super::error::Error;
use super::line::{RETRY, changed_once, deletions};
use crate::client::Client;
use crate::txn::{Compare, Op, Txn};

/// A gate by name. It is one key without a lease, as in etcd's recipe: it stays closed until somebody opens it, also
/// when whoever closed it is dead.
///
/// ```no_run
/// # async fn example(client: kvd_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use kvd_client::concurrency::Barrier;
///
/// let barrier = Barrier::new("deploys/paused");
/// barrier.hold(&client).await?;
/// // Elsewhere `barrier.wait(&client)` waits now, until:
/// barrier.release(&client).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Barrier {
    key: Bytes,
}

impl Barrier {
    /// The gate that is this key. Nothing is sent.
    pub fn new(key: impl Into<Bytes>) -> Self {
        Self { key: key.into() }
    }

    /// Closes the gate; `false` if it was closed already. Never sent twice: the outcome may be unknown.
    pub async fn hold(&self, client: &Client) -> Result<bool, Error> {
        let absent = Compare::absent(self.key.clone());
        let txn = Txn::new().when(absent).then(Op::put(self.key.clone(), Bytes::new()));
        Ok(client.commit(txn).await?.succeeded)
    }

    /// Opens the gate; `false` if it was open already. Never sent twice: the outcome may be unknown.
    pub async fn release(&self, client: &Client) -> Result<bool, Error> {
        Ok(client.delete(self.key.clone()).await?)
    }

    /// Waits until the gate is open, through any failure that can pass. It may be closed again when this returns.
    pub async fn wait(&self, client: &Client) -> Result<(), Error> {
        loop {
            match self.look(client).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) if error.is_passing() => sleep(RETRY).await,
                Err(error) => return Err(error),
            }
        }
    }

    /// Looks whether it is open; if not, waits until that may have changed.
    async fn look(&self, client: &Client) -> Result<bool, Error> {
        let request = RangeRequest { key: self.key.clone(), ..Default::default() };
        let found = client.range(request).await?;
        if found.kvs.is_empty() {
            return Ok(true);
        }
        let from = found.header.map_or(0, |header| header.revision) + 1;
        let opened = WatchCreateRequest { key: self.key.clone(), ..deletions(from) };
        changed_once(client, opened).await?;
        Ok(false)
    }
}
