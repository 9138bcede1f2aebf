//! Which endpoint to try next.
//!
//! Stays with one endpoint until it fails, so that a client keeps one connection and its
//! serializable reads do not go back in time; clients spread because each starts elsewhere. An
//! endpoint that fails is put aside, longer with every failure in a row. Has no clock and no
//! randomness of its own: both are passed in.

use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::StdRng;

/// Pause after the first failure; etcd's client pauses as long between attempts.
const PAUSE_MIN: Duration = Duration::from_millis(25);
/// Pause after many failures in a row: a member that comes back is used again within a second.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The endpoints' record. Endpoints are known by their position.
#[derive(Debug)]
pub(crate) struct Picker {
    current: usize,
    records: Vec<Record>,
    random: StdRng,
}

#[derive(Clone, Debug, Default)]
struct Record {
    failures: u32,
    aside_until: Option<Instant>,
}

impl Picker {
    /// Starts anywhere; there must be at least one endpoint.
    pub(crate) fn new(endpoints: usize, mut random: StdRng) -> Self {
        assert!(endpoints > 0, "a picker without endpoints has nothing to pick");
        let current = random.random_range(0..endpoints);
        Self { current, records: vec![Record::default(); endpoints], random }
    }

    /// The endpoint to use, and how long to wait before using it: zero unless all are aside.
    pub(crate) fn pick(&mut self, now: Instant) -> (usize, Duration) {
        let count = self.records.len();
        let in_turn = (0..count).map(|step| (self.current + step) % count);
        let pause = |at: &usize| {
            let until = self.records[*at].aside_until;
            until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
        };
        // Of equal pauses `min_by_key` keeps the first, which is the current endpoint if it is fit.
        let next = in_turn.min_by_key(pause).unwrap_or(self.current);
        let wait = pause(&next);
        self.current = next;
        (next, wait)
    }

    /// The endpoint answered.
    pub(crate) fn succeeded(&mut self, endpoint: usize) {
        self.records[endpoint] = Record::default();
    }

    /// The endpoint did not serve the request.
    pub(crate) fn failed(&mut self, endpoint: usize, now: Instant) {
        let record = &mut self.records[endpoint];
        let doubled = PAUSE_MIN.saturating_mul(2_u32.saturating_pow(record.failures));
        // Clients that failed together shall not come back together.
        let pause = doubled.min(PAUSE_MAX).mul_f64(self.random.random_range(0.9..1.1));
        record.failures = record.failures.saturating_add(1);
        record.aside_until = Some(now + pause);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;

    use super::*;

    fn picker(endpoints: usize, seed: u64) -> Picker {
        Picker::new(endpoints, StdRng::seed_from_u64(seed))
    }

    #[test]
    fn stays_until_failure_then_moves_on() {
        let now = Instant::now();
        let mut picker = picker(3, 1);
        let (first, _) = picker.pick(now);
        assert_eq!(picker.pick(now), (first, Duration::ZERO));
        picker.failed(first, now);
        let second = (first + 1) % 3;
        assert_eq!(picker.pick(now), (second, Duration::ZERO));
        picker.failed(second, now);
        let third = (first + 2) % 3;
        assert_eq!(picker.pick(now), (third, Duration::ZERO));
        assert_eq!(picker.pick(now + 2 * PAUSE_MAX), (third, Duration::ZERO));
    }

    #[test]
    fn waits_for_the_first_to_come_back_when_all_are_aside() {
        let now = Instant::now();
        let mut picker = picker(2, 1);
        picker.failed(0, now);
        picker.failed(0, now);
        picker.failed(1, now);
        let (next, wait) = picker.pick(now);
        assert_eq!(next, 1);
        assert!(wait >= PAUSE_MIN.mul_f64(0.9) && wait <= PAUSE_MIN.mul_f64(1.1), "{wait:?}");
    }

    #[test]
    fn clients_spread() {
        let first = |seed| picker(3, seed).pick(Instant::now()).0;
        assert!((0..3).all(|endpoint| (0..100).any(|seed| first(seed) == endpoint)));
    }

    proptest! {
        #[test]
        fn pauses_are_bounded_and_a_success_forgives(
            steps in proptest::collection::vec((0_usize..4, any::<bool>()), 0..50),
            seed in any::<u64>(),
        ) {
            let now = Instant::now();
            let mut picker = picker(4, seed);
            for (endpoint, fails) in steps {
                if fails {
                    picker.failed(endpoint, now);
                } else {
                    picker.succeeded(endpoint);
                    prop_assert_eq!(picker.pick(now).1, Duration::ZERO);
                }
                let (picked, wait) = picker.pick(now);
                prop_assert!(picked < 4);
                prop_assert!(wait <= PAUSE_MAX.mul_f64(1.1));
            }
        }
    }
}
