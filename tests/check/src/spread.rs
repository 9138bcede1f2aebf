//! A hash for maps of what a test's own workload names: quick, and nobody chooses names to make it slow.

use std::hash::{BuildHasherDefault, Hasher};

/// Builds [`Spread`]; maps with it are never walked, so their order shows nowhere.
pub(crate) type BySpread = BuildHasherDefault<Spread>;

/// Multiplies, word by word.
#[derive(Debug, Default)]
pub(crate) struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        // A product's low bits know only of low bits, but maps look at them first.
        self.0.rotate_left(26)
    }

    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks();
        words.iter().for_each(|word| self.write_u64(u64::from_le_bytes(*word)));
        let rest = rest.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
        self.write_u64(rest);
    }

    fn write_u64(&mut self, number: u64) {
        // The golden ratio in 64 bits: neighbours end up far from each other.
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }
}
