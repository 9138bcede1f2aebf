//! Who watches what, and what they are sent: the pure part of Watch (behaviour.md 3). Queues, streams and
//! time are the shell's.

mod matcher;
mod wire;

pub use self::matcher::Matcher;
pub use self::wire::encode_event;
