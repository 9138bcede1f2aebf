//! The formats: golden bytes lock them, whatever is encoded decodes to the same, and arbitrary bytes never panic.

mod common;

use bytes::Bytes;
use kvd_core::checkpoint::Meta;
use kvd_core::codec::{
    DecodeError, decode_membership, decode_meta, decode_outcome, decode_proposal,
    encode_membership, encode_meta, encode_outcome, encode_proposal,
};
use kvd_core::command::{
    Actor, AlarmChange, AlarmKind, ClusterVersion, Command, Compact, Compare, CompareOperator,
    CompareTarget, DeleteRange, LeaseExpire, LeaseGrant, LeaseRemaining, LeaseRenew, LeaseRevoke,
    Membership, Proposal, Publish, Put, RangeQuery, Remaining, RevisionFilter, SortOrder,
    SortTarget, Txn, TxnOp,
};
use kvd_core::ids::{Incarnation, Index, LeaseId, MemberId, RequestId, Revision};
use kvd_core::limits::TXN_DEPTH_MAX;
use kvd_core::outcome::{Applied, Rejection, Response};
use kvd_core::range::KeyRange;
use kvd_core::state::{Options, State};
use proptest::prelude::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn put() -> Put {
    Put {
        key: Bytes::from_static(b"k"),
        value: Bytes::from_static(b"v"),
        lease: LeaseId(-1),
        prev_kv: true,
        ignore_value: false,
        ignore_lease: true,
    }
}

fn commands() -> Vec<Command> {
    let query = RangeQuery {
        range: KeyRange::Between { start: "a".into(), end: "b".into() },
        revision: Some(Revision(300)),
        limit: Some(5),
        sort_target: SortTarget::Mod,
        sort_order: SortOrder::Descend,
        keys_only: true,
        count_only: false,
        filter: RevisionFilter { min_mod: 1, max_mod: 2, min_create: 3, max_create: -4 },
    };
    let delete = DeleteRange { range: KeyRange::From("z".into()), prev_kv: true };
    let compare = |target| Compare {
        range: KeyRange::Key("k".into()),
        operator: CompareOperator::NotEqual,
        target,
    };
    let txn = Txn {
        compares: vec![
            compare(CompareTarget::Version(1)),
            compare(CompareTarget::Value("v".into())),
            compare(CompareTarget::Unknown),
        ],
        success: vec![TxnOp::Range(query), TxnOp::Put(put())],
        failure: vec![TxnOp::DeleteRange(delete.clone()), TxnOp::Txn(Txn::default())],
    };
    vec![
        Command::Put(put()),
        Command::DeleteRange(delete),
        Command::Txn(txn),
        Command::Compact(Compact { revision: -1 }),
        Command::LeaseGrant(LeaseGrant { id: LeaseId(1), ttl_seconds: 60 }),
        Command::LeaseRevoke(LeaseRevoke { id: LeaseId(1) }),
        Command::LeaseExpire(LeaseExpire { id: LeaseId(1), granted_at: Index(300) }),
        Command::Alarm(AlarmChange { raise: true, member: MemberId(9), kind: AlarmKind::Corrupt }),
        Command::Publish(Publish {
            member: MemberId(9),
            name: "m".into(),
            client_urls: vec!["u".into()],
            incarnation: Incarnation(5),
        }),
        Command::ClusterVersion(ClusterVersion { major: 3, minor: 6 }),
        Command::ReserveSeat(MemberId(7)),
        Command::LeaseRenew(LeaseRenew { ids: vec![LeaseId(1), LeaseId(-300)] }),
        Command::LeaseRemaining(LeaseRemaining {
            leases: vec![Remaining { id: LeaseId(1), granted_at: Index(300), seconds: 59 }],
        }),
    ]
}

fn meta() -> Meta {
    Meta {
        sequence: 3,
        applied: common::log_id(300),
        membership: membership(),
        revision: Revision(200),
        compacted: Some(Revision(0)),
        live_hash: 1,
        history_hash: u64::MAX,
        blocks: 4,
        rows: 5,
    }
}

fn membership() -> (Option<kvd_core::ids::LogId>, Membership) {
    let membership = Membership {
        voters: vec![[MemberId(1), MemberId(2)].into()],
        nodes: [(MemberId(1), vec!["u".to_owned()]), (MemberId(2), Vec::new())].into(),
    };
    (Some(common::log_id(1)), membership)
}

fn applied(outcome: Result<Response, Rejection>) -> Applied {
    Applied {
        log_id: common::log_id(2),
        revision: Revision(1),
        repeated: false,
        outcome,
        events: Vec::new(),
        leases: Vec::new(),
        members_changed: false,
    }
}

