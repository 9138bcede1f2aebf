//! Opening: from the rows and blocks of the last checkpoint back to a state, trusting none of them.
//!
//! Every checksum, every count and the live hash must agree with the checkpoint's meta, or this member may not
//! serve (decision D4).

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::{Options, State};
use crate::checkpoint::{BlockId, CheckpointStore, Meta, StoreError, Table};
use crate::codec::{DecodeError, decode_change_key, decode_lease, decode_marks};
use crate::command::Membership;
use crate::ids::{ChangeId, LeaseId, LogId, Revision};
use crate::mutants::{Mutant, active};
use crate::mvcc::history::{History, store_failed};
use crate::mvcc::index::{Latest, Version};
use crate::mvcc::record::Record;
use crate::mvcc::{Keys, Shared};
use crate::outcome::Fatal;
use crate::sessions::Sessions;
use crate::tables::{Rows, Tables};
use crate::view::{Mark, StateHash, View, ViewParts};

/// Keys compacted under one hold of the lock; nobody waits for it yet.
const COMPACT_KEYS: usize = 4096;

pub(super) fn open(store: Arc<dyn CheckpointStore>, options: Options) -> Result<State, Fatal> {
    let meta = store.meta().map_err(store_failed)?;
    let fresh = meta.is_none();
    let meta = meta.unwrap_or_else(empty);
    let history = History::new(Arc::clone(&store), options.cache_bytes, meta.sequence + 1);
    let shared = Arc::new(Shared::new(history));
    let mut recovery = Recovery {
        meta: &meta,
        shared: &shared,
        tables: Tables::default(),
        sessions: Sessions::default(),
        rows: Rows::default(),
        dead: BTreeMap::new(),
        dead_rows: 0,
        last: ChangeId::default(),
    };
    if !fresh {
        recovery.rows(&*store)?;
        recovery.blocks(&*store)?;
        recovery.compact()?;
        recovery.attach_leases()?;
    }
    let Recovery { tables, sessions, rows, .. } = recovery;
    let state = assemble(&meta, shared, tables, sessions, rows);
    if state.hash().live != meta.live_hash && !active(Mutant::RowsBeforeMeta) {
        return Err(Fatal::Store("the live hash differs from the checkpoint's".into()));
    }
    Ok(state)
}

fn empty() -> Meta {
    Meta {
        sequence: 0,
        applied: LogId::default(),
        membership: (None, Membership::default()),
        revision: Revision::FIRST,
        compacted: None,
        live_hash: 0,
        history_hash: 0,
        blocks: 0,
        rows: 0,
    }
}

fn assemble(
    meta: &Meta,
    shared: Arc<Shared>,
    tables: Tables,
    sessions: Sessions,
    rows: Rows,
) -> State {
    let membership = Arc::new(meta.membership.clone());
    let parts = ViewParts {
        shared: Arc::clone(&shared),
        mark: Arc::new(Mark { compacted: meta.compacted }),
        at: meta.applied,
        revision: meta.revision,
        membership: Arc::clone(&membership),
        tables: tables.clone(),
        hash: StateHash::default(),
        live_keys: 0,
        live_bytes: 0,
        requests: sessions.counts(),
    };
    let mut state = State {
        shared,
        applied: meta.applied,
        membership,
        revision: meta.revision,
        compacted: meta.compacted,
        history_hash: meta.history_hash,
        tables,
        sessions,
        rows,
        sequence: meta.sequence,
        sweep: None,
        old_marks: Vec::new(),
        view: View { parts: Arc::new(parts) },
    };
    state.publish();
    state
}

struct Recovery<'a> {
    meta: &'a Meta,
    shared: &'a Shared,
    tables: Tables,
    sessions: Sessions,
    rows: Rows,
    /// Dead records by block, from the rows of [`Table::Dead`].
    dead: BTreeMap<(ChangeId, u64), u16>,
    dead_rows: u64,
    /// The last change seen.
    last: ChangeId,
}

