//! The naive store: every revision is a full copy of all keys, every change ever made is kept.
//!
//! Written from behaviour.md alone (rules M, KV-P, KV-C, L, 6.2, 6.3), so that it can disagree with the core.
//! It knows no blocks, no index, no checkpoints and no physical compaction: history is never forgotten here,
//! only refused.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kvd_core::command::{
    AlarmChange, AlarmKind, Command, DeleteRange, LeaseGrant, LeaseRemaining, LeaseRenew, Put,
    Remaining, Txn, TxnOp,
};
use kvd_core::event::{Event, EventKind, KeyValue};
use kvd_core::ids::{ChangeId, Index, LeaseId, MemberId, Revision};
use kvd_core::lease::table::{LeaseChange, LeaseTerms};
use kvd_core::outcome::{DeleteAnswer, PutAnswer, Rejection, Response};
use kvd_core::range::KeyRange;

use super::expect::TxnExpect;

/// A live key and the change that put it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Live {
    pub(crate) kv: KeyValue,
    pub(crate) change: ChangeId,
}

/// A lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) ttl: i64,
    pub(crate) granted_at: u64,
    /// Zero where all of the time is left.
    pub(crate) remaining: i64,
}

/// All live keys of one moment.
pub(crate) type Keys = BTreeMap<Bytes, Live>;

/// All there is to know of a store.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    /// The keys after each revision; the index is the revision.
    pub(crate) states: Vec<Keys>,
    /// Every change ever made, in order.
    pub(crate) changes: Vec<Event>,
    /// `None` when never compacted (rule M10).
    pub(crate) compacted: Option<i64>,
    pub(crate) leases: BTreeMap<LeaseId, Lease>,
    pub(crate) alarms: BTreeSet<(MemberId, AlarmKind)>,
}

/// What a command must answer.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Plain(Response),
    Txn(TxnExpect),
}

/// Why a command is refused: for one of these reasons. The spec does not say which of several operations of a
/// transaction is the one that is told.
pub(crate) type Refusal = Vec<Rejection>;

/// What a command must do.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) outcome: Result<Answer, Refusal>,
    pub(crate) events: Vec<Event>,
    pub(crate) leases: Vec<LeaseChange>,
}

/// One write transaction under way (rule M2).
pub(crate) struct Work {
    /// Revision before it.
    pub(crate) begin: i64,
    /// The keys before it.
    before: Keys,
    pub(crate) keys: Keys,
    pub(crate) events: Vec<Event>,
}

impl Model {
    /// A brand-new store is at revision 1 (rule M1).
    pub(crate) fn new() -> Self {
        Self {
            states: vec![Keys::new(), Keys::new()],
            changes: Vec::new(),
            compacted: None,
            leases: BTreeMap::new(),
            alarms: BTreeSet::new(),
        }
    }

    pub(crate) fn revision(&self) -> i64 {
        i64::try_from(self.states.len()).unwrap() - 1
    }

    pub(crate) fn latest(&self) -> &Keys {
        self.states.last().unwrap()
    }

    /// The keys at a revision that a client asks for (rules KV-R3, M10).
    pub(crate) fn at(&self, revision: i64) -> Result<&Keys, Rejection> {
        if revision > self.revision() {
            return Err(Rejection::FutureRevision);
        }
        if self.compacted.is_some_and(|compacted| revision < compacted) {
            return Err(Rejection::Compacted);
        }
        Ok(&self.states[usize::try_from(revision).unwrap()])
    }

    /// Keys attached to a lease, in order (rules M6, L17).
    pub(crate) fn lease_keys(&self, id: LeaseId) -> Vec<Bytes> {
        let attached = self.latest().values().filter(|live| live.kv.lease == id);
        attached.map(|live| live.kv.key.clone()).collect()
    }

    /// Applies a command as the entry of that index.
    pub(crate) fn apply(&mut self, index: u64, command: &Command) -> Told {
        let mut work = self.begin();
        let before = self.leases.clone();
        let outcome = match (self.admit(command), command) {
            (Err(rejection), _) => Err(vec![rejection]),
            (Ok(()), Command::Txn(txn)) => self.txn(txn, &mut work).map(Answer::Txn),
            (Ok(()), _) => match self.execute(index, command, &mut work) {
                Ok(response) => Ok(Answer::Plain(response)),
                Err(rejection) => Err(vec![rejection]),
            },
        };
        let events = if outcome.is_ok() { work.events } else { Vec::new() };
        if !events.is_empty() {
            self.states.push(work.keys);
            self.changes.extend(events.iter().cloned());
        }
        let leases = self.lease_changes(&before, command, outcome.is_ok());
        Told { outcome, events, leases }
    }

