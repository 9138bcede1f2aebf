//! A queue of values, each taken once.

use bytes::Bytes;
use kvd_proto::etcdserverpb::WatchCreateRequest;
use kvd_proto::etcdserverpb::range_request::SortOrder;
use rand::RngExt as _;
use rand::rngs::StdRng;
use tokio::time::sleep;

use super::error::Error;
use super::line::{RETRY, by_age, changed_once, under, writes};
use crate::client::Client;
use crate::range_end::prefix_end;
use crate::txn::{Compare, Op, Txn};

/// A queue by name: what was put in first comes out first, and exactly one taker gets it.
///
/// A value is taken *at most once*: a taker that dies with it in hand takes it along, and so may one whose call ends
/// with an unknown outcome. Where no value may be lost, let a [`Mutex`](super::Mutex) guard the work and delete the
/// value after it.
///
/// ```no_run
/// # async fn example(client: kvd_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use kvd_client::concurrency::Queue;
///
/// let queue = Queue::new("jobs");
/// queue.enqueue(&client, "resize 17.png").await?;
/// let job = queue.dequeue(&client).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Queue {
    name: Bytes,
}

impl Queue {
    /// The queue of this name. Nothing is sent.
    pub fn new(name: impl Into<Bytes>) -> Self {
        Self { name: name.into() }
    }

    /// Puts a value in. Never sent twice: the outcome may be unknown.
    pub async fn enqueue(&self, client: &Client, value: impl Into<Bytes>) -> Result<(), Error> {
        let value = value.into();
        loop {
            let number: u128 = rand::make_rng::<StdRng>().random();
            let key = [&under(&self.name)[..], format!("{number:032x}").as_bytes()].concat();
            let key = Bytes::from(key);
            let absent = Compare::absent(key.clone());
            let txn = Txn::new().when(absent).then(Op::put(key, value.clone()));
            if client.commit(txn).await?.succeeded {
                return Ok(());
            }
        }
    }

    /// Takes the oldest value, and waits for one if there is none, through any failure that can pass. Nothing is taken
    /// when this is dropped while it waits; dropped while it takes, it may have taken.
    pub async fn dequeue(&self, client: &Client) -> Result<Bytes, Error> {
        let prefix = under(&self.name);
        loop {
            match self.look(client, &prefix).await {
                Ok(Some(value)) => return Ok(value),
                Ok(None) => {}
                // Not where it is unknown whether a value was taken: that must be told.
                Err(error) if error.is_unavailable() => sleep(RETRY).await,
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes a value; if there is none, waits until that may have changed.
    async fn look(&self, client: &Client, prefix: &Bytes) -> Result<Option<Bytes>, Error> {
        let from = match self.take(client, prefix).await? {
            Taken::Value(value) => return Ok(Some(value)),
            Taken::Empty { revision } => revision + 1,
        };
        let (key, range_end) = (prefix.clone(), prefix_end(prefix));
        changed_once(client, WatchCreateRequest { key, range_end, ..writes(from) }).await?;
        Ok(None)
    }

    /// Takes the oldest value if there is one.
    pub async fn try_dequeue(&self, client: &Client) -> Result<Option<Bytes>, Error> {
        match self.take(client, &under(&self.name)).await? {
            Taken::Value(value) => Ok(Some(value)),
            Taken::Empty { .. } => Ok(None),
        }
    }

    async fn take(&self, client: &Client, prefix: &Bytes) -> Result<Taken, Error> {
        loop {
            let oldest = client.range(by_age(prefix, SortOrder::Ascend, 1)).await?;
            let revision = oldest.header.map_or(0, |header| header.revision);
            let Some(kv) = oldest.kvs.into_iter().next() else {
                return Ok(Taken::Empty { revision });
            };
            let is_there = Compare::mod_revision(kv.key.clone()).equals(kv.mod_revision);
            let txn = Txn::new().when(is_there).then(Op::delete(kv.key));
            // Otherwise somebody was quicker: the next one.
            if client.commit(txn).await?.succeeded {
                return Ok(Taken::Value(kv.value));
            }
        }
    }
}

enum Taken {
    Value(Bytes),
    /// There was none at this revision.
    Empty {
        revision: i64,
    },
}
