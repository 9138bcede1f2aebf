//! Order, content and time of single writes and reads.

use kvd_check::{Kind, Outcome, RangeReply, Reply, Request, Target};

use crate::tale::{
    NOT_PROPOSED, Tale, delete_marked, event, get, get_at, list_stale, put, put_if, put_prev,
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
