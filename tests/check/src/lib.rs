//! Judges histories of an etcd v3 store: what clients asked, what they were told, and when, go in; a verdict
//! comes out. It knows nothing of any server or client.
//!
//! # How to use it
//!
//! One clock, one [`Checker`] (behind a lock, if clients run in parallel):
//!
//! ```
//! use kvd_check::{Caller, Checker, Event, EventKind, FinalRead, KeyValue, Limits, Outcome};
//! use kvd_check::{PutRequest, Reply, Request, Response};
//!
//! let mut checker = Checker::new(Limits::usual());
//! let caller = Caller { client: 1, member: 1 };
//! // Before the request can reach anybody:
//! let op = checker.begin(10, caller, Request::Put(PutRequest::of("k", "unique 1")));
//! // When its outcome is known:
//! let reply = Reply::Put { prev_kv: None };
//! checker.end(20, op, Outcome::Answered { revision: 2, reply });
//! // Each member is watched from revision 1 on, all keys:
//! let (create_revision, mod_revision, version, lease) = (2, 2, 1, 0);
//! let (key, value) = ("k".into(), "unique 1".into());
//! let kv = KeyValue { key, value, create_revision, mod_revision, version, lease };
//! let event = Event { kind: EventKind::Put, kv: kv.clone(), prev_kv: None };
//! checker.witness(1, &[Response::events(21, 2, vec![event])]);
//! // When all is over, each member is read:
//! let end = FinalRead { member: 1, revision: 2, hash: 7, kvs: vec![kv] };
//! let summary = checker.finish(30, &[end]).expect("it is a true history");
//! assert_eq!((summary.answered, summary.revision), (1, 2));
//! ```
//!
//! # Who judges what
//!
//! | module | judges |
//! |---|---|
//! | [`certificate`] | order, content, time and unknown outcomes of all requests, by their revisions; online |
//! | [`search`] | the same by a second opinion, with revisions hidden, on windows |
//! | [`watch`] | what etcd promises of a watch |
//! | [`lease`] | leases end no earlier than promised, soon after, and whole |
//! | [`fencing`] | locks and elections |
//! | [`end_state`] | hashes and keys of all members at the end |
//!
//! [`model`] says what a correct store does, [`state`] holds it with its past, [`log`] is what witnesses tell.
//!
//! # Its own tests
//!
//! - `cargo test -p kvd-check`: planted violations (`tests/planted`), each found by its promise; ten thousand
//!   generated histories that are not accused; the second opinion held against the first.
//! - `KVD_SEEDS=100000` takes more histories, `KVD_SEED=7` prints one.
//! - `cargo run --release -p kvd-check --example million` prints how long a million operations take.
//!
//! # What a workload must keep to
//!
//! - Key and value of a put are unique among all writes that are not resolved yet.
//! - A delete whose outcome may be unknown is a transaction that also puts a unique marker.
//! - A lease that is revoked, or may expire, holds a key of its own: its end then makes a revision.
//! - Leases have ids that the client chose, never used twice.
//! - Nobody else writes, and nothing else compacts.
//! - [`Outcome::Refused`] is only said where it is certain; any other error is [`Outcome::Unknown`].

mod bytes;
pub mod certificate;
mod checker;
pub mod end_state;
mod event;
pub mod fencing;
mod history;
pub mod lease;
pub mod log;
pub mod model;
mod reply;
mod request;
pub mod search;
mod spread;
pub mod state;
mod store_time;
mod violation;
pub mod watch;

pub use bytes::Bytes;
pub use checker::{Acquisition, Checker, FinalRead, Limits, Summary};
pub use event::{Event, EventKind, Response, WatchId, WatchRequest};
pub use history::{Caller, History, Member, Nanos, OpId, Operation};
pub use reply::{KeyValue, Outcome, RangeReply, Refusal, Reply};
pub use request::{
    Compare, DeleteRequest, KeyRange, LeaseId, PutRequest, RangeRequest, Relation, Request,
    Revision, Target, TxnOp, TxnRequest,
};
pub use violation::{Kind, Violation};
