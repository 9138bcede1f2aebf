//! The rules that are easily got wrong, by their numbers in behaviour.md.

use super::*;

fn put(key: &str, value: &str) -> TxnOp {
    TxnOp::Put(PutRequest::of(key, value))
}

fn delete(keys: KeyRange) -> TxnOp {
    TxnOp::DeleteRange(DeleteRequest { keys, prev_kv: false })
}

fn get(key: &str, revision: Revision) -> TxnOp {
    TxnOp::Range(RangeRequest { revision, ..RangeRequest::of(KeyRange::one(key)) })
}

fn when(keys: KeyRange, target: Target, result: Relation) -> Compare {
    Compare { keys, target, result }
}

fn txn(compares: Vec<Compare>, success: Vec<TxnOp>) -> TxnRequest {
    TxnRequest { compares, success, failure: Vec::new() }
}

fn done(store: &mut Store, success: Vec<TxnOp>) -> Effect {
    store.step(&Request::Txn(txn(Vec::new(), success))).expect("it is not refused")
}

fn holds(store: &Store, compare: Compare) -> bool {
    let request = Request::Txn(txn(vec![compare], Vec::new()));
    let reply = evaluate(store.state.now(), &request).expect("it can be evaluated").reply;
    reply == Reply::Txn { succeeded: true, replies: Vec::new() }
}

/// `a` put twice, `b` once.
fn store() -> Store {
    let mut store = Store::default();
    done(&mut store, vec![put("a", "1")]);
    done(&mut store, vec![put("a", "2"), put("b", "3")]);
    store
}

fn read(reply: &Reply) -> Vec<&[u8]> {
    let Reply::Range(range) = reply else { panic!("no read: {reply:?}") };
    range.kvs.iter().map(|kv| &*kv.value).collect()
}

/// M4, M5, M7: generations.
#[test]
fn a_delete_ends_a_generation() {
    let mut store = store();
    let view = |store: &Store| store.state.now().get(b"a").cloned();
    let kv = view(&store).expect("it is there");
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (2, 3, 2));
    let gone = done(&mut store, vec![delete(KeyRange::one("a"))]).events;
    assert_eq!((gone[0].kv.mod_revision, gone[0].kv.version), (4, 0));
    assert_eq!(gone[0].prev_kv, Some(kv));
    done(&mut store, vec![put("a", "4")]);
    let kv = view(&store).expect("it is there");
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (5, 5, 1));
}

/// M3: nothing changed, no revision.
#[test]
fn a_delete_of_nothing_makes_no_revision() {
    let mut store = store();
    assert!(done(&mut store, vec![delete(KeyRange::one("x"))]).events.is_empty());
    assert_eq!(store.state.revision(), 3);
}

/// KV-T7.
#[test]
fn absent_keys_compare_as_zero_and_never_by_value() {
    let (store, absent) = (store(), || KeyRange::one("x"));
    assert!(holds(&store, when(absent(), Target::Create(0), Relation::Equal)));
    assert!(holds(&store, when(absent(), Target::Version(1), Relation::Less)));
    assert!(!holds(&store, when(absent(), Target::Value("1".into()), Relation::NotEqual)));
    assert!(!holds(&store, when(absent(), Target::Value("".into()), Relation::Equal)));
}

/// KV-T7: every key of a range.
#[test]
fn a_compare_holds_for_all_keys_of_its_range() {
    let store = store();
    assert!(holds(&store, when(KeyRange::all(), Target::Version(0), Relation::Greater)));
    assert!(!holds(&store, when(KeyRange::all(), Target::Version(1), Relation::Greater)));
}

/// KV-T2: compares within look at the store before the whole.
#[test]
fn compares_within_do_not_see_what_was_written() {
    let mut store = store();
    let unchanged = when(KeyRange::one("a"), Target::Mod(3), Relation::Equal);
    let inner = txn(vec![unchanged], vec![get("a", 0)]);
    let effect = done(&mut store, vec![put("a", "5"), TxnOp::Txn(inner)]);
    let Reply::Txn { replies, .. } = effect.reply else { panic!("no transaction") };
    let Reply::Txn { succeeded: true, replies } = &replies[1] else { panic!("{replies:?}") };
    assert_eq!(read(&replies[0]), [b"5"], "reads do (M9)");
}

