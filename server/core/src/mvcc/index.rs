//! From a key to its changes: ordered, in memory, without values.
//!
//! The map behind it counts live keys (hazard D5); that it does is nobody's business. Beside the versions of
//! each key it keeps what would otherwise cost a read: create revision, version, lease and row hash of the newest
//! one, the size of every record, and sums over all keys.

use std::ops::Bound;
use std::sync::Arc;

use super::tree::{Live, Tree};
use crate::ids::{ChangeId, LeaseId, Revision};
use crate::mutants::{Mutant, active};
use crate::outcome::Fatal;
use crate::range::KeyRange;

/// One change of a key: 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    /// Main revision, and in the lowest four bits the record's place in its block.
    main_and_place: u64,
    sub: u32,
    /// Size of the record, and in the highest bit whether it is a tombstone.
    bytes_and_tombstone: u32,
}

const PLACE_BITS: u32 = 4;
const TOMBSTONE: u32 = 1 << 31;

impl Version {
    pub(crate) fn new(change: ChangeId, place: u8, tombstone: bool, bytes: usize) -> Self {
        let bytes = u32::try_from(bytes).unwrap_or(TOMBSTONE - 1).min(TOMBSTONE - 1);
        Self {
            main_and_place: change.main.0.cast_unsigned() << PLACE_BITS | u64::from(place),
            sub: change.sub,
            bytes_and_tombstone: bytes | if tombstone { TOMBSTONE } else { 0 },
        }
    }

    pub(crate) fn change(self) -> ChangeId {
        ChangeId { main: self.main(), sub: self.sub }
    }

    pub(crate) fn main(self) -> Revision {
        Revision((self.main_and_place >> PLACE_BITS).cast_signed())
    }

    pub(crate) fn place(self) -> u8 {
        u8::try_from(self.main_and_place & 0xf).expect("four bits")
    }

    pub(crate) fn is_tombstone(self) -> bool {
        self.bytes_and_tombstone & TOMBSTONE != 0
    }

    pub(crate) fn bytes(self) -> u64 {
        u64::from(self.bytes_and_tombstone & !TOMBSTONE)
    }
}

/// What the index knows of a key's newest put; all zero when the newest change is a tombstone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Latest {
    pub(crate) create: Revision,
    pub(crate) version: i64,
    pub(crate) lease: LeaseId,
    pub(crate) row_hash: u64,
}

/// All changes of one key that no compaction took.
#[derive(Clone, Debug)]
pub(crate) struct KeyEntry {
    newest: Version,
    latest: Latest,
    older: Vec<Version>,
}

/// A live key as a page of the index returns it.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) key: Arc<[u8]>,
    pub(crate) version: Version,
    /// Known without a read where that version is the key's newest.
    pub(crate) latest: Option<Latest>,
}

impl KeyEntry {
    /// The newest change at or below that revision, a tombstone included.
    pub(crate) fn at(&self, revision: Revision) -> Option<Version> {
        if self.newest.main() <= revision {
            return Some(self.newest);
        }
        let after = self.older.partition_point(|version| version.main() <= revision);
        Some(self.older[after.checked_sub(1)?])
    }

    /// The change that a watcher is shown as previous one: the key as it was before that revision, unless the
    /// change begins a new life (rule W19).
    pub(crate) fn before(&self, change: ChangeId) -> Option<ChangeId> {
        let at = self.at(Revision(change.main.0 - 1))?;
        // A key may have any number of versions, and this is asked for each of them.
        let creates = if self.newest.change() < change {
            Some(self.newest)
        } else {
            let after = self.older.partition_point(|version| version.change() < change);
            after.checked_sub(1).map(|last| self.older[last])
        };
        let creates = creates.is_none_or(|version| version.is_tombstone());
        (!at.is_tombstone() && !creates).then(|| at.change())
    }

    /// The newest put, if the key is live.
    pub(crate) fn live(&self) -> Option<(Version, Latest)> {
        (!self.newest.is_tombstone()).then_some((self.newest, self.latest))
    }

