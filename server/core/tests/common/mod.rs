//! Random histories for the property tests, small enough that keys collide and blocks fill.
//!
//! Every strategy is boxed: the value trees of a transaction in one piece overflow a test thread's stack.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use bytes::Bytes;
use kvd_core::codec::encode_proposal;
use kvd_core::command::{
    AlarmChange, AlarmKind, ClusterVersion, Command, Compact, Compare, CompareOperator,
    CompareTarget, DeleteRange, Entry, LeaseExpire, LeaseGrant, LeaseRemaining, LeaseRenew,
    LeaseRevoke, Membership, Proposal, Publish, Put, RangeQuery, Remaining, RevisionFilter,
    SortOrder, SortTarget, Txn, TxnOp,
};
use kvd_core::ids::{Incarnation, Index, LeaseId, LogId, MemberId, Revision, Term};
use kvd_core::range::KeyRange;
use proptest::prelude::*;

pub(crate) fn log_id(index: u64) -> LogId {
    LogId { term: Term(1), node: MemberId(7), index: Index(index) }
}

pub(crate) fn entry(index: u64, command: Command) -> Entry {
    let proposal = Some(encode_proposal(&Proposal::internal(command)));
    Entry { log_id: log_id(index), proposal, membership: None }
}

/// Commands as the log's entries, from index 1 on.
pub(crate) fn entries(commands: Vec<Command>) -> Vec<Entry> {
    let mut log = vec![Entry {
        log_id: log_id(1),
        proposal: None,
        membership: Some(Membership {
            voters: vec![[MemberId(1), MemberId(2)].into()],
            nodes: [1, 2, 3].map(|id| (MemberId(id), vec![format!("http://peer{id}")])).into(),
        }),
    }];
    log.extend((2..).zip(commands).map(|(index, command)| entry(index, command)));
    log
}

pub(crate) fn key() -> BoxedStrategy<Bytes> {
    prop_oneof![Just("a"), Just("b"), Just("c"), Just("d"), Just("dd"), Just("e")]
        .prop_map(Bytes::from)
        .boxed()
}

fn value() -> BoxedStrategy<Bytes> {
    prop_oneof![
        8 => proptest::collection::vec(any::<u8>(), 0..4).prop_map(Bytes::from),
        1 => (0_usize..7000).prop_map(|size| Bytes::from(vec![b'v'; size])),
    ]
    .boxed()
}

pub(crate) fn range() -> BoxedStrategy<KeyRange> {
    prop_oneof![
        3 => key().prop_map(KeyRange::Key),
        2 => (key(), key()).prop_map(|(start, end)| KeyRange::Between { start, end }),
        1 => key().prop_map(KeyRange::From),
    ]
    .boxed()
}

fn lease() -> BoxedStrategy<LeaseId> {
    prop_oneof![4 => Just(0_i64), 1 => Just(1), 1 => Just(2), 1 => Just(-3)]
        .prop_map(LeaseId)
        .boxed()
}

fn put() -> BoxedStrategy<Put> {
    (
        key(),
        value(),
        lease(),
        any::<bool>(),
        proptest::bool::weighted(0.1),
        proptest::bool::weighted(0.1),
    )
        .prop_map(|(key, value, lease, prev_kv, ignore_value, ignore_lease)| Put {
            key,
            value: if ignore_value { Bytes::new() } else { value },
            lease: if ignore_lease { LeaseId(0) } else { lease },
            prev_kv,
            ignore_value,
            ignore_lease,
        })
        .boxed()
}

fn delete() -> BoxedStrategy<DeleteRange> {
    (range(), any::<bool>()).prop_map(|(range, prev_kv)| DeleteRange { range, prev_kv }).boxed()
}

fn bound() -> BoxedStrategy<i64> {
    prop_oneof![6 => Just(0_i64), 1 => -1_i64..30].boxed()
}

pub(crate) fn query() -> BoxedStrategy<RangeQuery> {
    let order = prop_oneof![
        3 => Just(SortOrder::None), 1 => Just(SortOrder::Ascend), 1 => Just(SortOrder::Descend)
    ];
    let target = prop_oneof![
        4 => Just(SortTarget::Key),
        1 => Just(SortTarget::Version),
        1 => Just(SortTarget::Create),
        1 => Just(SortTarget::Mod),
        1 => Just(SortTarget::Value),
    ];
    let filter = (bound(), bound(), bound(), bound()).prop_map(|(a, b, c, d)| RevisionFilter {
        min_mod: a,
        max_mod: b,
        min_create: c,
        max_create: d,
    });
    let revision = proptest::option::weighted(0.4, (1_i64..30).prop_map(Revision));
    let limit = proptest::option::weighted(0.4, 0_u64..4);
    (range(), revision, limit, target, order, any::<bool>(), proptest::bool::weighted(0.1), filter)
        .prop_map(
            |(range, revision, limit, sort_target, sort_order, keys_only, count_only, filter)| {
                RangeQuery {
                    range,
                    revision,
                    limit,
                    sort_target,
                    sort_order,
                    keys_only,
                    count_only,
                    filter,
                }
            },
        )
        .boxed()
}

