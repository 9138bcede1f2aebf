//! Requests with an id: applied once by a state, whatever is repeated, restarted, sent or not answered.
//!
//! Repeat a failure with the seed that proptest prints: `cargo test -p kvd-core --test requests`.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use kvd_core::checkpoint::mem::MemStore;
use kvd_core::checkpoint::{Checkpoint, CheckpointStore, Meta, Table};
use kvd_core::codec::encode_proposal;
use kvd_core::command::{
    AlarmChange, AlarmKind, Command, Entry, LeaseGrant, LeaseRevoke, Proposal, Put, RangeQuery,
    Txn, TxnOp,
};
use kvd_core::ids::{Index, LeaseId, MemberId, RequestId, Revision};
use kvd_core::outcome::{Applied, Rejection, Response};
use kvd_core::range::KeyRange;
use kvd_core::sessions::RequestCounts;
use kvd_core::snapshot::Piece;
use kvd_core::state::{Options, State};
use kvd_core::view::Access;
use proptest::prelude::*;

fn open(store: &Arc<MemStore>) -> State {
    State::open(Arc::clone(store) as Arc<dyn CheckpointStore>, Options::DEFAULT).expect("opens")
}

fn checkpointed(state: &mut State, store: &Arc<MemStore>) -> State {
    store.commit(&state.checkpoint()).expect("commits");
    open(store)
}

/// What a member has that was sent this state.
fn received(state: &mut State) -> State {
    state.publish();
    let mut capture = state.capture();
    let (mut header, mut rows, mut blocks) = (None, Vec::new(), Vec::new());
    while let Some(piece) = capture.next_piece(Access::Disk).expect("reads") {
        match piece {
            Piece::Header { meta, .. } => header = Some(*meta),
            Piece::Row { table, id, row } => rows.push((table, id, Some(row))),
            Piece::Block { id, block } => blocks.push((id, block)),
            Piece::End => {}
        }
    }
    let meta = header.expect("comes first");
    let meta = Meta { blocks: blocks.len() as u64, rows: rows.len() as u64, ..meta };
    let store = Arc::new(MemStore::new());
    store.commit(&Checkpoint { meta, blocks, rows, freed: Vec::new() }).expect("commits");
    open(&store)
}

fn put(value: &'static str) -> Command {
    Command::Put(Put {
        key: Bytes::from_static(b"k"),
        value: Bytes::from_static(value.as_bytes()),
        lease: LeaseId(0),
        prev_kv: true,
        ignore_value: false,
        ignore_lease: false,
    })
}

fn id(client: u64, sequence: u64) -> RequestId {
    RequestId { client, opened: Index(1), sequence, settled: 0 }
}

fn request(index: u64, request_id: RequestId, command: Command) -> Entry {
    let proposal = Proposal { request_id: Some(request_id), actor: None, command };
    let proposal = Some(encode_proposal(&proposal));
    Entry { log_id: common::log_id(index), proposal, membership: None }
}

/// The next entry of a state.
fn next(state: &mut State, request_id: Option<RequestId>, command: Command) -> Applied {
    let index = state.applied().index.0 + 1;
    let entry = match request_id {
        Some(request_id) => request(index, request_id, command),
        None => common::entry(index, command),
    };
    let applied = state.apply(&entry, false).expect("applies");
    state.check().expect("holds");
    applied
}

fn begun() -> State {
    let mut state = open(&Arc::default());
    for entry in common::entries(Vec::new()) {
        state.apply(&entry, true).expect("applies");
    }
    state
}

#[test]
fn a_repetition_changes_nothing_and_is_answered_as_the_first() {
    let mut state = begun();
    next(&mut state, None, put("old"));
    // Nobody waits for it here: what is remembered is whole all the same.
    let first = next(&mut state, Some(id(7, 1)), put("new"));
    assert_eq!((first.revision, first.repeated, first.events.len()), (Revision(3), false, 1));
    let Ok(Response::Put(answer)) = &first.outcome else { panic!("{first:?}") };
    assert_eq!(answer.prev_kv.as_ref().expect("was asked for").value, "old");
    next(&mut state, None, put("newer"));
    let again = next(&mut state, Some(id(7, 1)), put("new"));
    assert_eq!(again.log_id, state.applied());
    assert_eq!((again.revision, &again.outcome), (first.revision, &first.outcome));
    assert!(again.repeated && again.events.is_empty() && again.leases.is_empty());
    assert_eq!(state.marks().0, Revision(4));
}

