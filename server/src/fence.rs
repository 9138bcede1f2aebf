//! Whether this member's state may be used: a member whose state differs from the majority's serves and sends
//! nothing of it any more, and may be rebuilt (hazard B10). There is no way back but another state.

use tokio::sync::watch;

/// A handle to the fence; clones share it.
#[derive(Clone, Debug)]
pub struct Fence {
    step: watch::Sender<Step>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    /// The state may be used.
    Down,
    /// It may not.
    Raised,
    /// It may not, and the member is to be started again for another one.
    Rebuild,
}

impl Fence {
    /// A fence that is down: the state may be used.
    #[must_use]
    pub fn new() -> Self {
        Self { step: watch::Sender::new(Step::Down) }
    }

    /// From now on the state is not used.
    pub(crate) fn raise(&self) {
        self.step.send_modify(|step| *step = Step::Raised.max(*step));
    }

    /// Asks whoever runs the member to start it again: all is noted that it needs to find another state.
    pub(crate) fn ask_for_rebuild(&self) {
        self.step.send_replace(Step::Rebuild);
    }

    /// Whether the state may not be used.
    #[must_use]
    pub fn is_raised(&self) -> bool {
        *self.step.borrow() >= Step::Raised
    }

    /// Returns once the state may not be used.
    pub async fn raised(&self) {
        self.reached(Step::Raised).await;
    }

    /// Returns once the member is to be started again.
    pub async fn rebuild_asked(&self) {
        self.reached(Step::Rebuild).await;
    }

    async fn reached(&self, wanted: Step) {
        let mut receiver = self.step.subscribe();
        // The sender lives in `self`, so waiting can only end with the step.
        let _reached = receiver.wait_for(|step| *step >= wanted).await;
    }
}

impl Default for Fence {
    fn default() -> Self {
        Self::new()
    }
}
