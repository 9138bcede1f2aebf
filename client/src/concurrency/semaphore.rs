//! A number of permits.

use bytes::Bytes;

use super::error::Error;
use super::held::Held;
use super::line::{Wish, take, under};
use super::session::Session;

/// At most `permits` hold it at a time, first come, first served. Everybody who uses the name must use the same
/// number.
///
/// Tokens grow in the order in which permits were asked for, but who holds a lesser one is not replaced by who holds a
/// greater one: what is protected must remember more than the greatest token, or use [`Held::guard`]. Each permit that
/// is given back makes all who wait look.
///
/// ```no_run
/// # async fn example(client: kvd_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use kvd_client::concurrency::{Semaphore, Session};
///
/// let session = Session::start(&client).await?;
/// let permit = Semaphore::new("limits/backups", 3).acquire(&session).await?;
/// permit.unlock().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Semaphore {
    name: Bytes,
    permits: usize,
}

impl Semaphore {
    /// The semaphore of this name. Nothing is sent. Without permits, whoever asks waits until the session is lost.
    pub fn new(name: impl Into<Bytes>, permits: usize) -> Self {
        Self { name: name.into(), permits }
    }

    /// Waits for a permit. Whoever drops this before it is done leaves the line.
    pub async fn acquire(&self, session: &Session) -> Result<Held, Error> {
        let life = session.life();
        let line = under(&self.name);
        let key = [&line[..], life.unique_name().as_bytes()].concat().into();
        let wish = Wish { key, value: Bytes::new(), if_free: None, claim: None };
        let place = take(life, wish).await?.ok_or(Error::KeyDeleted)?;
        place.until_room(&line, self.permits).await?;
        Ok(Held::new(place))
    }
}
