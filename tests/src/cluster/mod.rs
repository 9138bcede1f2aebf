//! Clusters to test against.

pub mod process;
