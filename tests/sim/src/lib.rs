//! Members and their clients on one thread, over a simulated network and simulated disks: everything that
//! happens follows from a seed.
//!
//! Real are the server, its log's bytes, openraft, tonic and HTTP/2; simulated are time, network (turmoil), disk
//! ([`kvd_storage::fs::SimDisk`]) and checkpoint store ([`kvd::stores::mem::MemStores`]).
//!
//! - [`net`]: turmoil as the server's network.
//! - [`machine`]: a member's machine: what survives a crash, and what runs until the next one.
//! - [`client`]: clients that ask and watch; [`convert`]: their messages; [`record`]: hands everything to the
//!   checkers of `kvd-check`.
//! - [`fault`]: what goes wrong, and when.
//! - [`invariant`]: what must be true at every moment; [`observe`]: what is counted at every moment.
//! - [`audit`]: reads everything back once all is well again.
//! - [`batch`]: many seeds.
//! - [`run`]: all of it for one seed; [`report`]: what it was like; [`log`]: what the members said.
//!
//! One seed is one process: libraries draw from thread-local generators and count in statics, and both begin
//! anew with a process.

pub mod audit;
pub mod batch;
pub mod client;
pub mod convert;
pub mod fault;
pub mod invariant;
pub mod log;
pub mod machine;
pub mod net;
pub mod observe;
pub mod record;
pub mod report;
pub mod run;
