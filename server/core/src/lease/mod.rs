//! Leases as every member agrees on them. Clocks are the leader's private business and not here.

pub mod table;
