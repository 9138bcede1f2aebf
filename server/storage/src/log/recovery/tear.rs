//! The end of a log that ends with a bad frame: whether it may be cut there (hazard A3).

use std::io;

use kvd_core::mutants::{Mutant, active};

use super::super::LogError;
use super::super::frame::{Header, Life, SECTOR, SECTOR_BYTES};
use super::super::segment::{Window, failed, is_old};
use super::damaged;

/// The place of the first bad frame of the log's last segment.
pub(super) struct Tear<'a> {
    pub(super) window: &'a mut Window,
    pub(super) life: Life,
    pub(super) former: Option<Life>,
    pub(super) at: u64,
    pub(super) file_bytes: u64,
}

impl Tear<'_> {
    /// Whether there is something to cut; an error if it may have been acknowledged.
    pub(super) fn judge(self, length: Option<u64>) -> Result<bool, Trouble> {
        let mut ours = false;
        let mut old_within = false;
        let frame_end = self.at + length.unwrap_or(SECTOR_BYTES);
        let mut at = self.at;
        while at + SECTOR_BYTES <= self.file_bytes {
            let sector = self.window.get(at, SECTOR)?;
            if sector.starts_with(&self.life.mark()) {
                ours = true;
                let header = if at > self.at { Header::read(sector)? } else { None };
                if header.is_some_and(|header| header.life == self.life) {
                    return Err(Trouble::Damage("a frame has changed: a later one is whole"));
                }
            }
            old_within |= at < frame_end && is_old(sector, self.former);
            at += SECTOR_BYTES;
        }
        old_within |= active(Mutant::RotCut);
        old_within &= !ours || !active(Mutant::TornTailRefused);
        if old_within { Ok(ours) } else { Err(Trouble::Damage("a frame has changed")) }
    }
}

/// A failure whose place the caller knows.
pub(super) enum Trouble {
    Io(io::Error),
    Damage(&'static str),
    Other(LogError),
}

impl Trouble {
    pub(super) fn at(self, segment: u64, offset: u64) -> LogError {
        match self {
            Self::Io(source) => failed("read", format!("{segment:016x}.seg").as_ref(), source),
            Self::Damage(what) => damaged(segment, offset, what),
            Self::Other(error) => error,
        }
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<LogError> for Trouble {
    fn from(error: LogError) -> Self {
        Self::Other(error)
    }
}
