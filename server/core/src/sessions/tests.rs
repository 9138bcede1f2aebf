//! Windows, settling, forgetting, and that nothing is applied twice, against a model that forgets nothing.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::ids::LogId;
use crate::outcome::{Applied, Response};

const SMALL: Limits = Limits { window: 4, sessions_max: 3, answers_max: 6, answer_bytes_max: 40 };

fn id(client: u64, opened: u64, sequence: u64, settled: u64) -> RequestId {
    RequestId { client, opened: Index(opened), sequence, settled }
}

/// The answer of a lease revoked, or of many renewed, which is too large to be kept.
fn answer(at: u64, large: bool) -> Bytes {
    let many = Response::LeaseRenew(vec![60; 100]);
    crate::codec::encode_outcome(&Applied {
        log_id: LogId { index: Index(at), ..LogId::default() },
        revision: Revision(at.cast_signed()),
        repeated: false,
        outcome: Ok(if large { many } else { Response::LeaseRevoke }),
        events: Vec::new(),
        leases: Vec::new(),
        members_changed: false,
    })
}

/// Sessions with the rows that their checkpoints would hold.
struct Scene {
    sessions: Sessions,
    rows: Rows,
    stored: BTreeMap<(Table, Bytes), Bytes>,
    at: u64,
}

impl Scene {
    fn new() -> Self {
        let sessions = Sessions::new(SMALL);
        Self { sessions, rows: Rows::default(), stored: BTreeMap::new(), at: 100 }
    }

    /// The next entry is this request, which succeeds if it is applied.
    fn request(&mut self, id: RequestId) -> Result<Option<Answer>, Rejection> {
        self.request_that(id, true, false)
    }

    fn request_that(
        &mut self,
        id: RequestId,
        succeeds: bool,
        large: bool,
    ) -> Result<Option<Answer>, Rejection> {
        self.at += 1;
        let found = self.sessions.begin(id, Index(self.at), &mut self.rows);
        if found == Ok(None) && succeeds {
            let revision = Revision(self.at.cast_signed());
            self.sessions.remember(id, answer(self.at, large), revision, &mut self.rows);
        }
        for (table, id, row) in self.rows.take() {
            match row {
                Some(row) => self.stored.insert((table, id), row),
                None => self.stored.remove(&(table, id)),
            };
        }
        found
    }

    /// What a member that opens the checkpoint would know, with the hash and the count of its rows.
    fn opened_again(&self) -> (Sessions, Rows) {
        let (mut sessions, mut rows) = (Sessions::new(SMALL), Rows::default());
        for ((table, id), row) in &self.stored {
            assert!(Sessions::owns(*table, id));
            rows.recover(*table, id, row);
            sessions.recover(*table, id, row.clone()).expect("was written");
        }
        (sessions, rows)
    }

    fn check(&self) {
        assert_eq!(self.sessions.broken(Index(self.at)), None);
        let (sessions, rows) = self.opened_again();
        assert_eq!(format!("{sessions:?}"), format!("{:?}", self.sessions));
        assert_eq!((rows.count(), rows.hash()), (self.rows.count(), self.rows.hash()));
        let listed: BTreeMap<_, _> =
            sessions.rows().map(|(table, id, row)| ((table, id), row)).collect();
        assert_eq!(listed, self.stored);
    }
}

#[test]
fn a_repetition_is_answered_as_the_first() {
    let mut scene = Scene::new();
    assert_eq!(scene.request(id(1, 50, 1, 0)), Ok(None));
    let first = Answer::Kept(answer(101, false));
    assert_eq!(scene.request(id(1, 50, 1, 0)), Ok(Some(first.clone())));
    assert_eq!(scene.request(id(1, 50, 2, 0)), Ok(None));
    assert_eq!(scene.request(id(1, 50, 1, 0)), Ok(Some(first)));
    assert_eq!(scene.request_that(id(1, 50, 3, 0), true, true), Ok(None));
    assert_eq!(scene.request(id(1, 50, 3, 0)), Ok(Some(Answer::NotKept(Revision(105)))));
    scene.check();
}

