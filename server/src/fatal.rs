//! One signal that this member must stop, with the first reason given.

use tokio::sync::watch;

/// A handle to the signal; clones share it.
#[derive(Clone, Debug)]
pub struct FatalSignal {
    reason: watch::Sender<Option<String>>,
}

impl FatalSignal {
    /// A signal that was not given.
    #[must_use]
    pub fn new() -> Self {
        Self { reason: watch::Sender::new(None) }
    }

    /// Gives the signal; only the first reason counts.
    pub fn raise(&self, reason: String) {
        self.reason.send_if_modified(|known| {
            let first = known.is_none();
            if first {
                *known = Some(reason);
            }
            first
        });
    }

    /// Returns the reason once the signal was given.
    pub async fn raised(&self) -> String {
        let mut receiver = self.reason.subscribe();
        match receiver.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            // The sender lives in `self`, so it cannot have gone.
            Err(_closed) => std::future::pending().await,
        }
    }
}

impl Default for FatalSignal {
    fn default() -> Self {
        Self::new()
    }
}
