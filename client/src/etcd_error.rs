//! What etcd's servers answer when they refuse, by name.
//!
//! A refusal is known by its text, not by its code: that is what etcd's own clients go by, and what
//! servers of all versions agree in (behaviour.md §9). Knows nothing about retrying.

use std::fmt;

use tonic::Code;

macro_rules! etcd_errors {
    ($($(#[$doc:meta])* $name:ident = $code:ident, $text:literal;)*) => {
        /// A refusal whose text the servers share.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum EtcdError {
            $($(#[$doc])* $name,)*
        }

        impl EtcdError {
            /// Every refusal there is.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The text on the wire.
            pub fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }

            /// The code on the wire, which now and then differs from what etcd's source declares.
            pub fn code(self) -> Code {
                match self {
                    $(Self::$name => Code::$code,)*
                }
            }

            /// Finds a refusal by its text.
            pub fn from_text(text: &str) -> Option<Self> {
                match text {
                    $($text => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

etcd_errors! {
    /// A key was empty.
    EmptyKey = InvalidArgument, "etcdserver: key is not provided";
    /// The key whose value or lease was to be kept does not exist.
    KeyNotFound = InvalidArgument, "etcdserver: key not found";
    /// A value was given though the old one was to be kept.
    ValueProvided = InvalidArgument, "etcdserver: value is provided";
    /// A lease was given though the old one was to be kept.
    LeaseProvided = InvalidArgument, "etcdserver: lease is provided";
    /// The transaction has more operations than the server allows.
    TooManyOps = InvalidArgument, "etcdserver: too many operations in txn request";
    /// The transaction writes a key twice.
    DuplicateKey = InvalidArgument, "etcdserver: duplicate key given in txn request";
    /// The version that the client sent is not text.
    InvalidClientAPIVersion = InvalidArgument, "etcdserver: invalid client api version";
    /// The sort order or target does not exist.
    InvalidSortOption = InvalidArgument, "etcdserver: invalid sort option";
    /// The revision is older than the history that is kept.
    Compacted = OutOfRange, "etcdserver: mvcc: required revision has been compacted";
    /// The revision does not exist yet.
    FutureRev = OutOfRange, "etcdserver: mvcc: required revision is a future revision";
    /// The database is full.
    NoSpace = ResourceExhausted, "etcdserver: mvcc: database space exceeded";
    /// There is no such lease.
    LeaseNotFound = NotFound, "etcdserver: requested lease not found";
    /// There is such a lease already.
    LeaseExist = FailedPrecondition, "etcdserver: lease already exists";
    /// The lease would live too long.
    LeaseTTLTooLarge = OutOfRange, "etcdserver: too large lease TTL";
    /// The client ended the watch stream.
    WatchCanceled = Cancelled, "etcdserver: watch canceled";
    /// There is such a member already.
    MemberExist = FailedPrecondition, "etcdserver: member ID already exist";
    /// Another member has this peer URL.
    PeerURLExist = FailedPrecondition, "etcdserver: Peer URLs already exists";
    /// The change would leave too few started members.
    MemberNotEnoughStarted = Unknown, "etcdserver: re-configuration failed due to not enough started members";
    /// A peer URL is not valid.
    MemberBadURLs = InvalidArgument, "etcdserver: given member URLs are invalid";
    /// There is no such member.
    MemberNotFound = NotFound, "etcdserver: member not found";
    /// The member votes already.
    MemberNotLearner = FailedPrecondition, "etcdserver: can only promote a learner member";
    /// The learner is still behind.
    LearnerNotReady = FailedPrecondition, "etcdserver: can only promote a learner member which is in sync with leader";
    /// There are as many learners as allowed.
    TooManyLearners = FailedPrecondition, "etcdserver: too many learner members in cluster";
    /// The other side belongs to another cluster.
    ClusterIDMismatch = FailedPrecondition, "etcdserver: cluster ID mismatch";
    /// The request is larger than the server allows.
    RequestTooLarge = InvalidArgument, "etcdserver: request is too large";
    /// The server has too many entries left to apply.
    RequestTooManyRequests = Unknown, "etcdserver: too many requests";
    /// There is no user root.
    RootUserNotExist = FailedPrecondition, "etcdserver: root user does not exist";
    /// The user root lacks the role root.
    RootRoleNotExist = FailedPrecondition, "etcdserver: root user does not have root role";
    /// There is such a user already.
    UserAlreadyExist = FailedPrecondition, "etcdserver: user name already exists";
    /// The user name is empty, or none was given.
    UserEmpty = InvalidArgument, "etcdserver: user name is empty";
    /// There is no such user.
    UserNotFound = FailedPrecondition, "etcdserver: user name not found";
    /// There is such a role already.
    RoleAlreadyExist = FailedPrecondition, "etcdserver: role name already exists";
    /// There is no such role.
    RoleNotFound = FailedPrecondition, "etcdserver: role name not found";
    /// The role name is empty.
    RoleEmpty = InvalidArgument, "etcdserver: role name is empty";
    /// Name and password do not fit.
    AuthFailed = InvalidArgument, "etcdserver: authentication failed, invalid user ID or password";
    /// The permission is missing.
    PermissionNotGiven = InvalidArgument, "etcdserver: permission not given";
    /// The user may not do this.
    PermissionDenied = PermissionDenied, "etcdserver: permission denied";
    /// The user does not have the role.
    RoleNotGranted = FailedPrecondition, "etcdserver: role is not granted to the user";
    /// The role does not have the permission.
    PermissionNotGranted = FailedPrecondition, "etcdserver: permission is not granted to the role";
    /// Authentication is off.
    AuthNotEnabled = FailedPrecondition, "etcdserver: authentication is not enabled";
    /// The token is unknown or expired.
    InvalidAuthToken = Unauthenticated, "etcdserver: invalid auth token";
    /// The change would break the rules for root or for ranges.
    InvalidAuthMgmt = InvalidArgument, "etcdserver: invalid auth management";
    /// The permissions changed meanwhile.
    AuthOldRevision = InvalidArgument, "etcdserver: revision of auth store is old";
    /// There is no leader.
    NoLeader = Unavailable, "etcdserver: no leader";
    /// The member does not lead.
    NotLeader = FailedPrecondition, "etcdserver: not leader";
    /// The leader changed during the request.
    LeaderChanged = Unavailable, "etcdserver: leader changed";
    /// The cluster's version does not have this yet.
    NotCapable = FailedPrecondition, "etcdserver: not capable";
    /// The server is shutting down.
    Stopped = Unavailable, "etcdserver: server stopped";
    /// The server gave up waiting.
    Timeout = Unavailable, "etcdserver: request timed out";
    /// The server gave up waiting, around an election.
    TimeoutDueToLeaderFail = Unavailable, "etcdserver: request timed out, possibly due to previous leader failure";
    /// The server gave up waiting, having lost the others.
    TimeoutDueToConnectionLost = Unavailable, "etcdserver: request timed out, possibly due to connection lost";
    /// The leader is behind in applying.
    TimeoutWaitAppliedIndex = Unavailable, "etcdserver: request timed out, waiting for the applied index took too long";
    /// The change is unsafe while members cannot be reached.
    Unhealthy = Unavailable, "etcdserver: unhealthy cluster";
    /// Members were found to disagree.
    Corrupt = DataLoss, "etcdserver: corrupt cluster";
    /// A learner does not serve this.
    NotSupportedForLearner = FailedPrecondition, "etcdserver: rpc not supported for learner";
    /// The member cannot lead.
    BadLeaderTransferee = FailedPrecondition, "etcdserver: bad leader transferee";
    /// The version is not one.
    WrongDowngradeVersionFormat = InvalidArgument, "etcdserver: wrong downgrade target version format";
    /// The cluster cannot go to this version.
    InvalidDowngradeTargetVersion = InvalidArgument, "etcdserver: invalid downgrade target version";
    /// The cluster's version is not decided yet.
    ClusterVersionUnavailable = FailedPrecondition, "etcdserver: cluster version not found during downgrade";
    /// A downgrade is going on already.
    DowngradeInProcess = FailedPrecondition, "etcdserver: cluster has a downgrade job in progress";
    /// No downgrade is going on.
    NoInflightDowngrade = FailedPrecondition, "etcdserver: no inflight downgrade job";
    /// The caller gave up.
    Canceled = Cancelled, "etcdserver: request canceled";
    /// The caller's deadline passed.
    DeadlineExceeded = DeadlineExceeded, "etcdserver: context deadline exceeded";
    /// The server does not know the request.
    UnknownMethod = Unknown, "etcdserver: unknown method";
    /// The other member did not take over in time.
    LeaderTransferTimeout = Unknown, "etcdserver: request timed out, leader transfer took too long";
    /// The caller gave up, in the words of servers up to 3.6.
    RequestCancelled = Unknown, "etcdserver: request cancelled";
    /// The user has no password.
    NoPasswordUser = Unknown, "auth: authentication failed, password was given for no password user";
    /// The member that was asked about leases does not lead.
    NotPrimaryLessor = Unknown, "not a primary lessor";
    /// The leader did not catch up in time.
    CatchUpTimeout = Unknown, "waiting for node to catch up its applied index has timed out";
    /// The password is longer than can be hashed.
    PasswordTooLong = Unknown, "bcrypt: password length exceeds 72 bytes";
    /// The election has no leader.
    ElectionNoLeader = Unknown, "election: no leader";
    /// The caller does not lead the election.
    ElectionNotLeader = Unknown, "election: not leader";
    /// The leader key is missing.
    ElectionLeaderMissing = Unknown, "\"leader\" field must be provided";
    /// The lease of the lock ended.
    SessionExpired = Unknown, "mutex: session is expired";
    /// The caller gave up.
    ContextCanceled = Cancelled, "context canceled";
    /// No answer within the deadline, the server's or the caller's.
    ContextDeadlineExceeded = DeadlineExceeded, "context deadline exceeded";
    /// A streamed range cannot be sorted otherwise.
    RangeStreamSort = Unimplemented, "RangeStream does not support custom sort orders";
    /// A streamed range cannot be filtered by revision.
    RangeStreamFilter = Unimplemented, "RangeStream does not support revision filters";
}

impl EtcdError {
    /// The server answered before the request could change anything, and another member, or the
    /// same one a moment later, may accept it (behaviour.md §10.2, §10.4).
    pub(crate) fn nothing_was_proposed(self) -> bool {
        matches!(self, Self::NoLeader | Self::NotSupportedForLearner | Self::RequestTooManyRequests)
    }

    /// The server stopped waiting; what it proposed may still happen (behaviour.md §10.4).
    pub(crate) fn may_still_happen(self) -> bool {
        matches!(
            self,
            Self::Timeout
                | Self::TimeoutDueToLeaderFail
                | Self::TimeoutDueToConnectionLost
                | Self::TimeoutWaitAppliedIndex
                | Self::LeaderChanged
                | Self::Stopped
                | Self::Canceled
                | Self::RequestCancelled
                | Self::ContextCanceled
                | Self::DeadlineExceeded
                | Self::ContextDeadlineExceeded
                | Self::LeaderTransferTimeout
                | Self::CatchUpTimeout
        )
    }
}

impl fmt::Display for EtcdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts that are not one fixed string, or never the text of a status.
    const NOT_NAMED: [&str; 3] = [
        "grpc: received message larger than max (N vs. M)",
        "mvcc: duplicate watch ID provided on the WatchStream",
        "mvcc: watcher range is empty",
    ];

    #[test]
    fn every_row_of_the_table_has_its_text_and_code() {
        let mut rows = 0;
        for row in include_str!("../tests/errors.tsv").lines().skip(1) {
            let columns: Vec<&str> = row.split('\t').collect();
            let (code, text) = (columns[2], columns[3]);
            if NOT_NAMED.contains(&text) {
                continue;
            }
            let error = EtcdError::from_text(text).expect(text);
            assert_eq!(error.text(), text);
            assert_eq!(
                format!("{:?}", error.code()).replace("Cancelled", "Canceled"),
                code,
                "{text}"
            );
            rows += 1;
        }
        assert_eq!(rows, EtcdError::ALL.len());
    }

    #[test]
    fn no_refusal_is_both_certain_and_uncertain() {
        for error in EtcdError::ALL {
            assert!(!(error.nothing_was_proposed() && error.may_still_happen()), "{error}");
        }
    }
}
