//! Commands: what each does to the state, and what alarms refuse of them.

use super::State;
use crate::command::{AlarmKind, Command, Compact, DeleteRange, Put, Txn};
use crate::event::Event;
use crate::ids::{Index, Revision};
use crate::lease::table::LeaseChange;
use crate::mutants::{Mutant, active};
use crate::mvcc::compact::{self, Sweep};
use crate::mvcc::history::ReadError;
use crate::mvcc::txn;
use crate::mvcc::write::Writing;
use crate::outcome::{Fatal, Rejection, Response, TxnAnswer};

/// What a command did.
pub(super) struct Done {
    pub(super) outcome: Result<Response, Rejection>,
    pub(super) events: Vec<Event>,
    pub(super) leases: Vec<LeaseChange>,
}

impl Done {
    pub(super) fn nothing(response: Response) -> Self {
        Self { outcome: Ok(response), events: Vec::new(), leases: Vec::new() }
    }
}

impl From<Rejection> for Done {
    fn from(rejection: Rejection) -> Self {
        Self { outcome: Err(rejection), events: Vec::new(), leases: Vec::new() }
    }
}

impl State {
    /// Does what the command says, unless an alarm refuses it.
    pub(super) fn perform(
        &mut self,
        index: Index,
        command: &Command,
        want_response: bool,
    ) -> Result<Done, Fatal> {
        match self.admit(command) {
            Ok(()) => self.execute(index, command, want_response),
            Err(rejection) => Ok(rejection.into()),
        }
    }

    /// What alarms refuse, corruption before want of room (behaviour.md 6.3).
    fn admit(&self, command: &Command) -> Result<(), Rejection> {
        let alarmed = |kind| self.tables.is_raised(kind);
        let (stopped_by_corruption, grows) = match command {
            Command::Put(_) | Command::LeaseGrant(_) => (true, true),
            Command::Txn(txn) => (true, txn::may_put(txn)),
            Command::DeleteRange(_)
            | Command::Compact(_)
            | Command::LeaseRevoke(_)
            | Command::LeaseExpire(_) => (true, false),
            // Renewals go on while nothing else does, as in etcd, where they are no entries.
            Command::LeaseRenew(_)
            | Command::LeaseRemaining(_)
            | Command::Alarm(_)
            | Command::Publish(_)
            | Command::ClusterVersion(_)
            | Command::ReserveSeat(_) => (false, false),
        };
        if stopped_by_corruption && alarmed(AlarmKind::Corrupt) {
            return Err(Rejection::Corrupt);
        }
        if grows && alarmed(AlarmKind::NoSpace) {
            return Err(Rejection::NoSpace);
        }
        Ok(())
    }

    fn execute(
        &mut self,
        index: Index,
        command: &Command,
        want_response: bool,
    ) -> Result<Done, Fatal> {
        Ok(match command {
            Command::Put(put) => self.put(put, want_response)?,
            Command::DeleteRange(delete) => self.delete_range(delete, want_response)?,
            Command::Txn(txn) => self.txn(txn, want_response)?,
            Command::Compact(_) if active(Mutant::CompactionLocal) && !want_response => {
                Done::nothing(Response::Compact)
            }
            Command::Compact(compact) => self.compact(*compact),
            Command::LeaseGrant(grant) => self.lease_grant(index, *grant),
            Command::LeaseRevoke(revoke) => self.lease_revoke(revoke.id)?,
            Command::LeaseExpire(expire) => self.lease_expire(*expire)?,
            Command::LeaseRenew(renew) => self.lease_renew(renew),
            Command::LeaseRemaining(remaining) => self.lease_remaining(remaining),
            Command::Alarm(change) => {
                let touched = self.tables.change_alarm(*change, &mut self.rows);
                Done::nothing(Response::Alarm(touched))
            }
            Command::Publish(publish) => {
                if self.tables.publish(publish, &mut self.rows) {
                    Done::nothing(Response::None)
                } else {
                    Rejection::MemberNotFound.into()
                }
            }
            Command::ReserveSeat(member) => {
                if self.tables.reserve_seat(*member, &mut self.rows) {
                    Done::nothing(Response::None)
                } else {
                    Rejection::MemberNotFound.into()
                }
            }
            Command::ClusterVersion(version) => {
                self.tables.set_cluster_version(*version, &mut self.rows);
                Done::nothing(Response::None)
            }
        })
    }

    fn put(&mut self, put: &Put, want_response: bool) -> Result<Done, Fatal> {
        let mut writing = self.writing(want_response);
        if let Err(rejection) = writing.check_put(put)
            && (want_response || !active(Mutant::ChecksSkipped))
        {
            return Ok(rejection.into());
        }
        let answer = writing.put(put)?;
        let written = Written::by(writing);
        Ok(self.written(written, Response::Put(answer)))
    }

    fn delete_range(&mut self, delete: &DeleteRange, want_response: bool) -> Result<Done, Fatal> {
        let mut writing = self.writing(want_response);
        let answer = writing.delete_range(delete)?;
        let written = Written::by(writing);
        Ok(self.written(written, Response::DeleteRange(answer)))
    }

    fn txn(&mut self, txn: &Txn, want_response: bool) -> Result<Done, Fatal> {
        let mut writing = self.writing(want_response);
        let mut reader = writing.reader();
        if active(Mutant::CompareStale) {
            reader.revision = self.view.revision();
        }
        let path = txn::decide(&reader, txn).map_err(ReadError::into_fatal)?;
        if let Err(rejection) = txn::check(&reader, txn, &path) {
            return Ok(rejection.into());
        }
        let answer = txn::execute(&mut writing, txn, &path)?;
        let answer = TxnAnswer { revision: writing.revision(), ..answer };
        let written = Written::by(writing);
        Ok(self.written(written, Response::Txn(answer)))
    }

    fn compact(&mut self, compact: Compact) -> Done {
        match compact::check(compact, self.revision, self.compacted) {
            Ok(mark) => {
                self.compacted = Some(mark);
                self.sweep = Some(Sweep { after: None });
                Done::nothing(Response::Compact)
            }
            Err(rejection) => rejection.into(),
        }
    }
}

/// What writing left behind, free of the borrow of the store.
pub(super) struct Written {
    history_hash: u64,
    events: Vec<Event>,
    revision: Revision,
}

impl Written {
    pub(super) fn by(writing: Writing<'_>) -> Self {
        let revision = writing.revision();
        Self { history_hash: writing.history_hash, events: writing.events, revision }
    }
}

impl State {
    pub(super) fn writing(&self, want_response: bool) -> Writing<'_> {
        Writing {
            shared: &self.shared,
            begin: self.revision,
            compacted: self.compacted,
            history_hash: self.history_hash,
            events: Vec::new(),
            want_response,
        }
    }

    /// The revision grew by one if a key changed, else not at all (invariant 5).
    pub(super) fn written(&mut self, written: Written, response: Response) -> Done {
        (self.history_hash, self.revision) = (written.history_hash, written.revision);
        Done { events: written.events, ..Done::nothing(response) }
    }
}
