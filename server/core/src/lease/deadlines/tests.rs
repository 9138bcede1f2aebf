//! One member's deadlines, and those of several members against what a leader granted.

use proptest::prelude::*;

use super::*;

const ELECTION: Duration = Duration::from_secs(1);
const A: LeaseId = LeaseId(7);

fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn terms(ttl_seconds: i64) -> LeaseTerms {
    LeaseTerms { ttl_seconds, granted_at: Index(1), remaining_seconds: 0 }
}

fn granted(id: LeaseId, ttl_seconds: i64) -> LeaseChange {
    LeaseChange::Granted { id, terms: terms(ttl_seconds) }
}

fn deadlines() -> Deadlines {
    Deadlines::new(ELECTION)
}

fn overdue(id: LeaseId) -> Overdue {
    Overdue { id, granted_at: Index(1) }
}

#[test]
fn a_lease_ends_at_its_time_and_not_before() {
    let mut here = deadlines();
    here.follow(granted(A, 10), Duration::from_micros(5_000_500), true);
    assert_eq!(here.next(), Some(at(15_001)), "rounded up");
    assert_eq!(here.take_overdue(at(15_000), 10), []);
    assert_eq!(here.standing(A, at(15_000), at(15_000)), Standing::Due);
    assert_eq!(here.take_overdue(at(15_001), 10), [overdue(A)]);
    assert_eq!(here.standing(A, at(15_000), at(15_001)), Standing::Overdue);
    here.follow(LeaseChange::Ended { id: A }, at(15_100), true);
    assert_eq!((here.count(), here.next()), (0, None));
    assert_eq!(here.standing(A, at(15_200), at(15_200)), Standing::Unknown);
}

#[test]
fn who_did_not_propose_waits_an_election_longer() {
    let mut other = deadlines();
    other.follow(granted(A, 10), at(0), false);
    assert_eq!(other.next(), Some(at(11_000)));
    assert_eq!(other.left(A, at(0)).unwrap().seconds(), 10, "which is not shown");
    other.follow(LeaseChange::Renewed { id: A }, at(4_000), false);
    assert_eq!(other.next(), Some(at(15_000)));
    assert_eq!(other.left(A, at(20_500)).unwrap().seconds(), -5, "cut off towards zero");
}

#[test]
fn a_member_that_starts_goes_by_what_was_noted() {
    let mut here = deadlines();
    here.follow(granted(LeaseId(9), 5), at(0), true);
    let noted = LeaseTerms { remaining_seconds: 40, ..terms(3600) };
    here.load([(A, noted), (LeaseId(8), terms(60))], at(1_000));
    assert_eq!(here.count(), 2);
    assert_eq!(here.take_overdue(at(41_999), 10), []);
    assert_eq!(here.take_overdue(at(42_000), 10), [overdue(A)]);
    assert_eq!(here.take_overdue(at(62_000), 10), [overdue(A), overdue(LeaseId(8))]);
}

/// What a member replays when it starts: the grant, and the note that came later.
#[test]
fn a_note_of_another_counts_and_an_own_one_does_not() {
    let mut here = deadlines();
    let noted = LeaseChange::Noted { id: A, seconds: 20 };
    here.follow(granted(A, 30), at(5_000), false);
    here.follow(noted, at(5_000), true);
    assert_eq!(here.next(), Some(at(36_000)));
    here.follow(noted, at(5_000), false);
    assert_eq!(here.next(), Some(at(26_000)));
    here.follow(LeaseChange::Noted { id: A, seconds: 25 }, at(5_000), false);
    assert_eq!(here.next(), Some(at(26_000)), "a note never gives time");
}

/// Rule L14.
#[test]
fn what_could_not_be_ended_comes_again_after_three_seconds() {
    let mut here = deadlines();
    here.follow(granted(A, 1), at(0), true);
    assert_eq!(here.take_overdue(at(1_000), 10), [overdue(A)]);
    assert_eq!((here.take_overdue(at(3_999), 10), here.next()), (Vec::new(), Some(at(4_000))));
    assert!(here.is_overdue(overdue(A), at(3_999)));
    assert_eq!(here.take_overdue(at(4_000), 10), [overdue(A)]);
}

