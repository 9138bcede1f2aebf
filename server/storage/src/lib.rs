//! What survives a power cut: the write-ahead log, checkpoints on sled, the data directory. Blocking; no
//! async anywhere.

pub mod fs;
