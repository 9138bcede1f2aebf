//! Clusters to test against.

mod log;
mod place;
pub mod process;
