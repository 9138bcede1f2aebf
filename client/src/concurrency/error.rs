//! How a recipe can fail.

use thiserror::Error;

use crate::etcd_error::EtcdError;
use crate::watch::WatchEnd;

/// Why a lock, an election or the like failed.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// A call failed.
    #[error(transparent)]
    Call(crate::Error),
    /// The server refused to tell what happens to the keys.
    #[error("watching: {0}")]
    Watch(#[from] WatchEnd),
    /// The session's lease is gone, or may be: everything the session held may be somebody else's.
    #[error("the session's lease is gone, or may be")]
    SessionLost,
    /// The key that held this is gone: somebody deleted it, or the lease ended.
    #[error("the key that held this is gone")]
    KeyDeleted,
    /// Others changed what was read, again and again.
    #[error("others were quicker {attempts} times")]
    Conflict {
        /// How often it was tried.
        attempts: u32,
    },
    /// What is said of a leader election in Kubernetes' style cannot work.
    #[error("{0}")]
    InvalidElection(&'static str),
    /// A key does not hold the record of an election in Kubernetes' style.
    #[error("no record of an election: {0}")]
    InvalidRecord(String),
}

impl From<crate::Error> for Error {
    fn from(error: crate::Error) -> Self {
        match error.etcd() {
            Some(EtcdError::LeaseNotFound) => Self::SessionLost,
            _ => Self::Call(error),
        }
    }
}

impl Error {
    /// What it asked for may nevertheless have happened.
    #[must_use]
    pub fn outcome_is_unknown(&self) -> bool {
        matches!(self, Self::Call(error) if error.outcome_is_unknown())
    }

    /// Nobody took the request. Asking again may help, and does no harm.
    pub(super) fn is_unavailable(&self) -> bool {
        matches!(self, Self::Call(crate::Error::Unavailable { .. }))
    }

    /// Nobody could answer just now: asking again may help, for those who may ask twice.
    pub(super) fn is_passing(&self) -> bool {
        self.is_unavailable() || self.outcome_is_unknown()
    }
}
