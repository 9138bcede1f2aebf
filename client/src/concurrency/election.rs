//! Electing a leader, in etcd's layout of keys.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use kvd_proto::etcdserverpb::range_request::SortOrder;
use kvd_proto::etcdserverpb::{RangeRequest, WatchCreateRequest};
use kvd_proto::mvccpb::event::EventType;
use kvd_proto::mvccpb::{Event, KeyValue};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_stream::Stream;

use super::error::Error;
use super::held::{FencingToken, Held};
use super::line::{RETRY, Wish, by_age, changed_once, session_key, take, under, writes};
use super::session::Session;
use crate::client::Client;
use crate::range_end::prefix_end;
use crate::txn::{Op, Txn};
use crate::watch::Update;

/// An election by name: candidates stand in line, and the first leads until it resigns or its session ends.
///
/// A leader is a holder of a lock with something to say: read in [the module's text](super) what cannot be promised.
/// Whoever takes orders from leaders refuses those with a lesser [`Leadership::token`] than the greatest it has seen.
///
/// ```no_run
/// # async fn example(client: kvd_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use kvd_client::concurrency::{Election, Session};
///
/// let session = Session::start(&client).await?;
/// let election = Election::new("scheduler");
/// let leadership = election.campaign(&session, "10.0.0.7:9000").await?;
/// println!("leading with token {}", leadership.token());
/// tokio::select! {
///     () = leadership.lost() => println!("somebody else may lead now"),
///     () = schedule() => leadership.resign().await?,
/// }
/// # Ok(())
/// # }
/// # async fn schedule() {}
/// ```
#[derive(Clone, Debug)]
pub struct Election {
    name: Bytes,
}

/// To lead. **Dropping it resigns in the background.**
#[derive(Debug)]
#[must_use = "dropping it resigns"]
pub struct Leadership {
    held: Held,
}

/// Who leads, as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// Greater than those of all leaders before.
    pub token: FencingToken,
    /// The key that holds the leadership.
    pub key: Bytes,
    /// What it says.
    pub value: Bytes,
    /// The revision at which it said so.
    pub revision: i64,
}

impl Election {
    /// The election of this name. Nothing is sent.
    pub fn new(name: impl Into<Bytes>) -> Self {
        Self { name: name.into() }
    }

    /// Stands in line with something to say, and waits to lead. Whoever drops this before it is done leaves the line.
    pub async fn campaign(
        &self,
        session: &Session,
        value: impl Into<Bytes>,
    ) -> Result<Leadership, Error> {
        let (life, value) = (session.life(), value.into());
        let key = session_key(&self.name, life.lease());
        let claim = tokio::select! {
            () = life.lost() => return Err(Error::SessionLost),
            claim = life.claims().claim(&key) => claim,
        };
        let wish = Wish { key, value: value.clone(), if_free: None, claim: Some(claim) };
        let place = take(life, wish).await?.ok_or(Error::KeyDeleted)?;
        let says_something_else = place.found.as_ref().is_some_and(|found| *found != value);
        place.until_room(&under(&self.name), 1).await?;
        let leadership = Leadership { held: Held::new(place) };
        if says_something_else {
            leadership.proclaim(value).await?;
        }
        Ok(leadership)
    }

    /// Who leads now.
    pub async fn leader(&self, client: &Client) -> Result<Option<Leader>, Error> {
        let first = client.range(self.first()).await?.kvs.pop();
        Ok(first.map(Leader::from))
    }

    /// Tells who leads: first the leader of now, or the first there will be, then each other leader and each other word
    /// of a leader. What changes faster than it is told may be left out, but for the last.
    #[must_use]
    pub fn observe(&self, client: &Client) -> Observe {
        let (tell, leaders) = mpsc::channel(1);
        let observer = Observer { election: self.clone(), client: client.clone(), told: None };
        tokio::spawn(async move {
            let stopped = tell.clone();
            tokio::select! {
                () = stopped.closed() => {}
                Err(error) = observer.run(&tell) => {
                    // Nobody may be left to hear it.
                    let _gone = tell.send(Err(error)).await;
                }
            }
        });
        Observe { leaders }
    }

    fn first(&self) -> RangeRequest {
        by_age(&under(&self.name), SortOrder::Ascend, 1)
    }
}

impl Leadership {
    /// What to give along with every order.
    #[must_use]
    pub fn token(&self) -> FencingToken {
        self.held.token()
    }

    /// The key that holds it.
    #[must_use]
    pub fn key(&self) -> &Bytes {
        self.held.key()
    }

    /// Adds the condition that this is still the leader, as [`Held::guard`] does.
    pub fn guard(&self, txn: Txn) -> Txn {
        self.held.guard(txn)
    }

