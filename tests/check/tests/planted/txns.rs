//! Transactions, refusals, compaction, and what else goes over more than one key.

use kvd_check::{EventKind, KeyValue, Kind, Outcome, RangeReply, Refusal, Reply, Request, Target};

use crate::tale::{
    NOT_PROPOSED, Tale, both, delete_marked, event, get, get_at, list_stale, put, put_if,
};

#[test]
fn split_txn() {
    let mut tale = Tale::new();
    let op = tale.begin(1, &both("v7", "v8"));
    tale.serve(&put("a", "v7"));
    let Outcome::Answered { revision, .. } = tale.serve(&put("b", "v8")) else { unreachable!() };
    let put = Reply::Put { prev_kv: None };
    let reply = Reply::Txn { succeeded: true, replies: vec![put.clone(), put] };
    tale.end(op, Outcome::Answered { revision, reply });
    tale.is(Kind::LostWrite);
}

#[test]
fn split_txn_of_unknown_outcome() {
    let mut tale = Tale::new();
    let op = tale.begin(1, &both("v7", "v8"));
    tale.serve(&put("a", "v7"));
    tale.serve(&put("b", "v8"));
    tale.end(op, Outcome::Unknown);
    tale.is(Kind::WrongChange);
}

#[test]
fn failed_compare_that_held() {
    let mut tale = Tale::new();
    let found = tale.change(6)[0].kv.clone();
    let op = tale.begin(1, &put_if("b", Target::Mod(6), "b", "v7"));
    let read = Reply::Range(RangeReply { kvs: vec![found], more: false, count: 1 });
    let reply = Reply::Txn { succeeded: false, replies: vec![read] };
    tale.end(op, Outcome::Answered { revision: 6, reply });
    tale.is(Kind::WrongBranch);
}

#[test]
fn compare_that_failed_and_was_not_heeded() {
    let mut tale = Tale::new();
    let op = tale.begin(1, &put_if("b", Target::Mod(3), "b", "v7"));
    tale.serve(&put("b", "v7"));
    let reply = Reply::Txn { succeeded: true, replies: vec![Reply::Put { prev_kv: None }] };
    tale.end(op, Outcome::Answered { revision: 7, reply });
    tale.is(Kind::WrongChange);
}

#[test]
fn failed_compare_with_a_wrong_read() {
    let mut tale = Tale::new();
    let read = Reply::Range(RangeReply::default());
    let reply = Reply::Txn { succeeded: false, replies: vec![read] };
    tale.ask_with(put_if("b", Target::Mod(3), "b", "v7"), reply);
    tale.is(Kind::WrongRead);
}

#[test]
fn told_that_nothing_changed() {
    let mut tale = Tale::new();
    let reply = Reply::Txn { succeeded: false, replies: vec![Reply::Range(RangeReply::default())] };
    tale.ask_with(put_if("b", Target::Mod(6), "b", "v7"), reply);
    tale.is(Kind::WrongReply);
}

#[test]
fn refused_but_present() {
    let mut tale = Tale::new();
    tale.ask_lied(1, put("a", "v7"), |_| NOT_PROPOSED);
    tale.is(Kind::RefusedWriteHappened);
}

#[test]
fn refused_and_present_later() {
    let mut tale = Tale::new();
    let op = tale.begin(1, &put("a", "v7"));
    tale.end(op, NOT_PROPOSED);
    tale.ask(1, put("a", "v8"));
    tale.serve(&put("a", "v7"));
    tale.is(Kind::RefusedWriteHappened);
}

#[test]
fn read_of_what_was_not_asked_yet() {
    let mut tale = Tale::new();
    let reader = tale.begin(2, &get("a"));
    let kvs = vec![event("a", "v7", 7, 2, 3).kv];
    let reply = Reply::Range(RangeReply { kvs, more: false, count: 1 });
    tale.end(reader, Outcome::Answered { revision: 7, reply });
    tale.ask(1, put("a", "v7"));
    tale.is(Kind::TimeTravel);
}

#[test]
fn write_after_what_was_not_asked_yet() {
    let mut tale = Tale::new();
    let (late, early) = (put("a", "v7"), put("b", "v8"));
    let op = tale.begin(1, &early);
    tale.serve(&late);
    let outcome = tale.serve(&early);
    tale.end(op, outcome);
    // Revision 7 was only asked for after 8 was acknowledged.
    let op = tale.begin(2, &late);
    tale.end(op, Outcome::Unknown);
    tale.is(Kind::TimeTravel);
}

#[test]
fn witness_of_what_was_not_asked_yet() {
    let mut tale = Tale::new();
    tale.witnesses = Vec::new();
    tale.ask(1, put("a", "v7"));
    let early = kvd_check::Response::events(tale.now - 100_000_000, 7, tale.change(7).to_vec());
    tale.checker.witness(1, &[early]);
    tale.is(Kind::TimeTravel);
}

