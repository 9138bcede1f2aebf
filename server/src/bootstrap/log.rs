//! The log, opened; what is wrong with one that cannot be comes with a remedy.

use std::sync::Arc;

use kvd_storage::log::{LogError, RaftLog};

use super::{StartError, World};
use crate::log_lane;

pub(super) fn open_log(world: &World) -> Result<RaftLog, StartError> {
    let (log, flusher) =
        log_lane::open(&world.disk, &world.wal, world.segment_bytes, &world.random)
            .map_err(|error| StartError::Storage(with_remedy(&error)))?;
    let (delay, fatal) = (Arc::clone(&world.sync_delay), world.fatal.clone());
    log_lane::start(world.threads, &log, flusher, delay, fatal)?;
    Ok(log)
}

/// What is wrong with the log, and what to do where it is not the device's or the program's fault.
fn with_remedy(error: &LogError) -> String {
    match error {
        LogError::Damaged { .. } | LogError::Missing { .. } | LogError::Record => format!(
            "{error}: keep the data directory for an examination and restore it from a backup, \
             or remove the member from the cluster and add it anew"
        ),
        other => other.to_string(),
    }
}
