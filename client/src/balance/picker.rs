//! Which endpoint to use.
//!
//! Each client has an order of its own; the first endpoint of it is its *home*. A client stays with one endpoint
//! while that serves, so that it keeps one connection and its serializable reads do not go back in time. When the
//! endpoint fails, the client goes to the one that is likely to answer soonest, and comes home when its home is well
//! again: so the clients of a cluster are spread evenly, also after a member was away.
//!
//! What an endpoint is likely to cost is a time: its pause, what its silence would take to be noticed, its round trip.
//! Has no clock and no randomness of its own: both are passed in.

use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::StdRng;

use super::Id;

/// Pause after the first failure; etcd's client pauses as long between attempts.
const PAUSE_MIN: Duration = Duration::from_millis(25);
/// Pause after many failures in a row, while no endpoint is better.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// What it takes to notice that an endpoint is silent still.
const SILENCE: Duration = Duration::from_millis(700);
/// What an endpoint costs that can only be asked for less: a learner.
const LEARNER: Duration = Duration::from_secs(10);
/// What each request under way adds.
const IN_FLIGHT: Duration = Duration::from_micros(50);
/// A client comes home at any time up to this after its home is well again: not all at once.
const HOMECOMING_MAX: Duration = Duration::from_secs(20);

/// The endpoints' records, in the client's order. Never empty.
#[derive(Debug)]
pub(crate) struct Picker {
    records: Vec<Record>,
    current: Id,
    /// When the client comes home, once its home is well.
    homecoming: Option<Instant>,
    random: StdRng,
}

#[derive(Clone, Copy, Debug)]
struct Record {
    id: Id,
    failures: u32,
    aside_until: Option<Instant>,
    /// It let a request go unanswered, and was not heard since.
    silent: bool,
    learner: bool,
    round_trip: Duration,
}

/// What an endpoint said of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Health {
    /// It knows a leader.
    pub(crate) has_leader: bool,
    /// It does not vote, and serves less.
    pub(crate) is_learner: bool,
    pub(crate) round_trip: Duration,
}

/// How an endpoint failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failing {
    /// It said so, or its connection broke.
    Spoke,
    /// It said nothing.
    Silent,
}

impl Picker {
    /// Begins at the first of these.
    pub(crate) fn new(order: Vec<Id>, random: StdRng) -> Option<Self> {
        let current = *order.first()?;
        let records = order.into_iter().map(Record::new).collect();
        Some(Self { records, current, homecoming: None, random })
    }

    /// The endpoint to use, and how long to wait before using it: zero unless all are aside.
    pub(crate) fn pick(&mut self, now: Instant, in_flight: impl Fn(Id) -> u32) -> (Id, Duration) {
        let cost = |record: &Record| {
            let in_flight = IN_FLIGHT.saturating_mul(in_flight(record.id));
            (!record.is_well(), record.cost(now).saturating_add(in_flight))
        };
        let is_well = self.record(self.current).is_some_and(|record| record.is_well());
        if !is_well && let Some(best) = self.records.iter().min_by_key(|record| cost(record)) {
            self.current = best.id;
        }
        (self.current, self.record(self.current).map_or(Duration::ZERO, |record| record.pause(now)))
    }

    /// The endpoint answered a call.
    pub(crate) fn succeeded(&mut self, id: Id) {
        if let Some(record) = self.record_mut(id) {
            (record.failures, record.aside_until, record.silent) = (0, None, false);
        }
    }

    /// The endpoint did not serve a call.
    pub(crate) fn failed(&mut self, id: Id, how: Failing, now: Instant) {
        // Clients that failed together shall not come back together.
        let spread = self.random.random_range(0.9..1.1);
        if id == self.home() {
            self.homecoming = None;
        }
        if let Some(record) = self.record_mut(id) {
            let doubled = PAUSE_MIN.saturating_mul(2_u32.saturating_pow(record.failures));
            record.failures = record.failures.saturating_add(1);
            record.aside_until = Some(now + doubled.min(PAUSE_MAX).mul_f64(spread));
            record.silent |= how == Failing::Silent;
        }
    }