/// One line a format; `UPDATE_GOLDENFILES=1` writes the file anew.
#[test]
#[expect(clippy::disallowed_methods, reason = "a test may write its golden file")]
fn formats_are_locked() {
    let mut lines = Vec::new();
    for command in commands() {
        let name = format!("{command:?}");
        let name = name.split('(').next().unwrap_or_default().to_owned();
        lines.push(format!("{name} {}", hex(&encode_proposal(&Proposal::internal(command)))));
    }
    let proposal = Proposal {
        request_id: Some(RequestId { client: 300, opened: Index(301), sequence: 2, settled: 1 }),
        actor: Some(Actor { user: "root".into(), auth_revision: 2 }),
        command: Command::Compact(Compact { revision: 2 }),
    };
    lines.push(format!("slots {}", hex(&encode_proposal(&proposal))));
    lines.push(format!("membership {}", hex(&encode_membership(&membership()))));
    lines.push(format!("meta {}", hex(&encode_meta(&meta()))));
    for (name, outcome) in [
        ("refused", Err(Rejection::NoSpace)),
        ("not-kept", Err(Rejection::AnswerNotKept { revision: Revision(300) })),
        ("renewed", Ok(Response::LeaseRenew(vec![60, 0]))),
    ] {
        let repeated = name == "not-kept";
        let bytes = encode_outcome(&Applied { repeated, ..applied(outcome) });
        lines.push(format!("{name} {}", hex(&bytes)));
    }
    let text = lines.join("\n") + "\n";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/formats");
    if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(path).unwrap(), text);
}

#[test]
fn all_commands_and_meta_come_back() {
    for command in commands() {
        let proposal = Proposal::internal(command);
        assert_eq!(decode_proposal(encode_proposal(&proposal)), Ok(proposal));
    }
    for outcome in [
        Rejection::RequestOutsideWindow,
        Rejection::SessionUnknown,
        Rejection::AnswerNotKept { revision: Revision(7) },
        Rejection::MemberExists,
        Rejection::PeerUrlsExist,
        Rejection::BadMemberUrls,
        Rejection::TooManyLearners,
        Rejection::NotLearner,
        Rejection::LearnerNotReady,
        Rejection::NotEnoughStarted,
    ] {
        let applied = Applied { repeated: true, ..applied(Err(outcome)) };
        assert_eq!(decode_outcome(encode_outcome(&applied)), Ok(applied));
    }
    assert_eq!(decode_meta(encode_meta(&meta())), Ok(meta()));
    assert_eq!(decode_membership(encode_membership(&membership())), Ok(membership()));
}

#[test]
fn keys_and_values_are_slices_of_the_input() {
    let input = encode_proposal(&Proposal::internal(Command::Put(put())));
    let Command::Put(put) = decode_proposal(input.clone()).unwrap().command else { panic!() };
    assert!(input.as_ptr_range().contains(&put.value.as_ptr()));
}

#[test]
fn what_is_too_long_too_short_or_too_deep_is_refused() {
    let good = encode_proposal(&Proposal::internal(Command::Put(put())));
    for length in 0..good.len() {
        assert!(decode_proposal(good.slice(..length)).is_err(), "length {length}");
    }
    let long = Bytes::from([good.as_ref(), &[0]].concat());
    assert_eq!(decode_proposal(long), Err(DecodeError::Trailing { bytes: 1 }));
    let nested = |depth: usize| {
        let mut txn = Txn::default();
        for _ in 1..depth {
            txn = Txn { success: vec![TxnOp::Txn(txn)], ..Txn::default() };
        }
        decode_proposal(encode_proposal(&Proposal::internal(Command::Txn(txn))))
    };
    assert!(nested(TXN_DEPTH_MAX).is_ok());
    assert_eq!(nested(TXN_DEPTH_MAX + 1), Err(DecodeError::Depth));
}

proptest! {
    #[test]
    fn proposals_come_back(
        command in common::command(),
        id in any::<Option<(u64, u64, u64, u64)>>(),
    ) {
        let request_id = id.map(|(client, opened, sequence, settled)| {
            RequestId { client, opened: Index(opened), sequence, settled }
        });
        let proposal = Proposal { request_id, actor: None, command };
        prop_assert_eq!(decode_proposal(encode_proposal(&proposal)), Ok(proposal));
    }

    #[test]
    fn answers_come_back(commands in proptest::collection::vec(common::command(), 1..30)) {
        let store = std::sync::Arc::new(kvd_core::checkpoint::mem::MemStore::new());
        let mut state = State::open(store, Options::DEFAULT).expect("opens");
        for entry in common::entries(commands) {
            let applied = state.apply(&entry, true).expect("applies");
            let bytes = encode_outcome(&applied);
            let back = decode_outcome(bytes.clone()).expect("decodes");
            let told = Applied {
                events: Vec::new(),
                leases: Vec::new(),
                members_changed: false,
                ..applied
            };
            prop_assert_eq!(back, told);
            for length in 0..bytes.len().min(64) {
                prop_assert!(decode_outcome(bytes.slice(..length)).is_err());
            }
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut versioned = vec![1];
        versioned.extend_from_slice(&bytes);
        for bytes in [Bytes::from(bytes), Bytes::from(versioned)] {
            let _: Result<Proposal, _> = decode_proposal(bytes.clone());
            let _: Result<Applied, _> = decode_outcome(bytes.clone());
            let _: Result<Meta, _> = decode_meta(bytes.clone());
            let _: Result<(_, Membership), _> = decode_membership(bytes);
        }
    }

    #[test]
    fn changed_bytes_never_panic(
        command in common::command(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut bytes = encode_proposal(&Proposal::internal(command)).to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(proposal) = decode_proposal(Bytes::from(bytes.clone())) {
            // One spelling a value: what decodes is what would be encoded.
            prop_assert_eq!(hex(&encode_proposal(&proposal)), hex(&bytes));
        }
    }
}
