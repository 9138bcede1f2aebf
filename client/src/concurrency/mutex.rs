//! A lock that one holds at a time.

use bytes::Bytes;

use super::error::Error;
use super::held::Held;
use super::line::{Wish, session_key, take, under};
use super::session::Session;

/// A lock by name, shared with everybody who uses that name in the same store. First come, first served.
///
/// Read in [the module's text](super) what it cannot promise and what [`Held::token`] is for. Two tasks may share a
/// session; they exclude each other like anybody else.
///
/// ```no_run
/// # async fn example(client: kvd_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use kvd_client::concurrency::{Mutex, Session};
///
/// let session = Session::start(&client).await?;
/// let mutex = Mutex::new("locks/printer");
/// let held = mutex.lock(&session).await?;
/// print_with(held.token().number());
/// held.unlock().await?;
/// # Ok(())
/// # }
/// # fn print_with(_token: i64) {}
/// ```
#[derive(Clone, Debug)]
pub struct Mutex {
    name: Bytes,
}

impl Mutex {
    /// The lock of this name. Nothing is sent.
    pub fn new(name: impl Into<Bytes>) -> Self {
        Self { name: name.into() }
    }

    /// Waits for the lock. Whoever drops this before it is done leaves the line. Waits through any failure that can
    /// pass; fails when the session is lost.
    pub async fn lock(&self, session: &Session) -> Result<Held, Error> {
        let life = session.life();
        let key = session_key(&self.name, life.lease());
        let claim = tokio::select! {
            () = life.lost() => return Err(Error::SessionLost),
            claim = life.claims().claim(&key) => claim,
        };
        let wish = Wish { key, value: Bytes::new(), if_free: None, claim: Some(claim) };
        let place = take(life, wish).await?.ok_or(Error::KeyDeleted)?;
        place.until_room(&under(&self.name), 1).await?;
        Ok(Held::new(place))
    }

    /// Takes the lock if nobody has it or waits for it.
    pub async fn try_lock(&self, session: &Session) -> Result<Option<Held>, Error> {
        let life = session.life();
        let key = session_key(&self.name, life.lease());
        let Some(claim) = life.claims().try_claim(&key) else { return Ok(None) };
        let if_free = Some(under(&self.name));
        let wish = Wish { key, value: Bytes::new(), if_free, claim: Some(claim) };
        Ok(take(life, wish).await?.map(Held::new))
    }
}