#[test]
fn leases_are_granted_and_revoked_once() {
    let mut state = begun();
    let grant = |id| Command::LeaseGrant(LeaseGrant { id: LeaseId(id), ttl_seconds: 60 });
    next(&mut state, Some(id(7, 1)), grant(1));
    // The id was drawn anew for the repetition; the first grant counts.
    let again = next(&mut state, Some(id(7, 1)), grant(2));
    assert_eq!(again.outcome, Ok(Response::LeaseGrant { id: LeaseId(1), ttl_seconds: 60 }));
    assert!(again.leases.is_empty());
    let revoke = Command::LeaseRevoke(LeaseRevoke { id: LeaseId(1) });
    next(&mut state, Some(id(7, 2)), revoke.clone());
    let again = next(&mut state, Some(id(7, 2)), revoke.clone());
    assert_eq!((again.outcome, again.leases.len()), (Ok(Response::LeaseRevoke), 0));
    let anew = next(&mut state, Some(id(7, 3)), revoke);
    assert_eq!(anew.outcome, Err(Rejection::LeaseNotFound));
}

#[test]
fn what_was_applied_is_answered_whatever_is_alarmed_since() {
    let mut state = begun();
    next(&mut state, Some(id(7, 1)), put("v"));
    for kind in [AlarmKind::NoSpace, AlarmKind::Corrupt] {
        let alarm = AlarmChange { raise: true, member: MemberId(1), kind };
        next(&mut state, None, Command::Alarm(alarm));
        assert!(next(&mut state, Some(id(7, 1)), put("v")).outcome.is_ok(), "{kind:?}");
        let refused = next(&mut state, Some(id(7, 2)), put("v"));
        assert!(refused.outcome.is_err() && !refused.repeated, "{kind:?}");
    }
    for kind in [AlarmKind::NoSpace, AlarmKind::Corrupt] {
        let alarm = AlarmChange { raise: false, member: MemberId(1), kind };
        next(&mut state, None, Command::Alarm(alarm));
    }
    let anew = next(&mut state, Some(id(7, 2)), put("v"));
    assert!(anew.outcome.is_ok() && !anew.repeated, "a refusal is not remembered");
}

#[test]
fn of_a_large_answer_the_revision_is_remembered() {
    let mut state = begun();
    let value: &'static str = Box::leak("v".repeat(2000).into_boxed_str());
    next(&mut state, None, put(value));
    let range = TxnOp::Range(RangeQuery::latest(KeyRange::all()));
    let Command::Put(write) = put("w") else { unreachable!("it is a put") };
    let success = vec![range, TxnOp::Put(write)];
    let txn = Command::Txn(Txn { success, ..Txn::default() });
    let first = next(&mut state, Some(id(7, 1)), txn.clone());
    let again = next(&mut state, Some(id(7, 1)), txn);
    let revision = first.revision;
    assert_eq!(again.outcome, Err(Rejection::AnswerNotKept { revision }));
    assert_eq!((again.repeated, again.revision), (true, revision));
    assert_eq!(state.marks().0, revision);
}

/// Sessions, answers and what was forgotten outlive a restart and go along with a snapshot.
#[test]
fn sessions_are_part_of_checkpoints_and_snapshots() {
    let store = Arc::new(MemStore::new());
    let mut state = open(&store);
    for entry in common::entries(Vec::new()) {
        state.apply(&entry, true).expect("applies");
    }
    let first = next(&mut state, Some(id(7, 1)), put("v"));
    // One session more than may be: the first is forgotten.
    for client in 8..8 + kvd_core::limits::REQUEST_SESSIONS_MAX as u64 {
        let index = state.applied().index.0 + 1;
        state.apply(&request(index, id(client, 1), put("v")), false).expect("applies");
    }
    let counts = RequestCounts { sessions: 4096, answers: 4096 };
    assert_eq!(state.publish().request_counts(), counts);
    let unpublished = state.hash();
    let sent = received(&mut state);
    let opened = checkpointed(&mut state, &store);
    let again = checkpointed(&mut open(&store), &store);
    for mut other in [sent, opened, again] {
        other.check().expect("holds");
        assert_eq!((other.hash(), other.view().request_counts()), (unpublished, counts));
        let forgotten = next(&mut other, Some(id(7, 1)), put("v"));
        assert_eq!(forgotten.outcome, Err(Rejection::SessionUnknown));
        let known = next(&mut other, Some(id(8, 1)), put("v"));
        assert_eq!((known.repeated, known.revision), (true, first.revision.next()));
    }
}

