//! A store with its watches, and what must have happened in it.

use std::collections::BTreeMap;

use bytes::Bytes;
use kvd_core::checkpoint::mem::MemStore;
use kvd_core::codec::encode_proposal;
use kvd_core::command::{Command, Entry, Proposal, Put, TxnOp};
use kvd_core::ids::{Index, LeaseId, LogId, MemberId, Term};
use kvd_core::range::KeyRange;
use kvd_core::state::{Options, State};

use super::super::*;
use crate::apply::Applier;
use crate::lease_clock::LeaseClock;
use crate::samples::Samples;
use crate::threads::Threads;

/// A store with its watches.
pub(super) struct Scene {
    pub(super) applier: Applier,
    pub(super) watches: Arc<Watches>,
    pub(super) index: u64,
    pub(super) revision: i64,
    pub(super) model: Model,
}

/// What happened, told by whoever proposed it.
#[derive(Default)]
pub(super) struct Model {
    pub(super) live: BTreeMap<Bytes, (i64, Bytes)>,
    /// Revision, key, the new value unless deleted, the value before.
    pub(super) events: Vec<(i64, Bytes, Option<Bytes>, Option<Bytes>)>,
    pub(super) mark: i64,
}

impl Scene {
    pub(super) async fn new() -> Self {
        let state = State::open(Arc::new(MemStore::new()), Options::DEFAULT).unwrap();
        let fatal = Box::new(|reason: String| panic!("{reason}"));
        let send = Box::new(|_, _| {});
        let leases = LeaseClock::new(std::time::Duration::from_secs(1));
        let (threads, samples) = (Threads::Simulated, Samples::new(u64::MAX));
        let applier =
            Applier::start(threads, state, send, u64::MAX, fatal, leases, samples).unwrap();
        let readers = ReaderPool::start(Threads::Simulated).unwrap();
        let (feed, published) = (applier.feed().clone(), applier.published().clone());
        let watches = Arc::new(Watches::new(feed, published, readers, FatalSignal::new()));
        watches.start();
        Self { applier, watches, index: 0, revision: 1, model: Model::default() }
    }

    pub(super) async fn apply(&mut self, commands: Vec<Command>) {
        let entries = commands.into_iter().map(|command| {
            self.index += 1;
            let log_id = LogId { term: Term(1), node: MemberId(1), index: Index(self.index) };
            self.model.apply(&mut self.revision, &command);
            let proposal = Some(encode_proposal(&Proposal::internal(command)));
            (Entry { log_id, proposal, membership: None }, None)
        });
        let entries = entries.collect();
        self.applier.apply(entries).await.unwrap();
        assert_eq!(self.applier.published().view().revision().0, self.revision);
    }
}

impl Model {
    pub(super) fn apply(&mut self, revision: &mut i64, command: &Command) {
        let before = self.events.len();
        let next = *revision + 1;
        let ops = match command {
            Command::Txn(txn) => txn.success.clone(),
            Command::Put(put) => vec![TxnOp::Put(put.clone())],
            Command::DeleteRange(delete) => vec![TxnOp::DeleteRange(delete.clone())],
            Command::Compact(compact) => {
                if compact.revision > self.mark && compact.revision <= *revision {
                    self.mark = compact.revision;
                }
                return;
            }
            other => panic!("{other:?}"),
        };
        for op in ops {
            match op {
                TxnOp::Put(put) => {
                    let prev = self.live.insert(put.key.clone(), (next, put.value.clone()));
                    self.events.push((next, put.key, Some(put.value), prev.map(|prev| prev.1)));
                }
                TxnOp::DeleteRange(delete) => {
                    let gone: Vec<Bytes> = self
                        .live
                        .keys()
                        .filter(|key| delete.range.contains(key))
                        .cloned()
                        .collect();
                    for key in gone {
                        let prev = self.live.remove(&key).map(|prev| prev.1);
                        self.events.push((next, key, None, prev));
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        *revision += i64::from(self.events.len() > before);
    }
}

pub(super) fn put(key: &Bytes, value: Bytes) -> Put {
    let (lease, prev_kv, ignore_value, ignore_lease) = (LeaseId(0), false, false, false);
    Put { key: key.clone(), value, lease, prev_kv, ignore_value, ignore_lease }
}

pub(super) fn interest(range: KeyRange) -> Interest {
    Interest { range, no_put: false, no_delete: false, prev_kv: true }
}

pub(super) fn create(range: KeyRange, start: Option<i64>) -> Create {
    Create {
        interest: interest(range),
        start: start.map(Revision),
        id: None,
        progress_notify: false,
        may_fragment: false,
    }
}
