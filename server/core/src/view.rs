//! An immutable picture of everything applied up to one entry. Every reader takes one; a clone is cheap.
//!
//! A View pins what it may read: physical compaction waits for Views older than the compaction mark (hazard
//! B8), so hold one only while it is used. Leases are the exception: they are read as of now (hazard D1).

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::command::{AlarmKind, ClusterVersion, Membership, RangeQuery, Txn};
use crate::event::{Event, EventKind, KeyValue};
use crate::ids::{ChangeId, LeaseId, LogId, MemberId, Revision};
use crate::lease::table::{LeaseInfo, LeaseTerms};
use crate::mvcc::range::{Count, Reader};
use crate::mvcc::record::Record;
use crate::mvcc::{Shared, hash, txn};
use crate::outcome::{Fatal, RangeAnswer, Rejection, TxnAnswer};
use crate::sessions::RequestCounts;
use crate::tables::{Members, Tables};

pub use crate::mvcc::hash::KvHash;
pub use crate::mvcc::history::{Access, ReadError};

/// The continuous hashes of the state (hazard C2): equal on all members at one index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct StateHash {
    /// Sum over all live rows.
    pub live: u64,
    /// Chain over all records ever applied.
    pub history: u64,
}

impl StateHash {
    /// Both in 32 bits, as etcd's Hash answers: CRC-32C over their big-endian bytes.
    pub fn folded(self) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(&self.live.to_be_bytes()), &self.history.to_be_bytes())
    }
}

/// Held by all Views of one compaction mark; its count tells whether one is still alive.
#[derive(Debug)]
pub(crate) struct Mark {
    pub(crate) compacted: Option<Revision>,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct View {
    pub(crate) parts: Arc<ViewParts>,
}

#[derive(Debug)]
pub(crate) struct ViewParts {
    pub(crate) shared: Arc<Shared>,
    pub(crate) mark: Arc<Mark>,
    pub(crate) at: LogId,
    pub(crate) revision: Revision,
    pub(crate) membership: Arc<(Option<LogId>, Membership)>,
    pub(crate) tables: Tables,
    pub(crate) hash: StateHash,
    pub(crate) live_keys: u64,
    pub(crate) live_bytes: u64,
    pub(crate) requests: RequestCounts,
}

impl View {
    /// The last entry it shows.
    pub fn at(&self) -> LogId {
        self.parts.at
    }

    /// How much is remembered of requests with an id.
    pub fn request_counts(&self) -> RequestCounts {
        self.parts.requests
    }

    /// The store's revision.
    pub fn revision(&self) -> Revision {
        self.parts.revision
    }

    /// The compaction mark; `None` when never compacted (rule M10).
    pub fn compacted(&self) -> Option<Revision> {
        self.parts.mark.compacted
    }

    /// Answers a Range (rules KV-R).
    pub fn range(
        &self,
        query: &RangeQuery,
        access: Access,
    ) -> Result<Result<RangeAnswer, Rejection>, ReadError> {
        self.reader(access).range(query, Count::Range)
    }

    /// As [`View::range`], but stops where the limit is reached: `count` is then only a lower bound. For paging
    /// through a large range without counting it for every page (hazard D5).
    pub fn range_uncounted(
        &self,
        query: &RangeQuery,
        access: Access,
    ) -> Result<Result<RangeAnswer, Rejection>, ReadError> {
        self.reader(access).range(query, Count::Visited)
    }

    /// Executes a transaction without puts and deletes (rule KV-T12); one with them is a fault of the caller.
    pub fn txn(
        &self,
        txn: &Txn,
        access: Access,
    ) -> Result<Result<TxnAnswer, Rejection>, ReadError> {
        let reader = self.reader(access);
        let path = txn::decide(&reader, txn)?;
        if let Err(rejection) = txn::check(&reader, txn, &path) {
            return Ok(Err(rejection));
        }
        let answer = txn::read(&reader, txn, &path)?;
        Ok(answer.map(|answer| TxnAnswer { revision: self.revision(), ..answer }))
    }

    /// Hashes history as etcd's HashKV; zero means the latest revision (behaviour.md 6.6).
    pub fn hash_kv(
        &self,
        revision: i64,
        access: Access,
    ) -> Result<Result<KvHash, Rejection>, ReadError> {
        hash::hash_kv(&self.reader(access), revision)
    }