    /// Not known to be lost; see [`Held::is_held`].
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.held.is_held()
    }

    /// Ends when somebody else leads, or may.
    pub async fn lost(&self) {
        self.held.lost().await;
    }

    /// Says something else. Never sent twice: the outcome may be unknown.
    pub async fn proclaim(&self, value: impl Into<Bytes>) -> Result<(), Error> {
        let place = self.held.place();
        let put = Op::put_with_lease(place.key().clone(), value, place.life().lease());
        let said = place.life().client().commit(self.guard(Txn::new().then(put))).await?;
        said.succeeded.then_some(()).ok_or(Error::KeyDeleted)
    }

    /// Lets the next one lead.
    pub async fn resign(self) -> Result<(), Error> {
        self.held.unlock().await
    }
}

impl From<KeyValue> for Leader {
    fn from(kv: KeyValue) -> Self {
        let token = FencingToken::new(kv.create_revision);
        Self { token, key: kv.key, value: kv.value, revision: kv.mod_revision }
    }
}

/// The leaders of an election, one after the other; a [`Stream`]. Ends after an error. Dropping it ends it.
#[derive(Debug)]
pub struct Observe {
    leaders: mpsc::Receiver<Result<Leader, Error>>,
}

impl Observe {
    /// The next leader, or the next word of the same.
    pub async fn next(&mut self) -> Option<Result<Leader, Error>> {
        self.leaders.recv().await
    }
}

impl Stream for Observe {
    type Item = Result<Leader, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.leaders.poll_recv(cx)
    }
}

type Tell = mpsc::Sender<Result<Leader, Error>>;

struct Observer {
    election: Election,
    client: Client,
    /// The last word that was told: when its leader's key was created, and when it was said. A leader may have said
    /// its word, while it stood in line, before the last one of the leader before it.
    told: Option<(i64, i64)>,
}

impl Observer {
    async fn run(mut self, tell: &Tell) -> Result<(), Error> {
        loop {
            match self.follow_one(tell).await {
                Err(error) if error.is_passing() => sleep(RETRY).await,
                followed => followed?,
            }
        }
    }

    /// Waits for a leader if there is none, and tells of it until it leads no more.
    async fn follow_one(&mut self, tell: &Tell) -> Result<(), Error> {
        let found = self.client.range(self.election.first()).await?;
        let from = found.header.map_or(0, |header| header.revision) + 1;
        let Some(leader) = found.kvs.into_iter().next() else {
            let key = under(&self.election.name);
            let range_end = prefix_end(&key);
            return changed_once(
                &self.client,
                WatchCreateRequest { key, range_end, ..writes(from) },
            )
            .await;
        };
        let key = leader.key.clone();
        self.tell(tell, leader).await;
        let request = WatchCreateRequest { key, start_revision: from, ..Default::default() };
        let mut watch = self.client.watch(request).await?;
        while let Some(update) = watch.next().await {
            match update? {
                Update::Events { events, .. } => {
                    let (last, is_gone) = last_word(events);
                    if let Some(leader) = last {
                        self.tell(tell, leader).await;
                    }
                    if is_gone {
                        return Ok(());
                    }
                }
                Update::Progress { .. } => {}
                Update::Resync { .. } => return Ok(()),
            }
        }
        Ok(())
    }

    async fn tell(&mut self, tell: &Tell, leader: KeyValue) {
        // Found again after a hiccup: told already.
        let word = Some((leader.create_revision, leader.mod_revision));
        if self.told != word {
            self.told = word;
            // Where nobody listens, all of this ends soon.
            let _gone = tell.send(Ok(leader.into())).await;
        }
    }
}

/// What a leader said last, and whether it is gone since or has gone and come again.
fn last_word(events: Vec<Event>) -> (Option<KeyValue>, bool) {
    let mut last = None;
    for event in events {
        if event.r#type() == EventType::Delete {
            return (last, true);
        }
        last = event.kv.or(last);
    }
    (last, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: EventType, mod_revision: i64) -> Event {
        let kv = Some(KeyValue { mod_revision, ..Default::default() });
        Event { r#type: kind.into(), kv, ..Default::default() }
    }

    #[test]
    fn the_last_word_before_the_end_is_told() {
        use EventType::{Delete, Put};
        let told = |events: Vec<Event>| {
            let (last, is_gone) = last_word(events);
            (last.map(|kv| kv.mod_revision), is_gone)
        };
        assert_eq!(told(vec![event(Put, 2), event(Put, 3)]), (Some(3), false));
        assert_eq!(told(vec![event(Put, 2), event(Delete, 3), event(Put, 4)]), (Some(2), true));
        assert_eq!(told(vec![event(Delete, 3)]), (None, true));
    }
}
