//! Looking at single members and at alarms (behaviour.md §6).

use kvd_proto::etcdserverpb::alarm_request::AlarmAction;
use kvd_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use kvd_proto::etcdserverpb::{
    AlarmRequest, AlarmResponse, AlarmType, DefragmentRequest, DefragmentResponse,
    DowngradeRequest, DowngradeResponse, HashKvRequest, HashKvResponse, HashRequest, HashResponse,
    MoveLeaderRequest, MoveLeaderResponse, SnapshotRequest, SnapshotResponse, StatusRequest,
    StatusResponse,
};
use tonic::Streaming;

use super::unary;
use crate::attempts::{ANSWER_BYTES_MAX, Call};
use crate::client::Client;
use crate::error::{Error, describe};

unary! { MaintenanceClient:
    /// Raises, disarms or lists alarms.
    writes alarm(AlarmRequest) -> AlarmResponse;
    /// Hands leadership on; only the leader does that ([`Client::at`]).
    writes move_leader(MoveLeaderRequest) -> MoveLeaderResponse;
    /// Begins, ends or checks a downgrade.
    writes downgrade(DowngradeRequest) -> DowngradeResponse;
}

impl Client {
    /// How the member at `endpoint` is doing.
    pub async fn status(&self, endpoint: &str) -> Result<StatusResponse, Error> {
        self.at(endpoint)?.any_status().await
    }

    /// How some member is doing.
    pub(crate) async fn any_status(&self) -> Result<StatusResponse, Error> {
        let send =
            |channel, request| async move { MaintenanceClient::new(channel).status(request).await };
        self.call(Call::reads("any_status"), StatusRequest {}, send).await
    }

    /// Hash of the key history of the member at `endpoint`, up to `revision`; 0 is the newest.
    pub async fn hash_kv(&self, endpoint: &str, revision: i64) -> Result<HashKvResponse, Error> {
        let send = |channel, request| async move {
            MaintenanceClient::new(channel).hash_kv(request).await
        };
        self.at(endpoint)?.call(Call::reads("hash_kv"), HashKvRequest { revision }, send).await
    }

    /// Hash of everything that the member at `endpoint` stores.
    pub async fn hash(&self, endpoint: &str) -> Result<HashResponse, Error> {
        let send =
            |channel, request| async move { MaintenanceClient::new(channel).hash(request).await };
        self.at(endpoint)?.call(Call::reads("hash"), HashRequest {}, send).await
    }

    /// Gives room that the member at `endpoint` does not use back to its file system. Where that is work, the member
    /// does nothing else meanwhile.
    pub async fn defragment(&self, endpoint: &str) -> Result<DefragmentResponse, Error> {
        let send = |channel, request| async move {
            MaintenanceClient::new(channel).defragment(request).await
        };
        self.at(endpoint)?.call(Call::reads("defragment"), DefragmentRequest {}, send).await
    }

    /// A snapshot of the state of the member at `endpoint`.
    pub async fn snapshot(&self, endpoint: &str) -> Result<SnapshotStream, Error> {
        let send = |channel, request: tonic::Request<SnapshotRequest>| async move {
            // A request of its own: the deadline is that of the opening.
            let service = MaintenanceClient::new(channel);
            service.max_decoding_message_size(ANSWER_BYTES_MAX).snapshot(request.into_inner()).await
        };
        let at = self.at(endpoint)?;
        let pieces = at.call(Call::reads("snapshot"), SnapshotRequest {}, send).await?;
        Ok(SnapshotStream { pieces })
    }

    /// The alarms of all members.
    pub async fn alarm_list(&self) -> Result<AlarmResponse, Error> {
        let request = AlarmRequest {
            action: AlarmAction::Get.into(),
            member_id: 0,
            alarm: AlarmType::None.into(),
        };
        let send =
            |channel, request| async move { MaintenanceClient::new(channel).alarm(request).await };
        self.call(Call::reads("alarm_list"), request, send).await
    }
}

/// A snapshot that arrives in pieces.
#[derive(Debug)]
pub struct SnapshotStream {
    pieces: Streaming<SnapshotResponse>,
}

impl SnapshotStream {
    /// The next piece; `None` after the last. After an error, or without `remaining_bytes` at zero in the last piece,
    /// it is not whole.
    pub async fn next(&mut self) -> Result<Option<SnapshotResponse>, Error> {
        let piece = self.pieces.message().await;
        piece.map_err(|status| Error::Unavailable { last: describe(&status) })
    }
}