impl Recovery<'_> {
    fn rows(&mut self, store: &dyn CheckpointStore) -> Result<(), Fatal> {
        store
            .rows(&mut |table, id, row| {
                self.row(table, &id, row)
                    .map_err(|error| StoreError::Corrupt(format!("row of {table:?}: {error}")))
            })
            .map_err(store_failed)?;
        let found = self.rows.count() + self.dead_rows;
        if found != self.meta.rows && !active(Mutant::RowsBeforeMeta) {
            let expected = self.meta.rows;
            return Err(Fatal::Store(format!("{found} rows instead of {expected}")));
        }
        match self.sessions.broken(self.meta.applied.index) {
            Some(broken) => Err(Fatal::Store(broken.into())),
            None => Ok(()),
        }
    }

    fn row(&mut self, table: Table, id: &Bytes, row: Bytes) -> Result<(), DecodeError> {
        if table == Table::Dead {
            let marks = decode_marks(id, row)?;
            self.dead.insert(decode_change_key(id.clone())?, marks);
            self.dead_rows += 1;
            return Ok(());
        }
        self.rows.recover(table, id, &row);
        if Sessions::owns(table, id) {
            return self.sessions.recover(table, id, row);
        }
        if table == Table::Lease {
            let id = id.as_ref().try_into().map_err(|_| DecodeError::Short)?;
            let terms = decode_lease(row)?;
            self.shared.write().leases.grant(LeaseId(i64::from_be_bytes(id)), terms);
            return Ok(());
        }
        self.tables.recover(table, id, row)
    }

    fn blocks(&mut self, store: &dyn CheckpointStore) -> Result<(), Fatal> {
        let mut found = 0;
        let mut fatal = None;
        let visited = store.blocks(&mut |id, bytes| {
            found += 1;
            self.block(id, bytes).map_err(|error| {
                let text = error.to_string();
                fatal = Some(error);
                StoreError::Corrupt(text)
            })
        });
        if let Some(fatal) = fatal {
            return Err(fatal);
        }
        visited.map_err(store_failed)?;
        let expected = self.meta.blocks;
        if found != expected {
            return Err(Fatal::Store(format!("{found} blocks instead of {expected}")));
        }
        if let Some(((first, _), _)) = self.dead.first_key_value() {
            return Err(Fatal::Store(format!("marks of block {first}, which is not there")));
        }
        self.shared.history.recovered();
        Ok(())
    }

    fn block(&mut self, id: BlockId, bytes: Bytes) -> Result<(), Fatal> {
        let dead = self.dead.remove(&(id.first, id.sequence)).unwrap_or(0);
        let block = self.shared.history.recover(id, bytes, dead)?;
        let mut keys = self.shared.write();
        for (place, record) in (0_u8..).zip(block.records()) {
            let change = record.change;
            if change <= self.last || change.main > self.meta.revision {
                return Err(Fatal::Store(format!("change {change} is out of order")));
            }
            self.last = change;
            if dead & (1 << place) == 0 {
                index(&mut keys, record, place)?;
            }
        }
        Ok(())
    }

    /// Finishes a compaction that was under way; what it left behind must not show (hazard C4).
    fn compact(&mut self) -> Result<(), Fatal> {
        let Some(compacted) = self.meta.compacted else { return Ok(()) };
        let mut after = None;
        loop {
            let mut dropped = Vec::new();
            after = self.shared.write().index.compact_page(
                after.as_deref(),
                COMPACT_KEYS,
                compacted,
                &mut dropped,
            );
            let dead = dropped.iter().map(|version| (version.change(), version.place()));
            self.shared.history.forget(dead)?;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    /// Each key's newest change tells its lease (rule M14).
    fn attach_leases(&mut self) -> Result<(), Fatal> {
        let mut keys = self.shared.write();
        let Keys { index, leases } = &mut *keys;
        for (key, entry) in index.iter() {
            let lease = entry.live().map(|(_, latest)| latest.lease);
            if let Some(id) = lease.filter(|id| *id != LeaseId(0))
                && !active(Mutant::LeasesNotAttached)
                && !leases.attach(id, Arc::clone(key))
                && !active(Mutant::RowsBeforeMeta)
            {
                return Err(Fatal::Store(format!("a key hangs on lease {id}, which is not there")));
            }
        }
        Ok(())
    }
}

fn index(keys: &mut Keys, record: &Record, place: u8) -> Result<(), Fatal> {
    let kv = record
        .key_value()
        .map_err(|error| Fatal::Store(format!("record {}: {error}", record.change)))?;
    let version = Version::new(record.change, place, record.tombstone, record.bytes.len());
    let latest = if record.tombstone {
        Latest::default()
    } else {
        Latest {
            create: kv.create_revision,
            version: kv.version,
            lease: kv.lease,
            row_hash: record.live_hash(),
        }
    };
    keys.index.push(&kv.key, version, latest);
    Ok(())
}