#[test]
fn a_refusal_is_decided_anew() {
    let mut scene = Scene::new();
    assert_eq!(scene.request_that(id(1, 50, 1, 0), false, false), Ok(None));
    assert_eq!(scene.request_that(id(1, 50, 1, 0), true, false), Ok(None));
    assert_eq!(scene.request(id(1, 50, 1, 0)), Ok(Some(Answer::Kept(answer(102, false)))));
    scene.check();
}

#[test]
fn numbers_outside_the_window_are_refused() {
    let mut scene = Scene::new();
    let refused = Err(Rejection::RequestOutsideWindow);
    assert_eq!(scene.request(id(1, 50, 0, 0)), refused, "below the first");
    assert_eq!(scene.request(id(1, 50, 5, 0)), refused);
    assert_eq!(scene.request(id(1, 50, 4, 0)), Ok(None), "the last of the window");
    assert_eq!(scene.request(id(1, 50, 5, 1)), Ok(None), "which moved");
    assert_eq!(scene.request(id(1, 50, 1, 0)), refused, "and moves back for nobody");
    assert_eq!(scene.sessions.counts(), RequestCounts { sessions: 1, answers: 2 });
    assert_eq!(scene.request(id(1, 50, 4, 4)), refused, "settled by itself");
    assert_eq!(scene.sessions.counts(), RequestCounts { sessions: 1, answers: 1 });
    assert_eq!(scene.request(id(1, 50, u64::MAX, u64::MAX)), refused);
    assert_eq!(scene.sessions.counts(), RequestCounts { sessions: 1, answers: 0 });
    scene.check();
}

#[test]
fn the_session_used_longest_ago_is_forgotten_for_good() {
    let mut scene = Scene::new();
    for client in 1..=3 {
        assert_eq!(scene.request(id(client, 50, 1, 0)), Ok(None));
    }
    assert_eq!(scene.request(id(1, 50, 2, 0)), Ok(None), "used again: 2 is the oldest");
    assert_eq!(scene.request(id(4, 50, 1, 0)), Ok(None));
    assert_eq!(scene.request(id(2, 50, 1, 0)), Err(Rejection::SessionUnknown));
    assert_eq!(scene.request(id(5, 102, 1, 0)), Err(Rejection::SessionUnknown), "at the floor");
    assert!(matches!(scene.request(id(1, 50, 1, 0)), Ok(Some(_))), "1 is still known");
    assert_eq!(scene.request(id(2, 103, 1, 0)), Ok(None), "opened since");
    scene.check();
}

#[test]
fn too_many_answers_end_sessions_but_never_the_one_in_use() {
    let mut scene = Scene::new();
    for (client, sequence) in [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3), (2, 4)] {
        assert_eq!(scene.request(id(client, 50, sequence, 0)), Ok(None));
    }
    assert_eq!(scene.sessions.counts(), RequestCounts { sessions: 1, answers: 4 });
    assert!(matches!(scene.request(id(2, 50, 1, 0)), Ok(Some(_))));
    assert_eq!(scene.request(id(1, 50, 1, 0)), Err(Rejection::SessionUnknown));
    scene.check();
}

#[test]
fn a_session_is_known_by_its_opening_too() {
    let mut scene = Scene::new();
    assert_eq!(scene.request(id(1, 50, 1, 0)), Ok(None));
    assert_eq!(scene.request(id(1, 51, 1, 0)), Err(Rejection::SessionUnknown));
    assert_eq!(scene.request(id(1, 49, 1, 0)), Err(Rejection::SessionUnknown));
    assert_eq!(scene.request(id(2, 0, 1, 0)), Err(Rejection::SessionUnknown));
    let ahead = id(2, scene.at + 1, 1, 0);
    assert_eq!(scene.request(ahead), Err(Rejection::SessionUnknown), "nobody was told its index");
    assert_eq!(scene.sessions.counts(), RequestCounts { sessions: 1, answers: 1 });
    scene.check();
}

