//! The Maintenance service's messages: status, alarms, hashes (behaviour.md 6.1, 6.2, 6.6).

use std::collections::BTreeSet;

use kvd_core::command::AlarmKind;
use kvd_core::ids::MemberId;
use kvd_core::view::KvHash;
use kvd_proto::etcdserverpb as pb;

use super::header;
use crate::config::{ETCD_VERSION, STORAGE_VERSION};
use crate::node::Status;

/// Bytes; what a configured quota of 0 means (behaviour.md 6.4).
const QUOTA_BYTES_DEFAULT: i64 = 2 * 1024 * 1024 * 1024;

/// What an Alarm request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AlarmAsked {
    /// The alarms of one type, or of all (`None`).
    List(Option<AlarmKind>),
    /// Raises (`true`) or clears one.
    Change(bool, MemberId, AlarmKind),
    /// Changes nothing: no type is named.
    Nothing,
}

/// A member's status as message (behaviour.md 6.1).
pub(crate) fn status_response(
    status: &Status,
    alarms: &BTreeSet<(MemberId, AlarmKind)>,
) -> pb::StatusResponse {
    pb::StatusResponse {
        header: header(status.header, status.revision),
        version: ETCD_VERSION.to_owned(),
        db_size: signed(status.db_size),
        leader: status.leader.map_or(0, |leader| leader.0),
        raft_index: status.committed.0,
        raft_term: status.header.term.0,
        raft_applied_index: status.applied.0,
        errors: errors(status, alarms),
        db_size_in_use: signed(status.db_size_in_use),
        is_learner: status.is_learner,
        storage_version: STORAGE_VERSION.to_owned(),
        db_size_quota: quota_bytes(status.quota_bytes),
        downgrade_info: Some(pb::DowngradeInfo::default()),
    }
}

/// The quota that a configured one means: 0 is the default, a negative one stays as it is.
pub(crate) fn quota_bytes(configured: i64) -> i64 {
    if configured == 0 { QUOTA_BYTES_DEFAULT } else { configured }
}

/// What an Alarm request asks for; `None` for numbers that etcd does not define.
pub(crate) fn alarm_asked(request: pb::AlarmRequest) -> Option<AlarmAsked> {
    use pb::alarm_request::AlarmAction;
    let kind = match pb::AlarmType::try_from(request.alarm).ok()? {
        pb::AlarmType::None => None,
        pb::AlarmType::Nospace => Some(AlarmKind::NoSpace),
        pb::AlarmType::Corrupt => Some(AlarmKind::Corrupt),
    };
    let member = MemberId(request.member_id);
    let change =
        |raise| kind.map_or(AlarmAsked::Nothing, |kind| AlarmAsked::Change(raise, member, kind));
    Some(match AlarmAction::try_from(request.action).ok()? {
        AlarmAction::Get => AlarmAsked::List(kind),
        AlarmAction::Activate => change(true),
        AlarmAction::Deactivate => change(false),
    })
}

/// An alarm as message.
pub(crate) fn alarm(member: MemberId, kind: AlarmKind) -> pb::AlarmMember {
    let alarm = match kind {
        AlarmKind::NoSpace => pb::AlarmType::Nospace,
        AlarmKind::Corrupt => pb::AlarmType::Corrupt,
    };
    pb::AlarmMember { member_id: member.0, alarm: alarm.into() }
}

/// A hash as message; the header is the caller's.
pub(crate) fn hash_kv_response(hash: &KvHash) -> pb::HashKvResponse {
    pb::HashKvResponse {
        header: None,
        hash: hash.hash,
        compact_revision: hash.compact_revision,
        hash_revision: hash.hash_revision,
    }
}

/// An alarm's name on the wire and in texts.
pub(crate) fn alarm_name(kind: AlarmKind) -> &'static str {
    match kind {
        AlarmKind::NoSpace => "NOSPACE",
        AlarmKind::Corrupt => "CORRUPT",
    }
}

/// Alarms in protobuf's text form as etcd 3.6 writes it, the blank at the end included.
fn errors(status: &Status, alarms: &BTreeSet<(MemberId, AlarmKind)>) -> Vec<String> {
    let leaderless = status.leader.is_none().then(|| "etcdserver: no leader".to_owned());
    let alarms = alarms.iter().map(|(member, kind)| {
        let name = alarm_name(*kind);
        match member.0 {
            0 => format!("alarm:{name} "),
            id => format!("memberID:{id} alarm:{name} "),
        }
    });
    leaderless.into_iter().chain(alarms).collect()
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use kvd_core::ids::{ClusterId, Index, Revision, Term};

    use super::*;
    use crate::node::Header;

    fn status() -> Status {
        Status {
            header: Header { cluster_id: ClusterId(1), member_id: MemberId(2), term: Term(3) },
            leader: None,
            committed: Index(9),
            applied: Index(8),
            last: Index(9),
            revision: Revision(5),
            is_learner: false,
            db_size: 4096,
            db_size_in_use: 100,
            quota_bytes: 0,
            ready: true,
            leader_changes: 0,
            proposals_pending: 0,
            proposals_failed: 0,
            snapshot_sent_bytes: 0,
            compaction_waited: std::time::Duration::ZERO,
            watches: crate::node::watch::Counts::default(),
            requests: kvd_core::sessions::RequestCounts::default(),
            state_differs: std::collections::BTreeMap::new(),
        }
    }

    /// Behaviour.md 6.1.
    #[test]
    fn a_status_states_what_hinders() {
        let alarms = BTreeSet::from([
            (MemberId(9372538179322589801), AlarmKind::NoSpace),
            (MemberId(0), AlarmKind::Corrupt),
        ]);
        let response = status_response(&status(), &alarms);
        assert_eq!(
            response.errors,
            [
                "etcdserver: no leader",
                "alarm:CORRUPT ",
                "memberID:9372538179322589801 alarm:NOSPACE ",
            ]
        );
        assert_eq!(response.db_size_quota, 2_147_483_648);
        assert_eq!((response.leader, response.raft_applied_index), (0, 8));
        assert!(response.downgrade_info.is_some());
        let unlimited = Status { quota_bytes: -1, leader: Some(MemberId(2)), ..status() };
        let response = status_response(&unlimited, &BTreeSet::new());
        assert_eq!((response.db_size_quota, response.leader), (-1, 2));
        assert!(response.errors.is_empty());
    }

    /// Behaviour.md 6.2.
    #[test]
    fn an_alarm_request_is_read() {
        let asked = |action, alarm| alarm_asked(pb::AlarmRequest { action, member_id: 7, alarm });
        assert_eq!(asked(0, 0), Some(AlarmAsked::List(None)));
        assert_eq!(asked(0, 2), Some(AlarmAsked::List(Some(AlarmKind::Corrupt))));
        let raise = AlarmAsked::Change(true, MemberId(7), AlarmKind::NoSpace);
        assert_eq!(asked(1, 1), Some(raise));
        assert_eq!(asked(1, 0), Some(AlarmAsked::Nothing));
        assert_eq!(asked(2, 0), Some(AlarmAsked::Nothing));
        assert_eq!((asked(3, 0), asked(0, 3)), (None, None));
    }
}
