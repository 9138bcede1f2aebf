//! What a watch must not do.

use kvd_check::{Event, KeyRange, Kind, Request, Response, Revision, WatchRequest};

use crate::tale::{Tale, event, put};

fn everything(start: Revision) -> WatchRequest {
    WatchRequest { prev_kv: true, ..WatchRequest::of(1, KeyRange::all(), start) }
}

/// Everything from the first revision on, with something done to what is sent.
fn watched(change: impl FnOnce(&mut Vec<Response>)) -> Tale {
    let mut tale = Tale::new();
    let mut responses = tale.responses(2);
    change(&mut responses);
    tale.watch(everything(2), responses);
    tale
}

#[test]
fn control() {
    let mut tale = watched(|responses| responses.push(Response::progress(0, 6)));
    let first = tale.responses(2)[..2].to_vec();
    let cut = tale.watch(everything(2), first);
    tale.checker.watch_end(tale.now, cut);
    let on = WatchRequest { resumes: Some(cut), ..everything(4) };
    let rest = tale.responses(4);
    tale.watch(on, rest);
    let summary = tale.finish().expect("it is true");
    assert_eq!((summary.watches, summary.watch_events, summary.unjudged), (3, 14, 0));
}

#[test]
fn fragments_and_batches() {
    let mut tale = Tale::new();
    let all: Vec<Event> = tale.log.iter().flatten().cloned().collect();
    let mut first = Response::events(0, 6, all[..3].to_vec());
    first.fragment = true;
    let rest = Response::events(0, 6, all[3..].to_vec());
    tale.watch(WatchRequest { fragment: true, ..everything(2) }, vec![first, rest]);
    tale.finish().expect("it is true");
}

#[test]
fn reordered_revisions() {
    watched(|responses| responses.swap(1, 2)).is(Kind::WatchOrdered);
}

#[test]
fn reordered_within_a_revision() {
    watched(|responses| responses[2].events.reverse()).is(Kind::WatchOrdered);
}

#[test]
fn duplicated_event() {
    watched(|responses| responses.insert(2, responses[1].clone())).is(Kind::WatchUnique);
}

#[test]
fn lost_event() {
    watched(|responses| drop(responses.remove(2))).is(Kind::WatchReliable);
}

#[test]
fn lost_event_of_a_watch_that_is_over() {
    let mut tale = Tale::new();
    let mut responses = tale.responses(2);
    responses.remove(2);
    let watch = tale.watch(everything(2), responses);
    tale.checker.watch_end(tale.now, watch);
    tale.is(Kind::WatchReliable);
}

#[test]
fn lost_part_of_a_revision() {
    watched(|responses| drop(responses[2].events.pop())).is(Kind::WatchReliable);
}

#[test]
fn lost_last_event() {
    watched(|responses| drop(responses.pop())).is(Kind::WatchReliable);
}

#[test]
fn event_that_never_happened() {
    watched(|responses| responses[1].events[0].kv.value = "v1".into()).is(Kind::WatchReliable);
}

#[test]
fn split_revision() {
    watched(|responses| {
        let second = responses[2].events.pop().expect("it has two");
        responses.insert(3, Response::events(0, 4, vec![second]));
    })
    .is(Kind::WatchAtomic);
}

#[test]
fn fragment_not_asked_for() {
    watched(|responses| {
        let second = responses[2].events.pop().expect("it has two");
        responses[2].fragment = true;
        responses.insert(3, Response::events(0, 4, vec![second]));
    })
    .is(Kind::WatchAtomic);
}

#[test]
fn progress_overtakes_an_event() {
    watched(|responses| responses.insert(3, Response::progress(0, 5))).is(Kind::WatchBookmarkable);
}

#[test]
fn progress_that_goes_back() {
    watched(|responses| responses.insert(3, Response::progress(0, 3))).is(Kind::WatchBookmarkable);
}

#[test]
fn event_outside_of_the_range() {
    let mut tale = Tale::new();
    let responses = tale.responses(2);
    tale.watch(WatchRequest { keys: KeyRange::one("a"), ..everything(2) }, responses);
    tale.is(Kind::WatchFilter);
}

#[test]
fn event_before_the_start() {
    let mut tale = Tale::new();
    let responses = tale.responses(3);
    tale.watch(everything(4), responses);
    tale.is(Kind::WatchFilter);
}

#[test]
fn delete_that_was_filtered_out() {
    let mut tale = Tale::new();
    let responses = tale.responses(2);
    tale.watch(WatchRequest { no_delete: true, ..everything(2) }, responses);
    tale.is(Kind::WatchFilter);
}

#[test]
fn wrong_is_create() {
    watched(|responses| {
        let update = &mut responses[2].events[0].kv;
        update.create_revision = update.mod_revision;
    })
    .is(Kind::WatchIsCreate);
}

#[test]
fn create_that_looks_like_an_update() {
    watched(|responses| responses[4].events[0].kv.create_revision = 3).is(Kind::WatchIsCreate);
}

#[test]
fn wrong_prev_kv() {
    watched(|responses| {
        let before = responses[2].events[0].prev_kv.as_mut().expect("it was there");
        before.value = "v2".into();
    })
    .is(Kind::WatchPrevKv);
}

