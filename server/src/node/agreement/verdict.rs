//! Whose state is wrong: a pure judgement over what members told of theirs (hazard B10).
//!
//! Only equal indexes are compared, so nobody is wrong for being slow. Only a majority of voters names who
//! differs from it; where there can be none, nobody is taken to be right. A member that is fenced was judged
//! before: it counts neither for others nor as one that may still be heard.

use std::collections::{BTreeMap, BTreeSet};

use kvd_core::ids::{Index, MemberId, Revision};
use kvd_core::view::StateHash;

use crate::samples::Sample;

/// What one member tells of its state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// Its samples.
    pub(crate) samples: Vec<Sample>,
    /// It knows that its state is not the majority's.
    pub(crate) fenced: bool,
}

/// What is the same in equal states.
pub(crate) type Value = (StateHash, Revision, Option<Revision>);

/// One member that differs from a majority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Odd {
    /// The first index known at which it does.
    pub(crate) index: Index,
    /// What it has there.
    pub(crate) own: Value,
    /// What the majority has.
    pub(crate) others: Value,
    /// Who the majority is.
    pub(crate) majority: Vec<MemberId>,
}

/// Voters that differ, and no majority among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Split {
    /// The first index known at which they do.
    pub(crate) index: Index,
    /// Who has what.
    pub(crate) sides: BTreeMap<Value, Vec<MemberId>>,
}

/// What can be said of all members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// The newest index at which a majority of voters has the same state.
    pub(crate) agreed: Option<Index>,
    /// Who differs from a majority.
    pub(crate) odd: BTreeMap<MemberId, Odd>,
    /// Voters differ and no voter that is silent could bring about a majority.
    pub(crate) split: Option<Split>,
    /// Voters differ, and only a voter that is silent could tell who is right.
    pub(crate) undecided: Option<Split>,
}

/// Judges what members told, this one included, in a cluster with these voters (several sets while the
/// membership changes: a majority is then one of each).
pub(crate) fn judge(told: &BTreeMap<MemberId, Told>, voter_sets: &[BTreeSet<MemberId>]) -> Verdict {
    let voters: BTreeSet<MemberId> = voter_sets.iter().flatten().copied().collect();
    let mut verdict = Verdict::default();
    let mut open = Vec::new();
    for (index, values) in by_index(told) {
        let counts = |id: &MemberId| voters.contains(id) && !is_fenced(told, *id);
        let mut sides: BTreeMap<Value, Vec<MemberId>> = BTreeMap::new();
        for (id, value) in values.iter().filter(|(id, _)| counts(id)) {
            sides.entry(*value).or_default().push(*id);
        }
        let majority = sides.iter().find(|(_, side)| is_majority(voter_sets, side));
        if let Some((value, side)) = majority {
            verdict.agreed = Some(index);
            for (id, own) in values.iter().filter(|(_, own)| *own != value) {
                let (own, others, majority) = (*own, *value, side.clone());
                verdict.odd.entry(*id).or_insert(Odd { index, own, others, majority });
            }
        } else if sides.len() > 1 {
            open.push(Split { index, sides });
        }
    }
    for split in open {
        file(split, told, voter_sets, &voters, &mut verdict);
    }
    verdict
}

/// Files a difference without a majority: as split, as undecided, or not at all if the members that are known
/// to be wrong explain it.
fn file(
    split: Split,
    told: &BTreeMap<MemberId, Told>,
    voter_sets: &[BTreeSet<MemberId>],
    voters: &BTreeSet<MemberId>,
    verdict: &mut Verdict,
) {
    let heard: BTreeSet<MemberId> = split.sides.values().flatten().copied().collect();
    let silent = voters.iter().filter(|id| !heard.contains(id) && !is_fenced(told, **id));
    let silent: Vec<MemberId> = silent.copied().collect();
    let may_win = |side: &Vec<MemberId>| is_majority(voter_sets, &[&side[..], &silent].concat());
    if !split.sides.values().any(may_win) {
        verdict.split.get_or_insert(split);
        return;
    }
    let of_the_right = |side: &&Vec<MemberId>| !side.iter().all(|id| verdict.odd.contains_key(id));
    if split.sides.values().filter(of_the_right).count() > 1 {
        verdict.undecided.get_or_insert(split);
    }
}