    /// What clocks must be told: by what is there and was not, and the other way round.
    fn lease_changes(
        &self,
        before: &BTreeMap<LeaseId, Lease>,
        command: &Command,
        done: bool,
    ) -> Vec<LeaseChange> {
        if let (Command::LeaseRenew(renew), true) = (command, done) {
            let known = renew.ids.iter().filter(|id| self.leases.contains_key(id));
            return known.map(|id| LeaseChange::Renewed { id: *id }).collect();
        }
        if let (Command::LeaseRemaining(remaining), true) = (command, done) {
            let possible = remaining.leases.iter().filter(|noted| {
                self.leases.get(&noted.id).is_some_and(|lease| {
                    lease.granted_at == noted.granted_at.0
                        && noted.seconds > 0
                        && noted.seconds <= lease.ttl
                })
            });
            let change =
                |noted: &Remaining| LeaseChange::Noted { id: noted.id, seconds: noted.seconds };
            return possible.map(change).collect();
        }
        let granted = self.leases.iter().filter(|(id, _)| !before.contains_key(id));
        let granted = granted.map(|(id, lease)| LeaseChange::Granted {
            id: *id,
            terms: LeaseTerms {
                ttl_seconds: lease.ttl,
                granted_at: Index(lease.granted_at),
                remaining_seconds: 0,
            },
        });
        let ended = before.keys().filter(|id| !self.leases.contains_key(id));
        granted.chain(ended.map(|id| LeaseChange::Ended { id: *id })).collect()
    }

    pub(crate) fn begin(&self) -> Work {
        let keys = self.latest().clone();
        Work { begin: self.revision(), before: keys.clone(), keys, events: Vec::new() }
    }

    /// Effects of alarms (behaviour.md 6.3).
    fn admit(&self, command: &Command) -> Result<(), Rejection> {
        let raised = |kind| self.alarms.iter().any(|(_, alarm)| *alarm == kind);
        let write = !matches!(
            command,
            Command::Alarm(_)
                | Command::Publish(_)
                | Command::ClusterVersion(_)
                | Command::LeaseRenew(_)
                | Command::LeaseRemaining(_)
                | Command::ReserveSeat(_)
        );
        if write && raised(AlarmKind::Corrupt) {
            return Err(Rejection::Corrupt);
        }
        let costs = match command {
            Command::Put(_) | Command::LeaseGrant(_) => true,
            Command::Txn(txn) => has_put(txn),
            _ => false,
        };
        if costs && raised(AlarmKind::NoSpace) {
            return Err(Rejection::NoSpace);
        }
        Ok(())
    }

    fn execute(
        &mut self,
        index: u64,
        command: &Command,
        work: &mut Work,
    ) -> Result<Response, Rejection> {
        Ok(match command {
            Command::Put(put) => {
                // The lease first, then what is to be kept (rule KV-P2).
                self.check_lease(put)?;
                check_kept(put, self.latest())?;
                Response::Put(work.put(put))
            }
            Command::DeleteRange(delete) => Response::DeleteRange(work.delete(delete)),
            Command::Compact(compact) => {
                // Rule KV-C2; "none" is -1.
                if compact.revision <= self.compacted.unwrap_or(-1) {
                    return Err(Rejection::Compacted);
                }
                if compact.revision > self.revision() {
                    return Err(Rejection::FutureRevision);
                }
                self.compacted = Some(compact.revision);
                Response::Compact
            }
            Command::LeaseGrant(grant) => self.grant(index, *grant)?,
            Command::LeaseRevoke(revoke) => self.revoke(revoke.id, work)?,
            Command::LeaseExpire(expire) => match self.leases.get(&expire.id) {
                Some(lease) if lease.granted_at == expire.granted_at.0 => {
                    self.revoke(expire.id, work)?
                }
                _ => Response::None,
            },
            Command::LeaseRenew(renew) => Response::LeaseRenew(self.renew(renew)),
            Command::LeaseRemaining(remaining) => {
                self.note_remaining(remaining);
                Response::None
            }
            Command::Alarm(change) => Response::Alarm(self.alarm(*change)),
            _ => Response::None,
        })
    }

    pub(crate) fn check_lease(&self, put: &Put) -> Result<(), Rejection> {
        let known = put.lease == LeaseId(0) || self.leases.contains_key(&put.lease);
        if known { Ok(()) } else { Err(Rejection::LeaseNotFound) }
    }

    /// Rules L1, L2.
    fn grant(&mut self, index: u64, grant: LeaseGrant) -> Result<Response, Rejection> {
        if grant.ttl_seconds > 9_000_000_000 {
            return Err(Rejection::LeaseTtlTooLarge);
        }
        if self.leases.contains_key(&grant.id) {
            return Err(Rejection::LeaseExists);
        }
        let lease = Lease { ttl: grant.ttl_seconds, granted_at: index, remaining: 0 };
        self.leases.insert(grant.id, lease);
        Ok(Response::LeaseGrant { id: grant.id, ttl_seconds: grant.ttl_seconds })
    }

    /// Rule L6: zero for an unknown lease; the whole time is left again.
    fn renew(&mut self, renew: &LeaseRenew) -> Vec<i64> {
        let granted = renew.ids.iter().map(|id| {
            self.leases.get_mut(id).map_or(0, |lease| {
                lease.remaining = 0;
                lease.ttl
            })
        });
        granted.collect()
    }

