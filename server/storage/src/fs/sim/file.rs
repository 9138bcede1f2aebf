//! The content of one file: what is read now, what is on the medium, and how the two come apart.

use std::collections::BTreeMap;

use rand::RngExt;
use rand::rngs::StdRng;

/// Bytes that a disk writes wholly or not at all.
const SECTOR: usize = 512;
/// The same as an offset.
const SECTOR_BYTES: u64 = SECTOR as u64;

type Sector = [u8; SECTOR];

/// A file's content: what is read now, and what each unsynced sector held before. Zero sectors take no room.
#[derive(Clone, Default)]
pub(super) struct File {
    /// Bytes.
    pub(super) len: u64,
    len_durable: u64,
    sectors: BTreeMap<u64, Sector>,
    /// Written since the last sync: the durable content.
    dirty: BTreeMap<u64, Sector>,
    /// They look clean, but this is on the medium: a sync of them failed, or the disk lied.
    stranded: BTreeMap<u64, Sector>,
    /// What the last sync that had something to write wrote, and which of all syncs it was.
    newest: (u64, Vec<u64>),
}

impl File {
    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) -> usize {
        let available = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let length = buffer.len().min(available);
        let mut filled = 0;
        while filled < length {
            let at = offset + filled as u64;
            let within = usize::try_from(at % SECTOR_BYTES).unwrap_or(0);
            let piece = (SECTOR - within).min(length - filled);
            let into = &mut buffer[filled..filled + piece];
            match self.sectors.get(&(at / SECTOR_BYTES)) {
                Some(sector) => into.copy_from_slice(&sector[within..within + piece]),
                None => into.fill(0),
            }
            filled += piece;
        }
        length
    }

    pub(super) fn write(&mut self, mut bytes: &[u8], offset: u64) {
        let mut at = offset;
        while !bytes.is_empty() {
            let within = usize::try_from(at % SECTOR_BYTES).unwrap_or(0);
            let (piece, rest) = bytes.split_at(bytes.len().min(SECTOR - within));
            let mut sector = self.touch(at / SECTOR_BYTES);
            sector[within..within + piece.len()].copy_from_slice(piece);
            self.put(at / SECTOR_BYTES, sector);
            at += piece.len() as u64;
            bytes = rest;
        }
        self.len = self.len.max(at);
    }

    /// The present content of a sector that is about to change; remembers the durable one.
    fn touch(&mut self, at: u64) -> Sector {
        let now = self.sectors.get(&at).copied().unwrap_or([0; SECTOR]);
        let durable = self.stranded.remove(&at).unwrap_or(now);
        self.dirty.entry(at).or_insert(durable);
        now
    }

    fn put(&mut self, at: u64, sector: Sector) {
        if sector == [0; SECTOR] {
            self.sectors.remove(&at);
        } else {
            self.sectors.insert(at, sector);
        }
    }

    pub(super) fn set_len(&mut self, len: u64) {
        let first_gone = len.div_ceil(SECTOR_BYTES);
        let gone: Vec<u64> = self.sectors.range(first_gone..).map(|(at, _)| *at).collect();
        for at in gone {
            self.touch(at);
            self.sectors.remove(&at);
        }
        let within = usize::try_from(len % SECTOR_BYTES).unwrap_or(0);
        if within > 0 && len < self.len {
            let mut sector = self.touch(len / SECTOR_BYTES);
            sector[within..].fill(0);
            self.put(len / SECTOR_BYTES, sector);
        }
        self.len = len;
    }

    /// `number`: which of all syncs this is.
    pub(super) fn sync(&mut self, number: u64) {
        if !self.dirty.is_empty() {
            self.newest = (number, self.dirty.keys().copied().collect());
        }
        self.dirty.clear();
        self.len_durable = self.len;
    }

    /// Sectors that hold something and are on the medium as they are read.
    pub(super) fn at_rest(&self) -> impl Iterator<Item = u64> {
        let dirty = |at: &u64| self.dirty.contains_key(at) || self.stranded.contains_key(at);
        self.sectors.keys().copied().filter(move |at| !dirty(at) && at * SECTOR_BYTES < self.len)
    }

    /// Which of all syncs wrote here last, and which of what it wrote is still on the medium.
    pub(super) fn newest(&self) -> (u64, impl Iterator<Item = u64>) {
        let (number, sectors) = &self.newest;
        (*number, self.at_rest().filter(|at| sectors.contains(at)))
    }

    /// A bit of a sector, counted from the file's beginning.
    pub(super) fn draw_bit(&self, sector: u64, rng: &mut StdRng) -> u64 {
        let start = sector * SECTOR_BYTES;
        8 * start + rng.random_range(0..8 * SECTOR_BYTES.min(self.len - start))
    }

    /// Turns one bit around, on the medium and in what is read of it.
    pub(super) fn flip(&mut self, bit: u64) {
        let at = bit / 8 / SECTOR_BYTES;
        let within = usize::try_from(bit / 8 % SECTOR_BYTES).unwrap_or(0);
        let mut sector = self.sectors.get(&at).copied().unwrap_or([0; SECTOR]);
        sector[within] ^= 1 << (bit % 8);
        self.put(at, sector);
        for medium in [self.dirty.get_mut(&at), self.stranded.get_mut(&at)].into_iter().flatten() {
            medium[within] ^= 1 << (bit % 8);
        }
    }

    /// Whether there is something for a sync to write.
    pub(super) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// The next sync leaves one sector out; answers which.
    pub(super) fn lose_write(&mut self, rng: &mut StdRng) -> Option<u64> {
        let at = draw(self.dirty.keys().copied(), rng)?;
        let durable = self.dirty.remove(&at)?;
        self.stranded.insert(at, durable);
        Some(at)
    }

    /// The next sync writes one sector over another one that is at rest, if there is one.
    pub(super) fn misdirect_write(&mut self, rng: &mut StdRng) {
        let Some(lost) = self.lose_write(rng) else { return };
        let content = self.sectors.get(&lost).copied().unwrap_or([0; SECTOR]);
        if let Some(victim) = draw(self.at_rest(), rng) {
            self.stranded.insert(victim, content);
        }
    }

    /// The sectors look clean, but the medium has the old ones.
    pub(super) fn fail_sync(&mut self) {
        self.stranded.append(&mut self.dirty);
    }

    /// What a power cut leaves.
    pub(super) fn crash(&self, rng: &mut StdRng) -> Self {
        let mut survivor = self.clone();
        let longer = self.len > self.len_durable;
        let keep_len = self.len == self.len_durable || rng.random_bool(0.5);
        for (at, durable) in &self.stranded {
            survivor.put(*at, *durable);
        }
        for (at, durable) in &self.dirty {
            if rng.random_bool(0.5) {
                survivor.put(*at, *durable);
            }
        }
        if !keep_len {
            survivor.set_len(self.len_durable);
        } else if !longer {
            survivor.set_len(self.len);
        }
        survivor.dirty.clear();
        survivor.stranded.clear();
        survivor.len_durable = survivor.len;
        survivor
    }
}

/// One of several, if there are any.
fn draw(candidates: impl Iterator<Item = u64>, rng: &mut StdRng) -> Option<u64> {
    let candidates: Vec<u64> = candidates.collect();
    let drawn = rng.random_range(0..candidates.len().max(1));
    candidates.get(drawn).copied()
}
