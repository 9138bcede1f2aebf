//! Each breach of the watch contract is found, and what keeps it is not accused.

use kvd_proto::etcdserverpb::{ResponseHeader, WatchResponse};
use kvd_proto::mvccpb::event::EventType;
use kvd_proto::mvccpb::{Event, KeyValue};

use super::*;

/// A key with one byte of value.
fn kv(key: &str, created: i64, changed: i64, version: i64) -> KeyValue {
    KeyValue {
        key: key.to_owned().into(),
        value: changed.to_string().into(),
        create_revision: created,
        mod_revision: changed,
        version,
        lease: 0,
    }
}

fn put(now: KeyValue, before: Option<KeyValue>) -> Event {
    Event { r#type: EventType::Put.into(), kv: Some(now), prev_kv: before }
}

fn delete(revision: i64, before: KeyValue) -> Event {
    let gone = KeyValue { key: before.key.clone(), mod_revision: revision, ..Default::default() };
    Event { r#type: EventType::Delete.into(), kv: Some(gone), prev_kv: Some(before) }
}

fn told(revision: i64, watch_id: i64, events: Vec<Event>) -> WatchResponse {
    let header = ResponseHeader { cluster_id: 7, revision, ..Default::default() };
    WatchResponse { header: Some(header), watch_id, events, ..Default::default() }
}

fn created(revision: i64) -> WatchResponse {
    WatchResponse { created: true, ..told(revision, 0, Vec::new()) }
}

/// A history that keeps the contract: a is updated at 6, b created at 8, a deleted at 9, progress.
fn good() -> Vec<WatchResponse> {
    let a = kv("/a", 5, 5, 1);
    let a_updated = kv("/a", 5, 6, 2);
    vec![
        created(5),
        told(6, 0, vec![put(a_updated.clone(), Some(a))]),
        told(8, 0, vec![put(kv("/b", 8, 8, 1), None)]),
        told(9, 0, vec![delete(9, a_updated)]),
        told(12, -1, Vec::new()),
        told(13, 0, vec![put(kv("/c", 13, 13, 1), None)]),
    ]
}

fn run(responses: &[WatchResponse]) -> Cache {
    let mut cache = Cache::new("/");
    cache.fill(&[kv("/a", 5, 5, 1)], 5);
    cache.begin_stream();
    for response in responses {
        cache.take(response);
    }
    cache
}

/// Spoils the good history; gives what the cache says.
fn spoilt(spoil: impl FnOnce(&mut Vec<WatchResponse>)) -> String {
    let mut responses = good();
    spoil(&mut responses);
    run(&responses).wrong().join("\n")
}

#[test]
fn what_keeps_the_contract_is_not_accused() {
    let cache = run(&good());
    assert_eq!(cache.wrong().join("\n"), "");
    assert_eq!((cache.revision(), cache.resume_point()), (13, 14));
    let held: Vec<&String> = cache.held.keys().collect();
    assert_eq!(held, ["/b", "/c"]);
    let [segment] = cache.segments() else { panic!("one segment") };
    assert_eq!((segment.from, segment.to, segment.changes.len()), (5, 13, 4));
}

#[test]
fn a_dropped_event_is_found() {
    assert!(spoilt(|all| drop(all.remove(1))).contains("prev_kv is"));
}

#[test]
fn a_doubled_event_is_found() {
    let wrong = spoilt(|all| all.insert(3, all[2].clone()));
    assert!(wrong.contains("a revision in two responses"), "{wrong}");
    let wrong = spoilt(|all| {
        let again = all[2].events[0].clone();
        all[2].events.push(again);
    });
    assert!(wrong.contains("is told twice"), "{wrong}");
}

#[test]
fn a_split_revision_is_found() {
    let wrong = spoilt(|all| all.insert(3, told(8, 0, vec![put(kv("/d", 8, 8, 1), None)])));
    assert!(wrong.contains("a revision in two responses"), "{wrong}");
}

#[test]
fn progress_ahead_of_an_event_is_found() {
    assert!(spoilt(|all| all.swap(3, 4)).contains("/a at 9 comes after progress 12"));
    // Ahead of the stream's end: the resumed stream tells.
    let mut cache = run(&good()[..2]);
    cache.take(&told(9, -1, Vec::new()));
    cache.begin_stream();
    cache.take(&created(9));
    cache.take(&told(8, 0, vec![put(kv("/b", 8, 8, 1), None)]));
    assert!(cache.wrong().join("\n").contains("comes after progress 9"));
}

#[test]
fn progress_that_goes_back_is_found() {
    assert!(spoilt(|all| all.insert(5, told(11, -1, Vec::new()))).contains("after progress 12"));
    assert!(spoilt(|all| all.insert(3, told(7, 0, Vec::new()))).contains("event 8"));
    assert!(spoilt(|all| all.insert(1, told(5, 0, Vec::new()))).contains("of a watch from 6"));
}

#[test]
fn a_missing_or_wrong_prev_kv_is_found() {
    assert!(spoilt(|all| all[1].events[0].prev_kv = None).contains("no prev_kv"));
    assert!(spoilt(|all| all[3].events[0].prev_kv = None).contains("no prev_kv"));
    let older = kv("/a", 5, 5, 1);
    assert!(spoilt(|all| all[3].events[0].prev_kv = Some(older)).contains("prev_kv is"));
    let wrong = spoilt(|all| all[2].events[0].prev_kv = Some(kv("/b", 7, 7, 1)));
    assert!(wrong.contains("created as"), "{wrong}");
}

#[test]
fn a_wrong_shape_is_found() {
    let wrong = spoilt(|all| all[3].events[0].kv.as_mut().unwrap().value = "left".into());
    assert!(wrong.contains("deleted as"), "{wrong}");
    assert!(spoilt(|all| all[1].header = None).contains("without a header"));
    assert!(spoilt(|all| drop(all.remove(0))).contains("not created yet"));
    assert!(spoilt(|all| all.insert(1, created(5))).contains("created twice"));
    assert!(spoilt(|all| all[2].watch_id = 3).contains("for watch 3"));
    assert!(spoilt(|all| all[2].fragment = true).contains("a fragment"));
    assert!(spoilt(|all| all.swap(1, 2)).contains("/a at 6 comes after 8"));
    let wrong = spoilt(|all| all[2].header.as_mut().unwrap().revision = 7);
    assert!(wrong.contains("under a header of 7"), "{wrong}");
    let wrong = spoilt(|all| all[1].events[0].kv.as_mut().unwrap().version = 3);
    assert!(wrong.contains("updated as"), "{wrong}");
}

#[test]
fn the_resume_point_is_the_go_clients() {
    // A header ahead of the last event does not count where there are events.
    let mut responses = good();
    responses[1].header.as_mut().unwrap().revision = 12;
    assert_eq!(run(&responses[..2]).resume_point(), 7);
    assert_eq!(run(&good()[..1]).resume_point(), 6);
    assert_eq!(run(&good()[..5]).resume_point(), 13);
}

#[test]
fn a_compacted_watch_says_so_and_nothing_else() {
    let cancel = WatchResponse { canceled: true, compact_revision: 20, ..told(0, 0, Vec::new()) };
    let mut cache = run(&good());
    assert_eq!(cache.take(&cancel), Heard::Compacted(20));
    assert_eq!(cache.wrong().join("\n"), "");
    for wrong in [
        WatchResponse { compact_revision: 0, ..cancel.clone() },
        WatchResponse { compact_revision: 9, ..cancel.clone() },
        WatchResponse { cancel_reason: "why".to_owned(), ..cancel.clone() },
        WatchResponse { header: told(3, 0, Vec::new()).header, ..cancel.clone() },
    ] {
        let mut cache = run(&good());
        cache.take(&wrong);
        assert_eq!(cache.wrong().len(), 1, "{wrong:?}");
    }
    // A list again begins a new segment.
    cache.fill(&[], 30);
    assert_eq!((cache.segments().len(), cache.resume_point()), (2, 31));
    cache.fill(&[], 29);
    assert_eq!(cache.wrong().len(), 1);
}
