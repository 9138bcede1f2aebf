//! Changes of the membership on clusters of all sizes, by etcd's rules.

use std::collections::BTreeMap;

use super::*;

const RULES: Rules = Rules { strict: true, learners_max: 1 };

fn url(member: u64) -> Vec<String> {
    vec![format!("http://m{member}:2380")]
}

fn id(member: u64) -> MemberId {
    MemberId(member)
}

/// A cluster whose voters all started and answer.
struct Cluster {
    members: Members,
    membership: Membership,
    seen: Seen,
}

impl Cluster {
    fn of(voters: u64) -> Self {
        let ids: BTreeSet<MemberId> = (1..=voters).map(MemberId).collect();
        let nodes: BTreeMap<_, _> = ids.iter().map(|member| (*member, url(member.0))).collect();
        let member = |member: &MemberId| Member {
            name: format!("m{member}"),
            peer_urls: url(member.0),
            ..Member::default()
        };
        let present = ids.iter().map(|id| (*id, member(id))).collect();
        Self {
            members: Members { present, removed: BTreeSet::from([id(99)]) },
            membership: Membership { voters: vec![ids.clone()], nodes },
            seen: Seen { connected: ids.clone(), in_sync: ids },
        }
    }

    /// With a member that never started.
    fn with(mut self, member: u64, change: impl FnOnce(&mut Member)) -> Self {
        let mut added = Member { peer_urls: url(member), ..Member::default() };
        change(&mut added);
        self.membership.nodes.insert(id(member), url(member));
        self.members.present.insert(id(member), added);
        self
    }

    fn learner(self, member: u64) -> Self {
        self.with(member, |member| member.is_learner = true)
    }

    fn down(mut self, members: &[u64]) -> Self {
        self.seen.connected.retain(|member| !members.contains(&member.0));
        self
    }

    fn plan(&self, change: &MemberChange) -> Result<Plan, Refused> {
        change.plan(&self.members, &self.membership, RULES, &self.seen)
    }

    fn refused(&self, change: &MemberChange) -> Refused {
        self.plan(change).expect_err("it is refused")
    }
}

fn add(member: u64, is_learner: bool) -> MemberChange {
    MemberChange::Add { member: id(member), peer_urls: url(member), is_learner }
}

fn rejected(rejection: Rejection) -> Refused {
    Refused::Rejected(rejection)
}

/// The voters of the log, its learners, and what the entry says.
fn made(plan: Result<Plan, Refused>) -> (Vec<u64>, Vec<u64>, Option<Command>) {
    let plan = plan.expect("it is planned");
    let voters: Vec<u64> = plan.membership.voters[0].iter().map(|id| id.0).collect();
    let learners = plan.membership.nodes.keys().map(|id| id.0);
    let learners = learners.filter(|id| !voters.contains(id)).collect();
    (voters, learners, plan.command)
}

/// Hazard B4: who is added as a voter votes only when it has caught up.
#[test]
fn a_voter_enters_as_a_learner() {
    for voters in 1..=3 {
        let of = |members: u64| (1..=members).collect::<Vec<_>>();
        let cluster = Cluster::of(voters);
        let seat = Some(Command::ReserveSeat(id(7)));
        assert_eq!(made(cluster.plan(&add(7, false))), (of(voters), vec![7], seat));
        assert_eq!(made(cluster.plan(&add(7, true))), (of(voters), vec![7], None));
        let mut waiting = cluster.with(7, |member| member.seat_reserved = true);
        let silent = waiting.refused(&MemberChange::Seat(id(7)));
        assert_eq!(silent, rejected(Rejection::LearnerNotReady));
        waiting.seen.connected.insert(id(7));
        let (seated, learners, command) = made(waiting.plan(&MemberChange::Seat(id(7))));
        assert!(seated.contains(&7) && learners.is_empty() && command.is_none());
        let promoted = waiting.refused(&MemberChange::Promote(id(7)));
        assert_eq!(promoted, rejected(Rejection::NotLearner), "for an operator it votes");
    }
    let learner = Cluster::of(3).learner(7);
    assert_eq!(learner.refused(&MemberChange::Seat(id(7))), rejected(Rejection::NotLearner));
}

/// Rule C3, in etcd's order.
#[test]
fn what_cannot_be_added_is_refused() {
    let cluster = Cluster::of(3);
    assert_eq!(cluster.refused(&add(99, false)), rejected(Rejection::MemberNotFound));
    assert_eq!(cluster.refused(&add(2, true)), rejected(Rejection::MemberExists));
    let urls = [url(7), url(3)].concat();
    let taken = MemberChange::Add { member: id(7), peer_urls: urls, is_learner: false };
    assert_eq!(cluster.refused(&taken), rejected(Rejection::PeerUrlsExist));
    let full = Cluster::of(3).learner(8);
    assert_eq!(full.refused(&add(7, true)), rejected(Rejection::TooManyLearners));
    assert!(full.plan(&add(7, false)).is_ok(), "voters to be are no learners");
}

