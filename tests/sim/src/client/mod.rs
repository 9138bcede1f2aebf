//! Clients: each asks the members for this and that until told to stop, and everything is recorded.
//!
//! - [`asker`]: sends one request, and says what became of it.
//! - [`kv`]: reads, writes and transactions on keys that all fight for.
//! - [`lease`]: grants, keeps alive, abandons and revokes.
//! - [`stream`]: a watch stream; [`watch`]: watches on such streams, which break and go on elsewhere.
//! - [`witness`]: one watch of everything for each member.
//! - [`operator`]: compacts history, now and then.

pub mod asker;
pub mod kv;
pub mod lease;
pub mod operator;
pub mod stream;
pub mod watch;
pub mod witness;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;

use crate::record::Record;

/// Hosts of clients, by name.
pub const CLIENTS: [&str; 3] = ["c1", "c2", "c3"];

/// What all clients of a run share; clones name the same.
#[derive(Clone)]
pub struct Scene {
    /// What they ask and are told.
    pub record: Record,
    /// The members' hosts.
    pub members: &'static [&'static str],
    /// Milliseconds between two calls of a client, at most.
    pub pause_ms: u64,
    /// No new requests.
    pub stop: Arc<AtomicBool>,
    /// Nothing at all any more: witnesses end, too.
    pub over: Arc<AtomicBool>,
}

impl Scene {
    /// Whether clients may go on.
    #[must_use]
    pub fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Whether witnesses may go on.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// A moment between two calls.
    pub async fn pause(&self, rng: &mut StdRng) {
        tokio::time::sleep(Duration::from_millis(rng.random_range(1..=self.pause_ms))).await;
    }
}

/// Names a member as the checkers do: by its place.
#[must_use]
pub fn member(at: usize) -> u64 {
    at as u64 + 1
}
