//! Locks are fenced.

use kvd_check::{Kind, Outcome, Reply, Target};

use crate::tale::{Tale, delete_marked, put, put_if};

/// Client 1 has the lock by the key of revision 7, client 2 waits with that of 8.
fn locked() -> Tale {
    let mut tale = Tale::new();
    tale.ask(1, put("lock/1", "v7"));
    tale.hold(1, "lock/1", 7);
    tale.ask(2, put("lock/2", "v8"));
    tale
}

#[test]
fn control() {
    let mut tale = locked();
    tale.ask(1, put_if("lock/1", Target::Create(7), "a", "v9"));
    tale.ask(1, delete_marked("lock/1", "v10"));
    tale.hold(2, "lock/2", 8);
    tale.ask(1, put_if("lock/1", Target::Create(7), "a", "v11"));
    assert_eq!(tale.finish().expect("it is true").acquisitions, 2);
}

#[test]
fn unfenced_write() {
    let mut tale = locked();
    tale.ask(1, delete_marked("lock/1", "v10"));
    tale.hold(2, "lock/2", 8);
    let op = tale.begin(1, &put_if("lock/1", Target::Create(7), "a", "v11"));
    tale.serve(&put("a", "v11"));
    let reply = Reply::Txn { succeeded: true, replies: vec![Reply::Put { prev_kv: None }] };
    tale.end(op, Outcome::Answered { revision: 10, reply });
    tale.is(Kind::Unfenced);
}

#[test]
fn two_holders() {
    let mut tale = locked();
    tale.hold(2, "lock/2", 8);
    tale.is(Kind::NotTheHolder);
}

#[test]
fn holder_of_a_key_that_is_gone() {
    let mut tale = locked();
    tale.ask(1, delete_marked("lock/1", "v10"));
    tale.hold(1, "lock/1", 7);
    tale.is(Kind::NotTheHolder);
}

#[test]
fn older_holder_after_a_younger() {
    let mut tale = locked();
    tale.ask(1, delete_marked("lock/1", "v10"));
    tale.hold(2, "lock/2", 8);
    tale.hold(1, "lock/1", 7);
    tale.is(Kind::HoldersOutOfOrder);
}
