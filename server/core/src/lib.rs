//! The replicated state machine of kvd and its read views: pure, without I/O, clock or runtime.
//!
//! Two nouns carry it. An [`outcome::Applied`] says what applying one committed entry did and is the only
//! way facts leave. A [`view::View`] is an immutable, cheap picture of everything applied up to one index;
//! every reader takes one.
//!
//! ```text
//!   command ──codec──> Entry ──> state::State::apply ──> outcome::Applied   (answer, events)
//!                                   │      │
//!                                   │      └─ publish ──> view::View        (range, txn, scan, hash)
//!                                   └─ checkpoint ──> checkpoint::CheckpointStore
//!   inside:  mvcc (history of changes, index of keys) · lease · tables (members, alarms) · sessions
//! ```
//!
//! Four counters are never confused: *index* (position in the Raft log), *term*, *revision* (the store's
//! counter) and *version* (puts of one key since its creation); see [`ids`].

pub mod checkpoint;
pub mod codec;
pub mod command;
pub mod event;
pub mod ids;
pub mod lease;
pub mod limits;
pub mod members;
pub mod mutants;
pub mod mvcc;
pub mod outcome;
pub mod range;
pub mod sessions;
pub mod snapshot;
pub mod state;
pub mod tables;
pub mod view;
pub mod watch;
