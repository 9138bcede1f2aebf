//! Somebody who watches the demo's keys through all of it, and must see every revision exactly once, whatever
//! dies meanwhile.

use std::sync::{Arc, Mutex, PoisonError};

use kvd_client::proto::etcdserverpb::WatchCreateRequest;
use kvd_client::{Client, WatchAnswer, WatchStream, prefix_end};
use tokio::task::JoinHandle;

use super::{DemoError, POLL, PREFIX};

/// A watch that goes on at another member where one dies.
pub(super) struct Watcher {
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    /// Every revision up to here was seen.
    revision: i64,
    events: u64,
    resumed: u64,
    wrong: Option<String>,
}

/// What the watcher saw.
pub(super) struct Saw {
    pub(super) events: u64,
    /// How often it had to go on elsewhere.
    pub(super) resumed: u64,
}

impl Watcher {
    /// Watches everything after this revision; first at `first`, then wherever somebody answers.
    pub(super) fn start(first: Client, others: Client, revision: i64) -> Self {
        let seen = Arc::new(Mutex::new(Seen { revision, ..Seen::default() }));
        let task = tokio::spawn(watch(first, others, Arc::clone(&seen)));
        Self { seen, task }
    }

    /// Waits until it has seen this revision; an error if one came twice, not at all, or out of order.
    pub(super) async fn reached(&self, revision: i64) -> Result<Saw, DemoError> {
        loop {
            {
                let seen = lock(&self.seen);
                if let Some(wrong) = &seen.wrong {
                    return Err(DemoError::Watch(wrong.clone()));
                }
                if seen.revision >= revision {
                    return Ok(Saw { events: seen.events, resumed: seen.resumed });
                }
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn watch(first: Client, others: Client, seen: Arc<Mutex<Seen>>) {
    let mut client = first;
    loop {
        let from = lock(&seen).revision + 1;
        let request = WatchCreateRequest {
            key: PREFIX.into(),
            range_end: prefix_end(PREFIX),
            start_revision: from,
            ..Default::default()
        };
        if let Ok(mut stream) = client.watch_stream(request).await {
            follow(&mut stream, &seen).await;
        }
        if !goes_on(&seen) {
            return;
        }
        client = others.clone();
        tokio::time::sleep(POLL).await;
    }
}

/// Whether there is a reason to watch again after a stream ended.
fn goes_on(seen: &Mutex<Seen>) -> bool {
    let mut seen = lock(seen);
    seen.resumed += 1;
    seen.wrong.is_none()
}

/// Follows a stream to its end.
async fn follow(stream: &mut WatchStream, seen: &Mutex<Seen>) {
    while let Ok(Some(answer)) = stream.next().await {
        match answer {
            WatchAnswer::Events(response) => {
                let mut seen = lock(seen);
                let revisions = response.events.iter().filter_map(|event| event.kv.as_ref());
                for revision in revisions.map(|kv| kv.mod_revision) {
                    seen.note(revision);
                }
            }
            WatchAnswer::Created(_) | WatchAnswer::Progress(_) => {}
            WatchAnswer::Ended { reason, .. } => {
                lock(seen).wrong.get_or_insert(reason.to_string());
                return;
            }
        }
    }
}

impl Seen {
    /// Each write of the demo is a revision of its own, so they come without holes.
    fn note(&mut self, revision: i64) {
        let expected = self.revision + 1;
        if revision != expected {
            let text = format!("revision {revision} came where {expected} was due");
            self.wrong.get_or_insert(text);
        }
        self.revision = self.revision.max(revision);
        self.events += 1;
    }
}

fn lock(seen: &Mutex<Seen>) -> std::sync::MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_and_repeats_are_noticed() {
        let told = |revisions: &[i64]| {
            let mut seen = Seen { revision: 4, ..Seen::default() };
            for revision in revisions {
                seen.note(*revision);
            }
            seen.wrong
        };
        assert_eq!(told(&[5, 6, 7]), None);
        assert_eq!(told(&[5, 7]).unwrap(), "revision 7 came where 6 was due");
        assert_eq!(told(&[5, 5]).unwrap(), "revision 5 came where 6 was due");
        assert_eq!(told(&[5, 6, 4]).unwrap(), "revision 4 came where 7 was due");
    }
}
