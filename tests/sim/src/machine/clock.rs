//! How far a machine's clock goes ahead, and what all of them gained.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A clock that runs fast gains so many microseconds at once. Parts of a millisecond it must not gain: timers are
/// rounded up to whole ones, so each tick would then last longer, and the clock run half as fast again. Less than a
/// tick is nothing: the tick in which a clock goes ahead ends sooner.
const AT_ONCE_US: u64 = 4_000;

/// What is wrong with a clock.
#[derive(Debug, Default)]
pub(super) struct Clock {
    /// Milliseconds that it is to jump ahead, once.
    pub(super) jump_ms: u64,
    /// Microseconds that it gains in each ten milliseconds.
    pub(super) drift_us: u64,
    /// Microseconds that it has still to gain.
    due_us: u64,
}

impl Clock {
    /// How far it is to go ahead now; asked each ten milliseconds.
    pub(super) fn take_ahead(&mut self) -> Duration {
        let jump_ms = std::mem::take(&mut self.jump_ms);
        self.due_us += self.drift_us;
        let drift_ms = if self.due_us < AT_ONCE_US { 0 } else { self.due_us / 1000 };
        self.due_us -= 1000 * drift_ms;
        Duration::from_millis(jump_ms + drift_ms)
    }
}

/// What the clocks of all machines gained at most, together; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Gained(Arc<AtomicU64>);

impl Gained {
    /// So many nanoseconds by now.
    #[must_use]
    pub fn nanos(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// One of the clocks is about to go ahead.
    pub(super) fn add(&self, ahead: Duration) {
        let nanos = u64::try_from(ahead.as_nanos()).unwrap_or(u64::MAX);
        self.0.fetch_add(nanos, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_gains_whole_milliseconds_and_loses_none() {
        let mut clock = Clock { jump_ms: 70, drift_us: 350, ..Clock::default() };
        let ahead: Vec<Duration> = (0..1000).map(|_| clock.take_ahead()).collect();
        assert_eq!(ahead[0], Duration::from_millis(70));
        assert!(ahead.iter().all(|ahead| ahead.subsec_micros() % 1000 == 0));
        let (gained, all) = (ahead.iter().sum::<Duration>(), Duration::from_millis(70 + 350));
        assert!(gained <= all && gained + Duration::from_micros(AT_ONCE_US) > all, "{gained:?}");
    }
}