/// KV-T10.
#[test]
fn a_read_at_the_revision_before_sees_that() {
    let mut store = store();
    let effect = done(&mut store, vec![put("a", "5"), get("a", 3), get("a", 0)]);
    let Reply::Txn { replies, .. } = effect.reply else { panic!("no transaction") };
    assert_eq!((read(&replies[1]), read(&replies[2])), (vec![&b"2"[..]], vec![&b"5"[..]]));
}

/// KV-T9: a read of the future fails the whole.
#[test]
fn what_fails_changes_nothing() {
    let mut store = store();
    let request = Request::Txn(txn(Vec::new(), vec![put("a", "5"), get("a", 4)]));
    assert_eq!(store.step(&request), Err(Refusal::FutureRevision));
    let leased = PutRequest { lease: 9, ..PutRequest::of("a", "5") };
    assert_eq!(store.step(&Request::Put(leased)), Err(Refusal::LeaseNotFound));
    assert_eq!(store.state.revision(), 3);
}

/// KV-T8a: delete, then put, of one key at once; W19: before, as a watch sees it.
#[test]
fn delete_and_put_at_once_begin_a_generation() {
    let mut store = store();
    let events = done(&mut store, vec![delete(KeyRange::all()), put("b", "6")]).events;
    let seen: Vec<_> = events.iter().map(|event| (event.kind, event.is_create())).collect();
    let gone = (EventKind::Delete, false);
    assert_eq!(seen, [gone, gone, (EventKind::Put, true)]);
    assert_eq!((events[2].kv.version, events[2].prev_kv.is_none()), (1, true));
    let put_first = done(&mut store, vec![put("c", "7"), delete(KeyRange::one("c"))]);
    assert!(store.state.now().get(b"c").is_none());
    assert_eq!(put_first.events[1].prev_kv, None);
}

/// KV-R5, R6, R7, R12.
#[test]
fn reads_are_cut_and_counted() {
    let store = store();
    let all = || RangeRequest::of(KeyRange::all());
    let ask =
        |range| evaluate(store.state.now(), &Request::Range(range)).expect("it is read").reply;
    let Reply::Range(cut) = ask(RangeRequest { limit: 1, keys_only: true, ..all() }) else {
        panic!("no read")
    };
    assert_eq!((cut.kvs.len(), cut.more, cut.count), (1, true, 2));
    assert!(cut.kvs[0].value.is_empty() && cut.kvs[0].version == 2);
    let counted = ask(RangeRequest { count_only: true, limit: 1, ..all() });
    assert_eq!(counted, Reply::Range(RangeReply { kvs: Vec::new(), more: false, count: 2 }));
    let exact = ask(RangeRequest { limit: 2, ..all() });
    assert!(matches!(exact, Reply::Range(RangeReply { more: false, .. })));
}

/// L5, L17; KV-C2, M10.
#[test]
fn leases_and_compactions() {
    let mut store = store();
    let grant = Request::LeaseGrant { id: 9, ttl_seconds: 5 };
    assert!(store.step(&grant).is_ok());
    assert_eq!(store.step(&grant), Err(Refusal::LeaseExists));
    for key in ["d", "c"] {
        let put = PutRequest { lease: 9, ..PutRequest::of(key, "8") };
        assert!(store.step(&Request::Put(put)).is_ok());
    }
    let ended = store.step(&Request::LeaseRevoke { id: 9 }).expect("there is one").events;
    let keys: Vec<&[u8]> = ended.iter().map(|event| &*event.kv.key).collect();
    assert_eq!((keys, store.state.revision()), (vec![&b"c"[..], b"d"], 6));
    assert_eq!(store.step(&Request::LeaseRevoke { id: 9 }), Err(Refusal::LeaseNotFound));
    assert!(store.step(&Request::Compact { revision: 3 }).is_ok());
    assert_eq!(store.step(&Request::Compact { revision: 3 }), Err(Refusal::Compacted));
    assert_eq!(store.step(&Request::Compact { revision: 7 }), Err(Refusal::FutureRevision));
    let mut read = |revision| {
        let range = RangeRequest { revision, ..RangeRequest::of(KeyRange::all()) };
        store.step(&Request::Range(range)).map(|_effect| ())
    };
    assert_eq!((read(2), read(3)), (Err(Refusal::Compacted), Ok(())));
}
