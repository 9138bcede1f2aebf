//! What the disk will do wrong: operations that fail and say so, and lies.

use std::io;
use std::ops::Range;
use std::path::Path;

use rand::SeedableRng;
use rand::rngs::StdRng;

/// What can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Opening or creating a file.
    Open,
    /// Reading.
    Read,
    /// Writing, reserving and changing the length; nothing is changed.
    Write,
    /// Syncing a file: what it covers looks clean from then on, and is never written by a later sync.
    Sync,
    /// Renaming, by the old name.
    Rename,
    /// Removing a file or folder.
    Remove,
    /// Syncing a folder; its names stay undecided.
    SyncDir,
}

/// What a disk does wrong while it says that all is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// One bit of what is read is turned around, in this read only.
    ReadsOther,
    /// One of the sectors that a sync covers is not written. It reads well until the power fails.
    LosesWrite,
    /// One of them is written over another sector of the file instead. Both read well until the power fails.
    MisdirectsWrite,
}

/// All that is to go wrong.
#[derive(Default)]
pub(super) struct Faults {
    failing: Vec<Failing>,
    lying: Vec<Lying>,
}

struct Failing {
    operations: Vec<Operation>,
    part: String,
    left: u64,
    kind: io::ErrorKind,
}

struct Lying {
    lie: Lie,
    part: String,
    /// Which of the chances to come are used.
    chances: Range<u64>,
    rng: StdRng,
}

impl Faults {
    /// Lets the next of these operations fail.
    pub(super) fn fail(
        &mut self,
        operations: &[Operation],
        part: &str,
        count: u64,
        kind: io::ErrorKind,
    ) {
        let (operations, part) = (operations.to_vec(), part.to_owned());
        self.failing.push(Failing { operations, part, left: count, kind });
    }

    /// Lets these of the next chances for this lie be used.
    pub(super) fn lie(&mut self, lie: Lie, part: &str, chances: Range<u64>, seed: u64) {
        let (part, rng) = (part.to_owned(), StdRng::seed_from_u64(seed));
        self.lying.push(Lying { lie, part, chances, rng });
    }

    /// Nothing will go wrong.
    pub(super) fn is_empty(&self) -> bool {
        self.failing.is_empty() && self.lying.is_empty()
    }

    /// Whether anything is still to go wrong.
    pub(super) fn are_to_come(&self) -> bool {
        self.failing.iter().any(|failing| failing.left > 0)
            || self.lying.iter().any(|lying| lying.chances.end > 0)
    }

    /// Fails if this operation is to fail.
    pub(super) fn check(&mut self, operation: Operation, path: &Path) -> io::Result<()> {
        self.failing.retain(|failing| failing.left > 0);
        let mut failing = self.failing.iter_mut();
        let found = failing.find(|failing| {
            failing.operations.contains(&operation) && concerns(&failing.part, path)
        });
        match found {
            None => Ok(()),
            Some(failing) => {
                failing.left -= 1;
                Err(failing.kind.into())
            }
        }
    }

    /// What to draw from if this lie is to be told now.
    pub(super) fn told(&mut self, lie: Lie, path: &Path) -> Option<&mut StdRng> {
        self.lying.retain(|lying| lying.chances.end > 0);
        let mut lying = self.lying.iter_mut();
        let lying = lying.find(|lying| lying.lie == lie && concerns(&lying.part, path))?;
        let now = lying.chances.contains(&0);
        lying.chances = lying.chances.start.saturating_sub(1)..lying.chances.end.saturating_sub(1);
        now.then_some(&mut lying.rng)
    }
}

/// Whether a path contains this part, as text.
pub(super) fn concerns(part: &str, path: &Path) -> bool {
    path.to_string_lossy().contains(part)
}
