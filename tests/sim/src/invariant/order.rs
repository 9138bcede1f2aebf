//! Nothing is applied that is not committed, and nothing that the log does not have: applied ≤ committed, applied
//! ≤ last (Raft paper, section 5.3; hazards A2 and A8).

use super::{Glance, Invariant, name};

/// Needs no memory.
pub struct Order;

impl Invariant for Order {
    fn look(&mut self, members: &[Glance]) -> Result<(), String> {
        for glance in members {
            // What the cluster committed may be ahead of this member's log; what it applied cannot.
            if glance.applied > glance.committed || glance.applied > glance.last {
                return Err(format!("order of indexes on {}: {glance:?}", name(glance.member)));
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
    fn applied_before_committed_is_found() {
        let right = Glance { applied: 3, committed: 5, last: 4, ..glance(0) };
        assert!(Order.look(std::slice::from_ref(&right)).is_ok());
        assert!(Order.look(&[Glance { applied: 6, last: 7, ..right.clone() }]).is_err());
        assert!(Order.look(&[Glance { applied: 5, ..right }]).is_err());
    }
}
