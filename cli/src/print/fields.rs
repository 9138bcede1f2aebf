//! The fields form: one `"Name" : value` a line.

use std::fmt::Display;

use kvd_client::proto::etcdserverpb::response_op::Response;
use kvd_client::proto::etcdserverpb::{
    DeleteRangeResponse, Member, PutResponse, RangeResponse, ResponseHeader, TxnResponse,
    WatchResponse,
};
use kvd_client::proto::mvccpb::KeyValue;

use super::{EndpointHash, EndpointHealth, EndpointStatus, Reply, is_since_3_6, took};
use crate::quote::quote;

pub(super) fn print(reply: &Reply) -> String {
    let mut out = Out(String::new());
    match reply {
        Reply::Get { response, .. } => out.range(response),
        Reply::Put(response) => out.put(response),
        Reply::Delete(response) => out.delete(response),
        Reply::Txn(response) => out.txn(response),
        Reply::LeaseGrant(response) => {
            out.header(response.header);
            out.field("ID", response.id);
            out.field("TTL", response.ttl);
        }
        Reply::LeaseRevoke { response, .. } => out.header(response.header),
        Reply::LeaseTimeToLive { response, .. } => {
            out.header(response.header);
            out.field("ID", response.id);
            out.field("TTL", response.ttl);
            out.field("GrantedTTL", response.granted_ttl);
            response.keys.iter().for_each(|key| out.text("Key", key));
        }
        Reply::LeaseList(response) => {
            out.header(response.header);
            response.leases.iter().for_each(|lease| out.field("ID", lease.id));
        }
        Reply::LeaseKeepAlive(response) => {
            out.header(response.header);
            out.field("ID", response.id);
            out.field("TTL", response.ttl);
        }
        Reply::Watch(response) => out.watch(response),
        Reply::Members(response) => {
            out.header(response.header);
            response.members.iter().for_each(|member| out.member(member));
        }
        Reply::Statuses(list) => list.iter().for_each(|at| out.status(at)),
        Reply::Hashes(list) => list.iter().for_each(|at| out.hash(at)),
        Reply::Healths(list) => list.iter().for_each(|at| out.health(at)),
    }
    out.0
}

struct Out(String);

impl Out {
    fn field(&mut self, name: &str, value: impl Display) {
        self.0.push_str(&format!("\"{name}\" : {value}\n"));
    }

    fn text(&mut self, name: &str, value: impl AsRef<[u8]>) {
        self.field(name, quote(value.as_ref()));
    }

    fn end(&mut self) {
        self.0.push('\n');
    }

    fn header(&mut self, header: Option<ResponseHeader>) {
        let header = header.unwrap_or_default();
        self.field("ClusterID", header.cluster_id);
        self.field("MemberID", header.member_id);
        self.field("Revision", header.revision);
        self.field("RaftTerm", header.raft_term);
    }

    fn pair(&mut self, before: &str, kv: &KeyValue) {
        self.text(&format!("{before}Key"), &kv.key);
        self.field(&format!("{before}CreateRevision"), kv.create_revision);
        self.field(&format!("{before}ModRevision"), kv.mod_revision);
        self.field(&format!("{before}Version"), kv.version);
        self.text(&format!("{before}Value"), &kv.value);
        self.field(&format!("{before}Lease"), kv.lease);
    }

    fn range(&mut self, response: &RangeResponse) {
        self.header(response.header);
        for kv in &response.kvs {
            self.pair("", kv);
        }
        self.field("More", response.more);
        self.field("Count", response.count);
    }

    fn put(&mut self, response: &PutResponse) {
        self.header(response.header);
        if let Some(kv) = &response.prev_kv {
            self.pair("Prev", kv);
        }
    }

    fn delete(&mut self, response: &DeleteRangeResponse) {
        self.header(response.header);
        self.field("Deleted", response.deleted);
        for kv in &response.prev_kvs {
            self.pair("Prev", kv);
        }
    }

    fn txn(&mut self, response: &TxnResponse) {
        self.header(response.header);
        self.field("Succeeded", response.succeeded);
        for response in &response.responses {
            match &response.response {
                Some(Response::ResponseRange(range)) => self.range(range),
                Some(Response::ResponsePut(put)) => self.put(put),
                Some(Response::ResponseDeleteRange(delete)) => self.delete(delete),
                Some(Response::ResponseTxn(txn)) => self.txn(txn),
                None => {}
            }
        }
    }

    fn watch(&mut self, response: &WatchResponse) {
        self.header(response.header);
        for event in &response.events {
            self.field("Type", event.r#type().as_str_name());
            if let Some(kv) = &event.prev_kv {
                self.pair("Prev", kv);
            }
            if let Some(kv) = &event.kv {
                self.pair("", kv);
            }
        }
    }

    fn member(&mut self, member: &Member) {
        self.field("ID", member.id);
        self.text("Name", &member.name);
        for url in &member.peer_ur_ls {
            self.text("PeerURL", url);
        }
        for url in &member.client_ur_ls {
            self.text("ClientURL", url);
        }
        self.field("IsLearner", member.is_learner);
        self.end();
    }

    fn status(&mut self, at: &EndpointStatus) {
        let status = &at.status;
        let later = is_since_3_6(status);
        self.header(status.header);
        self.text("Version", &status.version);
        if later {
            self.text("StorageVersion", &status.storage_version);
        }
        self.field("DBSize", status.db_size);
        if later {
            self.field("DBSizeInUse", status.db_size_in_use);
            self.field("DBSizeQuota", status.db_size_quota);
        }
        self.field("Leader", status.leader);
        self.field("IsLearner", status.is_learner);
        self.field("RaftIndex", status.raft_index);
        self.field("RaftTerm", status.raft_term);
        self.field("RaftAppliedIndex", status.raft_applied_index);
        self.field("Errors", format!("[{}]", status.errors.join(" ")));
        self.text("Endpoint", &at.endpoint);
        if later {
            let downgrade = status.downgrade_info.clone().unwrap_or_default();
            self.text("DowngradeTargetVersion", downgrade.target_version);
            self.field("DowngradeEnabled", downgrade.enabled);
        }
        self.end();
    }

    fn hash(&mut self, at: &EndpointHash) {
        self.header(at.hash.header);
        self.text("Endpoint", &at.endpoint);
        self.field("Hash", at.hash.hash);
        if at.hash.hash_revision != 0 {
            self.field("HashRevision", at.hash.hash_revision);
        }
        self.end();
    }

    fn health(&mut self, at: &EndpointHealth) {
        self.text("Endpoint", &at.endpoint);
        self.field("Health", at.error.is_none());
        self.field("Took", took(at));
        self.field("Error", at.error.as_deref().unwrap_or_default());
        self.end();
    }
}
