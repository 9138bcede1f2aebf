//! DIVERGED: what is noted beside a state that differed from the majority's, so that no start uses it again.

use std::io;
use std::path::Path;

use kvd_core::ids::MemberId;

use super::texts::{Flaw, with_crc, without_crc};
use super::{DIVERGED, DataDir, DataDirError, MEMBER};

/// What is noted of this member's states that differed from the majority's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Divergence {
    /// The members that agreed with each other when the live state did not agree with them: it is to be fetched
    /// from one of them. Empty where the live state is good.
    pub fetch_from: Vec<MemberId>,
    /// Rebuilds in a row, this one included.
    pub rebuilds: u32,
}

impl Divergence {
    /// Whether the live state must not be used.
    #[must_use]
    pub fn is_diverged(&self) -> bool {
        !self.fetch_from.is_empty()
    }
}

impl DataDir {
    /// What is noted.
    pub fn divergence(&self) -> Result<Divergence, DataDirError> {
        let Some(text) = self.read(DIVERGED)? else {
            return Ok(Divergence::default());
        };
        parse(&text).ok_or_else(|| self.flaw(Flaw::Damaged("DIVERGED is unreadable".to_owned())))
    }

    /// Notes it durably.
    pub fn note_divergence(&self, divergence: &Divergence) -> Result<(), DataDirError> {
        if *divergence != Divergence::default() {
            return self.replace(DIVERGED, &text(divergence));
        }
        match self.disk.remove_file(Path::new(DIVERGED)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(|error| self.io_error(error))?,
        }
        self.disk.sync_dir(Path::new(MEMBER)).map_err(|error| self.io_error(error))
    }
}

fn text(divergence: &Divergence) -> String {
    let from: String = divergence.fetch_from.iter().map(|id| format!("from {id}\n")).collect();
    with_crc(format!("rebuilds {}\n{from}", divergence.rebuilds))
}

fn parse(text: &str) -> Option<Divergence> {
    let mut lines = without_crc(text)?.lines();
    let rebuilds = lines.next()?.strip_prefix("rebuilds ")?.parse().ok()?;
    let member = |line: &str| {
        let id = line.strip_prefix("from ")?;
        u64::from_str_radix(id, 16).ok().map(MemberId)
    };
    let fetch_from = lines.map(member).collect::<Option<_>>()?;
    Some(Divergence { fetch_from, rebuilds })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::tests::IDENTITY;
    use super::*;
    use crate::fs::SimDisk;

    #[test]
    fn the_note_is_a_promise() {
        let noted = Divergence { fetch_from: vec![MemberId(0x1a), MemberId(2)], rebuilds: 3 };
        assert_eq!(text(&noted), "rebuilds 3\nfrom 1a\nfrom 2\ncrc 1da141f4\n");
        assert_eq!(parse(&text(&noted)), Some(noted));
        let good = Divergence { rebuilds: 1, ..Divergence::default() };
        assert_eq!(parse(&text(&good)), Some(good));
        for wrong in ["", "rebuilds 3\n", &with_crc("rebuilds x\n".to_owned())] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn the_note_survives_a_power_cut() {
        let (disk, root) = (SimDisk::new(), Path::new("data"));
        let mut dir = DataDir::open(Arc::new(disk.clone()), root).unwrap();
        dir.create(IDENTITY).unwrap();
        assert_eq!(dir.divergence().unwrap(), Divergence::default());
        let noted = Divergence { fetch_from: vec![MemberId(7)], rebuilds: 1 };
        dir.note_divergence(&noted).unwrap();
        let after_cut = |disk: &SimDisk, seed| {
            let dir = DataDir::open(Arc::new(disk.crash(seed)), root).unwrap();
            dir.divergence().unwrap()
        };
        for seed in 0..8 {
            assert_eq!(after_cut(&disk, seed), noted);
        }
        dir.note_divergence(&Divergence::default()).unwrap();
        dir.note_divergence(&Divergence::default()).unwrap();
        for seed in 0..8 {
            assert_eq!(after_cut(&disk, seed), Divergence::default());
        }
    }
}
