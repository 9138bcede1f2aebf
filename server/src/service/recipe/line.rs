//! Standing in line under a name (rule LK2), and leaving it when the caller does (rule LK5).

use bytes::Bytes;
use kvd_core::range::KeyRange;
use kvd_proto::etcdserverpb as pb;
use kvd_proto::etcdserverpb::request_op::Request as Op;
use kvd_proto::mvccpb::KeyValue;
use tokio::sync::oneshot;
use tonic::Status;

use super::{
    Recipes, created_at, first_created, found, key, last_created, op, plain, prefix, revision,
};

/// A place in the line.
pub(crate) struct Place {
    /// Of the answer that showed that the place is the first.
    pub(crate) header: Option<pb::ResponseHeader>,
    /// The key that holds it.
    pub(crate) key: Bytes,
    /// When that key was created.
    pub(crate) created: i64,
    /// The lease that holds the key.
    pub(crate) lease: i64,
}

/// What somebody stands in line for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// To hold a lock: the key must still be there in the end.
    Lock,
    /// To lead, and to say this meanwhile.
    Lead,
}

impl Recipes {
    /// Waits until the caller is the first under a name. A caller that does not wait any more gives its place up.
    pub(crate) async fn stand_in_line(
        &self,
        wish: Wish,
        name: Bytes,
        lease: i64,
        value: Bytes,
    ) -> Result<Place, Status> {
        // Dropped with the call, however that ends.
        let (_call, gone) = oneshot::channel::<()>();
        let recipes = self.clone();
        // A task of its own: a place that was taken is given up also if nobody is there any more to be told.
        let waited =
            tokio::spawn(async move { recipes.wait(wish, name, lease, value, gone).await });
        match waited.await {
            Ok(place) => place.map_err(plain),
            Err(_stopping) => Err(Status::unknown("etcdserver: server stopped")),
        }
    }

    async fn wait(
        &self,
        wish: Wish,
        name: Bytes,
        lease: i64,
        value: Bytes,
        gone: oneshot::Receiver<()>,
    ) -> Result<Place, Status> {
        let session = self.session(lease).await?;
        let (place, is_new, is_first) = self.take(wish, &name, session.lease, value).await?;
        let first = async {
            match is_first {
                true => Ok(place.header),
                false => self.until_first(wish, &name, &place).await,
            }
        };
        // Who has gone already does not get it either: nobody would know to give it back.
        let waited = tokio::select! {
            biased;
            _gone = gone => Err(Status::cancelled("the caller has gone")),
            waited = first => waited,
        };
        match waited {
            Ok(header) => Ok(Place { header, ..place }),
            Err(status) => {
                // A place that an earlier call took is that call's.
                let delete = || self.delete_created(place.key.clone(), place.created);
                if is_new && let Err(error) = self.in_time(delete).await {
                    tracing::debug!(%error, "a place in line lapses with its lease only");
                }
                Err(status)
            }
        }
    }

    /// Takes a place, or finds the one that this lease has; whether it is new, and whether it is the first.
    async fn take(
        &self,
        wish: Wish,
        name: &Bytes,
        lease: i64,
        value: Bytes,
    ) -> Result<(Place, bool, bool), Status> {
        let (own, prefix) = (key(name, lease), prefix(name));
        let put =
            pb::PutRequest { key: own.clone(), value: value.clone(), lease, ..Default::default() };
        let get = pb::RangeRequest { key: own.clone(), ..Default::default() };
        let first = op(Op::RequestRange(first_created(&prefix)));
        let answer = self
            .txn(pb::TxnRequest {
                compare: vec![created_at(own.clone(), 0)],
                success: vec![op(Op::RequestPut(put)), first.clone()],
                failure: vec![op(Op::RequestRange(get)), first],
            })
            .await?;
        let created = match found(&answer, 0).first() {
            Some(own) if !answer.succeeded => own.create_revision,
            _ => revision(answer.header.as_ref()),
        };
        let is_first =
            found(&answer, 1).first().is_none_or(|first| first.create_revision == created);
        let says_something_else =
            |own: &KeyValue| wish == Wish::Lead && !answer.succeeded && own.value != value;
        let proclaim = found(&answer, 0).first().is_some_and(says_something_else);
        let place = Place { header: answer.header, key: own, created, lease };
        if proclaim {
            self.say(&place, value).await?;
        }
        Ok((place, answer.succeeded, is_first))
    }

    /// Replaces what a place says, if it is still taken; the answer's header (rule EL2).
    pub(crate) async fn say(
        &self,
        place: &Place,
        value: Bytes,
    ) -> Result<Option<pb::ResponseHeader>, Status> {
        let (key, lease) = (place.key.clone(), place.lease);
        let put = pb::PutRequest { key: key.clone(), value, lease, ..Default::default() };
        let answer = self
            .txn(pb::TxnRequest {
                compare: vec![created_at(key, place.created)],
                success: vec![op(Op::RequestPut(put))],
                failure: Vec::new(),
            })
            .await?;
        match answer.succeeded {
            true => Ok(answer.header),
            false => Err(Status::unknown("election: not leader")),
        }
    }

    /// Waits for those before the place to go, the nearest one first: each who waits is woken by one other.
    async fn until_first(
        &self,
        wish: Wish,
        name: &Bytes,
        place: &Place,
    ) -> Result<Option<pb::ResponseHeader>, Status> {
        let prefix = prefix(name);
        loop {
            let before = self.range_in_time(&last_created(&prefix, place.created - 1)).await?;
            let Some(nearest) = before.kvs.first() else { break };
            let from = revision(before.header.as_ref());
            self.changed(KeyRange::Key(nearest.key.clone()), from, true).await?;
        }
        if wish == Wish::Lead {
            return Ok(place.header);
        }
        let own = pb::RangeRequest { key: place.key.clone(), ..Default::default() };
        let own = self.range_in_time(&own).await?;
        match own.kvs.first() {
            Some(kv) if kv.create_revision == place.created => Ok(own.header),
            _ => Err(Status::unknown("mutex: session is expired")),
        }
    }
}
