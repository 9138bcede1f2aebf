//! Random steps over few keys, so that they collide, among them zero and 0xff bytes and prefixes.
//!
//! Revisions are generated as places between "compacted away" and "in the future" and resolved when the step
//! is taken: most of them are revisions that exist. Every strategy is boxed: the value trees of a transaction
//! in one piece overflow a test thread's stack.

use bytes::Bytes;
use kvd_core::command::{
    AlarmChange, AlarmKind, Command, Compact, Compare, CompareOperator, CompareTarget, DeleteRange,
    LeaseExpire, LeaseGrant, LeaseRemaining, LeaseRenew, LeaseRevoke, Put, RangeQuery, Remaining,
    RevisionFilter, SortOrder, SortTarget, Txn, TxnOp,
};
use kvd_core::ids::{Index, LeaseId, MemberId, Revision};
use kvd_core::range::KeyRange;
use proptest::collection::vec;
use proptest::prelude::*;

use super::store::Model;

/// What is read, from whichever View.
#[derive(Clone, Debug)]
pub(crate) enum Read {
    Range(RangeQuery),
    Txn(Txn),
    HashKv(i64),
    Scan { from: i64, to: i64 },
}

/// One step; `replica` says which of the two members takes it.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Commits a command; both members apply it.
    Commit(Command),
    /// Commits an entry without one.
    Blank,
    /// Reads, from the View held if there is one and it is asked for.
    Read { replica: usize, held: bool, read: Read },
    /// Takes a View and keeps it.
    Hold { replica: usize },
    /// Lets it go.
    Release,
    /// A step of physical compaction.
    Sweep { replica: usize, keys_max: usize },
    /// Takes a checkpoint, to be written later.
    Checkpoint { replica: usize },
    /// Writes it, perhaps at the second try only.
    Write { replica: usize, full_once: bool },
    /// Cuts the power, opens the last checkpoint and applies the log's tail again.
    Crash { replica: usize },
    /// Verifies the member's own invariants.
    Check { replica: usize },
}

pub(crate) fn step() -> BoxedStrategy<Step> {
    let replica = || 0_usize..2;
    prop_oneof![
        40 => command().prop_map(Step::Commit),
        1 => Just(Step::Blank),
        20 => (replica(), any::<bool>(), read())
            .prop_map(|(replica, held, read)| Step::Read { replica, held, read }),
        1 => replica().prop_map(|replica| Step::Hold { replica }),
        1 => Just(Step::Release),
        4 => (replica(), 1_usize..6)
            .prop_map(|(replica, keys_max)| Step::Sweep { replica, keys_max }),
        2 => replica().prop_map(|replica| Step::Checkpoint { replica }),
        2 => (replica(), proptest::bool::weighted(0.2))
            .prop_map(|(replica, full_once)| Step::Write { replica, full_once }),
        1 => replica().prop_map(|replica| Step::Crash { replica }),
        1 => replica().prop_map(|replica| Step::Check { replica }),
    ]
    .boxed()
}

