//! Cases by hand, then the same over drawn clusters.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// A state with this number at an index; equal numbers, equal states.
fn sample(index: u64, state: u64) -> Sample {
    let hash = StateHash { live: state, history: index };
    Sample { index: Index(index), hash, revision: Revision(1), compacted: None }
}

fn told(samples: &[(u64, u64)]) -> Told {
    let samples = samples.iter().map(|(index, state)| sample(*index, *state)).collect();
    Told { samples, fenced: false }
}

fn fenced(samples: &[(u64, u64)]) -> Told {
    Told { fenced: true, ..told(samples) }
}

/// Members 1, 2, … tell this; the first so many vote.
fn judged(voters: u64, told: Vec<Told>) -> Verdict {
    let told = (1..).map(MemberId).zip(told).collect();
    judge(&told, &[(1..=voters).map(MemberId).collect()])
}

/// Who is odd, and from which index on.
fn odd(verdict: &Verdict) -> Vec<(u64, u64)> {
    verdict.odd.iter().map(|(id, odd)| (id.0, odd.index.0)).collect()
}

#[test]
fn members_that_agree_are_left_alone() {
    let verdict = judged(3, vec![told(&[(8, 1), (16, 2)]), told(&[(8, 1)]), told(&[])]);
    assert_eq!(verdict, Verdict { agreed: Some(Index(8)), ..Verdict::default() });
    assert_eq!(judged(3, vec![told(&[]), told(&[]), told(&[])]), Verdict::default());
    assert_eq!(judged(1, vec![told(&[(8, 1)])]).agreed, Some(Index(8)), "alone in its cluster");
}

#[test]
fn a_majority_names_who_differs_and_since_when() {
    let wrong = told(&[(8, 1), (16, 66), (24, 67)]);
    let right = told(&[(8, 1), (16, 2), (24, 3)]);
    let verdict = judged(3, vec![right.clone(), wrong, right]);
    assert_eq!(odd(&verdict), [(2, 16)]);
    assert_eq!(verdict.agreed, Some(Index(24)));
    let named = &verdict.odd[&MemberId(2)];
    assert_eq!(named.majority, [MemberId(1), MemberId(3)]);
    assert_eq!((named.own.0.live, named.others.0.live), (66, 2));
    assert_eq!((verdict.split, verdict.undecided), (None, None));
}

#[test]
fn every_part_of_a_sample_counts() {
    let good = sample(8, 1);
    let bad = [
        Sample { hash: StateHash { live: 9, ..good.hash }, ..good },
        Sample { hash: StateHash { history: 9, ..good.hash }, ..good },
        Sample { revision: Revision(2), ..good },
        Sample { compacted: Some(Revision(1)), ..good },
    ];
    for bad in bad {
        let one = |sample| Told { samples: vec![sample], fenced: false };
        let verdict = judged(3, vec![one(bad), one(good), one(good)]);
        assert_eq!(odd(&verdict), [(1, 8)], "{bad:?}");
    }
}

/// Whether what member 1 has is disputed, and by whom; all vote.
fn disputed_first(told: Vec<Told>) -> Option<(u64, u64)> {
    let told: BTreeMap<_, _> = (1..).map(MemberId).zip(told).collect();
    let found = disputed(MemberId(1), &told, &[told.keys().copied().collect()]);
    found.map(|(index, by)| (index.0, by.0))
}

#[test]
fn a_state_is_disputed_until_a_majority_backs_it() {
    let (one, other) = (told(&[(8, 1), (16, 2)]), told(&[(8, 1), (16, 66)]));
    let silent = told(&[]);
    let of_one = [one.clone(), other.clone(), silent.clone()];
    assert_eq!(disputed_first(of_one.to_vec()), Some((16, 2)), "the third could decide either way");
    assert_eq!(disputed_first(vec![one.clone(), other.clone(), one.clone()]), None, "it did");
    assert_eq!(disputed_first(vec![one.clone(), other.clone(), other.clone()]), Some((16, 2)));
    assert_eq!(disputed_first(vec![one.clone(), silent.clone(), silent]), None);
    let judged = fenced(&[(8, 1), (16, 66)]);
    assert_eq!(disputed_first(vec![one.clone(), judged, told(&[])]), None, "it was judged before");
    assert_eq!(disputed_first(vec![told(&[(24, 3)]), other, one]), None, "nothing to compare at");
}

