//! Optimistic transactions: read and write as if alone, and begin anew if one was not.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use kvd_proto::etcdserverpb::RangeRequest;
use rand::RngExt as _;
use rand::rngs::StdRng;
use tokio::time::sleep;

use super::error::Error;
use crate::client::Client;
use crate::etcd_error::EtcdError;
use crate::txn::{Compare, Op, Txn};

/// After so many conflicts somebody else should be asked to wait.
const ATTEMPTS_MAX: u32 = 100;

/// Longest pause after the first conflict; doubled at each one.
const PAUSE_FIRST: Duration = Duration::from_millis(2);
/// Longest pause after many.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// What a transaction sees and does. Clones are the same transaction.
#[derive(Clone, Debug)]
pub struct Stm {
    client: Client,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    /// The revision at which everything is read; known after the first.
    snapshot: Option<i64>,
    /// What was read, and when it was written; zero for what is not there.
    reads: BTreeMap<Bytes, (i64, Option<Bytes>)>,
    /// What is to be written; `None` deletes.
    writes: BTreeMap<Bytes, Option<Bytes>>,
    /// The snapshot is gone from the history: nothing that follows is worth anything.
    is_stale: bool,
}

/// Runs `body` as if it were alone in the store: all its reads see one revision, and its writes happen together, or not
/// at all if anything it read has changed meanwhile. Then it runs anew, up to a hundred times, with pauses between.
///
/// So `body` may run several times and must have no other effect. What it returns as an error ends it without writing.
/// An outcome that is unknown is returned as such and not tried again.
///
/// ```no_run
/// # async fn example(client: kvd_client::Client) -> Result<(), kvd_client::concurrency::Error> {
/// use kvd_client::concurrency::{Error, stm};
///
/// let count = stm(&client, |keys| async move {
///     let old = keys.get("visits").await?;
///     let old: u64 = old.and_then(|value| String::from_utf8(value.to_vec()).ok()?.parse().ok()).unwrap_or(0);
///     keys.put("visits", (old + 1).to_string());
///     Ok::<_, Error>(old + 1)
/// })
/// .await?;
/// # let _: u64 = count;
/// # Ok(())
/// # }
/// ```
pub async fn stm<T, E, F>(client: &Client, body: impl Fn(Stm) -> F) -> Result<T, E>
where
    F: Future<Output = Result<T, E>>,
    E: From<Error>,
{
    for attempt in 0..ATTEMPTS_MAX {
        let stm = Stm { client: client.clone(), seen: Arc::default() };
        let ended = body(stm.clone()).await;
        if !stm.seen().is_stale {
            let value = ended?;
            if stm.commit().await? {
                return Ok(value);
            }
        }
        let longest = PAUSE_FIRST.saturating_mul(2_u32.saturating_pow(attempt)).min(PAUSE_MAX);
        let part: f64 = rand::make_rng::<StdRng>().random();
        sleep(longest.mul_f64(part)).await;
    }
    Err(Error::Conflict { attempts: ATTEMPTS_MAX }.into())
}

impl Stm {
    /// Reads a key: what this transaction has written to it, else what it is at the revision of all its reads.
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Option<Bytes>, Error> {
        let key = key.into();
        loop {
            let (known, snapshot) = {
                let seen = self.seen();
                (seen.known(&key), seen.snapshot)
            };
            if let Some(value) = known {
                return Ok(value);
            }
            let revision = snapshot.unwrap_or(0);
            let request = RangeRequest { key: key.clone(), revision, ..Default::default() };
            let answer = self.client.range(request).await.inspect_err(|error| {
                self.seen().is_stale |= error.etcd() == Some(EtcdError::Compacted);
            })?;
            let revision = answer.header.map_or(0, |header| header.revision);
            let mut seen = self.seen();
            // Another read of this transaction may have been first: this one is read again where that was.
            if snapshot.is_some() || seen.snapshot.is_none() {
                seen.snapshot.get_or_insert(revision);
                let found = answer.kvs.into_iter().next();
                let read = found.map_or((0, None), |kv| (kv.mod_revision, Some(kv.value)));
                seen.reads.insert(key.clone(), read);
            }
        }
    }

    /// Writes a key, once all is done.
    pub fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.seen().writes.insert(key.into(), Some(value.into()));
    }

    /// Deletes a key, once all is done.
    pub fn delete(&self, key: impl Into<Bytes>) {
        self.seen().writes.insert(key.into(), None);
    }

    /// Writes what is to be written; `false` if something that was read has changed.
    async fn commit(&self) -> Result<bool, Error> {
        let txn = {
            let seen = self.seen();
            // One revision of the store is a consistent picture by itself.
            if seen.writes.is_empty() {
                return Ok(true);
            }
            seen.txn()
        };
        Ok(self.client.commit(txn).await?.succeeded)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    /// What is known of a key without asking.
    fn known(&self, key: &Bytes) -> Option<Option<Bytes>> {
        let read = || self.reads.get(key).map(|(_, value)| value.clone());
        self.writes.get(key).cloned().or_else(read)
    }

    fn txn(&self) -> Txn {
        let mut txn = Txn::new();
        for (key, (mod_revision, _)) in &self.reads {
            txn = txn.when(Compare::mod_revision(key.clone()).equals(*mod_revision));
        }
        for (key, value) in &self.writes {
            txn = txn.then(match value {
                Some(value) => Op::put(key.clone(), value.clone()),
                None => Op::delete(key.clone()),
            });
        }
        txn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_writes_are_seen_and_reads_are_conditions() {
        let mut seen = Seen::default();
        seen.reads.insert("a".into(), (7, Some("1".into())));
        seen.reads.insert("b".into(), (0, None));
        seen.writes.insert("a".into(), Some("2".into()));
        seen.writes.insert("c".into(), None);
        assert_eq!(seen.known(&"a".into()), Some(Some("2".into())));
        assert_eq!(seen.known(&"b".into()), Some(None));
        assert_eq!(seen.known(&"c".into()), Some(None));
        assert_eq!(seen.known(&"d".into()), None);
        let expected = Txn::new()
            .when(Compare::mod_revision("a").equals(7))
            .when(Compare::mod_revision("b").equals(0))
            .then(Op::put("a", "2"))
            .then(Op::delete("c"));
        assert_eq!(seen.txn(), expected);
    }
}