fn compare() -> BoxedStrategy<Compare> {
    let operator = prop_oneof![
        Just(CompareOperator::Equal),
        Just(CompareOperator::Greater),
        Just(CompareOperator::Less),
        Just(CompareOperator::NotEqual),
        Just(CompareOperator::Unknown),
    ];
    let target = prop_oneof![
        (0_i64..4).prop_map(CompareTarget::Version),
        (0_i64..20).prop_map(CompareTarget::Create),
        (0_i64..20).prop_map(CompareTarget::Mod),
        value().prop_map(CompareTarget::Value),
        (-3_i64..3).prop_map(CompareTarget::Lease),
        Just(CompareTarget::Unknown),
    ];
    (range(), operator, target)
        .prop_map(|(range, operator, target)| Compare { range, operator, target })
        .boxed()
}

pub(crate) fn txn() -> BoxedStrategy<Txn> {
    let op = prop_oneof![
        query().prop_map(TxnOp::Range),
        put().prop_map(TxnOp::Put),
        delete().prop_map(TxnOp::DeleteRange),
    ];
    let branch = |op: BoxedStrategy<TxnOp>| proptest::collection::vec(op, 0..4);
    let compares = proptest::collection::vec(compare(), 0..2);
    let leaf = (compares, branch(op.clone().boxed()), branch(op.clone().boxed()))
        .prop_map(|(compares, success, failure)| Txn { compares, success, failure });
    leaf.prop_recursive(2, 8, 3, move |inner| {
        let op = prop_oneof![4 => op.clone(), 1 => inner.prop_map(TxnOp::Txn)].boxed();
        let compares = proptest::collection::vec(compare(), 0..2);
        (compares, branch(op.clone()), branch(op)).prop_map(|(compares, success, failure)| Txn {
            compares,
            success,
            failure,
        })
    })
    .boxed()
}

pub(crate) fn command() -> BoxedStrategy<Command> {
    let kind = prop_oneof![Just(AlarmKind::NoSpace), Just(AlarmKind::Corrupt)];
    prop_oneof![
        24 => put().prop_map(Command::Put),
        8 => delete().prop_map(Command::DeleteRange),
        12 => txn().prop_map(Command::Txn),
        4 => (-1_i64..40).prop_map(|revision| Command::Compact(Compact { revision })),
        6 => (lease(), 0_i64..100)
            .prop_map(|(id, ttl_seconds)| Command::LeaseGrant(LeaseGrant { id, ttl_seconds })),
        2 => lease().prop_map(|id| Command::LeaseRevoke(LeaseRevoke { id })),
        2 => (lease(), 1_u64..60).prop_map(|(id, index)| {
            Command::LeaseExpire(LeaseExpire { id, granted_at: Index(index) })
        }),
        2 => proptest::collection::vec(lease(), 0..4)
            .prop_map(|ids| Command::LeaseRenew(LeaseRenew { ids })),
        2 => proptest::collection::vec((lease(), 1_u64..60, 0_i64..100), 0..4).prop_map(|all| {
            let one = |(id, index, seconds)| Remaining { id, granted_at: Index(index), seconds };
            Command::LeaseRemaining(LeaseRemaining { leases: all.into_iter().map(one).collect() })
        }),
        1 => (proptest::bool::weighted(0.2), 1_u64..3, kind).prop_map(|(raise, member, kind)| {
            Command::Alarm(AlarmChange { raise, member: MemberId(member), kind })
        }),
        1 => (1_u64..5, 0_u64..3).prop_map(|(member, mark)| {
            Command::Publish(Publish {
                member: MemberId(member),
                name: format!("m{member}"),
                client_urls: vec![format!("http://client{mark}")],
                incarnation: Incarnation(mark),
            })
        }),
        1 => (3_u32..4, 0_u32..8)
            .prop_map(|(major, minor)| Command::ClusterVersion(ClusterVersion { major, minor })),
    ]
    .boxed()
}
