//! A copy of the keys with a prefix that follows the store: reads cost no request.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use bytes::Bytes;
use kvd_proto::etcdserverpb::{RangeRequest, WatchCreateRequest};
use kvd_proto::mvccpb::event::EventType;
use kvd_proto::mvccpb::{Event, KeyValue};
use tokio::sync::{broadcast, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until};

use crate::client::Client;
use crate::error::Error;
use crate::range_end::prefix_end;
use crate::watch::{Update, Watch};

/// Keys a page of the first read.
const PAGE: u32 = 1000;
/// Changes kept for a listener that is slow; then it is told that it missed some.
const CHANGES_MAX: usize = 4096;
/// Pause before what failed is tried again.
const RETRY: Duration = Duration::from_millis(200);
/// Who waits for a revision asks this often how far the store is.
const ASK: Duration = Duration::from_millis(50);

/// A copy of the keys with a prefix, kept up to date by a watch.
///
/// It shows the store as it was at [`Cache::revision`], never goes back, and skips nothing but where the history was
/// compacted before it could follow: then it reads anew, and tells the differences. Reading does not wait; who must see
/// a write of its own waits for that write's revision first ([`Cache::at_least`]).
///
/// Holds all keys and values with the prefix in memory. Clones share the copy; it is followed until the last is dropped.
#[derive(Clone, Debug)]
pub struct Cache {
    copy: Arc<Copy>,
    revision: watch::Receiver<i64>,
    ask: watch::Sender<()>,
    changes: broadcast::Sender<Change>,
    patience: Duration,
    _following: Arc<Following>,
}

/// What a cache was told.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The key has this value now.
    Put(KeyValue),
    /// The key is gone; as it was last known.
    Deleted(KeyValue),
}

#[derive(Debug, Default)]
struct Copy(RwLock<BTreeMap<Bytes, KeyValue>>);

/// Ends the task with the last cache.
#[derive(Debug)]
struct Following(AbortHandle);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What the task has.
struct Follower {
    client: Client,
    prefix: Bytes,
    copy: Arc<Copy>,
    revision: watch::Sender<i64>,
    ask: watch::Receiver<()>,
    changes: broadcast::Sender<Change>,
}

impl Client {
    /// A copy of all keys that begin with `prefix`; answers when it has them.
    pub async fn cache(&self, prefix: impl Into<Bytes>) -> Result<Cache, Error> {
        let (copy, changes) = (Arc::<Copy>::default(), broadcast::Sender::new(CHANGES_MAX));
        let ((revision, told), (ask, asked)) = (watch::channel(0), watch::channel(()));
        let mut follower = Follower {
            client: self.clone(),
            prefix: prefix.into(),
            copy: Arc::clone(&copy),
            revision,
            ask: asked,
            changes: changes.clone(),
        };
        let watch = follower.begin().await?;
        let task = tokio::spawn(follower.follow(watch));
        let following = Arc::new(Following(task.abort_handle()));
        let patience = self.request_timeout();
        Ok(Cache { copy, revision: told, ask, changes, patience, _following: following })
    }
}

impl Cache {
    /// A key as far as the copy knows.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<KeyValue> {
        self.copy.read().get(key).cloned()
    }

    /// The keys that begin with `prefix`, in order, all at one revision.
    #[must_use]
    pub fn list(&self, prefix: &[u8]) -> Vec<KeyValue> {
        let keys = self.copy.read();
        let from = keys.range::<[u8], _>((Bound::Included(prefix), Bound::Unbounded));
        let here = from.take_while(|(key, _)| key.starts_with(prefix));
        here.map(|(_, kv)| kv.clone()).collect()
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.copy.read().len()
    }

    /// There are no keys.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The revision that the copy shows.
    #[must_use]
    pub fn revision(&self) -> i64 {
        *self.revision.borrow()
    }

    /// Waits until the copy shows this revision, or a later one: that of an answer's header, to see what the answer
    /// told of. Ends with an error after the client's deadline.
    pub async fn at_least(&self, revision: i64) -> Result<(), Error> {
        let mut shown = self.revision.clone();
        let deadline = Instant::now() + self.patience;
        loop {
            if *shown.borrow_and_update() >= revision {
                return Ok(());
            }
            // Other keys' revisions are not told of unless somebody asks.
            self.ask.send_replace(());
            tokio::select! {
                changed = shown.changed() => if changed.is_err() {
                    return Err(Error::Unavailable { last: "the cache has ended".to_owned() });
                },
                () = sleep(ASK) => {}
                () = sleep_until(deadline) => {
                    let last = format!("the cache is at revision {}", *shown.borrow());
                    return Err(Error::Unavailable { last });
                }
            }
        }
    }

    /// What changes from now on, in order. A listener that is 4,096 changes behind is told that it missed some, and
    /// finds everything in the cache.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }
}

