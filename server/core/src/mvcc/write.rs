//! Writes of one entry: all its changes share one main revision, each has a sub revision of its own (rule M2).
//!
//! Whoever writes has checked before: from here on nothing is refused.

use bytes::Bytes;

use super::Shared;
use super::history::Access;
use super::index::{Found, Latest, Version};
use super::range::Reader;
use super::record::Record;
use crate::command::{DeleteRange, Put};
use crate::event::{Event, EventKind, KeyValue};
use crate::ids::{ChangeId, LeaseId, Revision};
use crate::limits::INDEX_PAGE_KEYS;
use crate::mutants::{Mutant, active};
use crate::outcome::{DeleteAnswer, Fatal, PutAnswer, Rejection};
use crate::range::KeyRange;

/// The changes of one entry while they are made.
pub(crate) struct Writing<'a> {
    pub(crate) shared: &'a Shared,
    /// The revision before this entry.
    pub(crate) begin: Revision,
    pub(crate) compacted: Option<Revision>,
    /// Chain over all records so far (hazard C2).
    pub(crate) history_hash: u64,
    /// The changes so far, in order.
    pub(crate) events: Vec<Event>,
    /// Build answers; without it only what changes the state is done.
    pub(crate) want_response: bool,
}

impl<'a> Writing<'a> {
    /// The revision that a read, or an answer's header, states now: one more after the first change (rules M9,
    /// H5, H6).
    pub(crate) fn revision(&self) -> Revision {
        if self.events.is_empty() { self.begin } else { self.begin.next() }
    }

    /// Reads what was written so far.
    pub(crate) fn reader(&self) -> Reader<'a> {
        Reader {
            shared: self.shared,
            revision: self.revision(),
            compacted: self.compacted,
            access: Access::Disk,
        }
    }

    /// Checks a put against the state (rules KV-P2, KV-P3): a plain one looks at its lease first.
    pub(crate) fn check_put(&self, put: &Put) -> Result<(), Rejection> {
        check_put_key(put)?;
        check_put_lease(self.shared, put)?;
        check_put_ignores(&self.reader(), put)
    }

    /// Writes one key.
    pub(crate) fn put(&mut self, put: &Put) -> Result<PutAnswer, Fatal> {
        let reader = self.reader();
        let found = reader.key(&put.key);
        let latest = found.as_ref().and_then(|found| found.latest).unwrap_or_default();
        let read = put.ignore_value || (put.prev_kv && self.want_response);
        let before = match &found {
            Some(found) if read => Some(reader.value(found).map_err(|error| error.into_fatal())?),
            _ => None,
        };
        let change = self.next_change();
        let kept_value = before.as_ref().filter(|_| put.ignore_value).map(|kv| kv.value.clone());
        let kv = KeyValue {
            key: put.key.clone(),
            create_revision: if found.is_some() { latest.create } else { change.main },
            mod_revision: change.main,
            version: latest.version + 1,
            value: kept_value.unwrap_or_else(|| put.value.clone()),
            lease: if put.ignore_lease { latest.lease } else { put.lease },
        };
        let record = Record::put(change, &kv);
        self.append_put(&record, &kv, latest.lease);
        let kv = record.key_value().map_err(|error| Fatal::Invariant(error.to_string()))?;
        let prev = self.before(change, &kv.key);
        self.events.push(Event { kind: EventKind::Put, kv, change, prev });
        let prev_kv = before.filter(|_| put.prev_kv && self.want_response);
        Ok(PutAnswer { prev_kv })
    }

    /// Deletes a range, a page of the index at a time (hazard D4).
    pub(crate) fn delete_range(&mut self, delete: &DeleteRange) -> Result<DeleteAnswer, Fatal> {
        let mut answer = DeleteAnswer::default();
        let mut after = None;
        loop {
            let reader = self.reader();
            let mut page: Vec<Found> = Vec::new();
            after = self.shared.read().index.live_page(
                &delete.range,
                after.as_deref(),
                INDEX_PAGE_KEYS,
                reader.revision,
                |found| page.push(found),
            );
            if delete.prev_kv && self.want_response {
                for found in &page {
                    let kv = reader.value(found).map_err(|error| error.into_fatal())?;
                    answer.prev_kvs.push(kv);
                }
            }
            answer.deleted += i64::try_from(page.len()).expect("a page is small");
            for found in page {
                self.delete(&found);
            }
            if after.is_none() {
                return Ok(answer);
            }
        }
    }

    /// Deletes keys that are live, in the order given (rule L5).
    pub(crate) fn delete_keys(&mut self, keys: &[Bytes]) -> Result<(), Fatal> {
        for key in keys {
            let delete = DeleteRange { range: KeyRange::Key(key.clone()), prev_kv: false };
            self.delete_range(&delete)?;
        }
        Ok(())
    }

    fn append_put(&mut self, record: &Record, kv: &KeyValue, lease_before: LeaseId) {
        self.history_hash = record.chained(self.history_hash);
        let place = self.shared.history.push(record.clone());
        let version = Version::new(record.change, place, false, record.bytes.len());
        let latest = Latest {
            create: kv.create_revision,
            version: kv.version,
            lease: kv.lease,
            row_hash: record.live_hash(),
        };
        let mut keys = self.shared.write();
        keys.index.push(&kv.key, version, latest);
        if lease_before != kv.lease && !active(Mutant::LeaseNotDetached) {
            keys.leases.detach(lease_before, &kv.key);
        }
        if kv.lease != LeaseId(0)
            && let Some(key) = keys.index.shared_key(&kv.key)
        {
            keys.leases.attach(kv.lease, key);
        }
    }

    fn delete(&mut self, found: &Found) {
        let change = self.next_change();
        let record = Record::tombstone(change, &found.key);
        self.history_hash = record.chained(self.history_hash);
        let place = self.shared.history.push(record.clone());
        let version = Version::new(change, place, true, record.bytes.len());
        let lease = found.latest.unwrap_or_default().lease;
        {
            let mut keys = self.shared.write();
            keys.index.push(&found.key, version, Latest::default());
            keys.leases.detach(lease, &found.key);
        }
        let prev = self.before(change, &found.key);
        // The key is a slice of the record, not of the index's shared one.
        let key = record.bytes.slice(record.bytes.len() - found.key.len()..);
        let kv = KeyValue { key, mod_revision: change.main, ..KeyValue::default() };
        self.events.push(Event { kind: EventKind::Delete, kv, change, prev });
    }

    fn before(&self, change: ChangeId, key: &[u8]) -> Option<ChangeId> {
        let keys = self.shared.read();
        keys.index.get(key)?.before(change)
    }

    fn next_change(&self) -> ChangeId {
        let sub = u32::try_from(self.events.len()).unwrap_or(u32::MAX);
        ChangeId { main: self.begin.next(), sub }
    }
}

/// The proposer has checked it; the log is not trusted to agree.
pub(crate) fn check_put_key(put: &Put) -> Result<(), Rejection> {
    if put.key.is_empty() { Err(Rejection::EmptyKey) } else { Ok(()) }
}

pub(crate) fn check_put_lease(shared: &Shared, put: &Put) -> Result<(), Rejection> {
    if put.lease != LeaseId(0) && !shared.read().leases.contains(put.lease) {
        return Err(Rejection::LeaseNotFound);
    }
    Ok(())
}

pub(crate) fn check_put_ignores(reader: &Reader<'_>, put: &Put) -> Result<(), Rejection> {
    if (put.ignore_value || put.ignore_lease) && reader.key(&put.key).is_none() {
        return Err(Rejection::KeyNotFound);
    }
    Ok(())
}
