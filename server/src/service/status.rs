//! How a request's end is told to a client: one table from what happened to gRPC code and etcd's text.
//!
//! Clients compare texts (behaviour.md 9), so each stands here once and byte for byte. Knows nothing of the
//! requests.

use std::borrow::Cow;

use kvd_core::outcome::Rejection;
use tonic::{Code, Status};

use crate::node::{RequestError, Unavailable};

/// A request's end as gRPC status.
pub(crate) fn status(error: RequestError) -> Status {
    let (code, text) = match error {
        RequestError::Rejected(Rejection::AnswerNotKept { revision }) => {
            let text =
                format!("kvd: request was applied at revision {revision}, its answer was not kept");
            return Status::failed_precondition(text);
        }
        RequestError::Rejected(rejection) => self::rejection(&rejection),
        RequestError::Unavailable(unavailable) => {
            let (code, text) = self::unavailable(unavailable);
            (code, Cow::Borrowed(text))
        }
    };
    Status::new(code, text)
}

/// A refusal as gRPC status.
pub(crate) fn rejected(rejection: Rejection) -> Status {
    status(RequestError::Rejected(rejection))
}

/// The answer to a method that exists in etcd and not yet here.
pub(crate) fn unserved(method: &str) -> Status {
    Status::unimplemented(format!("kvd does not serve {method} yet"))
}

/// A service's answer that only a broken member could give: the log answered another kind of command.
pub(crate) fn wrong_answer() -> Status {
    Status::internal("the log's answer belongs to another kind of request")
}

fn rejection(rejection: &Rejection) -> (Code, Cow<'static, str>) {
    use Code::{DataLoss, FailedPrecondition, InvalidArgument, NotFound, OutOfRange};
    let (code, text) = match rejection {
        Rejection::EmptyKey => (InvalidArgument, "etcdserver: key is not provided"),
        Rejection::KeyNotFound => (InvalidArgument, "etcdserver: key not found"),
        Rejection::ValueProvided => (InvalidArgument, "etcdserver: value is provided"),
        Rejection::LeaseProvided => (InvalidArgument, "etcdserver: lease is provided"),
        Rejection::TooManyOperations => {
            (InvalidArgument, "etcdserver: too many operations in txn request")
        }
        Rejection::DuplicateKey => {
            (InvalidArgument, "etcdserver: duplicate key given in txn request")
        }
        Rejection::InvalidSortOption => (InvalidArgument, "etcdserver: invalid sort option"),
        Rejection::Compacted => {
            (OutOfRange, "etcdserver: mvcc: required revision has been compacted")
        }
        Rejection::FutureRevision => {
            (OutOfRange, "etcdserver: mvcc: required revision is a future revision")
        }
        Rejection::LeaseNotFound => (NotFound, "etcdserver: requested lease not found"),
        Rejection::LeaseExists => (FailedPrecondition, "etcdserver: lease already exists"),
        Rejection::LeaseTtlTooLarge => (OutOfRange, "etcdserver: too large lease TTL"),
        Rejection::NoSpace => NO_SPACE,
        Rejection::Corrupt => (DataLoss, "etcdserver: corrupt cluster"),
        Rejection::RequestTooLarge => (InvalidArgument, "etcdserver: request is too large"),
        Rejection::MemberNotFound => (NotFound, "etcdserver: member not found"),
        Rejection::MemberExists => (FailedPrecondition, "etcdserver: member ID already exist"),
        Rejection::PeerUrlsExist => (FailedPrecondition, "etcdserver: Peer URLs already exists"),
        Rejection::BadMemberUrls => (InvalidArgument, "etcdserver: given member URLs are invalid"),
        Rejection::TooManyLearners => {
            (FailedPrecondition, "etcdserver: too many learner members in cluster")
        }
        Rejection::NotLearner => {
            (FailedPrecondition, "etcdserver: can only promote a learner member")
        }
        Rejection::LearnerNotReady => (
            FailedPrecondition,
            "etcdserver: can only promote a learner member which is in sync with leader",
        ),
        // Declared FailedPrecondition in etcd, but served Unknown (behaviour.md 9.1).
        Rejection::NotEnoughStarted => {
            (Code::Unknown, "etcdserver: re-configuration failed due to not enough started members")
        }
        // Three of ours: etcd knows no request ids.
        Rejection::RequestOutsideWindow => {
            (FailedPrecondition, "kvd: request id is outside the window of its session")
        }
        Rejection::SessionUnknown => {
            (FailedPrecondition, "kvd: session of the request id is not known")
        }
        Rejection::AnswerNotKept { revision } => {
            let text = "kvd: request was applied at revision";
            let text = format!("{text} {revision}, its answer was not kept");
            return (FailedPrecondition, Cow::Owned(text));
        }
    };
    (code, Cow::Borrowed(text))
}

