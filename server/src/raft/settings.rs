//! What consensus is set to, from what the operator set.

use kvd_core::ids::MemberId;

/// How this member takes part.
#[derive(Clone, Debug)]
pub(crate) struct RaftConfig {
    /// This member.
    pub(crate) member_id: MemberId,
    /// Milliseconds between heartbeats.
    pub(crate) heartbeat_ms: u64,
    /// Milliseconds without a leader after which members campaign; etcd's election timeout.
    pub(crate) election_ms: u64,
}

/// openraft's settings from etcd's two flags (hazard C10).
///
/// With openraft, a member stands for election when the lease of the leader it heard last has ended, which is as long as
/// the greater of the two timeouts, and after that a time between the two has passed. With three and seven tenths that is
/// the flag's time at least, as in etcd, and 1.4 times it at most, where etcd's members wait for up to twice as long.
pub(super) fn openraft_config(config: &RaftConfig) -> Result<openraft::Config, String> {
    let election_min = (config.election_ms * 3 / 10).max(config.heartbeat_ms + 1);
    let election_max = (config.election_ms * 7 / 10).max(election_min + 1);
    let heartbeat = config.heartbeat_ms;
    let config = openraft::Config {
        cluster_name: "kvd".to_owned(),
        heartbeat_interval: heartbeat,
        election_timeout_min: election_min,
        election_timeout_max: election_max,
        heartbeat_min_interval: Some(if heartbeat * 5 / 2 + 1 < election_min {
            heartbeat
        } else {
            0
        }),
        enable_pre_vote: Some(true),
        quorum_loss_probe_interval: Some(config.election_ms * 5 / 2),
        enable_leader_restore: Some(false),
        allow_log_reversion: Some(false),
        max_payload_entries: 1024,
        max_append_entries: Some(4096),
        api_batch_capacity: 4096,
        api_batch_linger_ms: 0,
        api_channel_size: Some(4096),
        notification_channel_size: Some(65_536),
        state_machine_channel_size: Some(65_536),
        snapshot_policy: openraft::SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX / 2,
        purge_batch_size: 1024,
        install_snapshot_timeout: 600_000,
        backoff: "10ms 20ms ...500ms".to_owned(),
        ..openraft::Config::default()
    };
    config.validate().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_the_flags_allow_is_a_setting() {
        for heartbeat_ms in [1, 2, 3, 10, 99, 100, 1_000, 10_000] {
            for election_ms in [5 * heartbeat_ms, 10 * heartbeat_ms, 50_000] {
                let config = RaftConfig { member_id: MemberId(1), heartbeat_ms, election_ms };
                let settings = openraft_config(&config);
                assert!(settings.is_ok(), "{config:?}: {settings:?}");
                let Ok(settings) = settings else { continue };
                let (least, most) = (settings.election_timeout_min, settings.election_timeout_max);
                assert!(least + most >= election_ms - 1, "{config:?}: too soon");
                assert!(2 * most <= election_ms * 7 / 5 + 2, "{config:?}: too late");
            }
        }
    }
}