    pub(crate) fn versions(&self) -> impl DoubleEndedIterator<Item = Version> {
        self.older.iter().copied().chain([self.newest])
    }

    fn live_at(&self, revision: Revision) -> Option<(Version, Option<Latest>)> {
        let version = self.at(revision)?;
        let latest = (version == self.newest).then_some(self.latest);
        (!version.is_tombstone()).then_some((version, latest))
    }
}

impl Live for KeyEntry {
    fn is_live(&self) -> bool {
        !self.newest.is_tombstone()
    }
}

/// The index over all keys.
#[derive(Debug, Default)]
pub(crate) struct KeyIndex {
    keys: Tree<KeyEntry>,
    /// Of all changes ever pushed: a reader at or above it sees every key's newest one.
    newest: Revision,
    live_keys: u64,
    bytes: u64,
    hash: u64,
}

impl KeyIndex {
    pub(crate) fn get(&self, key: &[u8]) -> Option<&KeyEntry> {
        self.keys.get(key).map(|(_, entry)| entry)
    }

    /// The key as the index holds it, to share instead of copying.
    pub(crate) fn shared_key(&self, key: &[u8]) -> Option<Arc<[u8]>> {
        self.keys.get(key).map(|(key, _)| Arc::clone(key))
    }

    /// Live keys.
    pub(crate) fn live_keys(&self) -> u64 {
        self.live_keys
    }

    /// Bytes of all records that the index names.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Sum of the row hashes of all live keys.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Arc<[u8]>, &KeyEntry)> {
        self.keys.iter()
    }

    /// Adds a key's newest change; `latest` is all zero for a tombstone.
    pub(crate) fn push(&mut self, key: &[u8], version: Version, latest: Latest) {
        self.bytes += version.bytes();
        self.hash = self.hash.wrapping_add(latest.row_hash);
        self.live_keys += u64::from(!version.is_tombstone());
        self.newest = self.newest.max(version.main());
        let replaced = self.keys.update(key, |entry| entry.push(version, latest));
        if let Some((newest, latest)) = replaced {
            self.hash = self.hash.wrapping_sub(latest.row_hash);
            self.live_keys -= u64::from(!newest.is_tombstone());
        } else {
            let entry = KeyEntry { newest: version, latest, older: Vec::new() };
            self.keys.insert(Arc::from(key), entry);
        }
    }

    /// How many keys of the range are live at that revision, if that is known without looking at each: at the
    /// latest revision only.
    pub(crate) fn live_count(&self, range: &KeyRange, revision: Revision) -> Option<u64> {
        if revision < self.newest {
            return None;
        }
        if range.is_empty() {
            return Some(0);
        }
        let (start, end) = bounds(range, None);
        Some(self.keys.live_between(start, end))
    }

    /// Verifies the order and the counts of the tree.
    pub(crate) fn check(&self) -> Result<(), Fatal> {
        self.keys.check()
    }

    /// Visits up to `keys_max` keys of the range after `after`, whatever their state, and says after which one
    /// to go on.
    pub(crate) fn page(
        &self,
        range: &KeyRange,
        after: Option<&[u8]>,
        keys_max: usize,
        mut visit: impl FnMut(&Arc<[u8]>, &KeyEntry),
    ) -> Option<Arc<[u8]>> {
        if range.is_empty() {
            return None;
        }
        if let KeyRange::Key(key) = range {
            if let Some((key, entry)) = self.keys.get(key) {
                visit(key, entry);
            }
            return None;
        }
        let (start, end) = bounds(range, after);
        let mut visited = 0;
        for (key, entry) in self.keys.iter_from(start) {
            if is_behind(end, key) {
                break;
            }
            visit(key, entry);
            visited += 1;
            if visited == keys_max {
                return Some(Arc::clone(key));
            }
        }
        None
    }

    /// A page of the keys that are live at that revision.
    pub(crate) fn live_page(
        &self,
        range: &KeyRange,
        after: Option<&[u8]>,
        keys_max: usize,
        revision: Revision,
        mut visit: impl FnMut(Found),
    ) -> Option<Arc<[u8]>> {
        self.page(range, after, keys_max, |key, entry| {
            if let Some((version, latest)) = entry.live_at(revision) {
                visit(Found { key: Arc::clone(key), version, latest });
            }
        })
    }

    /// The key, if it is live at that revision.
    pub(crate) fn live_key(&self, key: &[u8], revision: Revision) -> Option<Found> {
        let (key, entry) = self.keys.get(key)?;
        let (version, latest) = entry.live_at(revision)?;
        Some(Found { key: Arc::clone(key), version, latest })
    }

    /// Compacts up to `keys_max` keys after `after` (rule M11) and says after which one to go on. Changes that
    /// no key names any more go to `dropped`.
    pub(crate) fn compact_page(
        &mut self,
        after: Option<&[u8]>,
        keys_max: usize,
        compacted: Revision,
        dropped: &mut Vec<Version>,
    ) -> Option<Arc<[u8]>> {
        let first = dropped.len();
        let mut page = Vec::new();
        let next = self.page(&KeyRange::all(), after, keys_max, |key, entry| {
            if entry.reaches(compacted) {
                page.push(Arc::clone(key));
            }
        });
        for key in page {
            if self.keys.update(&key, |entry| entry.compact(compacted, dropped)) == Some(true) {
                self.keys.remove(&key);
            }
        }
        self.bytes -= dropped[first..].iter().map(|version| version.bytes()).sum::<u64>();
        next
    }
}