/// Every invariant is one that can be seen broken.
#[test]
fn what_does_not_hold_is_found() {
    let broken = |harm: &dyn Fn(&mut Sessions)| {
        let mut scene = Scene::new();
        for (client, sequence) in [(1, 1), (1, 2), (2, 1)] {
            assert_eq!(scene.request(id(client, 50, sequence, 0)), Ok(None));
        }
        assert_eq!(scene.sessions.broken(Index(scene.at)), None);
        harm(&mut scene.sessions);
        scene.sessions.broken(Index(103)).unwrap_or_default()
    };
    fn one(sessions: &mut Sessions) -> &mut Session {
        sessions.sessions.get_mut(&1).unwrap()
    }
    let large = Answer::Kept(Bytes::from(vec![0; 41]));
    assert!(broken(&|all| one(all).terms.used = Index(101)).contains("last use"));
    assert!(broken(&|all| one(all).terms.opened = Index(102)).contains("opened"));
    assert!(broken(&|all| all.floor = Index(102)).contains("forgotten"));
    assert!(broken(&|all| one(all).terms.settled = 1).contains("window"));
    assert!(broken(&|all| drop(one(all).answers.insert(1, large.clone()))).contains("larger"));
    assert!(broken(&|all| all.answers = 2).contains("counted"));
    assert!(broken(&|all| all.by_use.extend([(Index(7), 9)])).contains("counted"));
    assert!(broken(&|all| all.limits.answers_max = 2).contains("more"));
    assert!(broken(&|all| all.limits.sessions_max = 1).contains("more"));
    assert!(!broken(&|all| one(all).terms.used = Index(104)).is_empty(), "later than now");
}

#[test]
fn rows_that_contradict_each_other_are_refused() {
    let mut scene = Scene::new();
    assert_eq!(scene.request(id(1, 50, 1, 0)), Ok(None));
    let (mut sessions, _) = scene.opened_again();
    let session = encode_session(sessions.sessions[&1].terms);
    let again = sessions.recover(Table::Session, &id_row(2), session);
    assert!(matches!(again, Err(DecodeError::Contradiction(_))));
    let kept = encode_answer(&Answer::NotKept(Revision(1)));
    let stray = sessions.recover(Table::Answer, &encode_answer_key(7, 1), kept);
    assert!(matches!(stray, Err(DecodeError::Contradiction(_))));
}

/// The same in the plainest form: all that ever was, and what is to be known of it by scanning.
#[derive(Default)]
struct Model {
    /// Of each request that was applied with success, the entry that did it and whether its answer was small.
    applied: BTreeMap<(u64, u64, u64), (u64, bool)>,
    /// Client, opening, settled, last use.
    known: Vec<(u64, u64, u64, u64)>,
    floor: u64,
}

impl Model {
    fn remembered(&self, client: u64) -> usize {
        let Some(known) = self.known.iter().find(|known| known.0 == client) else { return 0 };
        let of = |(c, opened, sequence): &(u64, u64, u64)| {
            *c == client && *opened == known.1 && *sequence > known.2
        };
        self.applied.keys().filter(|request| of(request)).count()
    }

    fn forget(&mut self) {
        loop {
            let answers: usize = self.known.iter().map(|known| self.remembered(known.0)).sum();
            if self.known.len() <= SMALL.sessions_max && answers <= SMALL.answers_max {
                return;
            }
            let oldest = self.known.iter().enumerate().min_by_key(|(_, known)| known.3);
            let place = oldest.map(|(place, _)| place).expect("somebody is there");
            self.floor = self.known.remove(place).3;
        }
    }

    fn request(
        &mut self,
        id: RequestId,
        at: u64,
        succeeds: bool,
        large: bool,
    ) -> Result<Option<Answer>, Rejection> {
        let (client, opened) = (id.client, id.opened.0);
        if !self.known.iter().any(|known| known.0 == client) {
            if opened <= self.floor || opened >= at {
                return Err(Rejection::SessionUnknown);
            }
            self.known.push((client, opened, 0, at));
        }
        let known = self.known.iter_mut().find(|known| known.0 == client).expect("was added");
        if known.1 != opened {
            return Err(Rejection::SessionUnknown);
        }
        known.2 = known.2.max(id.settled);
        known.3 = at;
        let settled = known.2;
        self.forget();
        if id.sequence <= settled || id.sequence > settled + SMALL.window {
            return Err(Rejection::RequestOutsideWindow);
        }
        let request = (client, opened, id.sequence);
        if let Some((first, small)) = self.applied.get(&request) {
            let revision = Revision(first.cast_signed());
            let kept = Answer::Kept(answer(*first, false));
            return Ok(Some(if *small { kept } else { Answer::NotKept(revision) }));
        }
        if succeeds {
            self.applied.insert(request, (at, !large));
            self.forget();
        }
        Ok(None)
    }
}

