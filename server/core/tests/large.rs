//! More keys than a page of the index, a block or the cache holds.

mod common;

use std::sync::Arc;

use bytes::Bytes;
use kvd_core::checkpoint::CheckpointStore;
use kvd_core::checkpoint::mem::MemStore;
use kvd_core::command::{
    Command, Compact, Compare, CompareOperator, CompareTarget, DeleteRange, Put, RangeQuery, Txn,
};
use kvd_core::ids::{LeaseId, Revision};
use kvd_core::limits::INDEX_PAGE_KEYS;
use kvd_core::outcome::{RangeAnswer, Rejection, Response};
use kvd_core::range::KeyRange;
use kvd_core::state::{CompactProgress, Options, State};
use kvd_core::view::{Access, ReadError, View};

const KEYS: usize = 3 * INDEX_PAGE_KEYS + 5;

fn key(number: usize) -> Bytes {
    Bytes::from(format!("key{number:05}"))
}

struct Machine {
    store: Arc<MemStore>,
    state: State,
}

impl Machine {
    /// A store of [`KEYS`] keys, written one by one.
    fn filled() -> Self {
        let store = Arc::new(MemStore::new());
        let state = open(&store);
        let mut machine = Self { store, state };
        for number in 0..KEYS {
            machine.put(number, "first");
        }
        machine
    }

    fn put(&mut self, number: usize, value: &'static str) {
        self.apply(Command::Put(Put {
            key: key(number),
            value: Bytes::from_static(value.as_bytes()),
            lease: LeaseId(0),
            prev_kv: false,
            ignore_value: false,
            ignore_lease: false,
        }))
        .expect("is accepted");
    }

    fn apply(&mut self, command: Command) -> Result<Response, Rejection> {
        let index = self.state.applied().index.0 + 1;
        let applied = self.state.apply(&common::entry(index, command), true).expect("applies");
        self.state.publish();
        applied.outcome
    }

    fn checkpoint(&mut self) -> usize {
        let checkpoint = self.state.checkpoint();
        self.store.commit(&checkpoint).expect("commits");
        self.state.checkpointed(&checkpoint.meta);
        checkpoint.freed.len()
    }

    fn reopen(&mut self) {
        self.state = open(&self.store);
        self.state.check().expect("holds");
    }
}

fn open(store: &Arc<MemStore>) -> State {
    let store = Arc::clone(store) as Arc<dyn CheckpointStore>;
    State::open(store, Options { cache_bytes: 0 }).expect("opens")
}

fn read(view: &View, query: &RangeQuery) -> RangeAnswer {
    view.range(query, Access::Disk).expect("reads").expect("is accepted")
}

#[test]
fn ranges_go_over_pages() {
    let machine = Machine::filled();
    let view = machine.state.view();
    let all = read(&view, &RangeQuery::latest(KeyRange::all()));
    assert_eq!(all.count, i64::try_from(KEYS).expect("is small"));
    assert!(all.kvs.iter().map(|kv| kv.key.clone()).eq((0..KEYS).map(key)));
    let limit = INDEX_PAGE_KEYS as u64 + 1;
    let query = RangeQuery { limit: Some(limit), ..RangeQuery::latest(KeyRange::all()) };
    let part = read(&view, &query);
    assert_eq!((part.kvs.len() as u64, part.count, part.more), (limit, all.count, true));
    let uncounted = view.range_uncounted(&query, Access::Disk).expect("reads").expect("is fine");
    assert_eq!(uncounted.kvs, part.kvs);
    assert!(uncounted.more && uncounted.count < all.count);
}

