//! Range: which keys, at which revision, filtered, sorted and cut (rules KV-R).
//!
//! Keys are collected a page of the index at a time: copy out, unlock, then fetch values (hazard D4).

use std::cmp::Ordering;

use bytes::Bytes;

use super::Shared;
use super::history::{Access, ReadError};
use super::index::Found;
use crate::command::{RangeQuery, RevisionFilter, SortOrder, SortTarget};
use crate::event::KeyValue;
use crate::ids::Revision;
use crate::limits::INDEX_PAGE_KEYS;
use crate::outcome::{Fatal, RangeAnswer, Rejection};
use crate::range::KeyRange;

/// Keys of a page at least, however few are wanted: some may be dead.
const PAGE_KEYS_MIN: usize = 16;

/// The store as of one revision.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    pub(crate) shared: &'a Shared,
    /// What a read without a revision sees; nothing above it exists.
    pub(crate) revision: Revision,
    /// The compaction mark.
    pub(crate) compacted: Option<Revision>,
    pub(crate) access: Access,
}

/// Whether [`RangeAnswer::count`] is wanted, which visits every key of the range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Count {
    /// All keys of the range (rule KV-R5).
    Range,
    /// Only what was visited anyway.
    Visited,
}

impl Reader<'_> {
    /// Answers a Range.
    pub(crate) fn range(
        &self,
        query: &RangeQuery,
        count: Count,
    ) -> Result<Result<RangeAnswer, Rejection>, ReadError> {
        let at = match self.resolve(query.revision) {
            Ok(at) => at,
            Err(rejection) => return Ok(Err(rejection)),
        };
        if query.count_only {
            let (_, count) = self.collect(&query.range, at, 0, Count::Range);
            return Ok(Ok(RangeAnswer { count, ..RangeAnswer::default() }));
        }
        let limit = query.limit.filter(|limit| *limit > 0);
        let limit = limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
        let filtered = query.filter != RevisionFilter::default();
        let by_key = query.sort_target == SortTarget::Key;
        let natural = by_key && query.sort_order != SortOrder::Descend;
        // Rules KV-R8 to R10: an order or a filter reads the whole range; a target alone does not.
        let whole = filtered || !(natural || query.sort_order == SortOrder::None);
        let keep = if whole { usize::MAX } else { plus_one(limit) };
        let (mut found, count) = self.collect(&query.range, at, keep, count);
        let mut more = false;
        if by_key && !filtered {
            if query.sort_order == SortOrder::Descend {
                found.reverse();
            }
            more = cut(&mut found, limit);
        }
        let mut kvs = self.fetch(&found, query)?;
        if !by_key || filtered {
            sort(&mut kvs, query.sort_target, query.sort_order);
            more = cut(&mut kvs, limit);
        }
        if query.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
        }
        Ok(Ok(RangeAnswer { kvs, more, count }))
    }

    /// The revision that a read means (rule KV-R3).
    pub(crate) fn resolve(&self, revision: Option<Revision>) -> Result<Revision, Rejection> {
        let Some(revision) = revision.filter(|revision| revision.0 > 0) else {
            return Ok(self.revision);
        };
        if revision > self.revision {
            return Err(Rejection::FutureRevision);
        }
        if Some(revision) < self.compacted {
            return Err(Rejection::Compacted);
        }
        Ok(revision)
    }

    /// The key as it is now.
    pub(crate) fn key(&self, key: &[u8]) -> Option<Found> {
        self.shared.read().index.live_key(key, self.revision)
    }

    /// Calls for each page of keys that are live now until told to stop.
    pub(crate) fn pages(
        &self,
        range: &KeyRange,
        mut visit: impl FnMut(Vec<Found>) -> Result<std::ops::ControlFlow<()>, ReadError>,
    ) -> Result<(), ReadError> {
        let mut after = None;
        loop {
            let mut page = Vec::new();
            after = self.shared.read().index.live_page(
                range,
                after.as_deref(),
                INDEX_PAGE_KEYS,
                self.revision,
                |found| page.push(found),
            );
            if visit(page)?.is_break() || after.is_none() {
                return Ok(());
            }
        }
    }

    /// Up to `keep` keys of the range, and their number. What the index knows is not counted (hazard D5).
    fn collect(
        &self,
        range: &KeyRange,
        at: Revision,
        keep: usize,
        count: Count,
    ) -> (Vec<Found>, i64) {
        let mut kept = Vec::new();
        let known = match count {
            Count::Range => self.shared.read().index.live_count(range, at),
            Count::Visited => None,
        };
        let enough = known.is_some() || count == Count::Visited;
        let mut visited = 0_u64;
        let mut after = None;
        loop {
            if enough && kept.len() >= keep {
                break;
            }
            let wanted = if enough { keep - kept.len() } else { INDEX_PAGE_KEYS };
            after = self.shared.read().index.live_page(
                range,
                after.as_deref(),
                wanted.clamp(PAGE_KEYS_MIN, INDEX_PAGE_KEYS),
                at,
                |found| {
                    visited += 1;
                    if kept.len() < keep {
                        kept.push(found);
                    }
                },
            );
            if after.is_none() {
                break;
            }
        }
        let number = known.unwrap_or(visited);
        (kept, i64::try_from(number).expect("keys in memory are fewer than that"))
    }

    fn fetch(&self, found: &[Found], query: &RangeQuery) -> Result<Vec<KeyValue>, ReadError> {
        let values = !query.keys_only || query.sort_target == SortTarget::Value;
        let filter = &query.filter;
        let mut kvs = Vec::with_capacity(found.len());
        for found in found {
            // The mod revision is known without a read.
            if !within(found.version.main().0, filter.min_mod, filter.max_mod) {
                continue;
            }
            let kv = if values { self.value(found)? } else { self.numbers(found)? };
            if within(kv.create_revision.0, filter.min_create, filter.max_create) {
                kvs.push(kv);
            }
        }
        Ok(kvs)
    }

    /// The key with its value.
    pub(crate) fn value(&self, found: &Found) -> Result<KeyValue, ReadError> {
        let record = self.shared.history.get(found.version.change(), self.access)?;
        record.key_value().map_err(|error| {
            let at = found.version.change();
            Fatal::Store(format!("record {at}: {error}")).into()
        })
    }

    /// The key with its numbers; its value may be missing. Reads only where the index does not know them.
    pub(crate) fn numbers(&self, found: &Found) -> Result<KeyValue, ReadError> {
        let Some(latest) = found.latest else { return self.value(found) };
        Ok(KeyValue {
            key: Bytes::copy_from_slice(&found.key),
            create_revision: latest.create,
            mod_revision: found.version.main(),
            version: latest.version,
            value: Bytes::new(),
            lease: latest.lease,
        })
    }
}

