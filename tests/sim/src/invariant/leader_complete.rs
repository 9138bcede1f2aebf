//! Leader Completeness (Raft paper, figure 3 and section 5.4): what was committed under a leader is in the logs of
//! all later ones. And one index is committed once: all members apply the same entry there.

use std::collections::BTreeMap;

use super::{Glance, Invariant, Leadership, REMEMBERED, name};

/// What was committed, who applied it first, and who led when.
#[derive(Default)]
pub struct LeaderComplete {
    committed: BTreeMap<u64, (Leadership, usize)>,
    applied: BTreeMap<usize, u64>,
    led: BTreeMap<usize, Leadership>,
}

impl Invariant for LeaderComplete {
    fn look(&mut self, members: &[Glance]) -> Result<(), String> {
        members.iter().try_for_each(|glance| self.note(glance))?;
        for glance in members.iter().filter(|glance| glance.leads) {
            let leadership = (glance.term, glance.member as u64 + 1);
            if self.led.insert(glance.member, leadership) != Some(leadership) {
                self.has_all(glance, leadership)?;
            }
        }
        while self.committed.len() > REMEMBERED {
            self.committed.pop_first();
        }
        Ok(())
    }
}

impl LeaderComplete {
    /// What a member applied was committed.
    fn note(&mut self, glance: &Glance) -> Result<(), String> {
        let before = self.applied.insert(glance.member, glance.applied).unwrap_or(0);
        let first = (before + 1).max(glance.applied.saturating_sub(REMEMBERED as u64));
        for index in first..=glance.applied {
            let of = match index == glance.applied {
                true => Some(glance.applied_of),
                false => glance.entries.of(index),
            };
            let Some(of) = of else { continue };
            let known = *self.committed.entry(index).or_insert((of, glance.member));
            if known.0 != of {
                let (who, other) = (name(known.1), name(glance.member));
                return Err(format!(
                    "committed twice: {who} applied {:?} at index {index}, {other} {of:?}",
                    known.0
                ));
            }
        }
        Ok(())
    }

    /// A member begins to lead.
    fn has_all(&self, glance: &Glance, leadership: Leadership) -> Result<(), String> {
        for (index, (of, _)) in self.committed.iter().filter(|(_, (of, _))| *of < leadership) {
            let has = glance.entries.of(*index);
            let lacks = *index > glance.last || has.is_some_and(|has| has != *of);
            if lacks {
                let who = name(glance.member);
                return Err(format!(
                    "leader completeness: {who} leads {leadership:?} with {has:?} at index {index}, \
                     where {of:?} was committed"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::log;
    use super::*;

    const A: Leadership = (1, 1);
    const B: Leadership = (2, 3);

    /// The first member committed three entries of its own.
    fn committed() -> LeaderComplete {
        let mut invariant = LeaderComplete::default();
        let first = Glance { leads: true, applied: 3, applied_of: A, ..log(0, &[A, A, A]) };
        assert!(invariant.look(&[first]).is_ok());
        invariant
    }

    fn leads(entries: &[Leadership]) -> Glance {
        Glance { leads: true, term: 2, ..log(2, entries) }
    }

    #[test]
    fn a_later_leader_must_have_what_was_committed() {
        assert!(committed().look(&[leads(&[A, A, A, B])]).is_ok());
        assert!(committed().look(&[leads(&[A, A])]).is_err());
        assert!(committed().look(&[leads(&[A, A, B, B])]).is_err());
        let follows = Glance { leads: false, ..leads(&[A, A]) };
        assert!(committed().look(&[follows]).is_ok(), "who follows may lack it");
    }

    #[test]
    fn another_entry_that_is_applied_at_an_index_is_found() {
        let other = Glance { applied: 2, applied_of: B, ..log(1, &[A, B]) };
        assert!(committed().look(&[other]).is_err());
        let between = Glance { applied: 3, applied_of: A, ..log(1, &[A, B, A]) };
        assert!(committed().look(&[between]).is_err());
    }
}
