//! How a call can fail, told apart by what the caller may do next.

use thiserror::Error;
use tonic::{Code, Status};

use crate::etcd_error::EtcdError;

/// Why a call failed.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// An endpoint is not an address this library can connect to.
    #[error("endpoint {endpoint:?}: {reason}")]
    InvalidEndpoint {
        /// As it was given.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No endpoint was given.
    #[error("no endpoint was given")]
    NoEndpoints,
    /// The server refused, in words that etcd's servers share. Nothing was changed.
    #[error("{0}")]
    Etcd(EtcdError),
    /// The server refused, in words of its own. Nothing was changed.
    #[error("{text}")]
    Refused {
        /// The code on the wire.
        code: Code,
        /// The server's words.
        text: String,
    },
    /// No endpoint took the request in time. Nothing was changed; trying again is safe.
    #[error("no endpoint answered: {last}")]
    Unavailable {
        /// What the last endpoint that was tried met with.
        last: String,
    },
    /// The request was carried out, once, at this revision; but its answer was too large for the server to keep, and
    /// what came of the first attempt was lost. Only with request ids.
    #[error("it was done at revision {revision}, but the answer is lost")]
    AnswerLost {
        /// The revision of the store after it.
        revision: i64,
    },
    /// The request reached a server, or may have, and no answer says what became of it. A write
    /// may have happened, may happen later, or never. It must not be sent again unless doing it
    /// twice is harmless; reading tells.
    #[error("outcome unknown: {reason}")]
    Unknown {
        /// Why no answer came.
        reason: String,
    },
}

impl Error {
    /// The refusal, if etcd has a name for it.
    pub fn etcd(&self) -> Option<EtcdError> {
        match self {
            Self::Etcd(error) => Some(*error),
            _ => None,
        }
    }

    /// A write that failed so may nevertheless have happened.
    pub fn outcome_is_unknown(&self) -> bool {
        matches!(self, Self::Unknown { .. })
    }
}

/// What one attempt at one endpoint says about the request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It was not carried out; another attempt is safe and may succeed.
    NotDone,
    /// It may have been carried out.
    MayBeDone,
    /// It was refused; another attempt would be refused too.
    Refused,
}

/// Judges the failure of one attempt.
///
/// Only two things prove that nothing happened: the connection could not be made, and a server that
/// says it had proposed nothing. A connection that breaks proves nothing.
pub(crate) fn judge(status: &Status) -> Verdict {
    if was_not_connected(status) {
        return Verdict::NotDone;
    }
    match EtcdError::from_text(status.message()) {
        Some(error) if error.nothing_was_proposed() => Verdict::NotDone,
        Some(error) if error.may_still_happen() => Verdict::MayBeDone,
        Some(_) => Verdict::Refused,
        None => match status.code() {
            Code::Unavailable
            | Code::Unknown
            | Code::Internal
            | Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::DataLoss => Verdict::MayBeDone,
            _ => Verdict::Refused,
        },
    }
}

/// The failure of a request that only reads can be mended by another attempt unless the server
/// decided it.
pub(crate) fn is_worth_reading_again(status: &Status) -> bool {
    match judge(status) {
        Verdict::NotDone => true,
        // A server that stops says so of what it had begun.
        Verdict::Refused => matches!(
            EtcdError::from_text(status.message()),
            Some(EtcdError::WatchCanceled | EtcdError::Canceled | EtcdError::ContextCanceled)
        ),
        // The server's own words under the codes Unknown and Internal are decisions about the
        // request; the transport's failures have a source and no words of a server.
        Verdict::MayBeDone => {
            matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded)
                || std::error::Error::source(status).is_some()
        }
    }
}

/// The refusal that a status is.
pub(crate) fn refusal(status: &Status) -> Error {
    EtcdError::from_text(status.message()).map_or_else(
        || Error::Refused { code: status.code(), text: status.message().to_owned() },
        Error::Etcd,
    )
}

/// A status in a sentence, with its first cause: "…: connection refused (os error 111)".
pub(crate) fn describe(status: &Status) -> String {
    let mut cause = std::error::Error::source(status);
    while let Some(deeper) = cause.and_then(std::error::Error::source) {
        cause = Some(deeper);
    }
    let message = status.message();
    match cause.map(ToString::to_string) {
        Some(cause) if !message.contains(&cause) => format!("{message}: {cause}"),
        _ => message.to_owned(),
    }
}

fn was_not_connected(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_connection_proves_nothing() {
        let broken = Status::unavailable("error reading a body from connection");
        assert_eq!(judge(&broken), Verdict::MayBeDone);
        assert_eq!(judge(&Status::unknown("transport error")), Verdict::MayBeDone);
    }

    #[test]
    fn a_failed_connection_proves_that_nothing_happened() {
        let refused = tonic::ConnectError("connection refused".into());
        assert_eq!(judge(&Status::from_error(Box::new(refused))), Verdict::NotDone);
    }

    #[test]
    fn the_servers_words_decide() {
        let verdict = |error: EtcdError| judge(&Status::new(error.code(), error.text()));
        assert_eq!(verdict(EtcdError::RequestTooManyRequests), Verdict::NotDone);
        assert_eq!(verdict(EtcdError::TimeoutDueToLeaderFail), Verdict::MayBeDone);
        assert_eq!(verdict(EtcdError::ContextDeadlineExceeded), Verdict::MayBeDone);
        assert_eq!(verdict(EtcdError::Compacted), Verdict::Refused);
        assert_eq!(verdict(EtcdError::PasswordTooLong), Verdict::Refused);
    }

    #[test]
    fn reads_go_on_unless_the_server_decided() {
        assert!(is_worth_reading_again(&Status::deadline_exceeded("context deadline exceeded")));
        assert!(is_worth_reading_again(&Status::unavailable("etcdserver: leader changed")));
        assert!(!is_worth_reading_again(&Status::unknown("etcdserver: request cancelled")));
        assert!(!is_worth_reading_again(&Status::out_of_range(EtcdError::Compacted.text())));
    }
}