    /// Rule L16: of this grant, and no more than was granted.
    fn note_remaining(&mut self, remaining: &LeaseRemaining) {
        for noted in &remaining.leases {
            if let Some(lease) = self.leases.get_mut(&noted.id)
                && lease.granted_at == noted.granted_at.0
                && noted.seconds > 0
                && noted.seconds <= lease.ttl
            {
                lease.remaining = noted.seconds;
            }
        }
    }

    /// Rule L5: all attached keys, sorted, in one revision.
    fn revoke(&mut self, id: LeaseId, work: &mut Work) -> Result<Response, Rejection> {
        if !self.leases.contains_key(&id) {
            return Err(Rejection::LeaseNotFound);
        }
        for key in self.lease_keys(id) {
            work.delete(&DeleteRange { range: KeyRange::Key(key), prev_kv: false });
        }
        self.leases.remove(&id);
        Ok(Response::LeaseRevoke)
    }

    /// Behaviour.md 6.2.
    fn alarm(&mut self, change: AlarmChange) -> Vec<(MemberId, AlarmKind)> {
        let alarm = (change.member, change.kind);
        let told = if change.raise {
            self.alarms.insert(alarm);
            true
        } else {
            self.alarms.remove(&alarm)
        };
        if told { vec![alarm] } else { Vec::new() }
    }
}

impl Work {
    /// The revision that headers of operations state at this point (rules H5, M9).
    pub(crate) fn header(&self) -> Revision {
        Revision(self.begin + i64::from(!self.events.is_empty()))
    }

    fn next_change(&self) -> ChangeId {
        let sub = u32::try_from(self.events.len()).unwrap();
        ChangeId { main: Revision(self.begin + 1), sub }
    }

    /// Rules M4 to M6, KV-P3, KV-P4. What is to be kept may have been deleted by an earlier operation (gap (a)
    /// of rule KV-T8a); then there is nothing left to keep.
    pub(crate) fn put(&mut self, put: &Put) -> PutAnswer {
        let change = self.next_change();
        let old = self.keys.get(&put.key).cloned();
        let kv = KeyValue {
            key: put.key.clone(),
            create_revision: old.as_ref().map_or(change.main, |old| old.kv.create_revision),
            mod_revision: change.main,
            version: old.as_ref().map_or(0, |old| old.kv.version) + 1,
            value: match &old {
                Some(old) if put.ignore_value => old.kv.value.clone(),
                _ => put.value.clone(),
            },
            lease: match &old {
                Some(old) if put.ignore_lease => old.kv.lease,
                _ => put.lease,
            },
        };
        self.keys.insert(put.key.clone(), Live { kv: kv.clone(), change });
        let prev = old.as_ref().map(|old| old.change);
        self.events.push(Event { kind: EventKind::Put, kv, change, prev });
        PutAnswer { prev_kv: old.filter(|_| put.prev_kv).map(|old| old.kv) }
    }

    /// Behaviour.md 2.4 and rule M7.
    pub(crate) fn delete(&mut self, delete: &DeleteRange) -> DeleteAnswer {
        let doomed: Vec<Live> =
            self.keys.values().filter(|l| within(&delete.range, &l.kv.key)).cloned().collect();
        let mut answer = DeleteAnswer::default();
        for old in doomed {
            let change = self.next_change();
            let key = old.kv.key.clone();
            self.keys.remove(&key);
            let kv = KeyValue { key, mod_revision: change.main, ..KeyValue::default() };
            // What a watcher is shown as the key before is the revision before, not an earlier operation of
            // the same transaction (rule W19).
            let prev = self.before.get(&kv.key).map(|before| before.change);
            self.events.push(Event { kind: EventKind::Delete, kv, change, prev });
            answer.deleted += 1;
            if delete.prev_kv {
                answer.prev_kvs.push(old.kv);
            }
        }
        answer
    }
}

/// What is to be kept must be there (rule KV-P3).
pub(crate) fn check_kept(put: &Put, keys: &Keys) -> Result<(), Rejection> {
    if (put.ignore_value || put.ignore_lease) && !keys.contains_key(&put.key) {
        return Err(Rejection::KeyNotFound);
    }
    Ok(())
}

/// Which keys a range means (behaviour.md 2.1).
pub(crate) fn within(range: &KeyRange, key: &[u8]) -> bool {
    match range {
        KeyRange::Key(only) => key == &only[..],
        KeyRange::Between { start, end } => &start[..] <= key && key < &end[..],
        KeyRange::From(start) => &start[..] <= key,
    }
}

fn has_put(txn: &Txn) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match op {
        TxnOp::Put(_) => true,
        TxnOp::Txn(nested) => has_put(nested),
        TxnOp::Range(_) | TxnOp::DeleteRange(_) => false,
    })
}