#[test]
fn the_earliest_come_first_and_no_more_than_asked_for() {
    let mut here = deadlines();
    for id in 1..=5 {
        here.follow(granted(LeaseId(id), 10 - id), at(0), true);
    }
    let taken = here.take_overdue(at(60_000), 2);
    assert_eq!(taken, [overdue(LeaseId(5)), overdue(LeaseId(4))]);
    assert_eq!(here.take_overdue(at(60_000), 9).len(), 3);
    let page: Vec<_> = here.page(Some(LeaseId(3)), 9, at(0)).iter().map(|left| left.id).collect();
    assert_eq!(page, [LeaseId(4), LeaseId(5)]);
}

/// Between a renewal's way into the log and its answer nothing may end the lease: the end would come behind
/// the renewal, and the client was told that it lives.
#[test]
fn a_lease_is_not_ended_while_its_renewal_is_on_its_way() {
    let mut here = deadlines();
    here.follow(granted(A, 1), at(0), true);
    assert!(here.begin_renewal(A, at(999)));
    assert_eq!((here.take_overdue(at(5_000), 10), here.next()), (Vec::new(), None));
    assert!(!here.is_overdue(overdue(A), at(5_000)));
    here.follow(LeaseChange::Renewed { id: A }, at(5_000), true);
    here.end_renewal(A, Some(at(999)));
    assert_eq!(here.next(), Some(at(6_000)));
    // Without an answer it ends.
    assert!(here.begin_renewal(A, at(5_900)));
    here.end_renewal(A, None);
    assert_eq!(here.take_overdue(at(6_000), 10), [overdue(A)]);
    assert!(!here.begin_renewal(A, at(6_000)), "rule L8");
    assert!(here.begin_renewal(LeaseId(99), at(6_000)), "the log knows better");
}

#[test]
fn another_grant_of_the_id_is_another_lease() {
    let mut here = deadlines();
    here.follow(granted(A, 1), at(0), true);
    let taken = here.take_overdue(at(1_000), 10);
    here.follow(LeaseChange::Ended { id: A }, at(1_000), true);
    let again = LeaseTerms { granted_at: Index(2), ..terms(1) };
    here.follow(LeaseChange::Granted { id: A, terms: again }, at(1_000), true);
    assert!(!here.is_overdue(taken[0], at(9_000)));
    assert!(here.is_overdue(Overdue { id: A, granted_at: Index(2) }, at(9_000)));
}

#[test]
fn a_fresh_lease_is_renewed_without_the_log() {
    let mut here = deadlines();
    here.follow(granted(A, 10), at(0), true);
    assert_eq!(here.renew_fresh(A, at(1), at(1)), None, "a grant is no renewal");
    assert!(here.begin_renewal(A, at(5_000)));
    here.follow(LeaseChange::Renewed { id: A }, at(5_300), true);
    here.end_renewal(A, Some(at(5_000)));
    assert_eq!(here.renew_fresh(A, at(5_999), at(6_400)), Some(10), "by when it arrived");
    assert_eq!(here.next(), Some(at(15_999)));
    assert_eq!(here.renew_fresh(A, at(6_000), at(6_000)), None);
    assert_eq!(here.standing(A, at(6_000), at(6_000)), Standing::Due);
    assert!(here.left(A, at(6_000)).unwrap().kept_alive);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Time passes.
    Pass(u64),
    /// A client renews with the leader.
    Renew,
    /// A follower applies up to there.
    Apply(usize),
    /// A follower starts anew.
    Restart(usize),
    /// The leader notes what is left.
    Note,
    /// Another member leads, once it has applied everything.
    Lead(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1_u64..1_500).prop_map(Step::Pass),
        6 => Just(Step::Renew),
        4 => (0_usize..3).prop_map(Step::Apply),
        1 => (0_usize..3).prop_map(Step::Restart),
        1 => Just(Step::Note),
        2 => (0_usize..3).prop_map(Step::Lead),
    ]
}

