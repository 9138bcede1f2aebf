//! Violations are planted in a true history; each must be found.

use super::*;

/// A small true history, in which calls overlap now and then.
fn truth() -> (Vec<Call>, Vec<Change>) {
    let ops = [
        (Op::Put("a".to_owned()), 1, 2),
        (Op::Get("a".to_owned()), 3, 5),
        (Op::Put("a".to_owned()), 4, 7),
        (Op::Delete("a".to_owned()), 8, 9),
        (Op::Swap("b".to_owned(), 0), 10, 11),
        (Op::List, 12, 13),
        (Op::Swap("b".to_owned(), 4), 14, 15),
    ];
    let one = pair("a", 0, 2, 2, 1);
    let two = pair("a", 2, 2, 3, 2);
    let gone = pair("gone/3", 3, 4, 4, 1);
    let swapped = pair("b", 4, 5, 5, 1);
    let outcomes = [
        Outcome::Wrote(2, vec![]),
        Outcome::Read(2, vec![one.clone()]),
        Outcome::Wrote(3, vec![one.clone()]),
        Outcome::Wrote(4, vec![two.clone()]),
        Outcome::Wrote(5, vec![]),
        Outcome::Read(5, vec![swapped.clone(), gone.clone()]),
        Outcome::Read(5, vec![swapped.clone()]),
    ];
    let calls = ops.into_iter().zip(outcomes).map(|((op, begun, ended), outcome)| Call {
        op,
        begun,
        ended,
        ended_ms: 0,
        outcome,
    });
    (calls.collect(), vec![vec![one], vec![two], vec![gone], vec![swapped]])
}

fn pair(key: &str, value: usize, created: i64, changed: i64, version: i64) -> Pair {
    Pair { key: key.to_owned(), value: value.to_string(), created, changed, version }
}

/// Plants one violation; tells what the checker says of it.
fn planted(plant: impl FnOnce(&mut Vec<Call>, &mut Vec<Change>)) -> String {
    let (mut calls, mut changes) = truth();
    plant(&mut calls, &mut changes);
    check(&calls, &changes).expect_err("the violation was planted, so it must be found")
}

#[test]
fn a_true_history_passes() {
    let (calls, changes) = truth();
    check(&calls, &changes).unwrap();
}

#[test]
fn unknown_outcomes_may_have_happened_or_not() {
    let (mut calls, mut changes) = truth();
    (calls[4].outcome, calls[4].ended) = (Outcome::Unknown, u64::MAX);
    check(&calls, &changes).unwrap();
    changes.pop();
    calls.truncate(5);
    check(&calls, &changes).unwrap();
}

#[test]
fn lost_writes_are_found() {
    planted(|_, changes| drop(changes.pop()));
    planted(|_, changes| drop(changes.remove(1)));
    planted(|calls, changes| {
        calls.truncate(5);
        changes.pop();
    });
}

#[test]
fn writes_that_failed_or_happened_twice_are_found() {
    planted(|calls, _| calls[4].outcome = Outcome::Failed);
    planted(|_, changes| changes.push(vec![pair("b", 4, 5, 6, 2)]));
    planted(|_, changes| changes.push(vec![pair("c", 77, 6, 6, 1)]));
    planted(|_, changes| changes.push(Vec::new()));
}

#[test]
fn wrong_revisions_are_found() {
    planted(|calls, _| calls[4].outcome = Outcome::Wrote(4, vec![]));
    planted(|_, changes| changes.swap(0, 1));
    planted(|_, changes| changes[1][0].created = 3);
    planted(|_, changes| changes[1][0].version = 1);
    planted(|_, changes| changes[3][0].key = "c".to_owned());
}

#[test]
fn wrong_reads_are_found() {
    planted(|calls, _| calls[1].outcome = Outcome::Read(2, vec![]));
    planted(|calls, _| calls[5].outcome = Outcome::Read(5, vec![pair("b", 4, 5, 5, 1)]));
    planted(|calls, _| calls[2].outcome = Outcome::Wrote(3, vec![]));
    planted(|calls, _| calls[6].op = Op::Swap("b".to_owned(), 5));
    planted(|calls, _| calls[5].outcome = Outcome::Read(9, vec![]));
    planted(|calls, _| calls[4].op = Op::Swap("b".to_owned(), 3));
}

#[test]
fn stale_answers_are_found() {
    planted(|calls, _| (calls[1].begun, calls[1].ended) = (20, 21));
    planted(|calls, _| (calls[0].begun, calls[0].ended) = (20, 21));
    let (mut calls, changes) = truth();
    (calls[1].begun, calls[1].ended) = (20, 21);
    (calls[1].op, calls[1].outcome) = (Op::StaleList, calls[1].outcome.clone());
    check(&calls, &changes).unwrap();
}

#[test]
fn answers_from_the_future_are_found() {
    planted(|calls, _| (calls[5].begun, calls[5].ended) = (1, 6));
}
