//! Counts what the cluster did about its faults, so that a batch can tell whether it ever did.

use std::collections::BTreeMap;

use crate::invariant::Glance;
use crate::report::Coverage;

/// Watches members, one look after another.
#[derive(Default)]
pub struct Observer {
    /// The last known leader with its term.
    leader: Option<(u64, usize)>,
    last: BTreeMap<usize, Glance>,
    /// What was seen.
    pub coverage: Coverage,
}

impl Observer {
    /// Looks at all running members.
    pub fn look(&mut self, members: &[Glance]) {
        for glance in members {
            if glance.leads && self.leader.is_none_or(|(term, _)| term < glance.term) {
                let led_before = self.leader.replace((glance.term, glance.member));
                if led_before.is_some_and(|(_, leader)| leader != glance.member) {
                    self.coverage.count("leader changes");
                }
            }
            let Some(before) = self.last.insert(glance.member, glance.clone()) else { continue };
            if before.life != glance.life {
                continue;
            }
            if glance.snapshot_bytes > before.snapshot_bytes {
                self.coverage.count("snapshots sent");
            }
            self.coverage.add("snapshots installed", glance.installs - before.installs);
            if glance.compacted > before.compacted {
                self.coverage.count("compactions applied");
            }
        }
    }
}
