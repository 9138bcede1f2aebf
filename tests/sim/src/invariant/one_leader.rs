//! Election Safety (Raft paper, figure 3 and section 5.2), in the form that openraft keeps: a leadership is a term
//! with its node, and later ones are greater. So a term may see several leaders, each of a higher node than the
//! one before, and none of them comes back (hazard A9).

use std::collections::BTreeMap;

use super::{Glance, Invariant, name};

/// The highest leadership seen, and who led at the last look.
#[derive(Default)]
pub struct OneLeader {
    highest: (u64, usize),
    led: BTreeMap<usize, u64>,
}

impl Invariant for OneLeader {
    fn look(&mut self, members: &[Glance]) -> Result<(), String> {
        for glance in members {
            if !glance.leads {
                self.led.remove(&glance.member);
                continue;
            }
            // One that leads since before may not know yet that it is over.
            if self.led.insert(glance.member, glance.term) == Some(glance.term) {
                continue;
            }
            let leadership = (glance.term, glance.member);
            if leadership < self.highest && glance.term == self.highest.0 {
                return Err(format!(
                    "election safety: {} begins to lead term {} after {}",
                    name(glance.member),
                    glance.term,
                    name(self.highest.1)
                ));
            }
            self.highest = self.highest.max(leadership);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::glance;
    use super::*;

    #[test]
    fn a_term_goes_from_lower_nodes_to_higher_ones_only() {
        let mut invariant = OneLeader::default();
        let leads = |member, term| Glance { term, leads: true, ..glance(member) };
        assert!(invariant.look(&[leads(0, 1), glance(1)]).is_ok());
        assert!(invariant.look(&[leads(0, 1), leads(1, 1)]).is_ok(), "it may not know yet");
        assert!(invariant.look(&[glance(0), leads(1, 1)]).is_ok());
        assert!(invariant.look(&[leads(0, 1), leads(1, 1)]).is_err());
    }
}