#[test]
fn nobody_may_be_missing_where_all_agree() {
    let unanimous = |told: Vec<Told>| {
        let voters = [(1..=3).map(MemberId).collect()];
        let told = (1..).map(MemberId).zip(told).collect();
        is_unanimous(&told, &voters, &judge(&told, &voters))
    };
    let (one, other) = (told(&[(8, 1), (16, 2)]), told(&[(8, 1), (16, 66)]));
    assert!(unanimous(vec![one.clone(), one.clone(), one.clone()]));
    assert!(unanimous(vec![one.clone(), one.clone(), fenced(&[(16, 66)])]), "known to be wrong");
    assert!(!unanimous(vec![one.clone(), one.clone(), other.clone()]), "not known to itself yet");
    assert!(!unanimous(vec![one.clone(), one.clone(), told(&[(8, 1)])]), "not that far yet");
    assert!(!unanimous(vec![one.clone(), one.clone()]), "silent");
    assert!(!unanimous(vec![one, other, told(&[(8, 1)])]), "undecided");
}

#[test]
fn two_that_differ_wait_for_the_third() {
    let verdict = judged(3, vec![told(&[(8, 1)]), told(&[(8, 2)])]);
    assert_eq!(verdict.undecided.unwrap().index, Index(8));
    assert_eq!((verdict.split, verdict.odd.len()), (None, 0));
    // It has only later entries: they tell as well, and explain the first.
    let (one, two) = (told(&[(8, 1), (16, 1)]), told(&[(8, 2), (16, 2)]));
    let verdict = judged(3, vec![one, two, told(&[(16, 2)])]);
    assert_eq!(odd(&verdict), [(1, 16)]);
    assert_eq!((verdict.split, verdict.undecided), (None, None));
}

#[test]
fn without_a_majority_nobody_is_right() {
    for told in [
        vec![told(&[(8, 1)]), told(&[(8, 2)]), told(&[(8, 3)])],
        vec![told(&[(8, 1)]), told(&[(8, 2)]), fenced(&[(8, 1)])],
        vec![told(&[(8, 1)]), told(&[(8, 2)]), fenced(&[])],
    ] {
        let verdict = judged(3, told);
        assert_eq!(verdict.split.unwrap().index, Index(8));
        assert_eq!((verdict.undecided, verdict.odd.len()), (None, 0));
    }
    let of_two = judged(2, vec![told(&[(8, 1)]), told(&[(8, 2)])]);
    assert_eq!(of_two.split.unwrap().sides.len(), 2);
}

#[test]
fn a_fenced_member_is_named_and_does_not_count() {
    let verdict = judged(3, vec![told(&[(8, 1)]), told(&[(8, 1)]), fenced(&[(8, 2)])]);
    assert_eq!(odd(&verdict), [(3, 8)]);
    let verdict = judged(3, vec![told(&[(8, 1)]), fenced(&[(8, 1)])]);
    assert_eq!(verdict, Verdict::default(), "one of three is no majority");
}

#[test]
fn a_member_without_a_vote_is_judged_but_does_not_judge() {
    let (right, wrong) = (told(&[(8, 1)]), told(&[(8, 2)]));
    let verdict = judged(2, vec![right.clone(), right.clone(), wrong.clone()]);
    assert_eq!(odd(&verdict), [(3, 8)]);
    let verdict = judged(2, vec![right.clone(), wrong.clone(), wrong]);
    assert!(verdict.odd.is_empty() && verdict.split.is_some());
}

#[test]
fn while_the_membership_changes_both_sets_must_agree() {
    let sets = [[1, 2, 3], [3, 4, 5]].map(|set| set.map(MemberId).into_iter().collect());
    let (right, wrong) = (told(&[(8, 1)]), told(&[(8, 2)]));
    let all = [&right, &right, &right, &right, &wrong].map(Clone::clone);
    let told = (1..).map(MemberId).zip(all).collect();
    assert_eq!(odd(&judge(&told, &sets)), [(5, 8)]);
    let all = [&right, &right, &right, &wrong, &wrong].map(Clone::clone);
    let told = (1..).map(MemberId).zip(all).collect();
    let verdict = judge(&told, &sets);
    assert!(verdict.odd.is_empty() && verdict.split.is_some());
    assert_eq!(judge(&told, &[]), Verdict::default(), "no members are known yet");
}

