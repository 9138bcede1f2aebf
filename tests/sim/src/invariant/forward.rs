//! A running member never goes back: term, applied index, revision and compaction mark only grow (Raft paper,
//! figure 2: currentTerm and lastApplied "increase monotonically"; etcd's rule M1 for the revision). The term
//! survives a crash: what a member voted for must (section 5.1). What is shown as committed may go back: a
//! follower shows what its leader told it, which may be ahead of its own log, and forgets it with the leader.

use std::collections::BTreeMap;

use super::{Glance, Invariant, name};

/// The last look at each member.
#[derive(Default)]
pub struct Forward {
    last: BTreeMap<usize, Glance>,
}

impl Invariant for Forward {
    fn look(&mut self, members: &[Glance]) -> Result<(), String> {
        for glance in members {
            let Some(before) = self.last.insert(glance.member, glance.clone()) else { continue };
            let same_life = before.life == glance.life;
            let went_back = [
                ("term", glance.term < before.term),
                ("applied index", same_life && glance.applied < before.applied),
                ("revision", same_life && glance.revision < before.revision),
                ("compaction mark", same_life && glance.compacted < before.compacted),
            ];
            if let Some((what, _)) = went_back.iter().find(|(_, back)| *back) {
                let who = name(glance.member);
                return Err(format!("the {what} of {who} went back: {before:?}, now {glance:?}"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::glance;
    use super::*;

    #[test]
    fn only_a_new_life_may_begin_further_back_and_never_in_an_older_term() {
        let mut invariant = Forward::default();
        let at = |life, term, applied| Glance { life, term, applied, ..glance(0) };
        assert!(invariant.look(&[at(1, 3, 9)]).is_ok());
        assert!(invariant.look(&[at(2, 3, 5)]).is_ok());
        assert!(invariant.look(&[at(2, 3, 4)]).is_err());
        assert!(invariant.look(&[at(3, 2, 5)]).is_err());
    }
}