#[test]
fn a_view_does_not_see_what_follows() {
    let mut machine = Machine::filled();
    let view = machine.state.view();
    let before = read(&view, &RangeQuery::latest(KeyRange::all()));
    machine.put(3, "second");
    let delete = DeleteRange { range: KeyRange::all(), prev_kv: true };
    let Ok(Response::DeleteRange(answer)) = machine.apply(Command::DeleteRange(delete)) else {
        panic!("a delete answers as one");
    };
    assert_eq!(answer.deleted, i64::try_from(KEYS).expect("is small"));
    assert_eq!(answer.prev_kvs.len(), KEYS);
    assert_eq!(read(&view, &RangeQuery::latest(KeyRange::all())), before);
    assert_eq!(read(&machine.state.view(), &RangeQuery::latest(KeyRange::all())).count, 0);
    machine.state.check().expect("holds");
}

#[test]
fn what_is_not_in_memory_is_a_miss_until_the_disk_may_be_used() {
    let mut machine = Machine::filled();
    let view = machine.state.view();
    let query = RangeQuery::latest(KeyRange::Key(key(7)));
    assert!(view.range(&query, Access::Memory).is_ok(), "nothing left memory yet");
    machine.checkpoint();
    assert!(matches!(view.range(&query, Access::Memory), Err(ReadError::Miss)));
    assert_eq!(read(&view, &query).kvs[0].value, "first");
    let keys_only = RangeQuery { keys_only: true, ..query };
    assert!(view.range(&keys_only, Access::Memory).is_ok(), "the index knows all but the value");
}

#[test]
fn a_comparison_looks_at_every_page() {
    let mut machine = Machine::filled();
    let compare = Compare {
        range: KeyRange::all(),
        operator: CompareOperator::Equal,
        target: CompareTarget::Value("first".into()),
    };
    let txn = Txn { compares: vec![compare], ..Txn::default() };
    let succeeded = |machine: &Machine| {
        let view = machine.state.view();
        view.txn(&txn, Access::Disk).expect("reads").expect("is accepted").succeeded
    };
    assert!(succeeded(&machine));
    machine.put(KEYS - 1, "second");
    assert!(!succeeded(&machine));
}

#[test]
fn compaction_frees_blocks_and_what_is_left_opens_again() {
    let mut machine = Machine::filled();
    machine.checkpoint();
    for number in 0..KEYS {
        machine.put(number, "second");
    }
    machine.checkpoint();
    let even = (0..KEYS).step_by(2);
    for number in even.clone() {
        let range = KeyRange::Key(key(number));
        machine
            .apply(Command::DeleteRange(DeleteRange { range, prev_kv: false }))
            .expect("is fine");
    }
    machine.put(1, "third");
    let revision = machine.state.view().revision();
    let before = machine.state.view().live_bytes();
    machine.apply(Command::Compact(Compact { revision: revision.0 })).expect("is accepted");
    let mut steps = 0;
    while machine.state.compact_step(64).expect("compacts") == CompactProgress::More {
        steps += 1;
        if steps == 3 {
            // In the middle of the sweep: what is not yet swept must not show after opening.
            machine.checkpoint();
            let crashed = Arc::new(machine.store.crash());
            let reopened = open(&crashed);
            reopened.check().expect("holds");
            assert_eq!(reopened.view().count(), (KEYS - even.len()) as u64);
        }
    }
    assert!(steps > 10, "a step is small");
    machine.state.publish();
    machine.state.check().expect("holds");
    assert!(machine.state.view().live_bytes() < before / 2);
    let hash = machine.state.view().hash_kv(0, Access::Disk).expect("reads");
    let freed = machine.checkpoint();
    assert!(freed > 20, "only {freed} blocks were freed");
    machine.reopen();
    let view = machine.state.view();
    assert_eq!(view.hash_kv(0, Access::Disk).expect("reads"), hash);
    assert_eq!(view.count(), (KEYS - even.len()) as u64);
    let found = read(&view, &RangeQuery::latest(KeyRange::Key(key(1))));
    assert_eq!((&found.kvs[0].value, found.kvs[0].version), (&Bytes::from("third"), 3));
    assert_eq!(view.revision(), revision);
    assert!(view.revision() > Revision::FIRST);
}