#[test]
fn whoever_is_contradicted_is_not_to_be_trusted_blindly() {
    let all = |told: Vec<Told>| (1..).map(MemberId).zip(told).collect();
    let (right, wrong) = (told(&[(8, 1), (16, 1)]), told(&[(8, 1), (16, 2)]));
    let two = all(vec![right.clone(), wrong.clone()]);
    assert_eq!(contradicted(MemberId(1), &two), Some((Index(16), MemberId(2))));
    assert_eq!(contradicted(MemberId(2), &two), Some((Index(16), MemberId(1))));
    let judged_before = all(vec![right.clone(), Told { fenced: true, ..wrong }]);
    assert_eq!(contradicted(MemberId(1), &judged_before), None);
    assert_eq!(contradicted(MemberId(1), &all(vec![right.clone(), right])), None);
    assert_eq!(contradicted(MemberId(3), &two), None, "it told nothing");
}

/// One member of a drawn cluster: from which sample on its state is wrong, which samples it keeps.
#[derive(Clone, Debug)]
struct Drawn {
    wrong_since: Option<u64>,
    first: u64,
    count: u64,
}

impl Drawn {
    fn tell(&self, id: u64) -> Told {
        let state = |index: u64| match self.wrong_since {
            // A wrong state is like no other.
            Some(since) if index >= since => 1000 * id + index,
            _ => index,
        };
        let samples = (self.first..self.first + self.count).map(|index| (index, state(index)));
        told(&samples.collect::<Vec<_>>())
    }

    fn is_wrong(&self) -> bool {
        self.wrong_since.is_some()
    }
}

fn member(wrong: impl Strategy<Value = Option<u64>>) -> impl Strategy<Value = Drawn> {
    (wrong, 0..12_u64, 0..12_u64).prop_map(|(wrong_since, first, count)| Drawn {
        wrong_since,
        first,
        count,
    })
}

fn tell(members: &[Drawn]) -> Verdict {
    let told = members.iter().zip(1..).map(|(member, id)| member.tell(id)).collect();
    judged(members.len() as u64, told)
}

proptest! {
    #[test]
    fn a_healthy_cluster_is_never_accused(members in vec(member(Just(None)), 1..8)) {
        let verdict = tell(&members);
        prop_assert!(verdict.odd.is_empty());
        prop_assert_eq!((verdict.split, verdict.undecided), (None, None));
    }

    /// While most are right, only the wrong are named, and a split is never made up.
    #[test]
    fn the_right_are_never_named_while_they_are_most(
        members in vec(member(proptest::option::of(0..24_u64)), 1..8),
    ) {
        let wrong = members.iter().filter(|member| member.is_wrong()).count();
        prop_assume!(2 * wrong < members.len());
        let verdict = tell(&members);
        for (id, odd) in &verdict.odd {
            let member = &members[usize::try_from(id.0).unwrap() - 1];
            prop_assert!(member.wrong_since <= Some(odd.index.0), "{:?}", odd);
            prop_assert!(member.is_wrong());
        }
        prop_assert_eq!(verdict.split, None);
    }

    /// All that told of an index at which they are wrong are named, if a majority of the right told of it too.
    #[test]
    fn the_wrong_are_named_by_a_majority(
        members in vec(member(proptest::option::of(0..24_u64)), 1..8),
    ) {
        let verdict = tell(&members);
        for index in 0..24 {
            let tells = |m: &Drawn| (m.first..m.first + m.count).contains(&index);
            let wrong = |m: &Drawn| m.wrong_since.is_some_and(|since| since <= index);
            let right = members.iter().filter(|m| tells(m) && !wrong(m)).count();
            if 2 * right <= members.len() {
                continue;
            }
            for (member, id) in members.iter().zip(1..).filter(|(m, _)| tells(m) && wrong(m)) {
                let odd = verdict.odd.get(&MemberId(id));
                prop_assert!(odd.is_some_and(|odd| odd.index.0 <= index), "{:?}", member);
            }
        }
    }
}