#[test]
fn stale_reads_go_back() {
    let mut tale = Tale::new();
    tale.ask_as_of(5, list_stale(), 4);
    tale.ask_as_of(5, list_stale(), 3);
    tale.is(Kind::WentBack);
}

#[test]
fn stale_read_that_never_was() {
    let mut tale = Tale::new();
    let op = tale.begin(5, &list_stale());
    let kvs: Vec<KeyValue> = vec![event("a", "v2", 3, 2, 1).kv];
    let reply = Reply::Range(RangeReply { count: 1, kvs, more: false });
    tale.end(op, Outcome::Answered { revision: 3, reply });
    tale.is(Kind::WrongRead);
}

#[test]
fn historic_read_is_wrong() {
    let mut tale = Tale::new();
    let kv = tale.change(4)[0].kv.clone();
    tale.ask_with(
        get_at("a", 3),
        Reply::Range(RangeReply { kvs: vec![kv], more: false, count: 1 }),
    );
    tale.is(Kind::WrongRead);
}

#[test]
fn read_below_compaction_answered() {
    let mut tale = Tale::new();
    tale.ask(1, Request::Compact { revision: 5 });
    let op = tale.begin(1, &get_at("a", 2));
    let kvs = vec![tale.change(2)[0].kv.clone()];
    let reply = Reply::Range(RangeReply { kvs, more: false, count: 1 });
    tale.end(op, Outcome::Answered { revision: 6, reply });
    tale.is(Kind::ReadBelowCompaction);
}

#[test]
fn read_above_compaction_refused() {
    let mut tale = Tale::new();
    tale.ask(1, Request::Compact { revision: 3 });
    let op = tale.begin(1, &get_at("a", 3));
    tale.end(op, Outcome::Refused(Refusal::Compacted));
    tale.is(Kind::NeverCompacted);
}

#[test]
fn future_that_is_past() {
    let mut tale = Tale::new();
    let op = tale.begin(1, &get_at("a", 6));
    tale.end(op, Outcome::Refused(Refusal::FutureRevision));
    tale.is(Kind::NotInTheFuture);
}

#[test]
fn wrong_count_of_deleted_keys() {
    let mut tale = Tale::new();
    let put = Reply::Put { prev_kv: None };
    let deleted = Reply::DeleteRange { deleted: 2, prev_kvs: Vec::new() };
    let reply = Reply::Txn { succeeded: true, replies: vec![deleted, put] };
    tale.ask_with(delete_marked("b", "v7"), reply);
    tale.is(Kind::WrongReply);
}

#[test]
fn wrong_value_in_the_log() {
    let mut tale = Tale::new();
    let op = tale.begin(1, &both("v7", "v8"));
    tale.happen(vec![event("a", "v7", 7, 2, 3), event("b", "v6", 7, 6, 2)]);
    tale.end(op, Outcome::Unknown);
    tale.is(Kind::WrongChange);
}

#[test]
fn delete_that_leaves_the_key() {
    let mut tale = Tale::new();
    let op = tale.begin(1, &delete_marked("b", "v7"));
    tale.happen(vec![event("gone/v7", "v7", 7, 7, 1)]);
    tale.end(op, Outcome::Unknown);
    tale.is(Kind::WrongChange);
}

#[test]
fn diverged_hash() {
    let mut tale = Tale::new();
    tale.hashes[1] = 8;
    tale.is(Kind::HashesDiffer);
}

#[test]
fn diverged_keys() {
    let mut tale = Tale::new();
    tale.stray = Some(event("z", "v1", 2, 2, 1).kv);
    tale.is(Kind::EndStateDiffers);
}

#[test]
fn workload_that_writes_twice_the_same() {
    let mut tale = Tale::new();
    tale.begin(1, &put("a", "v7"));
    tale.begin(2, &put("a", "v7"));
    tale.is(Kind::Misuse);
}

#[test]
fn deletes_without_a_mark_are_known_by_their_revision() {
    let mut tale = Tale::new();
    let keys = kvd_check::KeyRange::one("a");
    tale.ask(1, Request::DeleteRange(kvd_check::DeleteRequest { keys, prev_kv: true }));
    assert_eq!(tale.change(7)[0].kind, EventKind::Delete);
    tale.finish().expect("it is true");
}

#[test]
fn write_acknowledged_at_an_old_revision() {
    let mut tale = Tale::new();
    let op = tale.begin(1, &put("a", "v7"));
    tale.end(op, Outcome::Answered { revision: 4, reply: Reply::Put { prev_kv: None } });
    tale.is(Kind::LostWrite);
}