impl Copy {
    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<Bytes, KeyValue>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Follower {
    /// Reads everything, and watches what comes after.
    async fn begin(&mut self) -> Result<Watch, Error> {
        let range = RangeRequest {
            key: if self.prefix.is_empty() {
                Bytes::from_static(&[0])
            } else {
                self.prefix.clone()
            },
            range_end: prefix_end(&self.prefix),
            ..Default::default()
        };
        let (all, revision) = self.client.pages(range.clone(), PAGE).collect().await?;
        let watch = WatchCreateRequest {
            key: range.key,
            range_end: range.range_end,
            start_revision: revision.saturating_add(1),
            prev_kv: true,
            ..Default::default()
        };
        let watch = self.client.watch(watch).await?;
        let new: BTreeMap<Bytes, KeyValue> =
            all.into_iter().map(|kv| (kv.key.clone(), kv)).collect();
        let old = self.replace(new.clone());
        self.revision.send_replace(revision);
        for change in differences(old, new) {
            let _nobody_listens = self.changes.send(change);
        }
        Ok(watch)
    }

    async fn follow(mut self, mut watch: Watch) {
        loop {
            tokio::select! {
                update = watch.next() => match update {
                    Some(Ok(Update::Events { revision, events })) => {
                        self.take(events);
                        self.revision.send_modify(|shown| *shown = revision.max(*shown));
                    }
                    Some(Ok(Update::Progress { revision })) => {
                        self.revision.send_if_modified(|shown| {
                            let is_later = revision > *shown;
                            *shown = (*shown).max(revision);
                            is_later
                        });
                    }
                    Some(Ok(Update::Resync { .. })) | None => watch = self.again().await,
                    Some(Err(error)) => {
                        tracing::warn!(%error, "a cache may not watch its keys");
                        sleep(RETRY).await;
                        watch = self.again().await;
                    }
                },
                Ok(()) = self.ask.changed() => watch.request_progress(),
            }
        }
    }

    async fn again(&mut self) -> Watch {
        loop {
            match self.begin().await {
                Ok(watch) => return watch,
                Err(error) => {
                    tracing::warn!(%error, "a cache cannot read its keys anew");
                    sleep(RETRY).await;
                }
            }
        }
    }

    fn take(&self, events: Vec<Event>) {
        let mut keys = self.copy.0.write().unwrap_or_else(PoisonError::into_inner);
        for event in events {
            let is_delete = event.r#type == i32::from(EventType::Delete);
            let Some(kv) = event.kv else { continue };
            let change = if is_delete {
                let known = keys.remove(&kv.key);
                event.prev_kv.or(known).map(Change::Deleted)
            } else {
                keys.insert(kv.key.clone(), kv.clone());
                Some(Change::Put(kv))
            };
            if let Some(change) = change {
                let _nobody_listens = self.changes.send(change);
            }
        }
    }

    fn replace(&self, new: BTreeMap<Bytes, KeyValue>) -> BTreeMap<Bytes, KeyValue> {
        let mut keys = self.copy.0.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *keys, new)
    }
}

/// What leads from one copy to the other.
fn differences(old: BTreeMap<Bytes, KeyValue>, new: BTreeMap<Bytes, KeyValue>) -> Vec<Change> {
    let changed = new.values().filter(|kv| old.get(&kv.key) != Some(*kv));
    let mut changes: Vec<Change> = changed.cloned().map(Change::Put).collect();
    let gone = old.into_values().filter(|kv| !new.contains_key(&kv.key));
    changes.extend(gone.map(Change::Deleted));
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_what_changed() {
        let kv = |key: &'static str, mod_revision| KeyValue {
            key: key.into(),
            mod_revision,
            ..Default::default()
        };
        let copy = |kvs: &[KeyValue]| kvs.iter().map(|kv| (kv.key.clone(), kv.clone())).collect();
        let old = copy(&[kv("a", 1), kv("b", 2), kv("c", 3)]);
        let new = copy(&[kv("a", 1), kv("b", 4), kv("d", 5)]);
        let expected =
            [Change::Put(kv("b", 4)), Change::Put(kv("d", 5)), Change::Deleted(kv("c", 3))];
        assert_eq!(differences(old, new), expected);
    }
}
