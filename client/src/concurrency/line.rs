//! Standing in line: a key of one's own, and waiting until few enough older ones are left.
//!
//! Promises that a place that nobody holds any more is given back, also if who asked for it left before it was there;
//! and that whoever waits learns when the place is gone. Order is that of create revisions: the store has one for each
//! key, and no two keys of a line were created at the same.

use std::time::Duration;

use bytes::Bytes;
use kvd_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use kvd_proto::etcdserverpb::watch_create_request::FilterType;
use kvd_proto::etcdserverpb::{RangeRequest, WatchCreateRequest};
use kvd_proto::mvccpb::KeyValue;
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::claim::Claim;
use super::error::Error;
use super::session::Life;
use crate::client::Client;
use crate::range_end::prefix_end;
use crate::txn::{Compare, Op, Txn};
use crate::watch::Update;

/// Pause before something is asked again that nobody could answer.
pub(super) const RETRY: Duration = Duration::from_millis(100);

/// A place that somebody wants.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) key: Bytes,
    pub(super) value: Bytes,
    /// Only if no key begins with this.
    pub(super) if_free: Option<Bytes>,
    /// Kept until the place is given back.
    pub(super) claim: Option<Claim>,
}

/// A key in line. Dropping it gives the place back in the background.
#[derive(Debug)]
pub(super) struct Place {
    life: Life,
    key: Bytes,
    created: i64,
    /// What the key says, where an earlier request had put it there.
    pub(super) found: Option<Bytes>,
    claim: Option<Claim>,
    is_left: bool,
}

/// The key of a session under a name, as etcd's clients lay it.
pub(super) fn session_key(name: &[u8], lease: i64) -> Bytes {
    [name, b"/", format!("{lease:x}").as_bytes()].concat().into()
}

/// What all keys under a name begin with.
pub(super) fn under(name: &[u8]) -> Bytes {
    [name, b"/"].concat().into()
}

/// The keys with a prefix, the oldest first or last.
pub(super) fn by_age(prefix: &Bytes, order: SortOrder, limit: i64) -> RangeRequest {
    RangeRequest {
        key: prefix.clone(),
        range_end: prefix_end(prefix),
        limit,
        sort_order: order.into(),
        sort_target: SortTarget::Create.into(),
        ..Default::default()
    }
}

/// Takes a place; `None` if it is not free. Once begun it is seen through to its end, also if nobody waits any more:
/// what it takes then is given back.
pub(super) async fn take(life: &Life, wish: Wish) -> Result<Option<Place>, Error> {
    let (tell, told) = oneshot::channel();
    let taker = life.clone();
    life.spawn(async move {
        let taken = put(taker, wish).await;
        // Where nobody is told, the place comes back here and is dropped.
        let _given_back = tell.send(taken);
    });
    tokio::select! {
        () = life.lost() => Err(Error::SessionLost),
        taken = told => taken.unwrap_or(Err(Error::SessionLost)),
    }
}

async fn put(life: Life, wish: Wish) -> Result<Option<Place>, Error> {
    let Wish { key, value, if_free, claim } = wish;
    let is_only = if_free.is_some();
    let line = if_free.unwrap_or_else(|| key.clone());
    let first = RangeRequest { limit: 1, ..by_age(&line, SortOrder::Ascend, 1) };
    let free = match is_only {
        true => Compare::absent(line).for_prefix(),
        false => Compare::absent(key.clone()),
    };
    let txn = Txn::new()
        .when(free)
        .then(Op::put_with_lease(key.clone(), value, life.lease()))
        .otherwise(Op::get(key.clone()))
        .otherwise(Op::from(first));
    let mut place = Place { life, key, created: 0, found: None, claim, is_left: false };
    // Dropped when this fails: a key that was put without an answer is deleted.
    let done = place.life.client().commit_repeatable(txn).await?;
    if done.succeeded {
        place.created = done.revision;
        return Ok(Some(place));
    }
    let (Some(own), Some(first)) = (done.kvs(0).first(), done.kvs(1).first()) else {
        place.is_left = true;
        return Ok(None);
    };
    place.created = own.create_revision;
    place.found = Some(own.value.clone());
    // Dropped where somebody else is before it.
    Ok((!is_only || first.key == own.key).then_some(place))
}

impl Place {
    pub(super) fn life(&self) -> &Life {
        &self.life
    }

    pub(super) fn key(&self) -> &Bytes {
        &self.key
    }

    /// The revision at which its key was created; no other place has it.
    pub(super) fn created(&self) -> i64 {
        self.created
    }

    /// The key is still there, and still the same.
    pub(super) fn is_there(&self) -> Compare {
        Compare::create_revision(self.key.clone()).equals(self.created)
    }

    /// Waits until fewer than `room` keys with this prefix are older.
    pub(super) async fn until_room(&self, prefix: &Bytes, room: usize) -> Result<(), Error> {
        loop {
            let waited = tokio::select! {
                () = self.life.lost() => Err(Error::SessionLost),
                // Boxed: calls and watches are large, and callers carry this in their own futures.
                looked = Box::pin(self.look(prefix, room)) => looked,
            };
            match waited {
                Ok(true) if self.life.is_held() => return Ok(()),
                Ok(_) => {}
                Err(error) if error.is_passing() => sleep(RETRY).await,
                Err(error) => return Err(error),
            }
        }
    }

