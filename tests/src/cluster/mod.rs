//! Clusters to test against.

mod log;
pub mod process;
