//! Watches: raw streams of them, and such that go on by themselves (behaviour.md §3).

mod follow;
mod hub;
mod stream;
mod task;

pub(crate) use self::hub::Hub;
pub use self::hub::{Update, Watch};
pub use self::stream::{WatchAnswer, WatchEnd, WatchStream};
