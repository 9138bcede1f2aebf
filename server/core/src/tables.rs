//! The small tables: members, removed ids, alarms, cluster version; and the log of changed rows.
//!
//! They are shared with Views as `Arc` and copied when written, which is rare. Every row counts in the live
//! hash (hazard C2), those of leases too.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3;

use crate::checkpoint::Table;

use crate::codec::{DecodeError, alarm_kind, alarm_number, decode_member, encode_member};
use crate::command::{AlarmChange, AlarmKind, ClusterVersion, Membership, Publish};
use crate::ids::{Incarnation, MemberId};

/// A member as clients see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Its name; empty until it published itself (rule C2).
    pub name: String,
    /// Where its peers reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it; empty until it published itself.
    pub client_urls: Vec<String>,
    /// It does not vote, and nobody said that it shall.
    pub is_learner: bool,
    /// It was added as a voter and votes once it has caught up; until then the log knows it as a learner (hazard B4).
    pub seat_reserved: bool,
    /// Its data directory's mark; `None` until it published itself (hazard A6).
    pub incarnation: Option<Incarnation>,
}

/// Who belongs to the cluster and who did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Present members.
    pub present: BTreeMap<MemberId, Member>,
    /// Ids that were removed and may not come back.
    pub removed: BTreeSet<MemberId>,
}

/// The tables that a View shares.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tables {
    pub(crate) members: Arc<Members>,
    pub(crate) alarms: Arc<BTreeSet<(MemberId, AlarmKind)>>,
    pub(crate) cluster_version: Option<ClusterVersion>,
}

/// Rows that changed since the last checkpoint, the number of all rows, and their share of the live hash.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    changed: BTreeMap<(Table, Bytes), Change>,
    count: u64,
    hash: u64,
}

/// What became of one row since the last checkpoint.
#[derive(Debug)]
struct Change {
    /// The last checkpoint has the row: a deletion must be told.
    stored: bool,
    row: Option<Bytes>,
}

/// Row of what only exists or not; never empty, as stores write an empty row for a deleted one.
const PRESENT: Bytes = Bytes::from_static(&[1]);

/// Id of the cluster version in [`Table::Cluster`].
const CLUSTER_VERSION: &[u8] = b"version";

impl Rows {
    /// Replaces a row; either side may be absent.
    pub(crate) fn replace(
        &mut self,
        table: Table,
        id: Bytes,
        old: Option<Bytes>,
        new: Option<Bytes>,
    ) {
        if let Some(old) = &old {
            self.hash = self.hash.wrapping_sub(row_hash(table, &id, old));
            self.count -= 1;
        }
        if let Some(new) = &new {
            self.hash = self.hash.wrapping_add(row_hash(table, &id, new));
            self.count += 1;
        }
        if old == new {
            return;
        }
        match self.changed.entry((table, id)) {
            Entry::Vacant(entry) => {
                entry.insert(Change { stored: old.is_some(), row: new });
            }
            // It came and went, as most answers to requests with an id do: nobody need hear of it.
            Entry::Occupied(entry) if new.is_none() && !entry.get().stored => {
                entry.remove();
            }
            Entry::Occupied(mut entry) => entry.get_mut().row = new,
        }
    }

    /// Counts a row that the last checkpoint holds already.
    pub(crate) fn recover(&mut self, table: Table, id: &[u8], row: &[u8]) {
        self.hash = self.hash.wrapping_add(row_hash(table, id, row));
        self.count += 1;
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn take(&mut self) -> Vec<(Table, Bytes, Option<Bytes>)> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().map(|((table, id), change)| (table, id, change.row)).collect()
    }
}

fn row_hash(table: Table, id: &[u8], row: &[u8]) -> u64 {
    let mut hash = Xxh3::with_seed(u64::from(table as u8));
    hash.update(&(id.len() as u64).to_be_bytes());
    hash.update(id);
    hash.update(row);
    hash.digest()
}

/// An id as a row's: eight bytes, big-endian.
pub(crate) fn id_row(id: u64) -> Bytes {
    Bytes::copy_from_slice(&id.to_be_bytes())
}

/// Reads an id of a row.
pub(crate) fn row_id(id: &[u8]) -> Result<u64, DecodeError> {
    id.try_into().map(u64::from_be_bytes).map_err(|_| DecodeError::Short)
}

fn alarm_row(member: MemberId, kind: AlarmKind) -> Bytes {
    let mut row = member.0.to_be_bytes().to_vec();
    row.push(alarm_number(kind));
    Bytes::from(row)
}

fn version_row(version: ClusterVersion) -> Bytes {
    let mut row = version.major.to_be_bytes().to_vec();
    row.extend_from_slice(&version.minor.to_be_bytes());
    Bytes::from(row)
}

