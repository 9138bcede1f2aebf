//! kvd: a Raft-replicated key-value store that speaks etcd's v3 API.
//!
//! Rooms import only from rooms of lower rank (see ARCHITECTURE.md): ports and limits, then the applier and the
//! peers' connections, consensus, the node, its services, and the wiring on top.

mod apply;
pub mod bootstrap;
mod checkpoint_lane;
pub mod config;
pub mod demo;
pub mod dev;
pub mod fatal;
mod feed;
pub mod fence;
pub mod http;
mod lease_clock;
pub mod limits;
pub mod listen;
mod local_cluster;
mod log_lane;
pub mod member_id;
pub mod metrics;
pub mod net;
pub mod node;
mod peer;
pub mod process;
mod raft;
mod samples;
pub mod service;
pub mod shutdown;
pub mod sled_stores;
pub mod stores;
pub mod telemetry;
pub mod threads;

mod run;

pub use run::{Ending, run};
