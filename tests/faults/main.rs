//! Members as real processes, broken on purpose: killed, cut off from power, room and memory,
//! started wrongly, left alone. `KVD_ROUNDS`, `KVD_CUTS`, `KVD_SEED` and `KVD_LONG=1` make it
//! longer.

mod away;
mod disk_full;
mod diverged;
mod hazards;
mod increments;
mod kill9;
mod kube;
mod kube_requests;
mod leases;
mod locks;
mod mass_expiry;
mod members;
mod memory;
mod powercut;
mod requests;
mod start;
mod two_dead;
mod watches;
