//! What the KV messages may say, and in which order they are refused.

use proptest::prelude::*;

use super::*;

fn key(key: &'static str) -> Bytes {
    Bytes::from_static(key.as_bytes())
}

fn range_of(name: &'static str) -> pb::RangeRequest {
    pb::RangeRequest { key: key(name), ..Default::default() }
}

fn put_of(name: &'static str) -> pb::PutRequest {
    pb::PutRequest { key: key(name), ..Default::default() }
}

fn put_op(name: &'static str) -> pb::RequestOp {
    pb::RequestOp { request: Some(OpRequest::RequestPut(put_of(name))) }
}

fn range_op(name: &'static str, serializable: bool) -> pb::RequestOp {
    let range = pb::RangeRequest { serializable, ..range_of(name) };
    pb::RequestOp { request: Some(OpRequest::RequestRange(range)) }
}

fn txn_op_of(txn: pb::TxnRequest) -> pb::RequestOp {
    pb::RequestOp { request: Some(OpRequest::RequestTxn(txn)) }
}

fn compares(count: usize) -> Vec<pb::Compare> {
    vec![pb::Compare { key: key("a"), ..Default::default() }; count]
}

/// Rules KV-R1, KV-R2: the key is checked before the sort options.
#[test]
fn a_range_needs_a_key_and_a_known_sort() {
    let unsorted = pb::RangeRequest { sort_order: 3, ..range_of("a") };
    assert_eq!(range_query(unsorted.clone()), Err(Rejection::InvalidSortOption));
    let untargeted = pb::RangeRequest { sort_target: -1, ..range_of("a") };
    assert_eq!(range_query(untargeted), Err(Rejection::InvalidSortOption));
    let keyless = pb::RangeRequest { key: Bytes::new(), ..unsorted };
    assert_eq!(range_query(keyless), Err(Rejection::EmptyKey));
}

/// Rules KV-R3, KV-R7: zero and negative mean "not given".
#[test]
fn revisions_and_limits_below_one_are_off() {
    for number in [0, -1, i64::MIN] {
        let request = pb::RangeRequest { limit: number, revision: number, ..range_of("a") };
        let query = range_query(request).unwrap();
        assert_eq!((query.limit, query.revision), (None, None));
    }
    let request = pb::RangeRequest { limit: 1, revision: 1, ..range_of("a") };
    let query = range_query(request).unwrap();
    assert_eq!((query.limit, query.revision), (Some(1), Some(Revision(1))));
}

/// Rule KV-P1: key, then value, then lease.
#[test]
fn a_put_is_refused_in_order() {
    let request = pb::PutRequest {
        value: key("v"),
        lease: 7,
        ignore_value: true,
        ignore_lease: true,
        ..Default::default()
    };
    assert_eq!(put(request.clone()), Err(Rejection::EmptyKey));
    let request = pb::PutRequest { key: key("a"), ..request };
    assert_eq!(put(request.clone()), Err(Rejection::ValueProvided));
    let request = pb::PutRequest { value: Bytes::new(), ..request };
    assert_eq!(put(request.clone()), Err(Rejection::LeaseProvided));
    assert!(put(pb::PutRequest { lease: 0, ..request }).is_ok());
}

/// Rule KV-T3: 100 compares leave 28 operations to a nested transaction.
#[test]
fn nesting_spends_one_budget() {
    let outer = |inner: usize| pb::TxnRequest {
        compare: compares(100),
        success: vec![txn_op_of(pb::TxnRequest { compare: compares(inner), ..Default::default() })],
        ..Default::default()
    };
    assert!(txn(outer(28), 128).is_ok());
    assert_eq!(txn(outer(29), 128), Err(Rejection::TooManyOperations));
    let flat = |count| pb::TxnRequest { compare: compares(count), ..Default::default() };
    assert!(txn(flat(128), 128).is_ok());
    assert_eq!(txn(flat(129), 128), Err(Rejection::TooManyOperations));
}

/// Rule KV-T4: counts before compare keys before operations before overlaps.
#[test]
fn a_transaction_is_refused_in_order() {
    let mut request = pb::TxnRequest {
        compare: vec![pb::Compare::default(); 2],
        success: vec![pb::RequestOp::default(), put_op("a")],
        failure: vec![put_op("a"), put_op("a")],
    };
    assert_eq!(txn(request.clone(), 1), Err(Rejection::TooManyOperations));
    assert_eq!(txn(request.clone(), 128), Err(Rejection::EmptyKey));
    request.compare = compares(1);
    assert_eq!(txn(request.clone(), 128), Err(Rejection::KeyNotFound), "rule KV-T5");
    request.success.remove(0);
    assert_eq!(txn(request.clone(), 128), Err(Rejection::DuplicateKey), "rule KV-T8");
    request.failure.pop();
    assert!(txn(request, 128).is_ok());
}