fn key() -> BoxedStrategy<Bytes> {
    let keys: [&'static [u8]; 9] =
        [b"a", b"\0", b"a\0", b"ab", b"b", b"b\xff", b"b\xff\xff", b"c", b"\xff"];
    proptest::sample::select(keys.map(Bytes::from_static).to_vec()).boxed()
}

/// Keys, and what may stand at the ends of a range beside them.
fn bound() -> BoxedStrategy<Bytes> {
    prop_oneof![8 => key(), 1 => Just(Bytes::new()), 1 => Just(Bytes::from_static(b"\xff\xff"))]
        .boxed()
}

/// One key, from one to another (also to an earlier one), a prefix, from one on.
fn range() -> BoxedStrategy<KeyRange> {
    prop_oneof![
        4 => key().prop_map(KeyRange::Key),
        3 => (bound(), bound()).prop_map(|(start, end)| KeyRange::Between { start, end }),
        1 => proptest::sample::select(vec![("a", "b"), ("b", "c")])
            .prop_map(|(start, end)| KeyRange::Between { start: start.into(), end: end.into() }),
        2 => bound().prop_map(KeyRange::From),
    ]
    .boxed()
}

fn value() -> BoxedStrategy<Bytes> {
    prop_oneof![
        1 => Just(Bytes::new()),
        8 => vec(0_u8..4, 1..3).prop_map(Bytes::from),
        1 => (0_usize..4000).prop_map(|size| Bytes::from(vec![b'v'; size])),
    ]
    .boxed()
}

fn lease() -> BoxedStrategy<LeaseId> {
    proptest::sample::select(vec![LeaseId(1), LeaseId(2), LeaseId(-3)]).boxed()
}

fn put() -> BoxedStrategy<Put> {
    let lease = prop_oneof![5 => Just(LeaseId(0)), 1 => lease()];
    let rarely = || proptest::bool::weighted(0.08);
    (key(), value(), lease, any::<bool>(), rarely(), rarely())
        .prop_map(|(key, value, lease, prev_kv, ignore_value, ignore_lease)| Put {
            key,
            // The edge refuses what is to be kept and given at once (rule KV-P1).
            value: if ignore_value { Bytes::new() } else { value },
            lease: if ignore_lease { LeaseId(0) } else { lease },
            prev_kv,
            ignore_value,
            ignore_lease,
        })
        .boxed()
}

fn delete() -> BoxedStrategy<DeleteRange> {
    (range(), any::<bool>()).prop_map(|(range, prev_kv)| DeleteRange { range, prev_kv }).boxed()
}

/// A place among the revisions; see [`Places`].
fn place() -> BoxedStrategy<i64> {
    (0_i64..1000).boxed()
}

fn filter() -> BoxedStrategy<RevisionFilter> {
    let bound = || prop_oneof![4 => Just(0_i64), 1 => Just(-1), 3 => place()];
    let some = (bound(), bound(), bound(), bound()).prop_map(|(min_mod, max_mod, min, max)| {
        RevisionFilter { min_mod, max_mod, min_create: min, max_create: max }
    });
    prop_oneof![2 => Just(RevisionFilter::default()), 1 => some].boxed()
}

fn query() -> BoxedStrategy<RangeQuery> {
    let orders = vec![SortOrder::None, SortOrder::Ascend, SortOrder::Descend];
    let targets = vec![
        SortTarget::Key,
        SortTarget::Version,
        SortTarget::Create,
        SortTarget::Mod,
        SortTarget::Value,
    ];
    let sort = (proptest::sample::select(targets), proptest::sample::select(orders));
    let revision = proptest::option::weighted(0.4, place().prop_map(Revision));
    let limit = proptest::option::weighted(0.4, 1_u64..5);
    let count_only = proptest::bool::weighted(0.1);
    (range(), revision, limit, sort, any::<bool>(), count_only, filter())
        .prop_map(|(range, revision, limit, sort, keys_only, count_only, filter)| RangeQuery {
            range,
            revision,
            limit,
            sort_target: sort.0,
            sort_order: sort.1,
            keys_only,
            count_only,
            filter,
        })
        .boxed()
}

fn compare() -> BoxedStrategy<Compare> {
    let operators = vec![
        CompareOperator::Equal,
        CompareOperator::Greater,
        CompareOperator::Less,
        CompareOperator::NotEqual,
        CompareOperator::Unknown,
    ];
    let target = prop_oneof![
        2 => (0_i64..4).prop_map(CompareTarget::Version),
        2 => place().prop_map(CompareTarget::Create),
        2 => place().prop_map(CompareTarget::Mod),
        2 => value().prop_map(CompareTarget::Value),
        2 => (-3_i64..3).prop_map(CompareTarget::Lease),
        1 => Just(CompareTarget::Unknown),
    ];
    (range(), proptest::sample::select(operators), target)
        .prop_map(|(range, operator, target)| Compare { range, operator, target })
        .boxed()
}

/// A transaction of these operations, nested up to twice.
fn txn_of(op: BoxedStrategy<TxnOp>) -> BoxedStrategy<Txn> {
    fn level(op: BoxedStrategy<TxnOp>) -> BoxedStrategy<Txn> {
        (vec(compare(), 0..3), vec(op.clone(), 0..5), vec(op, 0..5))
            .prop_map(|(compares, success, failure)| Txn { compares, success, failure })
            .boxed()
    }
    let nest = |inner: BoxedStrategy<Txn>| {
        level(prop_oneof![3 => op.clone(), 1 => inner.prop_map(TxnOp::Txn)].boxed())
    };
    nest(nest(level(op.clone())))
}

fn txn() -> BoxedStrategy<Txn> {
    txn_of(
        prop_oneof![
            2 => query().prop_map(TxnOp::Range),
            4 => put().prop_map(TxnOp::Put),
            2 => delete().prop_map(TxnOp::DeleteRange),
        ]
        .boxed(),
    )
}

fn command() -> BoxedStrategy<Command> {
    let kind = proptest::sample::select(vec![AlarmKind::NoSpace, AlarmKind::Corrupt]);
    let ttl = prop_oneof![9 => 0_i64..100, 1 => 9_000_000_000_i64..9_000_000_002];
    prop_oneof![
        24 => put().prop_map(Command::Put),
        5 => delete().prop_map(Command::DeleteRange),
        20 => txn().prop_map(Command::Txn),
        3 => place().prop_map(|revision| Command::Compact(Compact { revision })),
        6 => (lease(), ttl)
            .prop_map(|(id, ttl_seconds)| Command::LeaseGrant(LeaseGrant { id, ttl_seconds })),
        1 => lease().prop_map(|id| Command::LeaseRevoke(LeaseRevoke { id })),
        1 => (lease(), place()).prop_map(|(id, place)| {
            let granted_at = Index(place.cast_unsigned());
            Command::LeaseExpire(LeaseExpire { id, granted_at })
        }),
        2 => vec(lease(), 0..4)
            .prop_map(|ids| Command::LeaseRenew(LeaseRenew { ids })),
        3 => vec((lease(), place(), -1_i64..101), 0..3).prop_map(|all| {
            let one = |(id, place, seconds): (_, i64, _)| Remaining {
                id,
                granted_at: Index(place.cast_unsigned()),
                seconds,
            };
            Command::LeaseRemaining(LeaseRemaining { leases: all.into_iter().map(one).collect() })
        }),
        1 => (proptest::bool::weighted(0.4), 1_u64..3, kind).prop_map(|(raise, member, kind)| {
            Command::Alarm(AlarmChange { raise, member: MemberId(member), kind })
        }),
    ]
    .boxed()
}

fn read() -> BoxedStrategy<Read> {
    prop_oneof![
        12 => query().prop_map(Read::Range),
        3 => txn_of(query().prop_map(TxnOp::Range).boxed()).prop_map(Read::Txn),
        2 => place().prop_map(Read::HashKv),
        2 => (place(), place()).prop_map(|(from, to)| Read::Scan { from, to }),
    ]
    .boxed()
}

/// Turns places into revisions of a store as it is at that moment.
pub(crate) struct Places<'a>(pub(crate) &'a Model);

