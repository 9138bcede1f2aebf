//! Commands on leases (behaviour.md 4). Clocks are not here: what a command does to them is told as
//! [`LeaseChange`]s.

use bytes::Bytes;

use super::State;
use super::commands::{Done, Written};
use crate::checkpoint::Table;
use crate::codec::encode_lease;
use crate::command::{LeaseExpire, LeaseGrant, LeaseRemaining, LeaseRenew};
use crate::ids::{Index, LeaseId};
use crate::lease::table::{LeaseChange, LeaseTerms};
use crate::limits::LEASE_TTL_SECONDS_MAX;
use crate::mutants::{Mutant, active};
use crate::outcome::{Fatal, Rejection, Response};
use crate::tables::id_row;

/// A lease's row id.
pub(super) fn lease_row(id: LeaseId) -> Bytes {
    id_row(id.0.cast_unsigned())
}

impl State {
    pub(super) fn lease_grant(&mut self, index: Index, grant: LeaseGrant) -> Done {
        let LeaseGrant { id, ttl_seconds } = grant;
        if id == LeaseId(0) {
            return Rejection::LeaseNotFound.into();
        }
        if ttl_seconds > LEASE_TTL_SECONDS_MAX {
            return Rejection::LeaseTtlTooLarge.into();
        }
        let terms = LeaseTerms { ttl_seconds, granted_at: index, remaining_seconds: 0 };
        let mut keys = self.shared.write();
        if keys.leases.contains(id) {
            return Rejection::LeaseExists.into();
        }
        keys.leases.grant(id, terms);
        drop(keys);
        self.rows.replace(Table::Lease, lease_row(id), None, Some(encode_lease(terms)));
        let leases = vec![LeaseChange::Granted { id, terms }];
        Done { leases, ..Done::nothing(Response::LeaseGrant { id, ttl_seconds }) }
    }

    pub(super) fn lease_revoke(&mut self, id: LeaseId) -> Result<Done, Fatal> {
        let Some(lease) = self.shared.read().leases.info(id) else {
            return Ok(Rejection::LeaseNotFound.into());
        };
        let mut writing = self.writing(false);
        let left = usize::from(active(Mutant::LeaseLeavesKey) && lease.keys.len() > 1);
        writing.delete_keys(&lease.keys[left..])?;
        let written = Written::by(writing);
        self.shared.write().leases.remove(id);
        self.rows.replace(Table::Lease, lease_row(id), Some(encode_lease(lease.terms)), None);
        let leases = vec![LeaseChange::Ended { id }];
        Ok(Done { leases, ..self.written(written, Response::LeaseRevoke) })
    }

    /// Nothing if that grant is over already (hazard A10).
    pub(super) fn lease_expire(&mut self, expire: LeaseExpire) -> Result<Done, Fatal> {
        let terms = self.shared.read().leases.get(expire.id).map(|lease| lease.terms);
        match terms {
            Some(terms) if terms.granted_at == expire.granted_at => self.lease_revoke(expire.id),
            _ => Ok(Done::nothing(Response::None)),
        }
    }

    /// Rule L6. What was noted of the time left is no longer true.
    pub(super) fn lease_renew(&mut self, renew: &LeaseRenew) -> Done {
        let mut granted = Vec::with_capacity(renew.ids.len());
        let mut leases = Vec::with_capacity(renew.ids.len());
        for &id in &renew.ids {
            let terms = self.shared.read().leases.get(id).map(|lease| lease.terms);
            let Some(terms) = terms else {
                granted.push(0);
                continue;
            };
            if terms.remaining_seconds != 0 {
                self.set_terms(id, terms, LeaseTerms { remaining_seconds: 0, ..terms });
            }
            granted.push(terms.ttl_seconds);
            leases.push(LeaseChange::Renewed { id });
        }
        Done { leases, ..Done::nothing(Response::LeaseRenew(granted)) }
    }

    /// Rule L16. Ignores what cannot be, and grants that are over.
    pub(super) fn lease_remaining(&mut self, remaining: &LeaseRemaining) -> Done {
        let mut leases = Vec::with_capacity(remaining.leases.len());
        for lease in &remaining.leases {
            let terms = self.shared.read().leases.get(lease.id).map(|lease| lease.terms);
            if let Some(terms) = terms
                && terms.granted_at == lease.granted_at
                && (1..=terms.ttl_seconds).contains(&lease.seconds)
            {
                let remaining_seconds = lease.seconds;
                self.set_terms(lease.id, terms, LeaseTerms { remaining_seconds, ..terms });
                leases.push(LeaseChange::Noted { id: lease.id, seconds: lease.seconds });
            }
        }
        Done { leases, ..Done::nothing(Response::None) }
    }

    fn set_terms(&mut self, id: LeaseId, old: LeaseTerms, new: LeaseTerms) {
        if let Some(lease) = self.shared.write().leases.get_mut(id) {
            lease.terms = new;
        }
        let (old, new) = (encode_lease(old), encode_lease(new));
        self.rows.replace(Table::Lease, lease_row(id), Some(old), Some(new));
    }
}