#[test]
fn missing_prev_kv() {
    watched(|responses| responses[2].events[0].prev_kv = None).is(Kind::WatchPrevKv);
}

#[test]
fn gap_at_the_start() {
    watched(|responses| drop(responses.remove(0))).is(Kind::WatchResumable);
}

#[test]
fn resume_gap() {
    let mut tale = Tale::new();
    let first = tale.responses(2)[..2].to_vec();
    let cut = tale.watch(everything(2), first);
    tale.checker.watch_end(tale.now, cut);
    let on = WatchRequest { resumes: Some(cut), ..everything(5) };
    let rest = tale.responses(5);
    tale.watch(on, rest);
    tale.is(Kind::WatchResumable);
}

#[test]
fn told_again_after_a_resume() {
    let mut tale = Tale::new();
    let first = tale.responses(2)[..2].to_vec();
    let cut = tale.watch(everything(2), first);
    tale.checker.watch_end(tale.now, cut);
    let on = WatchRequest { resumes: Some(cut), ..everything(3) };
    let rest = tale.responses(3);
    tale.watch(on, rest);
    tale.is(Kind::WatchResumable);
}

#[test]
fn ended_for_a_compaction_that_it_does_not_need() {
    let mut tale = Tale::new();
    tale.ask(1, Request::Compact { revision: 4 });
    let ended = Response::progress(0, 0);
    let ended = Response { canceled: true, compact_revision: 4, ..ended };
    tale.watch(everything(4), vec![ended]);
    tale.is(Kind::WatchCompaction);
}

#[test]
fn ended_for_a_compaction_that_nobody_asked_for() {
    let mut tale = Tale::new();
    let ended = Response::progress(0, 0);
    let ended = Response { canceled: true, compact_revision: 4, ..ended };
    tale.watch(everything(2), vec![ended]);
    tale.is(Kind::WatchCompaction);
}

#[test]
fn ended_without_a_reason() {
    let mut tale = Tale::new();
    let ended = Response { canceled: true, ..Response::progress(0, 0) };
    tale.watch(everything(2), vec![ended]);
    tale.is(Kind::WatchCompaction);
}

/// A witness that was not told of 7 and 8 is ended for a compaction to so much; 8 was asked for.
fn witness_ended(compact_revision: i64) -> Tale {
    let mut tale = Tale::new();
    tale.witnesses = vec![1, 2];
    tale.ask(1, put("a", "v7"));
    tale.ask(1, put("a", "v8"));
    tale.ask(1, Request::Compact { revision: 8 });
    let ended = Response { canceled: true, compact_revision, ..Response::progress(tale.now, 0) };
    tale.checker.witness(3, &[ended]);
    tale
}

#[test]
fn witness_ended_for_compaction() {
    let mut tale = witness_ended(8);
    assert_eq!(tale.checker.witness_next(3), 8);
    let events = tale.change(8).to_vec();
    tale.witness_told(3, events);
    tale.finish().expect("it is true");
}

#[test]
fn witness_ended_without_a_reason() {
    witness_ended(0).is(Kind::WatchCompaction);
}

#[test]
fn witness_ended_for_a_compaction_that_it_does_not_need() {
    witness_ended(7).is(Kind::WatchCompaction);
}

#[test]
fn witness_ended_for_a_compaction_that_nobody_asked_for() {
    witness_ended(9).is(Kind::WatchCompaction);
}

#[test]
fn ended_for_compaction() {
    let mut tale = Tale::new();
    tale.ask(1, Request::Compact { revision: 4 });
    let ended = Response::progress(0, 0);
    let ended = Response { canceled: true, compact_revision: 4, ..ended };
    let watch = tale.watch(everything(2), vec![ended]);
    tale.checker.watch_end(tale.now, watch);
    let rest = tale.responses(4);
    tale.watch(WatchRequest { resumes: Some(watch), ..everything(4) }, rest);
    tale.finish().expect("it is true");
}

#[test]
fn told_of_what_is_not_in_the_log() {
    let future = event("a", "v9", 9, 2, 4);
    watched(|responses| responses.push(Response::events(0, 9, vec![future])))
        .is(Kind::WatchReliable);
}

#[test]
fn a_watch_may_be_ahead_of_the_log() {
    let mut tale = Tale::new();
    tale.witnesses = Vec::new();
    tale.ask(1, put("a", "v7"));
    let responses = tale.responses(2);
    let watch = tale.watch(everything(2), responses);
    tale.checker.watch_end(tale.now, watch);
    tale.witnesses = vec![1, 2, 3];
    tale.ask(1, put("a", "v8"));
    let on = WatchRequest { resumes: Some(watch), ..everything(8) };
    let rest = tale.responses(8);
    tale.watch(on, rest);
    tale.finish().expect("it is true");
}

#[test]
fn a_watch_from_now_on() {
    let mut tale = Tale::new();
    let created = Response { created: true, ..Response::progress(0, 6) };
    let watch = tale.watch(everything(0), vec![created.clone()]);
    tale.ask(1, put("a", "v7"));
    tale.ask(1, put("a", "v8"));
    for response in tale.responses(7) {
        tale.checker.watch_response(watch, response);
    }
    tale.watch(everything(0), vec![created, tale.responses(8).remove(0)]);
    tale.is(Kind::WatchReliable);
}