/// Rules KV-T6, KV-T14: numbers that nobody defined are accepted, a wrong union member counts as zero.
#[test]
fn strange_compares_are_accepted() {
    let strange = |target, result, union| {
        let given = pb::Compare {
            key: key("a"),
            target,
            result,
            target_union: union,
            ..Default::default()
        };
        compare(given).unwrap()
    };
    let unknown = strange(99, 98, None);
    assert_eq!(unknown.target, CompareTarget::Unknown);
    assert_eq!(unknown.operator, CompareOperator::Unknown);
    let mismatch = strange(0, 0, Some(TargetUnion::Lease(7)));
    assert_eq!(mismatch.target, CompareTarget::Version(0));
    let unset = strange(3, 0, None);
    assert_eq!(unset.target, CompareTarget::Value(Bytes::new()));
}

/// Rule KV-T12, and the barrier of those that only compare.
#[test]
fn reads_are_told_from_writes() {
    let of = |ops: Vec<pb::RequestOp>| pb::TxnRequest { success: ops, ..Default::default() };
    let local = of(vec![range_op("a", true), range_op("b", true)]);
    let mixed = of(vec![range_op("a", true), range_op("b", false)]);
    assert!(is_serializable(&local) && !is_serializable(&mixed));
    assert!(!is_serializable(&of(vec![])), "compares only: barrier");
    assert!(is_read_only(&mixed));
    assert!(!is_read_only(&of(vec![put_op("a")])));
    let nested = of(vec![txn_op_of(pb::TxnRequest::default())]);
    assert!(!is_read_only(&nested));
}

/// Behaviour.md 6.4.
#[test]
fn the_worse_branch_is_the_cost() {
    let request = pb::TxnRequest {
        success: vec![put_op("aa"), range_op("x", false)],
        failure: vec![txn_op_of(pb::TxnRequest {
            success: vec![put_op("b"), put_op("c")],
            ..Default::default()
        })],
        ..Default::default()
    };
    assert_eq!(txn_cost(&request), 2 * 257);
    assert_eq!(txn_cost(&pb::TxnRequest::default()), 0);
}

/// Rule H5: operations state only a revision, nested transactions nothing.
#[test]
fn headers_inside_transactions() {
    let answer = TxnAnswer {
        succeeded: true,
        revision: Revision(9),
        responses: vec![
            OpAnswer::Put(PutAnswer::default(), Revision(9)),
            OpAnswer::Txn(TxnAnswer { revision: Revision(9), ..TxnAnswer::default() }),
        ],
    };
    let response = txn_response(answer);
    let headers: Vec<_> = response
        .responses
        .into_iter()
        .map(|op| match op.response {
            Some(OpResponse::ResponsePut(put)) => put.header,
            Some(OpResponse::ResponseTxn(txn)) => txn.header,
            other => panic!("unexpected {other:?}"),
        })
        .collect();
    let revision_only = pb::ResponseHeader { revision: 9, ..Default::default() };
    assert_eq!(headers, [Some(revision_only), Some(pb::ResponseHeader::default())]);
}

fn any_op() -> impl Strategy<Value = pb::RequestOp> {
    let leaf = prop_oneof![
        Just(pb::RequestOp::default()),
        ("[a-c]{0,2}", any::<i64>(), any::<i32>()).prop_map(|(key, number, enumeration)| {
            let request = pb::RangeRequest {
                key: key.into(),
                limit: number,
                revision: number,
                sort_order: enumeration % 4,
                ..Default::default()
            };
            pb::RequestOp { request: Some(OpRequest::RequestRange(request)) }
        }),
        ("[a-c]{0,2}", any::<bool>(), any::<i64>()).prop_map(|(key, ignore_lease, lease)| {
            let request =
                pb::PutRequest { key: key.into(), lease, ignore_lease, ..Default::default() };
            pb::RequestOp { request: Some(OpRequest::RequestPut(request)) }
        }),
    ];
    leaf.prop_recursive(6, 64, 4, |inner| {
        (0..4usize, proptest::collection::vec(inner, 0..4)).prop_map(|(count, ops)| {
            txn_op_of(pb::TxnRequest {
                compare: compares(count),
                success: ops,
                ..Default::default()
            })
        })
    })
}

/// What a level needs of the budget: its own count and the most of the levels inside it.
fn needed(txn: &Txn) -> usize {
    let inside = |op: &TxnOp| if let TxnOp::Txn(txn) = op { needed(txn) } else { 0 };
    let own = txn.compares.len().max(txn.success.len()).max(txn.failure.len());
    own + txn.success.iter().chain(&txn.failure).map(inside).max().unwrap_or(0)
}

proptest! {
    /// Any tree is either refused or keeps within the budget (rule KV-T3), with every key in place.
    #[test]
    fn parsed_transactions_keep_the_rules(
        ops in proptest::collection::vec(any_op(), 0..5),
        budget in 0..12usize,
    ) {
        let request = pb::TxnRequest { success: ops, ..Default::default() };
        if let Ok(txn) = txn(request, budget) {
            prop_assert!(needed(&txn) <= budget);
            let keys_in_place = txn.success.iter().all(|op| match op {
                TxnOp::Put(put) => !put.key.is_empty(),
                TxnOp::Range(query) => !query.range.start().is_empty(),
                TxnOp::DeleteRange(_) | TxnOp::Txn(_) => true,
            });
            prop_assert!(keys_in_place);
        }
    }
}
