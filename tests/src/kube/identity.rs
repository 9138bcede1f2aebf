//! Which errors kube-apiserver tells apart, by exact code and text (kube-apiserver.md §4), and
//! what each says of a write.

use std::error::Error as _;

use tonic::{Code, Status};

/// What an error is to kube-apiserver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// 410 Gone: list again.
    Compacted,
    /// Too large a resource version: try again.
    Future,
    /// 413.
    TooLarge,
    /// The store takes no more writes.
    NoSpace,
    /// The store asks for a pause.
    TooMany,
    /// The lease has expired.
    NoLease,
    /// The server does not know this call.
    Unimplemented,
    /// The server cannot now; the Go client tries reads again.
    Unavailable,
    /// The server gave up; the Go client does not try again (behaviour.md §10.4).
    GaveUp,
    /// The connection broke, or there was none: the Go client's `Unavailable`.
    Transport,
    /// Neither code nor text that kube-apiserver knows.
    Unexpected,
}

/// Code and text of every error that may be met.
const TABLE: &[(Code, &str, Identity)] = &[
    (
        Code::OutOfRange,
        "etcdserver: mvcc: required revision has been compacted",
        Identity::Compacted,
    ),
    (
        Code::OutOfRange,
        "etcdserver: mvcc: required revision is a future revision",
        Identity::Future,
    ),
    (Code::InvalidArgument, "etcdserver: request is too large", Identity::TooLarge),
    (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded", Identity::NoSpace),
    // Declared ResourceExhausted, served Unknown (behaviour.md §9.1).
    (Code::Unknown, "etcdserver: too many requests", Identity::TooMany),
    (Code::NotFound, "etcdserver: requested lease not found", Identity::NoLease),
    (Code::Unavailable, "etcdserver: no leader", Identity::Unavailable),
    (Code::Unavailable, "etcdserver: leader changed", Identity::Unavailable),
    (Code::Unavailable, "etcdserver: server stopped", Identity::Unavailable),
    (Code::Unavailable, "etcdserver: request timed out", Identity::Unavailable),
    (
        Code::Unavailable,
        "etcdserver: request timed out, possibly due to previous leader failure",
        Identity::Unavailable,
    ),
    (
        Code::Unavailable,
        "etcdserver: request timed out, possibly due to connection lost",
        Identity::Unavailable,
    ),
    (
        Code::Unavailable,
        "etcdserver: request timed out, waiting for the applied index took too long",
        Identity::Unavailable,
    ),
    (Code::DeadlineExceeded, "context deadline exceeded", Identity::GaveUp),
];

impl Identity {
    /// What this status is.
    pub fn of(status: &Status) -> Self {
        // What the server did not send has the client's own error behind it.
        if status.source().is_some() {
            return Self::Transport;
        }
        if status.code() == Code::Unimplemented {
            return Self::Unimplemented;
        }
        let mut rows = TABLE.iter();
        let row = rows.find(|(code, text, _)| (*code, *text) == (status.code(), status.message()));
        row.map_or(Self::Unexpected, |(_, _, identity)| *identity)
    }

    /// Whether the Go client sends a read again.
    pub fn is_worth_reading_again(self) -> bool {
        matches!(self, Self::Unavailable | Self::Transport)
    }

    /// Whether the Go client resumes a watch by itself whose stream ended so.
    pub fn is_worth_watching_again(self) -> bool {
        self.is_worth_reading_again()
    }

    /// Whether a write that ended so has certainly not happened.
    pub fn is_refusal(self) -> bool {
        matches!(
            self,
            Self::TooLarge | Self::NoSpace | Self::TooMany | Self::NoLease | Self::Unimplemented
        )
    }
}

/// Whether nothing was sent, since there was no connection.
pub fn was_never_sent(status: &Status) -> bool {
    let mut source = status.source();
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
    fn code_and_text_both_count() {
        let text = "etcdserver: mvcc: required revision has been compacted";
        assert_eq!(Identity::of(&Status::out_of_range(text)), Identity::Compacted);
        assert_eq!(Identity::of(&Status::unavailable(text)), Identity::Unexpected);
        let other = format!("{text} ");
        assert_eq!(Identity::of(&Status::out_of_range(other)), Identity::Unexpected);
        assert_eq!(Identity::of(&Status::unavailable("busy")), Identity::Unexpected);
        assert!(
            Identity::of(&Status::unavailable("etcdserver: no leader")).is_worth_reading_again()
        );
    }
}