impl Tables {
    /// Takes in a row of the last checkpoint; leases, sessions and marks of history are not its business.
    pub(crate) fn recover(
        &mut self,
        table: Table,
        id: &[u8],
        row: Bytes,
    ) -> Result<(), DecodeError> {
        match table {
            Table::Member => {
                let member = decode_member(row)?;
                let members = Arc::make_mut(&mut self.members);
                members.present.insert(MemberId(row_id(id)?), member);
            }
            Table::Removed => {
                Arc::make_mut(&mut self.members).removed.insert(MemberId(row_id(id)?));
            }
            Table::Alarm => {
                let (kind, member) = id.split_last().ok_or(DecodeError::Short)?;
                let alarm = (MemberId(row_id(member)?), alarm_kind(*kind)?);
                Arc::make_mut(&mut self.alarms).insert(alarm);
            }
            Table::Cluster if id == CLUSTER_VERSION => {
                let row = row_id(&row)?;
                let [major, minor] = [(row >> 32), row & u64::from(u32::MAX)]
                    .map(|half| u32::try_from(half).expect("half of 64 bits"));
                self.cluster_version = Some(ClusterVersion { major, minor });
            }
            Table::Cluster => return Err(DecodeError::Contradiction("an unknown cluster value")),
            Table::Lease | Table::Dead | Table::Session | Table::Answer => {}
        }
        Ok(())
    }

    /// All rows, in order of table and id.
    pub(crate) fn rows(&self) -> Vec<(Table, Bytes, Bytes)> {
        let members = self.members.present.iter();
        let members = members.map(|(id, m)| (Table::Member, id_row(id.0), encode_member(m)));
        let removed = self.members.removed.iter();
        let removed = removed.map(|id| (Table::Removed, id_row(id.0), PRESENT));
        let alarms = self.alarms.iter();
        let alarms = alarms.map(|(id, kind)| (Table::Alarm, alarm_row(*id, *kind), PRESENT));
        let version = self.cluster_version.map(|version| {
            (Table::Cluster, Bytes::from_static(CLUSTER_VERSION), version_row(version))
        });
        members.chain(removed).chain(alarms).chain(version).collect()
    }

    /// Whether any member raised that alarm.
    pub(crate) fn is_raised(&self, kind: AlarmKind) -> bool {
        self.alarms.iter().any(|(_, raised)| *raised == kind)
    }

    /// Raises or clears an alarm and lists what it touched (behaviour.md 6.2).
    pub(crate) fn change_alarm(
        &mut self,
        change: AlarmChange,
        rows: &mut Rows,
    ) -> Vec<(MemberId, AlarmKind)> {
        let alarm = (change.member, change.kind);
        let raised = self.alarms.contains(&alarm);
        if raised != change.raise {
            let row = |present: bool| present.then_some(PRESENT);
            let id = alarm_row(change.member, change.kind);
            rows.replace(Table::Alarm, id, row(raised), row(change.raise));
            let alarms = Arc::make_mut(&mut self.alarms);
            if change.raise {
                alarms.insert(alarm)
            } else {
                alarms.remove(&alarm)
            };
        }
        if change.raise || raised { vec![alarm] } else { Vec::new() }
    }

    /// Notes what a member says of itself; false if there is no such member.
    pub(crate) fn publish(&mut self, publish: &Publish, rows: &mut Rows) -> bool {
        let Some(member) = self.members.present.get(&publish.member) else { return false };
        let member = Member {
            name: publish.name.clone(),
            client_urls: publish.client_urls.clone(),
            incarnation: Some(publish.incarnation),
            ..member.clone()
        };
        self.set_member(publish.member, Some(member), rows);
        true
    }

    /// A learner is a voter to be; false if there is no such learner.
    pub(crate) fn reserve_seat(&mut self, member: MemberId, rows: &mut Rows) -> bool {
        let learner = self.members.present.get(&member).filter(|member| member.is_learner);
        let Some(learner) = learner else { return false };
        let voter = Member { is_learner: false, seat_reserved: true, ..learner.clone() };
        self.set_member(member, Some(voter), rows);
        true
    }

    pub(crate) fn set_cluster_version(&mut self, version: ClusterVersion, rows: &mut Rows) {
        let id = Bytes::from_static(CLUSTER_VERSION);
        let old = self.cluster_version.map(version_row);
        rows.replace(Table::Cluster, id, old, Some(version_row(version)));
        self.cluster_version = Some(version);
    }