/// Whether all voters were compared at one index and have the same state there, but for those that are known to
/// be wrong.
pub(crate) fn is_unanimous(
    told: &BTreeMap<MemberId, Told>,
    voter_sets: &[BTreeSet<MemberId>],
    verdict: &Verdict,
) -> bool {
    let Some(agreed) = verdict.agreed else { return false };
    let unknown = |id: &MemberId| !is_fenced(told, *id);
    let open =
        verdict.split.is_some() || verdict.undecided.is_some() || verdict.odd.keys().any(unknown);
    let compared = |id: &MemberId| {
        let told = told.get(id);
        told.is_some_and(|told| told.fenced || values_of(told).any(|(index, _)| index == agreed))
    };
    !open && voter_sets.iter().flatten().all(compared)
}

/// Who was contradicted by whom, among those that told something: the first index known at which the state of
/// `member` differs from another's that is not fenced.
pub(crate) fn contradicted(
    member: MemberId,
    told: &BTreeMap<MemberId, Told>,
) -> Option<(Index, MemberId)> {
    let own: BTreeMap<Index, Value> = values_of(told.get(&member)?).collect();
    let others = told.iter().filter(|(id, other)| **id != member && !other.fenced);
    let mut found = None;
    for (id, other) in others {
        let differs = |(index, value): &(Index, Value)| own.get(index).is_some_and(|o| o != value);
        let first = values_of(other).find(differs).map(|(index, _)| (index, *id));
        found = [found, first].into_iter().flatten().min();
    }
    found
}

/// Who contradicts a member whose side no majority is on: the first index known at which its state differs from
/// that of another that is not fenced. A state like that must not take another's place: with it, it could become
/// the majority's.
pub(crate) fn disputed(
    member: MemberId,
    told: &BTreeMap<MemberId, Told>,
    voter_sets: &[BTreeSet<MemberId>],
) -> Option<(Index, MemberId)> {
    by_index(told).into_iter().find_map(|(index, values)| {
        let own = values.get(&member)?;
        let heard = || values.iter().filter(|(id, _)| !is_fenced(told, **id));
        let (by, _) = heard().find(|(_, value)| *value != own)?;
        let side = heard().filter(|(_, value)| *value == own).map(|(id, _)| *id);
        let backed = is_majority(voter_sets, &side.collect::<Vec<_>>());
        (!backed).then_some((index, *by))
    })
}

fn by_index(told: &BTreeMap<MemberId, Told>) -> BTreeMap<Index, BTreeMap<MemberId, Value>> {
    let mut indexes: BTreeMap<Index, BTreeMap<MemberId, Value>> = BTreeMap::new();
    for (id, one) in told {
        for (index, value) in values_of(one) {
            indexes.entry(index).or_default().insert(*id, value);
        }
    }
    indexes
}

fn values_of(told: &Told) -> impl Iterator<Item = (Index, Value)> {
    told.samples
        .iter()
        .map(|sample| (sample.index, (sample.hash, sample.revision, sample.compacted)))
}

fn is_fenced(told: &BTreeMap<MemberId, Told>, id: MemberId) -> bool {
    told.get(&id).is_some_and(|told| told.fenced)
}

fn is_majority(voter_sets: &[BTreeSet<MemberId>], side: &[MemberId]) -> bool {
    let most = |set: &BTreeSet<MemberId>| {
        2 * side.iter().filter(|id| set.contains(id)).count() > set.len()
    };
    !voter_sets.is_empty() && voter_sets.iter().all(most)
}

#[cfg(test)]
mod tests;