/// Of the alarm, of the quota and of a full device alike.
const NO_SPACE: (Code, &str) =
    (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded");

/// In our words: etcd has none for a single member that knows itself to be wrong.
const DIVERGED: &str = "kvd: the state of this member differs from the majority's and is being replaced; ask another member";

fn unavailable(unavailable: Unavailable) -> (Code, &'static str) {
    match unavailable {
        Unavailable::NoLeader => (Code::Unavailable, "etcdserver: no leader"),
        Unavailable::LeaderChanged => (Code::Unavailable, "etcdserver: leader changed"),
        Unavailable::Timeout => (Code::Unavailable, "etcdserver: request timed out"),
        Unavailable::TimeoutLeaderFail => (
            Code::Unavailable,
            "etcdserver: request timed out, possibly due to previous leader failure",
        ),
        Unavailable::TimeoutApplied => (
            Code::Unavailable,
            "etcdserver: request timed out, waiting for the applied index took too long",
        ),
        Unavailable::TimeoutConnectionLost => {
            (Code::Unavailable, "etcdserver: request timed out, possibly due to connection lost")
        }
        // Without etcd's prefix: the text of the caller's own context (behaviour.md 10.4 b).
        Unavailable::DeadlineExceeded => (Code::DeadlineExceeded, "context deadline exceeded"),
        // Declared ResourceExhausted in etcd, but served Unknown (behaviour.md 9.1).
        Unavailable::TooManyRequests => (Code::Unknown, "etcdserver: too many requests"),
        Unavailable::Stopped => (Code::Unavailable, "etcdserver: server stopped"),
        Unavailable::NoSpace => NO_SPACE,
        Unavailable::Unhealthy => (Code::Unavailable, "etcdserver: unhealthy cluster"),
        Unavailable::Diverged => (Code::Unavailable, DIVERGED),
    }
}

#[cfg(test)]
mod tests {
    use kvd_core::ids::Revision;

    use super::*;

    /// The rows of etcd's error table (behaviour.md 9, code on the wire) that these services can raise, and
    /// those of our own.
    const TABLE: &str = "\
InvalidArgument\tetcdserver: key is not provided
InvalidArgument\tetcdserver: key not found
InvalidArgument\tetcdserver: value is provided
InvalidArgument\tetcdserver: lease is provided
InvalidArgument\tetcdserver: too many operations in txn request
InvalidArgument\tetcdserver: duplicate key given in txn request
InvalidArgument\tetcdserver: invalid sort option
OutOfRange\tetcdserver: mvcc: required revision has been compacted
OutOfRange\tetcdserver: mvcc: required revision is a future revision
ResourceExhausted\tetcdserver: mvcc: database space exceeded
NotFound\tetcdserver: requested lease not found
FailedPrecondition\tetcdserver: lease already exists
OutOfRange\tetcdserver: too large lease TTL
NotFound\tetcdserver: member not found
FailedPrecondition\tetcdserver: member ID already exist
FailedPrecondition\tetcdserver: Peer URLs already exists
InvalidArgument\tetcdserver: given member URLs are invalid
FailedPrecondition\tetcdserver: too many learner members in cluster
FailedPrecondition\tetcdserver: can only promote a learner member
FailedPrecondition\tetcdserver: can only promote a learner member which is in sync with leader
Unknown\tetcdserver: re-configuration failed due to not enough started members
Unavailable\tetcdserver: unhealthy cluster
InvalidArgument\tetcdserver: request is too large
Unknown\tetcdserver: too many requests
Unavailable\tetcdserver: no leader
Unavailable\tetcdserver: leader changed
Unavailable\tetcdserver: server stopped
Unavailable\tetcdserver: request timed out
Unavailable\tetcdserver: request timed out, possibly due to previous leader failure
Unavailable\tetcdserver: request timed out, possibly due to connection lost
Unavailable\tetcdserver: request timed out, waiting for the applied index took too long
DataLoss\tetcdserver: corrupt cluster
DeadlineExceeded\tcontext deadline exceeded
FailedPrecondition\tkvd: request id is outside the window of its session
FailedPrecondition\tkvd: session of the request id is not known
FailedPrecondition\tkvd: request was applied at revision 7, its answer was not kept
Unavailable\tkvd: the state of this member differs from the majority's and is being replaced; ask another member";

    const REJECTIONS: [Rejection; 26] = [
        Rejection::EmptyKey,
        Rejection::KeyNotFound,
        Rejection::ValueProvided,
        Rejection::LeaseProvided,
        Rejection::TooManyOperations,
        Rejection::DuplicateKey,
        Rejection::InvalidSortOption,
        Rejection::Compacted,
        Rejection::FutureRevision,
        Rejection::LeaseNotFound,
        Rejection::LeaseExists,
        Rejection::LeaseTtlTooLarge,
        Rejection::NoSpace,
        Rejection::Corrupt,
        Rejection::RequestTooLarge,
        Rejection::MemberNotFound,
        Rejection::MemberExists,
        Rejection::PeerUrlsExist,
        Rejection::BadMemberUrls,
        Rejection::TooManyLearners,
        Rejection::NotLearner,
        Rejection::LearnerNotReady,
        Rejection::NotEnoughStarted,
        Rejection::RequestOutsideWindow,
        Rejection::SessionUnknown,
        Rejection::AnswerNotKept { revision: Revision(7) },
    ];

    const UNAVAILABLES: [Unavailable; 12] = [
        Unavailable::NoLeader,
        Unavailable::LeaderChanged,
        Unavailable::Timeout,
        Unavailable::TimeoutLeaderFail,
        Unavailable::TimeoutConnectionLost,
        Unavailable::TimeoutApplied,
        Unavailable::DeadlineExceeded,
        Unavailable::TooManyRequests,
        Unavailable::Stopped,
        Unavailable::NoSpace,
        Unavailable::Diverged,
        Unavailable::Unhealthy,
    ];

    /// Every row is raised by some error and every error is a row.
    #[test]
    fn codes_and_texts_are_etcds() {
        let errors = REJECTIONS
            .into_iter()
            .map(RequestError::Rejected)
            .chain(UNAVAILABLES.into_iter().map(RequestError::Unavailable));
        let raised: std::collections::BTreeSet<String> = errors
            .map(status)
            .map(|status| format!("{:?}\t{}", status.code(), status.message()))
            .collect();
        let table: std::collections::BTreeSet<String> = TABLE.lines().map(str::to_owned).collect();
        assert_eq!(raised, table);
    }
}