impl Places<'_> {
    pub(crate) fn command(&self, command: &mut Command) {
        match command {
            Command::Txn(txn) => self.txn(txn),
            Command::Compact(compact) => {
                // At the latest revision, or from "already compacted" to "in the future".
                let low = self.0.compacted.unwrap_or(-1) - 1;
                let latest = self.0.revision();
                let at_latest = compact.revision % 3 == 1;
                let anywhere = low + compact.revision % (latest + 2 - low);
                compact.revision = if at_latest { latest } else { anywhere };
            }
            Command::LeaseExpire(expire) => {
                expire.granted_at = self.grant(expire.id, expire.granted_at);
            }
            Command::LeaseRemaining(remaining) => {
                for lease in &mut remaining.leases {
                    lease.granted_at = self.grant(lease.id, lease.granted_at);
                }
            }
            Command::Alarm(change) if !change.raise && change.member == MemberId(1) => {
                // Half of them clear one that is raised: else most commands would be refused.
                if let Some((member, kind)) = self.0.alarms.first() {
                    (change.member, change.kind) = (*member, *kind);
                }
            }
            _ => {}
        }
    }

    /// Mostly the grant that stands, sometimes another.
    fn grant(&self, id: LeaseId, place: Index) -> Index {
        let grant = self.0.leases.get(&id).map_or(1, |lease| lease.granted_at);
        Index(grant + u64::from(place.0 % 4 == 3))
    }

    pub(crate) fn read(&self, read: &mut Read) {
        match read {
            Read::Range(query) => self.query(query),
            Read::Txn(txn) => self.txn(txn),
            Read::HashKv(place) => *place = self.revision(*place) * i64::from(*place % 4 != 0),
            Read::Scan { from, to } => {
                (*from, *to) = (self.revision(*from), self.revision(*to));
            }
        }
    }

    fn txn(&self, txn: &mut Txn) {
        for compare in &mut txn.compares {
            if let CompareTarget::Create(place) | CompareTarget::Mod(place) = &mut compare.target {
                *place = self.of_a_key(*place);
            }
        }
        for op in txn.success.iter_mut().chain(&mut txn.failure) {
            match op {
                TxnOp::Range(query) => self.query(query),
                TxnOp::Txn(nested) => self.txn(nested),
                TxnOp::Put(_) | TxnOp::DeleteRange(_) => {}
            }
        }
    }

    fn query(&self, query: &mut RangeQuery) {
        if let Some(revision) = &mut query.revision {
            revision.0 = self.revision(revision.0);
        }
        let filter = &mut query.filter;
        for bound in [
            &mut filter.min_mod,
            &mut filter.max_mod,
            &mut filter.min_create,
            &mut filter.max_create,
        ] {
            if *bound > 0 {
                *bound = self.of_a_key(*bound);
            }
        }
    }

    /// From the last revision that was compacted away to the first in the future.
    fn revision(&self, place: i64) -> i64 {
        let low = (self.0.compacted.unwrap_or(1) - 1).max(1);
        low + place % (self.0.revision() + 2 - low)
    }

    /// A revision that a live key states, or zero.
    fn of_a_key(&self, place: i64) -> i64 {
        let live = self.0.latest().values().map(|live| &live.kv);
        let mut stated: Vec<i64> =
            live.flat_map(|kv| [kv.mod_revision.0, kv.create_revision.0]).collect();
        stated.push(0);
        stated[usize::try_from(place).unwrap() % stated.len()]
    }
}