    /// The endpoint told how it is; without word it is silent.
    pub(crate) fn examined(&mut self, id: Id, health: Option<Health>, now: Instant) {
        match health {
            Some(health) if health.has_leader => {
                self.succeeded(id);
                if let Some(record) = self.record_mut(id) {
                    (record.learner, record.round_trip) = (health.is_learner, health.round_trip);
                }
            }
            Some(_) => self.failed(id, Failing::Spoke, now),
            None => self.failed(id, Failing::Silent, now),
        }
    }

    /// Those that are to be examined: what failed, and the home of a client that is away.
    pub(crate) fn to_examine(&self) -> Vec<Id> {
        let away = self.current != self.home();
        let examined = self.records.iter().enumerate();
        examined
            .filter(|(at, record)| !record.is_well() || (away && *at == 0))
            .map(|(_, record)| record.id)
            .collect()
    }

    /// Comes home when it is time.
    pub(crate) fn come_home(&mut self, now: Instant) {
        let home = self.home();
        let is_well = self.record(home).is_some_and(|record| record.is_well());
        if self.current == home || !is_well {
            self.homecoming = None;
            return;
        }
        let wait = HOMECOMING_MAX.mul_f64(self.random.random_range(0.05..1.0));
        if now >= *self.homecoming.get_or_insert(now + wait) {
            (self.homecoming, self.current) = (None, home);
        }
    }

    /// Knows these endpoints from now on; what is known of those that stay is kept, new ones come at any place.
    pub(crate) fn replace(&mut self, ids: &[Id]) {
        self.records.retain(|record| ids.contains(&record.id));
        for id in ids {
            if self.record(*id).is_none() {
                let at = self.random.random_range(0..=self.records.len());
                self.records.insert(at, Record::new(*id));
            }
        }
        if self.record(self.current).is_none() {
            self.current = self.home();
        }
    }

    /// The endpoint in use.
    pub(crate) fn current(&self) -> Id {
        self.current
    }

    fn home(&self) -> Id {
        self.records.first().map_or(self.current, |record| record.id)
    }

    fn record(&self, id: Id) -> Option<&Record> {
        self.records.iter().find(|record| record.id == id)
    }

    fn record_mut(&mut self, id: Id) -> Option<&mut Record> {
        self.records.iter_mut().find(|record| record.id == id)
    }
}

impl Record {
    fn new(id: Id) -> Self {
        Self {
            id,
            failures: 0,
            aside_until: None,
            silent: false,
            learner: false,
            round_trip: Duration::ZERO,
        }
    }

    fn is_well(&self) -> bool {
        self.failures == 0 && !self.learner
    }

    fn pause(&self, now: Instant) -> Duration {
        self.aside_until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }

