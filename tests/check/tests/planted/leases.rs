//! Leases end when they should, whole.

use kvd_check::{Event, EventKind, KeyValue, Kind, Outcome, Refusal, Reply, Request};

use crate::tale::{SECOND, Tale, grant, put_leased};

/// A lease of two seconds with two keys.
fn leased() -> Tale {
    let mut tale = Tale::new();
    tale.ask(1, grant(9, 2));
    tale.ask(1, put_leased("c", "v7", 9));
    tale.ask(1, put_leased("d", "v8", 9));
    tale
}

const KEEP: Request = Request::LeaseKeepAlive { id: 9 };
const REVOKE: Request = Request::LeaseRevoke { id: 9 };

#[test]
fn control() {
    let mut tale = leased();
    tale.now += SECOND;
    tale.ask(1, KEEP);
    tale.now += 2 * SECOND;
    tale.expire(9);
    tale.checker.healthy(0, tale.now);
    tale.ask(1, grant(10, 100));
    tale.ask(1, put_leased("c", "v9", 10));
    tale.ask(1, Request::LeaseRevoke { id: 10 });
    let summary = tale.finish().expect("it is true");
    assert_eq!((summary.lease_ends, summary.lease_expiries), (2, 1));
}

#[test]
fn early_end() {
    let mut tale = leased();
    tale.now += SECOND;
    tale.expire(9);
    tale.is(Kind::LeaseEarly);
}

#[test]
fn early_end_after_a_renewal() {
    let mut tale = leased();
    tale.now += SECOND;
    tale.ask(1, KEEP);
    tale.now += SECOND;
    tale.expire(9);
    tale.is(Kind::LeaseEarly);
}

#[test]
fn early_end_seen_by_who_renews() {
    let mut tale = leased();
    let op = tale.begin(1, &KEEP);
    let reply = Reply::LeaseKeepAlive { ttl_seconds: 0 };
    tale.end(op, Outcome::Answered { revision: 8, reply });
    tale.is(Kind::LeaseEarly);
}

#[test]
fn early_end_seen_by_who_puts() {
    let mut tale = leased();
    let op = tale.begin(1, &put_leased("e", "v9", 9));
    tale.end(op, Outcome::Refused(Refusal::LeaseNotFound));
    tale.is(Kind::LeaseEarly);
}

#[test]
fn early_end_is_a_revoke_when_one_is_asked() {
    let mut tale = leased();
    let op = tale.begin(1, &REVOKE);
    tale.serve(&REVOKE);
    tale.witness();
    tale.end(op, Outcome::Unknown);
    tale.finish().expect("it is true");
}

#[test]
fn late_end() {
    let mut tale = leased();
    tale.now += 4 * SECOND;
    tale.expire(9);
    tale.checker.healthy(0, tale.now);
    tale.is(Kind::LeaseLate);
}

#[test]
fn end_that_never_comes() {
    let mut tale = leased();
    tale.now += 4 * SECOND;
    tale.checker.healthy(0, tale.now);
    tale.is(Kind::LeaseLate);
}

#[test]
fn late_end_of_a_sick_store() {
    let mut tale = leased();
    tale.now += 4 * SECOND;
    tale.expire(9);
    tale.checker.healthy(2 * SECOND, tale.now);
    tale.finish().expect("it had its whole time again");
}

#[test]
fn partial_end() {
    let mut tale = leased();
    tale.now += 2 * SECOND;
    let kv = KeyValue { key: "c".into(), mod_revision: 9, ..KeyValue::default() };
    tale.happen(vec![Event { kind: EventKind::Delete, kv, prev_kv: None }]);
    tale.is(Kind::LeasePartial);
}

#[test]
fn revoked_lease_keeps_its_keys() {
    let mut tale = leased();
    let op = tale.begin(1, &REVOKE);
    tale.end(op, Outcome::Answered { revision: 8, reply: Reply::LeaseRevoke });
    tale.is(Kind::LeaseState);
}

#[test]
fn revoked_lease_is_renewed() {
    let mut tale = leased();
    tale.ask(1, REVOKE);
    let op = tale.begin(1, &KEEP);
    let reply = Reply::LeaseKeepAlive { ttl_seconds: 2 };
    tale.end(op, Outcome::Answered { revision: 9, reply });
    tale.is(Kind::LeaseState);
}

#[test]
fn key_hangs_on_an_ended_lease() {
    let mut tale = leased();
    let op = tale.begin(1, &REVOKE);
    tale.serve(&REVOKE);
    let late = tale.begin(2, &put_leased("e", "v9", 9));
    let mut kv = crate::tale::event("e", "v9", 10, 10, 1);
    kv.kv.lease = 9;
    tale.happen(vec![kv]);
    tale.end(late, Outcome::Unknown);
    tale.end(op, Outcome::Unknown);
    tale.is(Kind::LeaseState);
}

#[test]
fn granted_twice() {
    let mut tale = leased();
    let op = tale.begin(1, &grant(9, 2));
    let reply = Reply::LeaseGrant { ttl_seconds: 2 };
    tale.end(op, Outcome::Answered { revision: 8, reply });
    tale.is(Kind::LeaseState);
}

#[test]
fn early_end_by_clocks_that_gained_too_little() {
    let mut tale = leased();
    tale.now += SECOND;
    tale.checker.clocks_gained(tale.now, SECOND / 2);
    tale.expire(9);
    tale.is(Kind::LeaseEarly);
}

#[test]
fn what_clocks_gained_long_before_a_renewal_does_not_count() {
    let mut tale = leased();
    tale.checker.clocks_gained(tale.now, SECOND);
    tale.now += SECOND / 2;
    tale.ask(1, KEEP);
    tale.now += SECOND;
    tale.expire(9);
    tale.is(Kind::LeaseEarly);
}

#[test]
fn what_clocks_gained_just_before_a_renewal_counts() {
    // The renewal went without the log; who leads next knows of the one before.
    let mut tale = leased();
    tale.checker.clocks_gained(tale.now, SECOND);
    tale.now += SECOND / 4;
    tale.ask(1, KEEP);
    tale.now += SECOND;
    tale.expire(9);
    tale.finish().expect("it is true");
}

#[test]
fn clocks_that_gained_enough() {
    let mut tale = leased();
    tale.now += SECOND;
    tale.checker.clocks_gained(tale.now, SECOND);
    tale.expire(9);
    tale.finish().expect("it is true");
}

#[test]
fn granted_for_less_than_the_least() {
    let mut tale = Tale::new();
    tale.ask_with(grant(9, 1), Reply::LeaseGrant { ttl_seconds: 1 });
    tale.is(Kind::LeaseTime);
}

#[test]
fn granted_for_longer_than_asked() {
    let mut tale = Tale::new();
    tale.ask_with(grant(9, 5), Reply::LeaseGrant { ttl_seconds: 6 });
    tale.is(Kind::LeaseTime);
}

#[test]
fn renewed_for_another_time_than_granted() {
    let mut tale = leased();
    tale.ask_with(KEEP, Reply::LeaseKeepAlive { ttl_seconds: 3 });
    tale.is(Kind::LeaseTime);
}
