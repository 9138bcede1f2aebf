//! The second opinion: it agrees with the certificate on correct histories, finds by itself what can be seen
//! without revisions, and never accuses what the certificate accepts.
#![expect(clippy::print_stdout, reason = "figures of a run, and the one that is repeated")]

mod common;

use common::feed::limits;
use common::{Feed, Recorded, SMALL, Shape, generate, seeds};
use kvd_check::search::{Fate, Step, Verdict, Window, search};
use kvd_check::{
    Bytes, Compare, DeleteRequest, KeyRange, KeyValue, OpId, Outcome, PutRequest, RangeReply,
    RangeRequest, Refusal, Relation, Reply, Request, Target, TxnOp, TxnRequest,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Steps before a search gives up; small histories need a few hundred.
const STEPS: u64 = 200_000;

#[test]
fn correct_histories_have_an_order() {
    for seed in seeds(1_000) {
        let window = generate(seed, SMALL).window(true);
        assert_eq!(search(&window, STEPS), Verdict::Linearizable, "KVD_SEED={seed}");
    }
}

#[test]
fn correct_histories_have_an_order_with_outcomes_left_open() {
    let mut given_up = 0;
    for seed in 0..300 {
        let window = generate(seed, Shape { unknown_ppm: 150_000, ..SMALL }).window(false);
        match search(&window, STEPS) {
            Verdict::Linearizable => {}
            Verdict::GaveUp => given_up += 1,
            verdict @ Verdict::NotLinearizable(_) => panic!("KVD_SEED={seed}: {verdict:?}"),
        }
    }
    assert!(given_up < 30, "{given_up} of 300 searches gave up");
}

#[test]
fn windows_of_correct_histories_have_an_order() {
    let windows = kvd_check::Limits {
        window_operations: 12,
        window_every_revisions: 6,
        search_steps: STEPS,
        ..limits()
    };
    let (mut searched, mut given_up) = (0, 0);
    for seed in seeds(1_000) {
        let checked = generate(seed, SMALL).check(windows.clone());
        let summary = checked.unwrap_or_else(|violation| panic!("KVD_SEED={seed}: {violation}"));
        searched += summary.windows;
        given_up += summary.windows_given_up;
    }
    assert!(
        searched > seeds(1_000).count() as u64 && given_up == 0,
        "{searched} searched, {given_up} given up"
    );
}

/// One thing is told otherwise. What the certificate then still accepts has an order.
#[test]
fn what_the_certificate_accepts_has_an_order() {
    let (mut accepted, mut refused, mut both) = (0, 0, 0);
    for seed in seeds(3_000) {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut recorded = generate(seed, SMALL);
        corrupt(&mut recorded, &mut rng);
        let certified = recorded.certify();
        let verdict = search(&recorded.window(true), STEPS);
        match (certified, verdict) {
            (Ok(_), Verdict::NotLinearizable(counterexample)) => {
                panic!("KVD_SEED={seed}: no order, but a certificate: {counterexample:?}")
            }
            (Ok(_), _) => accepted += 1,
            (Err(_), Verdict::NotLinearizable(_)) => both += 1,
            (Err(_), _) => refused += 1,
        }
    }
    println!("{accepted} accepted, {refused} refused by the certificate only, {both} by both");
    assert!(
        seeds(3_000).count() < 3_000 || (accepted > 100 && both > 500),
        "{accepted} accepted, {both} refused by both"
    );
}

/// Tells one outcome otherwise than it was.
fn corrupt(recorded: &mut Recorded, rng: &mut StdRng) {
    let ends: Vec<usize> = recorded.feeds.iter().enumerate().filter_map(is_end).collect();
    let place = ends[rng.random_range(0..ends.len())];
    let other = ends[rng.random_range(0..ends.len())];
    let other = match &recorded.feeds[other] {
        Feed::End(_, _, outcome) => outcome.clone(),
        _ => Outcome::Unknown,
    };
    let draw = rng.random_range(0..7);
    let Feed::End(_, op, outcome) = &mut recorded.feeds[place] else { return };
    match draw {
        0 => *outcome = other,
        1 => *outcome = Outcome::Unknown,
        2 => *outcome = Outcome::Refused(Refusal::NotProposed),
        3 => {
            if let Outcome::Answered { revision, .. } = outcome {
                *revision += if rng.random() { 1 } else { -1 };
            }
        }
        4 => {
            if let (Outcome::Answered { reply, .. }, Outcome::Answered { reply: told, .. }) =
                (outcome, other)
            {
                *reply = told;
            }
        }
        _ => {
            let op = *op;
            tell_earlier(recorded, rng, place, op);
        }
    }
}

/// An outcome is told at some moment since the request was sent.
fn tell_earlier(recorded: &mut Recorded, rng: &mut StdRng, place: usize, op: OpId) {
    let begins = |feed: &Feed| matches!(feed, Feed::Begin(..));
    let mut sent = recorded.feeds.iter().enumerate().filter(|(_, feed)| begins(feed));
    let number = usize::try_from(op.0).expect("a place");
    let (sent, _) = sent.nth(number).expect("it was sent");
    let earlier = rng.random_range(sent..place);
    if let Feed::Begin(then, ..) | Feed::End(then, ..) = recorded.feeds[earlier] {
        let mut feed = recorded.feeds.remove(place);
        if let Feed::End(at, ..) = &mut feed {
            *at = then;
        }
        recorded.feeds.insert(earlier + 1, feed);
    }
}

fn is_end((place, feed): (usize, &Feed)) -> Option<usize> {
    matches!(feed, Feed::End(..)).then_some(place)
}

/// Steps one after the other, unless times say otherwise.
#[derive(Default)]
struct Plot {
    window: Window,
}

impl Plot {
    fn step(&mut self, begun: u64, ended: u64, request: Request, reply: Reply) {
        let id = Some(OpId(self.window.steps.len() as u64));
        let fate = Fate::Answered { reply, ended };
        self.window.steps.push(Step { id, begun, request, fate });
    }

    fn put(&mut self, begun: u64, ended: u64, key: &str, value: &str) {
        let reply = Reply::Put { prev_kv: None };
        self.step(begun, ended, Request::Put(PutRequest::of(key, value)), reply);
        let mod_revision = 1 + i64::try_from(self.window.puts.len()).expect("few");
        let kv = KeyValue { mod_revision, ..held(key, value, 0) };
        self.window.puts.push(kv);
    }

    fn open_put(&mut self, begun: u64, key: &str, value: &str, fate: Fate) {
        let request = Request::Put(PutRequest::of(key, value));
        let id = Some(OpId(self.window.steps.len() as u64));
        self.window.steps.push(Step { id, begun, request, fate });
    }

    fn get(&mut self, begun: u64, ended: u64, key: &str, found: Option<(&str, i64)>) {
        let kvs: Vec<KeyValue> =
            found.into_iter().map(|(value, version)| held(key, value, version)).collect();
        let count = i64::try_from(kvs.len()).expect("few");
        let reply = Reply::Range(RangeReply { kvs, more: false, count });
        self.step(begun, ended, Request::Range(RangeRequest::of(KeyRange::one(key))), reply);
    }

    fn delete(&mut self, begun: u64, ended: u64, key: &str, deleted: i64) {
        let request = DeleteRequest { keys: KeyRange::one(key), prev_kv: false };
        let reply = Reply::DeleteRange { deleted, prev_kvs: Vec::new() };
        self.step(begun, ended, Request::DeleteRange(request), reply);
    }

    #[track_caller]
    fn has_order(&self, expected: bool) {
        match search(&self.window, STEPS) {
            Verdict::Linearizable => assert!(expected, "an order was found"),
            Verdict::NotLinearizable(why) => {
                assert!(!expected, "{why:?}");
                assert!(!why.stuck.is_empty(), "it shows what cannot come next");
            }
            Verdict::GaveUp => panic!("a short search"),
        }
    }
}

fn held(key: &str, value: &str, version: i64) -> KeyValue {
    let (key, value): (Bytes, Bytes) = (key.into(), value.into());
    KeyValue { key, value, version, ..KeyValue::default() }
}

/// `a` is put if it is what the first put made it, else read.
fn swap(value: &str) -> Request {
    let (target, result) = (Target::Mod(1), Relation::Equal);
    let compares = vec![Compare { keys: KeyRange::one("a"), target, result }];
    let success = vec![TxnOp::Put(PutRequest::of("a", value))];
    let failure = vec![TxnOp::Range(RangeRequest::of(KeyRange::one("a")))];
    Request::Txn(TxnRequest { compares, success, failure })
}

#[test]
fn overlapping_operations_have_either_order() {
    for seen in ["1", "2"] {
        let mut plot = Plot::default();
        plot.put(1, 10, "a", "1");
        plot.put(2, 9, "a", "2");
        plot.get(11, 12, "a", Some((seen, 2)));
        plot.has_order(true);
    }
}

#[test]
fn stale_read() {
    let mut plot = Plot::default();
    plot.put(1, 2, "a", "1");
    plot.put(3, 4, "a", "2");
    plot.get(5, 6, "a", Some(("1", 1)));
    plot.has_order(false);
}

#[test]
fn lost_write() {
    let mut plot = Plot::default();
    plot.put(1, 2, "a", "1");
    plot.get(3, 4, "a", None);
    plot.has_order(false);
}

#[test]
fn duplicated_write() {
    let mut plot = Plot::default();
    plot.put(1, 2, "a", "1");
    plot.put(3, 4, "a", "2");
    plot.get(5, 6, "a", Some(("2", 2)));
    plot.get(7, 8, "a", Some(("1", 3)));
    plot.has_order(false);
}

#[test]
fn phantom() {
    let mut plot = Plot::default();
    plot.put(1, 2, "a", "1");
    plot.get(3, 4, "a", Some(("nobody's", 2)));
    plot.has_order(false);
}

#[test]
fn resurrected_key() {
    let mut plot = Plot::default();
    plot.put(1, 2, "a", "1");
    plot.delete(3, 4, "a", 1);
    plot.get(5, 6, "a", Some(("1", 1)));
    plot.has_order(false);
}

#[test]
fn version_that_goes_on_after_a_delete() {
    let mut plot = Plot::default();
    plot.put(1, 2, "a", "1");
    plot.delete(3, 4, "a", 1);
    plot.put(5, 6, "a", "2");
    plot.get(7, 8, "a", Some(("2", 2)));
    plot.has_order(false);
}

#[test]
fn wrong_prev_kv() {
    let mut plot = Plot::default();
    plot.put(1, 2, "a", "1");
    plot.put(3, 4, "a", "2");
    let request = PutRequest { prev_kv: true, ..PutRequest::of("a", "3") };
    let reply = Reply::Put { prev_kv: Some(held("a", "1", 1)) };
    plot.step(5, 6, Request::Put(request), reply);
    plot.has_order(false);
}

#[test]
fn split_txn() {
    let mut plot = Plot::default();
    let puts = ["a", "b"].map(|key| TxnOp::Put(PutRequest::of(key, "1")));
    let txn = TxnRequest { success: puts.into(), ..TxnRequest::default() };
    let replies = vec![Reply::Put { prev_kv: None }; 2];
    plot.step(1, 9, Request::Txn(txn), Reply::Txn { succeeded: true, replies });
    plot.get(2, 3, "a", Some(("1", 1)));
    plot.get(4, 5, "b", None);
    plot.has_order(false);
}

#[test]
fn failed_compare_that_held() {
    let mut plot = Plot::default();
    plot.put(1, 2, "a", "1");
    let kvs = vec![held("a", "1", 1)];
    let read = Reply::Range(RangeReply { kvs, more: false, count: 1 });
    plot.step(3, 4, swap("2"), Reply::Txn { succeeded: false, replies: vec![read] });
    plot.has_order(false);
}

#[test]
fn two_swaps_that_cannot_both_succeed() {
    let mut plot = Plot::default();
    plot.put(1, 2, "a", "1");
    let reply = || Reply::Txn { succeeded: true, replies: vec![Reply::Put { prev_kv: None }] };
    plot.step(3, 9, swap("2"), reply());
    plot.has_order(true);
    plot.step(4, 8, swap("3"), reply());
    plot.has_order(false);
}

#[test]
fn wrong_count_of_deleted_keys() {
    let mut plot = Plot::default();
    plot.put(1, 2, "a", "1");
    plot.delete(3, 4, "a", 0);
    plot.has_order(false);
}

#[test]
fn told_of_what_was_not_asked_yet() {
    let mut plot = Plot::default();
    plot.get(1, 2, "a", Some(("1", 1)));
    plot.put(3, 4, "a", "1");
    plot.has_order(false);
}

#[test]
fn open_outcomes_may_go_either_way_but_only_once() {
    let mut plot = Plot::default();
    plot.put(1, 2, "a", "1");
    plot.open_put(3, "a", "2", Fate::Open);
    plot.get(5, 6, "a", Some(("1", 1)));
    plot.has_order(true);
    plot.get(7, 8, "a", Some(("2", 2)));
    plot.has_order(true);
    plot.get(9, 10, "a", Some(("1", 1)));
    plot.has_order(false);
}

#[test]
fn what_happened_before_a_moment_is_seen_after_it() {
    let mut plot = Plot::default();
    plot.open_put(1, "a", "1", Fate::HappenedBefore(5));
    plot.get(3, 4, "a", None);
    plot.has_order(true);
    plot.get(6, 7, "a", None);
    plot.has_order(false);
}

#[test]
fn a_limit_ends_the_search() {
    let window = generate(1, SMALL).window(true);
    assert_eq!(search(&window, 3), Verdict::GaveUp);
}