/// Rule C7: with n voters after it, a majority of n must have started.
#[test]
fn members_that_never_started_hold_up_others() {
    let waiting = |voters: u64| Cluster::of(voters).with(7, |member| member.seat_reserved = true);
    for (voters, may_add) in [(1, false), (2, false), (3, true), (5, true)] {
        let added = waiting(voters).plan(&add(8, false));
        assert_eq!(added.is_ok(), may_add, "{voters} started, one not: {added:?}");
        if !may_add {
            assert_eq!(added, Err(rejected(Rejection::NotEnoughStarted)));
        }
    }
    assert!(Cluster::of(1).plan(&add(8, false)).is_ok(), "one becomes two");
    let not_started = waiting(1);
    let removed = not_started.refused(&MemberChange::Remove(id(1)));
    assert_eq!(removed, rejected(Rejection::NotEnoughStarted));
    assert!(not_started.plan(&MemberChange::Remove(id(7))).is_ok());
    let mut learner = Cluster::of(1).with(7, |member| member.seat_reserved = true).learner(8);
    learner.seen.in_sync.insert(id(8));
    assert!(learner.plan(&MemberChange::Promote(id(8))).is_ok(), "two of three");
    let mut lonely = learner.with(9, |member| member.seat_reserved = true);
    lonely.seen.in_sync.insert(id(8));
    let promoted = lonely.refused(&MemberChange::Promote(id(8)));
    assert_eq!(promoted, rejected(Rejection::NotEnoughStarted), "two of four");
}

/// Rule C8.
#[test]
fn members_that_do_not_answer_hold_up_others() {
    assert!(Cluster::of(3).plan(&add(7, false)).is_ok());
    assert!(Cluster::of(5).down(&[5]).plan(&add(7, true)).is_ok());
    assert_eq!(Cluster::of(3).down(&[3]).refused(&add(7, true)), Refused::Unhealthy);
    let two_down = Cluster::of(3).down(&[3]);
    assert!(two_down.plan(&MemberChange::Remove(id(3))).is_ok(), "the one that is down");
    assert_eq!(two_down.refused(&MemberChange::Remove(id(2))), Refused::Unhealthy);
    assert!(Cluster::of(3).plan(&MemberChange::Remove(id(2))).is_ok());
    let lax = Rules { strict: false, ..RULES };
    let (members, membership) = (&two_down.members, &two_down.membership);
    assert!(add(7, false).plan(members, membership, lax, &two_down.seen).is_ok());
}

/// Who waits for its vote answers, but cannot help those that have one.
#[test]
fn a_reserved_seat_makes_no_majority() {
    let mut cluster = Cluster::of(3).with(4, |member| {
        (member.seat_reserved, member.name) = (true, "m4".to_owned());
    });
    cluster.seen.connected.insert(id(4));
    assert!(cluster.plan(&MemberChange::Remove(id(2))).is_ok(), "two of two are left");
    let cluster = cluster.down(&[3]);
    assert_eq!(cluster.refused(&MemberChange::Remove(id(2))), Refused::Unhealthy);
    assert!(cluster.plan(&MemberChange::Remove(id(3))).is_ok(), "the one that is down");
}

#[test]
fn the_last_voter_stays() {
    let last = Cluster::of(1).refused(&MemberChange::Remove(id(1)));
    assert_eq!(last, rejected(Rejection::NotEnoughStarted));
    let unknown = Cluster::of(1).refused(&MemberChange::Remove(id(5)));
    assert_eq!(unknown, rejected(Rejection::MemberNotFound));
    let lax = Rules { strict: false, ..RULES };
    let one = Cluster::of(1);
    let removed = MemberChange::Remove(id(1)).plan(&one.members, &one.membership, lax, &one.seen);
    assert_eq!(removed, Err(rejected(Rejection::NotEnoughStarted)), "nobody could undo it");
}

/// Rules C5 and C6.
#[test]
fn updates_and_promotions() {
    let cluster = Cluster::of(3).learner(7);
    let update = |member: u64, peer_urls| MemberChange::Update { member: id(member), peer_urls };
    let moved = cluster.plan(&update(2, url(22))).expect("it is planned");
    assert_eq!(moved.membership.nodes[&id(2)], url(22));
    assert_eq!(cluster.refused(&update(2, url(3))), rejected(Rejection::PeerUrlsExist));
    assert!(cluster.plan(&update(2, url(2))).is_ok(), "its own are not taken");
    assert_eq!(cluster.refused(&update(5, url(5))), rejected(Rejection::MemberNotFound));
    let promote = MemberChange::Promote(id(7));
    assert_eq!(cluster.refused(&promote), rejected(Rejection::LearnerNotReady));
    let mut cluster = cluster;
    cluster.seen.in_sync.insert(id(7));
    assert_eq!(made(cluster.plan(&promote)), (vec![1, 2, 3, 7], vec![], None));
    let of_voter = cluster.refused(&MemberChange::Promote(id(2)));
    assert_eq!(of_voter, rejected(Rejection::NotLearner));
    let unknown = cluster.refused(&MemberChange::Promote(id(5)));
    assert_eq!(unknown, rejected(Rejection::MemberNotFound));
}
