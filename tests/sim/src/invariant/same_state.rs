//! State Machine Safety: members that have applied the same index have the same state (Raft paper, figure 3 and
//! section 5.4.3), in every row (ours: the continuous hash).

use std::collections::BTreeMap;

use kvd_core::view::StateHash;

use super::{Glance, Invariant, REMEMBERED, name};

/// What was seen at each index, and whose it was.
#[derive(Default)]
pub struct SameState {
    states: BTreeMap<u64, (usize, i64, StateHash)>,
}

impl Invariant for SameState {
    fn look(&mut self, members: &[Glance]) -> Result<(), String> {
        for glance in members {
            let state = (glance.member, glance.revision, glance.hash);
            let known = *self.states.entry(glance.applied).or_insert(state);
            if (known.1, known.2) != (state.1, state.2) {
                return Err(format!(
                    "state machine safety: at index {} {} has {known:x?}, {} has {state:x?}",
                    glance.applied,
                    name(known.0),
                    name(glance.member)
                ));
            }
        }
        while self.states.len() > REMEMBERED {
            self.states.pop_first();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::glance;
    use super::*;

    #[test]
    fn another_state_at_an_index_is_found_whenever_it_is_reached() {
        let mut invariant = SameState::default();
        let at = |member, applied, live| Glance {
            applied,
            hash: StateHash { live, history: 0 },
            ..glance(member)
        };
        assert!(invariant.look(&[at(0, 7, 1), at(1, 6, 2)]).is_ok());
        assert!(invariant.look(&[at(0, 8, 3), at(1, 7, 1)]).is_ok());
        assert!(invariant.look(&[at(1, 8, 4)]).is_err());
    }
}
