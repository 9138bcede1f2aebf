//! Looking at single members and at alarms (behaviour.md §6).

use kvd_proto::etcdserverpb::alarm_request::AlarmAction;
use kvd_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use kvd_proto::etcdserverpb::{
    AlarmRequest, AlarmResponse, AlarmType, HashKvRequest, HashKvResponse, StatusRequest,
    StatusResponse,
};

use crate::client::{Call, Client};
use crate::error::Error;

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