/// Three members and one lease of ten seconds, with what each entry did.
struct World {
    now: u64,
    members: [Deadlines; 3],
    /// Entries: who proposed, and what they note as left; `None` for a renewal.
    log: Vec<(usize, Option<i64>)>,
    applied: [usize; 3],
    /// Entries before this one were proposed by a process that is gone.
    proposed_before: [usize; 3],
    leader: usize,
    /// When the last acknowledged renewal arrived.
    renewed: u64,
    /// When the last entry that renews was applied by its leader.
    entry: u64,
    /// A member that started since goes by what was noted, so it may be late by more.
    restarted: [bool; 3],
}

impl World {
    fn new() -> Self {
        let mut members = [deadlines(), deadlines(), deadlines()];
        for (number, member) in members.iter_mut().enumerate() {
            member.follow(granted(A, 10), at(0), number == 0);
        }
        Self {
            now: 0,
            members,
            log: Vec::new(),
            applied: [0; 3],
            proposed_before: [0; 3],
            leader: 0,
            renewed: 0,
            entry: 0,
            restarted: [false; 3],
        }
    }

    fn apply(&mut self, member: usize) {
        for at_entry in self.applied[member]..self.log.len() {
            let (proposer, noted) = self.log[at_entry];
            let here = proposer == member && at_entry >= self.proposed_before[member];
            let change = match noted {
                None => LeaseChange::Renewed { id: A },
                Some(seconds) => LeaseChange::Noted { id: A, seconds },
            };
            self.members[member].follow(change, at(self.now), here);
        }
        self.applied[member] = self.log.len();
    }

    fn renew(&mut self) {
        let (leader, now) = (self.leader, at(self.now));
        match self.members[leader].standing(A, now, now) {
            Standing::Fresh => {
                assert_eq!(self.members[leader].renew_fresh(A, now, now), Some(10));
            }
            Standing::Due => {
                assert!(self.members[leader].begin_renewal(A, now));
                self.log.push((leader, None));
                self.apply(leader);
                self.members[leader].end_renewal(A, Some(now));
                self.entry = self.now;
                self.restarted = [false; 3];
            }
            Standing::Overdue | Standing::Unknown => return,
        }
        self.renewed = self.now;
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Pass(ms) => self.now += ms,
            Step::Renew => self.renew(),
            Step::Apply(member) => self.apply(member),
            Step::Restart(member) => {
                if member != self.leader {
                    // From a checkpoint somewhere before; the log from there on is replayed.
                    let applied = self.applied[member];
                    let checkpoint = applied / 2;
                    let noted = self.log[..checkpoint].last().and_then(|(_, noted)| *noted);
                    let noted = noted.unwrap_or(0);
                    let terms = LeaseTerms { remaining_seconds: noted, ..terms(10) };
                    self.members[member] = deadlines();
                    self.members[member].load([(A, terms)], at(self.now));
                    self.proposed_before[member] = self.log.len();
                    self.restarted[member] = true;
                    self.applied[member] = checkpoint;
                    self.apply(member);
                }
            }
            Step::Note => {
                let left = self.members[self.leader].left(A, at(self.now)).unwrap();
                if left.seconds_up() > 0 {
                    self.log.push((self.leader, Some(left.seconds_up())));
                    self.apply(self.leader);
                }
            }
            Step::Lead(member) => {
                self.apply(member);
                self.leader = member;
            }
        }
    }

    /// Whoever could lead now, having applied everything, ends the lease neither early nor much too late.
    fn check(&mut self) {
        for member in 0..3 {
            if self.applied[member] < self.log.len() {
                continue;
            }
            let ends = self.members[member].next().unwrap();
            assert!(ends >= at(self.renewed + 10_000), "early: {ends:?} on {member}");
            if member == self.leader && !self.restarted[member] {
                // Members apply within the time between two looks.
                let late = at(self.now.max(self.renewed)) + at(11_000);
                assert!(ends <= late, "late: {ends:?} on {member}");
            }
        }
    }
}

proptest! {
    /// No order of renewals, late followers, restarts, notes and elections lets anybody end a lease within the
    /// time that a client was told it has.
    #[test]
    fn nobody_ends_a_lease_early(steps in proptest::collection::vec(step(), 1..80)) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
            world.check();
        }
    }
}
