//! Election Safety: at most one leader is elected in a term (Raft paper, figure 3 and section 5.2).

use std::collections::BTreeMap;

use super::{Glance, Invariant, name};

/// Who led which term.
#[derive(Default)]
pub struct OneLeader {
    leaders: BTreeMap<u64, usize>,
}

impl Invariant for OneLeader {
    fn look(&mut self, members: &[Glance]) -> Result<(), String> {
        for glance in members.iter().filter(|glance| glance.leads) {
            let known = *self.leaders.entry(glance.term).or_insert(glance.member);
            if known != glance.member {
                return Err(format!(
                    "election safety: {} and {} both lead term {}",
                    name(known),
                    name(glance.member),
                    glance.term
                ));
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
    fn two_leaders_of_a_term_are_found_though_not_at_once() {
        let mut invariant = OneLeader::default();
        let leads = |member, term| Glance { term, leads: true, ..glance(member) };
        assert!(invariant.look(&[leads(0, 1), glance(1)]).is_ok());
        assert!(invariant.look(&[glance(0), leads(1, 2)]).is_ok());
        assert!(invariant.look(&[leads(2, 1)]).is_err());
    }
}
