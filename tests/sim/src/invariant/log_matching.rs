//! Log Matching (Raft paper, figure 3 and section 5.3): if two logs have an entry with one index and one term, they
//! are alike in all entries up to it. Looked at entry by entry: what an entry is decides what stands before it; by
//! induction that is the whole property.

use std::collections::BTreeMap;

use super::{Glance, Invariant, Leadership, REMEMBERED, name};

/// What stands before each entry, in any log; and what was looked at of each log.
#[derive(Default)]
pub struct LogMatching {
    before: BTreeMap<(u64, Leadership), (Leadership, usize)>,
    logs: BTreeMap<usize, BTreeMap<u64, Leadership>>,
}

impl Invariant for LogMatching {
    fn look(&mut self, members: &[Glance]) -> Result<(), String> {
        for glance in members {
            self.log(glance)?;
        }
        while self.before.len() > 2 * REMEMBERED {
            self.before.pop_first();
        }
        Ok(())
    }
}

impl LogMatching {
    /// Looks at what is new in a log, from its end back to what is known of it.
    fn log(&mut self, glance: &Glance) -> Result<(), String> {
        let log = self.logs.entry(glance.member).or_default();
        while log.last_key_value().is_some_and(|(index, _)| *index > glance.last) {
            log.pop_last();
        }
        let (mut index, mut entry) = (glance.last, glance.entries.of(glance.last));
        while let Some(of) = entry {
            if log.insert(index, of) == Some(of) {
                break;
            }
            entry = glance.entries.of(index - 1);
            if let Some(before) = entry {
                let seen = (before, glance.member);
                let known = *self.before.entry((index, of)).or_insert(seen);
                if known.0 != before {
                    return Err(format!(
                        "log matching: before entry {index} of {of:?} {} has {:?}, {} has {before:?}",
                        name(known.1),
                        known.0,
                        name(glance.member)
                    ));
                }
            }
            index -= 1;
        }
        while log.len() > REMEMBERED {
            log.pop_first();
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
    const C: Leadership = (2, 4);

    #[test]
    fn logs_differ_only_behind_what_they_share() {
        let mut invariant = LogMatching::default();
        assert!(invariant.look(&[log(0, &[A, A, A]), log(1, &[A, A])]).is_ok());
        // What its leader did not commit is replaced.
        assert!(invariant.look(&[log(0, &[A, A, B]), log(1, &[A, A, B, C])]).is_ok());
        assert!(invariant.look(&[log(0, &[A, A, B, C]), log(1, &[A, A, B, C, C])]).is_ok());
    }

    #[test]
    fn what_differs_below_a_shared_entry_is_found() {
        let mut invariant = LogMatching::default();
        assert!(invariant.look(&[log(0, &[A, A, B, C])]).is_ok());
        assert!(invariant.look(&[log(1, &[A, A, A])]).is_ok());
        assert!(invariant.look(&[log(1, &[A, A, A, C])]).is_err());
    }

    #[test]
    fn what_differs_far_below_is_found() {
        let mut invariant = LogMatching::default();
        assert!(invariant.look(&[log(0, &[A, A, B, C, C])]).is_ok());
        assert!(invariant.look(&[log(1, &[A, A, C, C, C])]).is_err());
    }
}
