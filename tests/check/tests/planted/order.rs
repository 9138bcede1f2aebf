//! Order and content of writes and reads.

use kvd_check::{EventKind, Kind, Outcome, RangeReply, Reply, Request, Target};

use crate::tale::{
    NOT_PROPOSED, Tale, both, delete_marked, event, get, get_at, list_stale, put, put_if, put_prev,
};

#[test]
fn control() {
    let mut tale = Tale::new();
    tale.ask(1, get("a"));
    tale.ask(1, put_if("a", Target::Mod(4), "a", "v7"));
    tale.ask(1, put_if("a", Target::Mod(4), "a", "v8"));
    tale.ask(1, get_at("a", 2));
    tale.ask(2, list_stale());
    let op = tale.begin(1, &put("a", "v9"));
    tale.serve(&put("a", "v9"));
    tale.end(op, Outcome::Unknown);
    let op = tale.begin(1, &put("a", "v10"));
    tale.end(op, Outcome::Unknown);
    let op = tale.begin(1, &put("a", "v11"));
    tale.end(op, NOT_PROPOSED);
    let summary = tale.finish().expect("it is true");
    assert_eq!((summary.operations, summary.answered, summary.refused), (13, 10, 1));
    assert_eq!((summary.unknown, summary.unknown_happened, summary.revision), (2, 1, 8));
    assert_eq!((summary.unjudged, summary.windows, summary.windows_given_up), (0, 1, 0));
}

#[test]
fn read_that_claims_to_be_new_but_is_stale() {
    let mut tale = Tale::new();
    let old = tale.change(3)[0].kv.clone();
    tale.ask_with(get("b"), Reply::Range(RangeReply { kvs: vec![old], more: false, count: 1 }));
    tale.is(Kind::WrongRead);
}

#[test]
fn lost_write() {
    let mut tale = Tale::new();
    let op = tale.begin(1, &put("a", "v7"));
    tale.end(op, Outcome::Answered { revision: 7, reply: Reply::Put { prev_kv: None } });
    tale.ask_lied(2, put("b", "v8"), |_| Outcome::Unknown);
    tale.is(Kind::LostWrite);
}

#[test]
fn lost_write_at_the_end() {
    let mut tale = Tale::new();
    let op = tale.begin(1, &put("a", "v7"));
    tale.end(op, Outcome::Answered { revision: 7, reply: Reply::Put { prev_kv: None } });
    tale.is(Kind::LostWrite);
}

#[test]
fn write_acknowledged_at_another_revision() {
    let mut tale = Tale::new();
    let op = tale.begin(1, &put("a", "v7"));
    tale.serve(&put("a", "v7"));
    tale.ask(2, put("a", "v8"));
    tale.end(op, Outcome::Answered { revision: 8, reply: Reply::Put { prev_kv: None } });
    tale.is(Kind::LostWrite);
}

#[test]
fn duplicated_write() {
    let mut tale = Tale::new();
    tale.ask(1, put("a", "v7"));
    tale.serve(&put("a", "v7"));
    tale.is(Kind::DuplicatedWrite);
}

#[test]
fn duplicated_write_of_unknown_outcome() {
    let mut tale = Tale::new();
    tale.ask_lied(1, put("a", "v7"), |_| Outcome::Unknown);
    tale.serve(&put("a", "v7"));
    tale.is(Kind::DuplicatedWrite);
}

#[test]
fn phantom() {
    let mut tale = Tale::new();
    tale.serve(&put("a", "nobody's"));
    tale.is(Kind::Phantom);
}

#[test]
fn phantom_delete() {
    let mut tale = Tale::new();
    tale.serve(&Request::DeleteRange(kvd_check::DeleteRequest {
        keys: kvd_check::KeyRange::one("a"),
        prev_kv: false,
    }));
    tale.is(Kind::Phantom);
}

#[test]
fn skipped_revision() {
    let mut tale = Tale::new();
    tale.witnesses = vec![1, 2];
    tale.ask(1, put("a", "v7"));
    tale.ask(1, put("a", "v8"));
    let newest = tale.change(8).to_vec();
    tale.witness_told(3, newest);
    tale.is(Kind::SkippedRevision);
}

#[test]
fn witness_in_fragments() {
    let mut tale = Tale::new();
    tale.witnesses = Vec::new();
    tale.ask(1, both("v7", "v8"));
    tale.ask(1, put("a", "v9"));
    let (two, one) = (tale.change(7).to_vec(), tale.change(8).to_vec());
    let now = tale.now;
    let part = kvd_check::Response::events(now, 8, vec![two[0].clone()]);
    let part = kvd_check::Response { fragment: true, ..part };
    let rest = [&two[1..], &one[..]].concat();
    tale.checker.witness(1, &[part, kvd_check::Response::events(now, 8, rest)]);
    tale.witnesses = vec![2, 3];
    tale.finish().expect("it is true");
}

#[test]
fn repeated_revision() {
    let mut tale = Tale::new();
    let again = tale.change(6).to_vec();
    tale.witness_told(3, again);
    tale.is(Kind::RepeatedRevision);
}

#[test]
fn read_at_a_revision_that_is_not() {
    let mut tale = Tale::new();
    let op = tale.begin(1, &get("x"));
    let nothing = RangeReply::default();
    tale.end(op, Outcome::Answered { revision: 9, reply: Reply::Range(nothing) });
    tale.is(Kind::SkippedRevision);
}

#[test]
fn witnesses_disagree() {
    let mut tale = Tale::new();
    tale.witnesses = vec![1, 2];
    tale.ask(1, put("a", "v7"));
    tale.witness_told(3, vec![event("a", "v3", 7, 2, 3)]);
    tale.is(Kind::WitnessesDisagree);
}

#[test]
fn resurrected_key() {
    let mut tale = Tale::new();
    tale.ask(1, delete_marked("b", "v7"));
    let op = tale.begin(1, &put("b", "v8"));
    // As if it had never been deleted.
    tale.happen(vec![event("b", "v8", 8, 6, 2)]);
    tale.end(op, Outcome::Answered { revision: 8, reply: Reply::Put { prev_kv: None } });
    tale.is(Kind::WrongChange);
}

#[test]
fn deleted_key_is_read() {
    let mut tale = Tale::new();
    let kv = tale.change(6)[0].kv.clone();
    tale.ask(1, delete_marked("b", "v7"));
    tale.ask_with(get("b"), Reply::Range(RangeReply { kvs: vec![kv], more: false, count: 1 }));
    tale.is(Kind::WrongRead);
}

#[test]
fn wrong_prev_kv() {
    let mut tale = Tale::new();
    let prev_kv = Some(tale.change(2)[0].kv.clone());
    tale.ask_with(put_prev("a", "v7"), Reply::Put { prev_kv });
    tale.is(Kind::WrongPrevious);
}

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