    fn cost(&self, now: Instant) -> Duration {
        let silence = if self.silent { SILENCE } else { Duration::ZERO };
        let learner = if self.learner { LEARNER } else { Duration::ZERO };
        self.pause(now) + silence + learner + self.round_trip
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;

    use super::*;

    const WELL: Option<Health> =
        Some(Health { has_leader: true, is_learner: false, round_trip: Duration::from_millis(1) });

    fn picker(endpoints: u64, seed: u64) -> Picker {
        let order = (0..endpoints).map(Id).collect();
        Picker::new(order, StdRng::seed_from_u64(seed)).expect("there are endpoints")
    }

    fn pick(picker: &mut Picker, now: Instant) -> (u64, Duration) {
        let (id, pause) = picker.pick(now, |_| 0);
        (id.0, pause)
    }

    #[test]
    fn stays_until_failure_then_moves_on() {
        let now = Instant::now();
        let mut picker = picker(3, 1);
        assert_eq!(pick(&mut picker, now), (0, Duration::ZERO));
        picker.failed(Id(0), Failing::Spoke, now);
        assert_eq!(pick(&mut picker, now), (1, Duration::ZERO));
        picker.failed(Id(1), Failing::Spoke, now);
        assert_eq!(pick(&mut picker, now), (2, Duration::ZERO));
        assert_eq!(pick(&mut picker, now + 2 * PAUSE_MAX), (2, Duration::ZERO));
    }

    #[test]
    fn waits_for_the_first_to_come_back_when_all_are_aside() {
        let now = Instant::now();
        let mut picker = picker(2, 1);
        for _ in 0..4 {
            picker.failed(Id(0), Failing::Spoke, now);
        }
        picker.failed(Id(1), Failing::Spoke, now);
        let (next, wait) = pick(&mut picker, now);
        assert_eq!(next, 1);
        assert!(wait >= PAUSE_MIN.mul_f64(0.9) && wait <= PAUSE_MIN.mul_f64(1.1), "{wait:?}");
    }

    #[test]
    fn a_short_pause_is_better_than_a_silent_endpoint() {
        let now = Instant::now();
        let mut picker = picker(2, 1);
        picker.failed(Id(0), Failing::Silent, now);
        picker.failed(Id(1), Failing::Spoke, now + 2 * PAUSE_MIN);
        assert_eq!(pick(&mut picker, now + 2 * PAUSE_MIN).0, 1);
    }

    #[test]
    fn who_is_left_goes_where_little_is_under_way() {
        let now = Instant::now();
        let mut picker = picker(3, 1);
        picker.failed(Id(0), Failing::Spoke, now);
        let (next, _) = picker.pick(now, |id| if id == Id(1) { 2000 } else { 10 });
        assert_eq!(next, Id(2));
    }

    #[test]
    fn comes_home_some_time_after_home_is_well() {
        let now = Instant::now();
        let mut picker = picker(3, 1);
        picker.failed(Id(0), Failing::Silent, now);
        assert_eq!(pick(&mut picker, now).0, 1);
        assert_eq!(picker.to_examine(), [Id(0)]);
        let leaderless = WELL.map(|health| Health { has_leader: false, ..health });
        for health in [None, leaderless] {
            picker.examined(Id(0), health, now);
            picker.come_home(now + HOMECOMING_MAX);
            assert_eq!(picker.current(), Id(1));
        }
        picker.examined(Id(0), WELL, now);
        picker.come_home(now);
        assert_eq!(picker.current(), Id(1), "not at once");
        picker.come_home(now + HOMECOMING_MAX);
        assert_eq!(pick(&mut picker, now), (0, Duration::ZERO));
        assert!(picker.to_examine().is_empty());
    }

    #[test]
    fn a_learner_is_the_last_resort() {
        let now = Instant::now();
        let mut picker = picker(2, 1);
        picker.examined(Id(0), WELL.map(|health| Health { is_learner: true, ..health }), now);
        picker.failed(Id(1), Failing::Silent, now);
        assert_eq!(pick(&mut picker, now).0, 1);
    }

    proptest! {
        #[test]
        fn picks_what_there_is_and_waits_never_long(
            steps in proptest::collection::vec((0_u64..5, 0_u8..5), 0..60),
            seed in any::<u64>(),
        ) {
            let mut now = Instant::now();
            let mut picker = picker(4, seed);
            let mut known: Vec<Id> = (0..4).map(Id).collect();
            for (endpoint, step) in steps {
                let id = Id(endpoint);
                match step {
                    0 => picker.failed(id, Failing::Spoke, now),
                    1 => picker.failed(id, Failing::Silent, now),
                    2 => picker.examined(id, WELL, now),
                    3 => picker.come_home(now),
                    _ => {
                        known = (0..=endpoint).map(|turn| Id(turn * 3 % 7)).collect();
                        picker.replace(&known);
                    }
                }
                now += Duration::from_millis(7);
                let (picked, wait) = picker.pick(now, |_| 0);
                prop_assert!(known.contains(&picked));
                prop_assert!(wait <= PAUSE_MAX.mul_f64(1.1));
                if let Some(well) = picker.records.iter().find(|record| record.is_well()) {
                    let chosen = picker.record(picked).is_some_and(Record::is_well);
                    prop_assert!(chosen, "{well:?} is well, {picked:?} is not");
                }
            }
        }
    }
}
