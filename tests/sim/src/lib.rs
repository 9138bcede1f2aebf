//! Members and their clients on one thread, over a simulated network and simulated disks: everything that
//! happens follows from a seed.
//!
//! Real are the server, its log's bytes, openraft, tonic and HTTP/2; simulated are time, network (turmoil), disk
//! ([`kvd_storage::fs::SimDisk`]) and checkpoint store ([`kvd::stores::mem::MemStores`]).
//!
//! - [`net`]: turmoil as the server's network.
//! - [`member`]: a member's machine: what survives a crash, and what runs until the next one.
//! - [`history`]: what clients asked and were told.
//! - [`client`]: clients that ask, and write down.
//! - [`nemesis`]: what goes wrong, and when.
//! - [`audit`]: reads everything back once all is well again.
//! - [`check`]: whether what was told can be true.
//! - [`run`]: all of it for one seed.
//!
//! One seed is one process: libraries draw from thread-local generators and count in statics, and both begin
//! anew with a process.

pub mod audit;
pub mod check;
pub mod client;
pub mod history;
pub mod log;
pub mod member;
pub mod nemesis;
pub mod net;
pub mod run;