impl KeyEntry {
    /// Adds the newest change and gives the one it replaces.
    fn push(&mut self, version: Version, latest: Latest) -> (Version, Latest) {
        if self.older.is_empty() {
            // Most keys have few versions; the default of four would cost 64 bytes each.
            self.older.reserve_exact(1);
        }
        self.older.push(self.newest);
        (std::mem::replace(&mut self.newest, version), std::mem::replace(&mut self.latest, latest))
    }

    /// Whether a compaction there may find something to drop.
    fn reaches(&self, compacted: Revision) -> bool {
        let oldest = self.older.first().unwrap_or(&self.newest);
        oldest.main() <= compacted && (!self.older.is_empty() || oldest.is_tombstone())
    }

    /// Keeps the newest change at or below the mark, if it is a put or a tombstone exactly there, and all
    /// after it. Says whether nothing is left.
    fn compact(&mut self, compacted: Revision, dropped: &mut Vec<Version>) -> bool {
        let gone = |version: Version| version.is_tombstone() && version.main() < compacted;
        if self.newest.main() <= compacted {
            dropped.append(&mut self.older);
            self.older = Vec::new();
            if gone(self.newest) {
                dropped.push(self.newest);
                return true;
            }
            return false;
        }
        let Some(kept) =
            self.older.partition_point(|version| version.main() <= compacted).checked_sub(1)
        else {
            return false;
        };
        let dead = kept + usize::from(gone(self.older[kept]) || active(Mutant::CompactionTooFar));
        if dead > 0 {
            dropped.extend(self.older.drain(..dead));
            self.older.shrink_to_fit();
        }
        false
    }
}

fn bounds<'a>(range: &'a KeyRange, after: Option<&'a [u8]>) -> (Bound<&'a [u8]>, Bound<&'a [u8]>) {
    let start = after.map_or(Bound::Included(range.start().as_ref()), Bound::Excluded);
    let end = match range {
        KeyRange::Between { end, .. } => Bound::Excluded(end.as_ref()),
        KeyRange::Key(key) => Bound::Included(key.as_ref()),
        KeyRange::From(_) => Bound::Unbounded,
    };
    (start, end)
}

fn is_behind(end: Bound<&[u8]>, key: &[u8]) -> bool {
    match end {
        Bound::Included(end) => end < key,
        Bound::Excluded(end) => end <= key,
        Bound::Unbounded => false,
    }
}
