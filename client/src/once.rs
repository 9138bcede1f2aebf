//! Request ids: mutations that are carried out once, however often they are sent.
//!
//! A session is a client's name and a counter. The server remembers the answers of the session's newest requests and
//! gives them again when a request comes again; it forgets those of which the client says that it is done with them,
//! and refuses what is older. So a mutation whose outcome is unknown can be sent again, to any member.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvd_proto::session::OpenRequest;
use kvd_proto::session::sessions_client::SessionsClient;
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::sync::Notify;
use tonic::metadata::MetadataValue;
use tonic::{Request, Status};

use crate::attempts::Call;
use crate::client::Client;
use crate::error::Error;

/// The metadata that carries an id.
const REQUEST_ID: &str = "kvd-request-id";
/// What a server says of a session that it does not know, or no more.
const NOT_KNOWN: &str = "kvd: session of the request id is not known";
/// What it says of a request that is too old or too new.
const OUTSIDE: &str = "kvd: request id is outside the window of its session";
/// What it says of a request that it has done before; the revision stands in between.
const FORGOTTEN: (&str, &str) =
    ("kvd: request was applied at revision ", ", its answer was not kept");

/// The session of a client: another one takes its place when the server has forgotten it.
#[derive(Debug)]
pub(crate) struct Sessions {
    current: Mutex<Arc<Session>>,
}

/// One session.
#[derive(Debug)]
struct Session {
    client: u64,
    /// As the server said when it was opened.
    opened: u64,
    /// Requests that may be open at once.
    window: u64,
    counter: Mutex<Counter>,
    settled: Notify,
}

#[derive(Debug, Default)]
struct Counter {
    last: u64,
    open: BTreeSet<u64>,
}

/// An id of one request, for all its attempts. The session is done with the request when this is dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    session: Arc<Session>,
    sequence: u64,
}

/// What a server's refusal of an id means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The session is over. Nothing was done by this attempt, nor is known of earlier ones.
    Over,
    /// It was done, at this revision.
    Done(i64),
}

impl Client {
    /// The same client with request ids: its puts, deletes, transactions, compactions, grants and revokes are carried
    /// out once, however often they must be sent, so they go on where others would end with
    /// [`Error::Unknown`]. Only kvd's servers know of this; to others it is
    /// [`Refused`](Error::Refused) with the code `Unimplemented`.
    ///
    /// What no member answers within the deadline is unknown still.
    pub async fn exactly_once(&self) -> Result<Self, Error> {
        let session = Arc::new(self.open_session().await?);
        Ok(self.with_sessions(Arc::new(Sessions { current: Mutex::new(session) })))
    }

    async fn open_session(&self) -> Result<Session, Error> {
        let send =
            |channel, request| async move { SessionsClient::new(channel).open(request).await };
        let opened = self.call(Call::reads("open_session"), OpenRequest {}, send).await?;
        let mut random: StdRng = rand::make_rng();
        Ok(Session {
            client: random.random(),
            opened: opened.opened,
            window: u64::from(opened.window).max(1),
            counter: Mutex::default(),
            settled: Notify::new(),
        })
    }

    /// An id for a request that begins now; waits while too many are open.
    pub(crate) async fn ticket(&self, sessions: &Sessions) -> Ticket {
        let session = Arc::clone(&sessions.lock());
        session.ticket().await
    }

    /// An id of another session, for a request whose session was forgotten before it was done.
    pub(crate) async fn another_ticket(
        &self,
        sessions: &Sessions,
        old: &Ticket,
    ) -> Result<Ticket, Error> {
        let known = Arc::clone(&sessions.lock());
        if !Arc::ptr_eq(&known, &old.session) {
            return Ok(known.ticket().await);
        }
        let opened = Arc::new(self.open_session().await?);
        let current = {
            let mut current = sessions.lock();
            if Arc::ptr_eq(&current, &old.session) {
                *current = opened;
            }
            Arc::clone(&current)
        };
        Ok(current.ticket().await)
    }
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, Arc<Session>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    async fn ticket(self: Arc<Self>) -> Ticket {
        loop {
            let settled = self.settled.notified();
            let sequence = self.counter().next(self.window);
            if let Some(sequence) = sequence {
                return Ticket { session: Arc::clone(&self), sequence };
            }
            settled.await;
        }
    }

    fn counter(&self) -> MutexGuard<'_, Counter> {
        self.counter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counter {
    /// All requests up to this one are done.
    fn settled(&self) -> u64 {
        self.open.first().map_or(self.last, |oldest| oldest - 1)
    }

    fn next(&mut self, window: u64) -> Option<u64> {
        if self.last - self.settled() >= window {
            return None;
        }
        self.last += 1;
        self.open.insert(self.last);
        Some(self.last)
    }
}

impl Ticket {
    /// Writes the id into a request.
    pub(crate) fn mark<Q>(&self, request: &mut Request<Q>) {
        let settled = self.session.counter().settled();
        let Session { client, opened, .. } = *self.session;
        let id = format!("{client:016x}.{opened}.{}.{settled}", self.sequence);
        if let Ok(id) = MetadataValue::try_from(id) {
            request.metadata_mut().insert(REQUEST_ID, id);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.session.counter().open.remove(&self.sequence);
        self.session.settled.notify_waiters();
    }
}

/// What a status says of the id, if anything.
pub(crate) fn refused(status: &Status) -> Option<Refused> {
    match status.message() {
        NOT_KNOWN | OUTSIDE => Some(Refused::Over),
        text => {
            let revision = text.strip_prefix(FORGOTTEN.0)?.strip_suffix(FORGOTTEN.1)?;
            revision.parse().ok().map(Refused::Done)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_open_request_holds_the_window() {
        let mut counter = Counter::default();
        assert_eq!([counter.next(2), counter.next(2), counter.next(2)], [Some(1), Some(2), None]);
        counter.open.remove(&2);
        assert_eq!((counter.settled(), counter.next(2)), (0, None));
        counter.open.remove(&1);
        assert_eq!((counter.settled(), counter.next(2), counter.settled()), (2, Some(3), 2));
    }

    #[test]
    fn refusals_are_told_apart() {
        let says = |text: &str| refused(&Status::failed_precondition(text));
        assert_eq!(says(NOT_KNOWN), Some(Refused::Over));
        assert_eq!(says(OUTSIDE), Some(Refused::Over));
        let done = "kvd: request was applied at revision 42, its answer was not kept";
        assert_eq!(says(done), Some(Refused::Done(42)));
        assert_eq!(says("etcdserver: no leader"), None);
    }
}
