//! What the tests of the whole share: processes to test against, scripts to run on them.
//!
//! - [`tools`]: where the programs we compare with are, and what a test does without them.
//! - [`cluster`]: members as real processes, started, killed, paused and watched.
//! - [`fault`]: what breaks members, and what proves that nothing was lost.
//! - [`kube`]: an apiserver of Kubernetes as a client, and the judge of what it relies on.
//! - [`script`]: transcripts of the etcd API, replayed on kvd or on a real etcd.
//!
//! `README.md` says how to run them.

pub mod cluster;
pub mod fault;
pub mod kube;
pub mod script;
pub mod tools;
