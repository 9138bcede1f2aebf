//! Planted breaches are found, and a history that keeps the contract is not accused.

use super::*;
use crate::kube::cache::Segment;
use crate::kube::change::Put;

const COUNTER: &str = "/registry/configmaps/c";
const POD: &str = "/registry/pods/p";
const EVENT: &str = "/registry/events/e";

fn put(revision: i64, key: &str, value: &str, before: Option<&Change>) -> Change {
    let old = before.and_then(|change| change.put.as_ref());
    let put = Put {
        value: value.to_owned(),
        created: old.map_or(revision, |old| old.created),
        version: old.map_or(1, |old| old.version + 1),
        lease: if key.starts_with(EVENTS) { 77 } else { 0 },
    };
    let before = before.map_or((0, 0), |change| (change.revision, 0));
    Change { revision, key: key.to_owned(), put: Some(put), before }
}

fn delete(revision: i64, before: &Change) -> Change {
    let lease = before.put.as_ref().map_or(0, |put| put.lease);
    Change { revision, key: before.key.clone(), put: None, before: (before.revision, lease) }
}

fn op(key: &str, intent: Intent, fate: Fate) -> Op {
    Op { key: key.to_owned(), intent, fate }
}

fn writes(key: &str, value: &str, fate: Fate) -> Op {
    op(key, Intent::Put(value.to_owned()), fate)
}

/// Two processes: a counter of both, a pod that comes and goes, an event whose lease ends, a claim
/// and an increment of unknown outcome that happened.
fn good() -> (Vec<Ledger>, Vec<KeyValue>) {
    let zero = put(2, COUNTER, "0 a-1", None);
    let one = put(3, COUNTER, "1 b-1", Some(&zero));
    let pod = put(4, POD, "a-2", None);
    let event = put(5, EVENT, "b-2", None);
    let two = put(7, COUNTER, "2 a-3", Some(&one));
    let gone = delete(8, &pod);
    let expired = delete(9, &event);
    let history = vec![zero, one, pod, event, two.clone(), gone, expired];
    let watch = |changes: &[Change]| {
        let segment = Segment { from: 1, to: 9, changes: changes.to_vec() };
        Watched { prefix: REGISTRY.to_owned(), segments: vec![segment] }
    };
    let counters: Vec<Change> =
        history.iter().filter(|change| change.key == COUNTER).cloned().collect();
    let narrow = Watched { prefix: COUNTERS.to_owned(), ..watch(&counters) };
    let a = Ledger {
        ops: vec![
            writes(COUNTER, "0 a-1", Fate::Acked(2)),
            writes(POD, "a-2", Fate::Acked(4)),
            writes(COUNTER, "2 a-3", Fate::Unknown),
            writes(COMPACT_REV_KEY, "0", Fate::Acked(6)),
        ],
        watches: vec![watch(&history), narrow],
        ..Ledger::default()
    };
    let b = Ledger {
        ops: vec![
            writes(COUNTER, "1 b-1", Fate::Acked(3)),
            writes(EVENT, "b-2", Fate::Acked(5)),
            op(POD, Intent::Delete(4), Fate::Acked(8)),
            writes(COUNTER, "2 b-3", Fate::Failed),
        ],
        watches: vec![watch(&history)],
        ..Ledger::default()
    };
    let left = KeyValue {
        key: COUNTER.into(),
        value: "2 a-3".into(),
        create_revision: 2,
        mod_revision: 7,
        version: 3,
        lease: 0,
    };
    (vec![a, b], vec![left])
}

/// Spoils the good run; gives what the judge says.
fn spoilt(spoil: impl FnOnce(&mut Vec<Ledger>, &mut Vec<KeyValue>)) -> String {
    let (mut ledgers, mut found) = good();
    spoil(&mut ledgers, &mut found);
    violations(&ledgers, &found).join("\n")
}

fn changes(ledgers: &mut [Ledger], process: usize) -> &mut Vec<Change> {
    &mut ledgers[process].watches[0].segments[0].changes
}

#[test]
fn what_keeps_the_contract_is_not_accused() {
    assert_eq!(spoilt(|_, _| ()), "");
    let (ledgers, _) = good();
    assert_eq!(covered(&ledgers), (1, 9));
}

#[test]
fn an_event_that_one_watch_missed_is_found() {
    let wrong = spoilt(|ledgers, _| drop(changes(ledgers, 1).remove(2)));
    assert!(wrong.contains("process 1") && wrong.contains("never told"), "{wrong}");
    // The last one too: its watch promised to have told everything up to there.
    let wrong = spoilt(|ledgers, _| drop(changes(ledgers, 0).pop()));
    assert!(wrong.contains("process 0") && wrong.contains("never told"), "{wrong}");
}