    /// Looks whether there is room; if not, waits until that may have changed.
    async fn look(&self, prefix: &Bytes, room: usize) -> Result<bool, Error> {
        let limit = i64::try_from(room).unwrap_or(i64::MAX);
        let older = RangeRequest {
            keys_only: true,
            max_create_revision: self.created - 1,
            ..by_age(prefix, SortOrder::Descend, limit)
        };
        let txn = Txn::new().then(Op::get(self.key.clone())).then(Op::from(older));
        let found = self.life.client().commit_repeatable(txn).await?;
        if found.kvs(0).first().is_none_or(|own| own.create_revision != self.created) {
            return Err(Error::KeyDeleted);
        }
        let older = found.kvs(1);
        if older.len() < room {
            return Ok(true);
        }
        // Where there is room for one, only the nearest can make it: one deletion wakes one who waits.
        let (key, range_end) = match older {
            [nearest] if room == 1 => (nearest.key.clone(), Bytes::new()),
            _ => (prefix.clone(), prefix_end(prefix)),
        };
        let changed = WatchCreateRequest { key, range_end, ..deletions(found.revision + 1) };
        tokio::select! {
            gone = self.gone() => gone.and(Err(Error::KeyDeleted)),
            changed = changed_once(self.life.client(), changed) => changed.map(|()| false),
        }
    }

    /// Returns once the key is gone. An error says that it cannot be known any more.
    pub(super) async fn gone(&self) -> Result<(), Error> {
        let client = self.life.client();
        let mut from = self.created + 1;
        loop {
            let deleted = WatchCreateRequest { key: self.key.clone(), ..deletions(from) };
            let told = match changed_once(client, deleted).await {
                Ok(()) => self.revision_if_there().await,
                Err(error) => Err(error),
            };
            match told {
                Ok(Some(revision)) => from = revision + 1,
                Ok(None) => return Ok(()),
                Err(error) if error.is_passing() => sleep(RETRY).await,
                Err(error) => return Err(error),
            }
        }
    }

    /// The revision at which it was still there.
    async fn revision_if_there(&self) -> Result<Option<i64>, Error> {
        let request = RangeRequest { key: self.key.clone(), ..Default::default() };
        let answer = self.life.client().range(request).await?;
        let is_own = |kv: &KeyValue| kv.create_revision == self.created;
        let revision = answer.header.map_or(0, |header| header.revision);
        Ok(answer.kvs.first().is_some_and(is_own).then_some(revision))
    }

    /// Gives the place back. Goes on in the background when it is dropped before it is done.
    pub(super) async fn leave(mut self) -> Result<(), Error> {
        let left = self.start_leaving();
        left.await.unwrap_or(Err(Error::SessionLost))
    }

    fn start_leaving(&mut self) -> tokio::task::JoinHandle<Result<(), Error>> {
        self.is_left = true;
        let (life, claim) = (self.life.clone(), self.claim.take());
        let (key, created) = (self.key.clone(), self.created);
        self.life.spawn(async move {
            // Nobody uses the key of this session before it is gone.
            let _claim = claim;
            delete(&life, key, created).await
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.is_left {
            drop(self.start_leaving());
        }
    }
}

/// Deletes a key, however often it must be asked for, as long as the session lives: with that it goes by itself.
async fn delete(life: &Life, key: Bytes, created: i64) -> Result<(), Error> {
    while life.is_held() {
        match delete_once(life, &key, created).await {
            Ok(()) => return Ok(()),
            Err(error) if error.is_passing() => sleep(RETRY).await,
            Err(error) => {
                tracing::debug!(lease = life.lease(), %error, "a key goes with its session only");
                return Err(error);
            }
        }
    }
    Err(Error::SessionLost)
}

/// Always by the revision that created it: a deletion that arrives late must not meet the key that the session put there
/// again.
async fn delete_once(life: &Life, key: &Bytes, created: i64) -> Result<(), Error> {
    let created = match created {
        // It may be there, and if so, the session put it there.
        0 => match life.client().get(key.clone()).await? {
            Some(kv) if kv.lease == life.lease() => kv.create_revision,
            _ => return Ok(()),
        },
        created => created,
    };
    let own = Compare::create_revision(key.clone()).equals(created);
    let txn = Txn::new().when(own).then(Op::delete(key.clone()));
    life.client().commit_repeatable(txn).await?;
    Ok(())
}

/// Deletions from a revision on.
pub(super) fn deletions(from: i64) -> WatchCreateRequest {
    WatchCreateRequest {
        start_revision: from,
        filters: vec![FilterType::Noput.into()],
        ..Default::default()
    }
}

/// Writes from a revision on.
pub(super) fn writes(from: i64) -> WatchCreateRequest {
    WatchCreateRequest {
        start_revision: from,
        filters: vec![FilterType::Nodelete.into()],
        ..Default::default()
    }
}

/// Returns once what is watched has changed, or may have: history that is gone may have told of it.
pub(super) async fn changed_once(
    client: &Client,
    request: WatchCreateRequest,
) -> Result<(), Error> {
    let mut watch = client.watch(request).await?;
    while let Some(update) = watch.next().await {
        match update? {
            Update::Events { .. } | Update::Resync { .. } => return Ok(()),
            Update::Progress { .. } => {}
        }
    }
    Err(crate::Error::Unavailable { last: "the watch has ended".to_owned() }.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_lie_as_those_of_etcds_clients() {
        assert_eq!(session_key(b"mylock", 11), "mylock/b");
        assert_eq!(session_key(b"", i64::MAX), "/7fffffffffffffff");
        assert_eq!(under(b"mylock"), "mylock/");
    }
}
