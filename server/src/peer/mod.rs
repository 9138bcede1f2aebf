//! Speaking to the other members: connections with deadlines and byte caps, one set a purpose, so that
//! entries never queue behind a snapshot nor heartbeats behind entries.

pub(crate) mod identity;
pub(crate) mod pool;
pub(crate) mod wire;