/// What happens next: a request of a client, or the repetition of one that was sent.
#[derive(Clone, Debug)]
enum Step {
    Open { client: u64 },
    Request { client: u64, ahead: u64, settle: u64, succeeds: bool, large: bool },
    Repeat { place: prop::sample::Index, settle: bool },
    Lie(RequestId),
}

fn step() -> BoxedStrategy<Step> {
    let client = 1_u64..6;
    let lie =
        (client.clone(), 95_u64..180, 0_u64..8, 0_u64..8).prop_map(|(client, opened, n, s)| {
            Step::Lie(RequestId { client, opened: Index(opened), sequence: n, settled: s })
        });
    let often = prop::bool::weighted(0.8);
    prop_oneof![
        1 => client.clone().prop_map(|client| Step::Open { client }),
        8 => (client, 1_u64..6, 0_u64..3, often, prop::bool::weighted(0.2)).prop_map(
            |(client, ahead, settle, succeeds, large)| {
                Step::Request { client, ahead, settle, succeeds, large }
            }
        ),
        6 => (any::<prop::sample::Index>(), any::<bool>())
            .prop_map(|(place, settle)| Step::Repeat { place, settle }),
        1 => lie,
    ]
    .boxed()
}

/// What each client knows of itself: its opening and what it settled.
type Clients = BTreeMap<u64, (u64, u64)>;

fn request_of(step: Step, scene: &Scene, clients: &mut Clients, sent: &[RequestId]) -> RequestId {
    match step {
        Step::Open { client } => {
            clients.insert(client, (scene.at, 0));
            id(client, scene.at, 1, 0)
        }
        Step::Request { client, ahead, settle, .. } => {
            let known = clients.entry(client).or_insert((scene.at, 0));
            known.1 += settle;
            id(client, known.0, known.1 + ahead, known.1)
        }
        Step::Repeat { place, settle } if !sent.is_empty() => {
            let request = sent[place.index(sent.len())];
            match clients.get(&request.client) {
                // As a client would: with what it settled since.
                Some((opened, settled)) if settle && Index(*opened) == request.opened => {
                    RequestId { settled: *settled, ..request }
                }
                _ => request,
            }
        }
        Step::Repeat { .. } => id(1, 0, 1, 0),
        Step::Lie(request) => request,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Whatever is sent, repeated and forgotten: as the model says, and nothing is applied twice.
    #[test]
    fn nothing_is_applied_twice(steps in prop::collection::vec(step(), 1..120)) {
        let (mut scene, mut model) = (Scene::new(), Model::default());
        let (mut clients, mut sent) = (Clients::new(), Vec::new());
        let mut applied = BTreeMap::new();
        for step in steps {
            let (succeeds, large) = match step {
                Step::Request { succeeds, large, .. } => (succeeds, large),
                _ => (true, false),
            };
            let request = request_of(step, &scene, &mut clients, &sent);
            sent.push(request);
            let found = scene.request_that(request, succeeds, large);
            let expected = model.request(request, scene.at, succeeds, large);
            prop_assert_eq!(&found, &expected, "{:?} at {}", request, scene.at);
            let name = (request.client, request.opened, request.sequence);
            if found == Ok(None) && succeeds {
                prop_assert_eq!(applied.insert(name, scene.at), None, "twice: {:?}", name);
            } else if let Ok(Some(Answer::Kept(bytes))) = found {
                prop_assert_eq!(bytes, answer(applied[&name], false), "not the first answer");
            }
            scene.check();
        }
    }
}
