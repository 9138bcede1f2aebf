//! Until when something is certainly held, by this machine's clock.
//!
//! Promises that what counted as lost stays lost, whatever arrives later.

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// Held until some time, which moves on as long as it is not reached.
#[derive(Debug)]
pub(super) struct Tenure {
    state: watch::Sender<State>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct State {
    until: Instant,
    is_over: bool,
}

impl Tenure {
    pub(super) fn new(until: Instant) -> Self {
        Self { state: watch::Sender::new(State { until, is_over: false }) }
    }

    pub(super) fn until(&self) -> Instant {
        self.state.borrow().until
    }

    pub(super) fn is_held(&self) -> bool {
        self.change(|state| state.look(Instant::now()));
        !self.state.borrow().is_over
    }

    /// Ends when it is lost.
    pub(super) async fn lost(&self) {
        let mut state = self.state.subscribe();
        loop {
            let State { until, is_over } = *state.borrow_and_update();
            if is_over {
                return;
            }
            tokio::select! {
                _ = state.changed() => {}
                () = sleep_until(until) => self.change(|state| state.look(Instant::now())),
            }
        }
    }

    /// It is held longer, unless it is too late for that.
    pub(super) fn extend(&self, until: Instant) {
        self.change(|state| state.extend(Instant::now(), until));
    }

    pub(super) fn end(&self) {
        self.change(|state| state.is_over = true);
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        self.state.send_if_modified(|state| {
            let before = *state;
            change(state);
            *state != before
        });
    }
}

impl State {
    fn look(&mut self, now: Instant) {
        self.is_over |= now >= self.until;
    }

    fn extend(&mut self, now: Instant, until: Instant) {
        self.look(now);
        if !self.is_over {
            self.until = self.until.max(until);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_counted_as_lost_stays_lost() {
        let start = Instant::now();
        let mut state = State { until: start + SECOND, is_over: false };
        state.extend(start, start + 2 * SECOND);
        // An answer that was overtaken takes nothing away.
        state.extend(start, start + SECOND);
        state.look(start + SECOND);
        assert_eq!(state, State { until: start + 2 * SECOND, is_over: false });
        state.extend(start + 2 * SECOND, start + 9 * SECOND);
        assert_eq!(state, State { until: start + 2 * SECOND, is_over: true });
        state.extend(start, start + 9 * SECOND);
        assert!(state.is_over);
    }

    #[tokio::test]
    async fn it_ends_by_itself() {
        let start = Instant::now();
        let tenure = Tenure::new(start + SECOND / 50);
        tenure.lost().await;
        assert!(start.elapsed() >= SECOND / 50 && !tenure.is_held());
    }

    #[tokio::test]
    async fn an_end_is_told_at_once() {
        let tenure = Arc::new(Tenure::new(Instant::now() + 3600 * SECOND));
        let waits = tokio::spawn({
            let tenure = Arc::clone(&tenure);
            async move { tenure.lost().await }
        });
        tenure.end();
        waits.await.unwrap();
    }
}