    /// Visits the changes of revisions `from` to `to`, both included, in order, until told to stop.
    ///
    /// With [`Access::Memory`] a miss may come after some events were visited: go on behind the last of them.
    pub fn scan(
        &self,
        from: Revision,
        to: Revision,
        access: Access,
        visit: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Result<Result<(), Rejection>, ReadError> {
        if Some(from) < self.compacted() {
            return Ok(Err(Rejection::Compacted));
        }
        let start = ChangeId { main: from, sub: 0 };
        let to = to.min(self.revision());
        self.parts.shared.history.scan(start, to, access, &mut |record| {
            Ok(self.event(record)?.map_or(ControlFlow::Continue(()), &mut *visit))
        })?;
        Ok(Ok(()))
    }

    /// Visits the records that compaction left, from a change to the end of a revision.
    pub(crate) fn scan_records(
        &self,
        from: ChangeId,
        to: Revision,
        access: Access,
        visit: &mut dyn FnMut(&Record) -> ControlFlow<()>,
    ) -> Result<(), ReadError> {
        self.parts.shared.history.scan(from, to, access, &mut |record| {
            let kept = self.event(record)?.is_some();
            Ok(if kept { visit(record) } else { ControlFlow::Continue(()) })
        })
    }

    /// The key as it was before the event: the state at the revision before it, if that is not compacted away
    /// (rule W19).
    pub fn previous(&self, event: &Event, access: Access) -> Result<Option<KeyValue>, ReadError> {
        match event.prev.filter(|_| self.has_before(event.change)) {
            Some(prev) => {
                let record = self.parts.shared.history.get(prev, access)?;
                Ok(Some(key_value(&record)?))
            }
            None => Ok(None),
        }
    }

    /// The continuous hashes at this entry.
    pub fn state_hash(&self) -> StateHash {
        self.parts.hash
    }

    /// The members table.
    pub fn members(&self) -> &Members {
        &self.parts.tables.members
    }

    /// The membership in force and the entry that brought it.
    pub fn membership(&self) -> &(Option<LogId>, Membership) {
        &self.parts.membership
    }

    /// Alarms raised.
    pub fn alarms(&self) -> &BTreeSet<(MemberId, AlarmKind)> {
        &self.parts.tables.alarms
    }

    /// The cluster version, once it is set.
    pub fn cluster_version(&self) -> Option<ClusterVersion> {
        self.parts.tables.cluster_version
    }

    /// A lease with its keys, as it is now.
    pub fn lease(&self, id: LeaseId) -> Option<LeaseInfo> {
        self.parts.shared.read().leases.info(id)
    }

    /// What a lease was granted, if it exists now.
    pub fn lease_terms(&self, id: LeaseId) -> Option<LeaseTerms> {
        self.parts.shared.read().leases.get(id).map(|lease| lease.terms)
    }

    /// All leases as they are now, by id.
    pub fn leases(&self) -> Vec<(LeaseId, LeaseTerms)> {
        let keys = self.parts.shared.read();
        keys.leases.iter().map(|(id, lease)| (id, lease.terms)).collect()
    }

    /// Bytes of the records that no compaction took: etcd's dbSizeInUse.
    pub fn live_bytes(&self) -> u64 {
        self.parts.live_bytes
    }

    /// Live keys.
    pub fn count(&self) -> u64 {
        self.parts.live_keys
    }

    fn reader(&self, access: Access) -> Reader<'_> {
        Reader {
            shared: &self.parts.shared,
            revision: self.revision(),
            compacted: self.compacted(),
            access,
        }
    }

    /// The event of a record, unless compaction took it: at the mark itself only the newest change of each key
    /// is kept (rule M11), whether or not physical compaction came by.
    fn event(&self, record: &Record) -> Result<Option<Event>, ReadError> {
        let kv = key_value(record)?;
        let change = record.change;
        let keys = self.parts.shared.read();
        let entry = keys.index.get(&kv.key);
        if Some(change.main) <= self.compacted() {
            let newest = entry.and_then(|entry| entry.at(change.main));
            if newest.is_none_or(|newest| newest.change() != change) {
                return Ok(None);
            }
        }
        let prev = entry.and_then(|entry| entry.before(change));
        let prev = prev.filter(|_| self.has_before(change));
        let kind = if record.tombstone { EventKind::Delete } else { EventKind::Put };
        Ok(Some(Event { kind, kv, change, prev }))
    }

    /// Whether the revision before that change can still be read.
    fn has_before(&self, change: ChangeId) -> bool {
        self.compacted().is_none_or(|compacted| compacted < change.main)
    }
}

fn key_value(record: &Record) -> Result<KeyValue, Fatal> {
    record.key_value().map_err(|error| Fatal::Store(format!("record {}: {error}", record.change)))
}
