//! Leases: what every member agrees on, and how one member counts the time. The time itself comes from outside.

pub mod deadlines;
pub mod table;