fn plus_one(limit: Option<usize>) -> usize {
    limit.map_or(usize::MAX, |limit| limit.saturating_add(1))
}

fn within(revision: i64, min: i64, max: i64) -> bool {
    (min == 0 || revision >= min) && (max == 0 || revision <= max)
}

/// Cuts to the limit and says whether more would have followed (rule KV-R7).
fn cut<T>(items: &mut Vec<T>, limit: Option<usize>) -> bool {
    let more = limit.is_some_and(|limit| items.len() > limit);
    items.truncate(limit.unwrap_or(usize::MAX));
    more
}

/// Sorts; the order of equal elements is that of their keys.
fn sort(kvs: &mut [KeyValue], target: SortTarget, order: SortOrder) {
    let compare = |a: &KeyValue, b: &KeyValue| match target {
        SortTarget::Key => a.key.cmp(&b.key),
        SortTarget::Version => a.version.cmp(&b.version),
        SortTarget::Create => a.create_revision.cmp(&b.create_revision),
        SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
        SortTarget::Value => a.value.cmp(&b.value),
    };
    kvs.sort_by(|a, b| match order {
        SortOrder::None | SortOrder::Ascend => compare(a, b),
        SortOrder::Descend => compare(a, b).reverse(),
    } as Ordering);
}
