//! A lock that many readers hold together, or one writer alone.

use bytes::Bytes;

use super::error::Error;
use super::held::Held;
use super::line::{Wish, take, under};
use super::session::Session;

/// A lock by name for readers and writers, first come, first served: a reader waits for the writers before it, a writer
/// for everybody before it, so that neither waits for ever.
///
/// A writer's token is greater than those of all holders before; readers who hold it together have different tokens,
/// in the order in which they asked. Read in [the module's text](super) what no lock can promise. Who holds it for
/// reading and asks for writing without unlocking waits for itself.
///
/// Keys lie where those of etcd's recipe for Go do: `<name>/read/…` and `<name>/write/…`.
///
/// ```no_run
/// # async fn example(client: kvd_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use kvd_client::concurrency::{RwLock, Session};
///
/// let session = Session::start(&client).await?;
/// let lock = RwLock::new("locks/catalogue");
/// let reading = lock.read(&session).await?;
/// reading.unlock().await?;
/// let writing = lock.write(&session).await?;
/// writing.unlock().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct RwLock {
    name: Bytes,
}

impl RwLock {
    /// The lock of this name. Nothing is sent.
    pub fn new(name: impl Into<Bytes>) -> Self {
        Self { name: name.into() }
    }

    /// Waits until nobody writes who came before, then holds it together with other readers.
    pub async fn read(&self, session: &Session) -> Result<Held, Error> {
        self.wait(session, "read", &under(&self.side("write"))).await
    }

    /// Waits until nobody reads or writes who came before, then holds it alone.
    pub async fn write(&self, session: &Session) -> Result<Held, Error> {
        self.wait(session, "write", &under(&self.name)).await
    }

    async fn wait(&self, session: &Session, side: &str, line: &Bytes) -> Result<Held, Error> {
        let life = session.life();
        let key = [&under(&self.side(side))[..], life.unique_name().as_bytes()].concat().into();
        let wish = Wish { key, value: Bytes::new(), if_free: None, claim: None };
        let place = take(life, wish).await?.ok_or(Error::KeyDeleted)?;
        place.until_room(line, 1).await?;
        Ok(Held::new(place))
    }

    fn side(&self, side: &str) -> Bytes {
        [&under(&self.name)[..], side.as_bytes()].concat().into()
    }
}