    /// Follows a membership: its members are present, all others removed for good.
    pub(crate) fn set_membership(&mut self, membership: &Membership, rows: &mut Rows) {
        for (id, peer_urls) in &membership.nodes {
            let before = self.members.present.get(id).cloned().unwrap_or_default();
            let votes = membership.voters.iter().any(|voters| voters.contains(id));
            let seat_reserved = before.seat_reserved && !votes;
            let is_learner = !votes && !seat_reserved;
            let peer_urls = peer_urls.clone();
            let member = Member { peer_urls, is_learner, seat_reserved, ..before };
            self.set_member(*id, Some(member), rows);
            self.set_removed(*id, false, rows);
        }
        let present: Vec<MemberId> = self.members.present.keys().copied().collect();
        for id in present.into_iter().filter(|id| !membership.nodes.contains_key(id)) {
            self.set_member(id, None, rows);
            self.set_removed(id, true, rows);
        }
    }

    fn set_member(&mut self, id: MemberId, member: Option<Member>, rows: &mut Rows) {
        let old = self.members.present.get(&id).map(encode_member);
        let new = member.as_ref().map(encode_member);
        rows.replace(Table::Member, id_row(id.0), old, new);
        let members = Arc::make_mut(&mut self.members);
        match member {
            Some(member) => members.present.insert(id, member),
            None => members.present.remove(&id),
        };
    }

    fn set_removed(&mut self, id: MemberId, removed: bool, rows: &mut Rows) {
        let was = self.members.removed.contains(&id);
        if was != removed {
            let row = |present: bool| present.then_some(PRESENT);
            rows.replace(Table::Removed, id_row(id.0), row(was), row(removed));
            let members = Arc::make_mut(&mut self.members);
            if removed {
                members.removed.insert(id)
            } else {
                members.removed.remove(&id)
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::MemberId;

    fn membership(voters: &[u64], nodes: &[u64]) -> Membership {
        let ids = |ids: &[u64]| ids.iter().map(|id| MemberId(*id)).collect::<Vec<_>>();
        Membership {
            voters: vec![ids(voters).into_iter().collect()],
            nodes: ids(nodes).into_iter().map(|id| (id, vec![format!("http://{id}")])).collect(),
        }
    }

    /// Hazard B4: for everybody but the log it is a voter at once; and a restart knows that, too.
    #[test]
    fn a_reserved_seat_is_kept_until_it_is_taken() {
        let (mut tables, mut rows) = (Tables::default(), Rows::default());
        let shown = |tables: &Tables| {
            let member = &tables.members.present[&MemberId(3)];
            (member.is_learner, member.seat_reserved)
        };
        tables.set_membership(&membership(&[1, 2], &[1, 2, 3]), &mut rows);
        assert_eq!(shown(&tables), (true, false));
        assert!(tables.reserve_seat(MemberId(3), &mut rows));
        for stranger in [2, 4] {
            assert!(!tables.reserve_seat(MemberId(stranger), &mut rows), "{stranger}");
        }
        tables.set_membership(&membership(&[1], &[1, 3]), &mut rows);
        assert_eq!(shown(&tables), (false, true));
        let mut again = Tables::default();
        for (table, id, row) in tables.rows() {
            assert!(again.recover(table, &id, row).is_ok());
        }
        assert_eq!(again.members, tables.members);
        assert!(again.members.removed.contains(&MemberId(2)));
        tables.set_membership(&membership(&[1, 3], &[1, 3]), &mut rows);
        assert_eq!(shown(&tables), (false, false));
    }

    fn changes(rows: &mut Rows) -> Vec<Option<Bytes>> {
        rows.take().into_iter().map(|(.., row)| row).collect()
    }

    /// Each checkpoint is told what differs from the one before, and nothing else.
    #[test]
    fn a_row_that_came_and_went_is_not_told() {
        let mut rows = Rows::default();
        let row = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
        let replace = |rows: &mut Rows, old, new| {
            rows.replace(Table::Answer, id_row(1), old, new);
        };
        replace(&mut rows, None, row("a"));
        replace(&mut rows, row("a"), row("b"));
        replace(&mut rows, row("b"), None);
        assert_eq!(changes(&mut rows), []);
        replace(&mut rows, None, row("c"));
        assert_eq!(changes(&mut rows), [row("c")]);
        replace(&mut rows, row("c"), None);
        replace(&mut rows, None, row("d"));
        assert_eq!(changes(&mut rows), [row("d")], "it is another one now");
        replace(&mut rows, row("d"), row("e"));
        replace(&mut rows, row("e"), None);
        assert_eq!(changes(&mut rows), [None], "it was stored");
        assert_eq!((rows.count(), rows.hash()), (0, 0));
    }
}