#[test]
fn an_event_that_all_missed_is_found() {
    let wrong = spoilt(|ledgers, _| {
        for process in 0..2 {
            changes(ledgers, process).remove(3);
        }
    });
    assert!(wrong.contains("acknowledged, but the history has []"), "{wrong}");
    assert!(wrong.contains("1 revisions that nobody was told of: [5]"), "{wrong}");
}

#[test]
fn a_doubled_event_is_found() {
    let wrong = spoilt(|ledgers, _| {
        let again = changes(ledgers, 1)[2].clone();
        changes(ledgers, 1).insert(3, again);
    });
    assert!(wrong.contains("told out of order or twice"), "{wrong}");
    let wrong = spoilt(|ledgers, _| {
        let mut again = changes(ledgers, 1)[2].clone();
        again.revision = 6;
        changes(ledgers, 1).insert(4, again);
    });
    assert!(wrong.contains("never told"), "{wrong}");
    assert!(wrong.contains("nobody wanted"), "{wrong}");
    assert!(wrong.contains("revisions of claims and of changes"), "{wrong}");
}

#[test]
fn progress_ahead_of_an_event_is_found() {
    // The watch promised 9, so 8 and 9 must have been told before.
    let wrong = spoilt(|ledgers, _| changes(ledgers, 1).truncate(5));
    assert_eq!(wrong.matches("never told").count(), 2, "{wrong}");
    // It promised no more than 7: nothing is missing, the other one tells the rest.
    let fine = spoilt(|ledgers, _| {
        changes(ledgers, 1).truncate(5);
        ledgers[1].watches[0].segments[0].to = 7;
    });
    assert_eq!(fine, "");
}

#[test]
fn a_lost_update_is_found() {
    // The third increment read what was before the second.
    let wrong = spoilt(|ledgers, found| {
        let lost = Some("1 a-3".to_owned());
        for ledger in ledgers.iter_mut() {
            for watched in &mut ledger.watches {
                for change in &mut watched.segments[0].changes {
                    let put = change.put.as_mut().filter(|put| put.value == "2 a-3");
                    if let (Some(put), Some(lost)) = (put, &lost) {
                        put.value.clone_from(lost);
                    }
                }
            }
        }
        ledgers[0].ops[2] = writes(COUNTER, "1 a-3", Fate::Acked(7));
        found[0].value = "1 a-3".into();
    });
    assert!(wrong.contains("a lost update"), "{wrong}");
    assert!(wrong.contains("is 1 after 2 increments"), "{wrong}");
}

#[test]
fn a_write_at_another_revision_is_found() {
    let wrong = spoilt(|ledgers, _| ledgers[0].ops[1].fate = Fate::Acked(5));
    assert!(wrong.contains("one revision for two writes"), "{wrong}");
    let wrong = spoilt(|ledgers, _| ledgers[0].ops[1].fate = Fate::Acked(20));
    assert!(wrong.contains("acknowledged, but the history has []"), "{wrong}");
    let wrong = spoilt(|ledgers, _| ledgers[0].ops[1].fate = Fate::Failed);
    assert!(wrong.contains("nobody wanted"), "{wrong}");
}

#[test]
fn a_delete_that_nobody_wanted_is_found() {
    let wrong = spoilt(|ledgers, _| ledgers[1].ops[2].intent = Intent::Delete(3));
    assert!(wrong.contains("nobody wanted"), "{wrong}");
    // Only objects with a lease end by themselves.
    let wrong = spoilt(|ledgers, _| drop(ledgers[1].ops.remove(2)));
    assert!(wrong.contains("nobody wanted"), "{wrong}");
}

#[test]
fn a_list_that_differs_is_found() {
    let wrong = spoilt(|_, found| found[0].version = 4);
    assert!(wrong.contains("replayed"), "{wrong}");
    assert!(spoilt(|_, found| found.clear()).contains("listed None"));
}

#[test]
fn a_gap_that_nobody_covers_is_found() {
    let (mut ledgers, found) = good();
    for ledger in &mut ledgers {
        let watched = &mut ledger.watches[0];
        let late = Segment { from: 8, to: 9, changes: watched.segments[0].changes.split_off(6) };
        watched.segments[0].changes.truncate(3);
        watched.segments[0].to = 4;
        watched.segments.push(late);
    }
    ledgers[0].watches.truncate(1);
    assert_eq!(covered(&ledgers), (1, 4));
    assert!(violations(&ledgers, &found).join("\n").contains("acknowledged, but"));
}

#[test]
fn what_a_process_saw_by_itself_is_told() {
    let wrong = spoilt(|ledgers, _| ledgers[1].wrong.push("that".to_owned()));
    assert_eq!(wrong, "process 1: that");
}
