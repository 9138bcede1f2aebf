//! Nothing is applied that is not committed, and nothing that the log does not have: applied ≤ committed, applied
//! ≤ last (Raft paper, section 5.3; hazards A2 and A8).
//!
//! Committed is what any member ever said: while consensus waits for its log, what it says of itself is older than
//! what it let be applied.

use super::{Glance, Invariant, name};

/// Remembers how far anybody committed.
#[derive(Default)]
pub struct Order {
    committed: u64,
}

impl Invariant for Order {
    fn look(&mut self, members: &[Glance]) -> Result<(), String> {
        let said = members.iter().map(|glance| glance.committed);
        self.committed = said.fold(self.committed, u64::max);
        for glance in members {
            // What the cluster committed may be ahead of this member's log; what it applied cannot.
            if glance.applied > self.committed || glance.applied > glance.last {
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
        let look = |glance| Order::default().look(&[glance]);
        assert!(look(right.clone()).is_ok());
        assert!(look(Glance { applied: 6, last: 7, ..right.clone() }).is_err());
        assert!(look(Glance { applied: 5, ..right.clone() }).is_err());
        let behind = Glance { applied: 4, committed: 3, ..right.clone() };
        assert!(look(behind.clone()).is_err());
        assert!(Order::default().look(&[behind, right]).is_ok(), "another committed it");
    }
}