/// A client that waits for each answer leaves one row behind, however much it wrote since the last checkpoint.
#[test]
fn settled_answers_cost_a_checkpoint_nothing() {
    let mut state = begun();
    for sequence in 1..200 {
        let request_id = RequestId { settled: sequence - 1, ..id(7, sequence) };
        next(&mut state, Some(request_id), put("v"));
    }
    let of = |checkpoint: &Checkpoint, kind| {
        checkpoint.rows.iter().filter(|(table, ..)| *table == kind).count()
    };
    let checkpoint = state.checkpoint();
    assert_eq!((of(&checkpoint, Table::Session), of(&checkpoint, Table::Answer)), (1, 1));
    let request_id = RequestId { settled: 199, ..id(7, 200) };
    next(&mut state, Some(request_id), put("v"));
    let checkpoint = state.checkpoint();
    let deleted = checkpoint.rows.iter().filter(|(.., row)| row.is_none()).count();
    assert_eq!((deleted, of(&checkpoint, Table::Answer)), (1, 2), "the one stored before goes");
}

/// Every command, with the session and the number it is sent under, if any.
fn requests() -> BoxedStrategy<Vec<(Option<RequestId>, Command)>> {
    let id = (1_u64..4, 1_u64..8, 0_u64..3).prop_map(|(client, sequence, settled)| RequestId {
        client,
        opened: Index(1),
        sequence,
        settled,
    });
    let one = (proptest::option::weighted(0.8, id), common::command());
    proptest::collection::vec(one, 1..60).boxed()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    /// A member that is asked for answers, one that is not, and one that was restarted or sent a snapshot in
    /// between agree in every answer to a request with an id, and in all that is hashed.
    #[test]
    fn members_agree_on_what_was_applied(
        requests in requests(),
        cut in 0_usize..60,
        snapshot in any::<bool>(),
    ) {
        let store = Arc::new(MemStore::new());
        let (mut asked, mut silent, mut moved) = (begun(), begun(), open(&store));
        for entry in common::entries(Vec::new()) {
            moved.apply(&entry, false).expect("applies");
        }
        for (place, (request_id, command)) in requests.into_iter().enumerate() {
            let index = asked.applied().index.0 + 1;
            let proposal = Proposal { request_id, actor: None, command };
            let proposal = Some(encode_proposal(&proposal));
            let entry = Entry { log_id: common::log_id(index), proposal, membership: None };
            let answered = asked.apply(&entry, true).expect("applies");
            let unasked = silent.apply(&entry, false).expect("applies");
            let afterwards = moved.apply(&entry, place % 2 == 0).expect("applies");
            if request_id.is_some() {
                prop_assert_eq!(&answered, &unasked);
                prop_assert_eq!(&answered, &afterwards);
            }
            prop_assert_eq!(asked.hash(), silent.hash());
            prop_assert_eq!(asked.hash(), moved.hash());
            if place == cut / 2 {
                store.commit(&moved.checkpoint()).expect("commits");
            }
            if place == cut {
                moved = match snapshot {
                    true => received(&mut moved),
                    false => checkpointed(&mut moved, &store),
                };
            }
        }
        for state in [asked, silent, moved] {
            state.check().expect("holds");
        }
    }

    /// A log with repetitions makes of the store what it makes with blank entries in their places; each is
    /// answered as the first of its name.
    #[test]
    fn repetitions_leave_no_trace(requests in requests()) {
        let (mut state, mut plain) = (begun(), begun());
        let mut first: BTreeMap<(u64, u64), Applied> = BTreeMap::new();
        for (request_id, command) in requests {
            let index = state.applied().index.0 + 1;
            let applied = next(&mut state, request_id, command.clone());
            let log_id = applied.log_id;
            let name = request_id.map(|id| (id.client, id.sequence));
            let unknown = [Rejection::RequestOutsideWindow, Rejection::SessionUnknown];
            let refused = applied.outcome.as_ref().is_err_and(|error| unknown.contains(error));
            let entry = match applied.repeated || refused {
                true => Entry { log_id, proposal: None, membership: None },
                false => common::entry(index, command),
            };
            plain.apply(&entry, true).expect("applies");
            prop_assert_eq!(state.marks(), plain.marks());
            if let Some(name) = name
                && !refused
            {
                match first.get(&name) {
                    None if applied.outcome.is_ok() => {
                        prop_assert!(!applied.repeated);
                        first.insert(name, applied);
                    }
                    None => {}
                    Some(first) => {
                        prop_assert!(applied.repeated, "{:?} was applied twice", name);
                        prop_assert_eq!(applied.revision, first.revision);
                        match &applied.outcome {
                            Err(Rejection::AnswerNotKept { revision }) => {
                                prop_assert_eq!(*revision, first.revision);
                            }
                            outcome => prop_assert_eq!(outcome, &first.outcome),
                        }
                    }
                }
            }
        }
        prop_assert_eq!(state.hash().history, plain.hash().history);
        let (view, other) = (state.publish(), plain.publish());
        prop_assert_eq!(view.leases(), other.leases());
        prop_assert_eq!(view.alarms(), other.alarms());
        prop_assert_eq!(view.cluster_version(), other.cluster_version());
    }
}
