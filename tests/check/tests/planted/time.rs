//! Time: nothing older than what was known, before it was asked for, or compacted.

use kvd_check::{KeyValue, Kind, Outcome, RangeReply, Refusal, Reply, Request};

use crate::tale::{Tale, event, get, get_at, list_stale, put};

#[test]
fn stale_read() {
    let mut tale = Tale::new();
    tale.ask_as_of(1, get("b"), 4);
    tale.is(Kind::Stale);
}

#[test]
fn stale_read_after_a_witness() {
    let mut tale = Tale::new();
    let op = tale.begin(1, &put("a", "v7"));
    tale.serve(&put("a", "v7"));
    tale.witness();
    tale.ask_as_of(2, get("b"), 6);
    tale.end(op, Outcome::Unknown);
    tale.is(Kind::Stale);
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
fn stale_read_without_the_own_write() {
    let mut tale = Tale::new();
    // Client 1 was told of revision 5 by its write.
    tale.ask_as_of(1, list_stale(), 4);
    tale.is(Kind::WentBack);
}

#[test]
fn a_member_that_starts_again_may_go_back() {
    let mut tale = Tale::new();
    let asked_before = tale.begin(5, &list_stale());
    tale.checker.restarted(1);
    tale.ask_as_of(1, list_stale(), 4);
    // Whichever life answered this one, it says nothing of the other.
    let outcome = tale.serve(&list_stale());
    tale.end(asked_before, outcome);
    tale.ask_as_of(5, list_stale(), 5);
    tale.finish().expect("it is true");
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
