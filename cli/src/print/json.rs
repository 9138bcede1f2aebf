//! The JSON form: not proto3's, but what Go makes of the messages. Numbers of 64 bits are numbers,
//! bytes are base64, zero values are left out, and members keep the order of the message.

use std::fmt::Display;

use kvd_client::proto::etcdserverpb::response_op::Response;
use kvd_client::proto::etcdserverpb::{
    DeleteRangeResponse, HashKvResponse, LeaseGrantResponse, LeaseKeepAliveResponse,
    LeaseLeasesResponse, LeaseTimeToLiveResponse, Member, MemberListResponse, PutResponse,
    RangeResponse, ResponseHeader, ResponseOp, StatusResponse, TxnResponse, WatchResponse,
};
use kvd_client::proto::mvccpb::{Event, KeyValue};

use super::{EndpointHealth, Reply, took};
use crate::quote::base64;

pub(super) fn print(reply: &Reply, hex: bool) -> String {
    let mut text = match reply {
        Reply::Get { response, .. } => range(response),
        Reply::Put(response) => put(response),
        Reply::Delete(response) => delete(response),
        Reply::Txn(response) => txn(response),
        Reply::LeaseGrant(response) => lease_grant(response),
        Reply::LeaseRevoke { response, .. } => Object::new().header(response.header).end(),
        Reply::LeaseTimeToLive { response, .. } => time_to_live(response),
        Reply::LeaseList(response) => lease_list(response),
        Reply::LeaseKeepAlive(response) => lease_keep_alive(response),
        Reply::Watch(response) => watch(response),
        Reply::Members(response) if hex => members_hex(response),
        Reply::Members(response) => {
            let list = response.members.iter().map(member);
            Object::new().header(response.header).list("members", list).end()
        }
        Reply::Statuses(list) => array(list.iter().map(|at| {
            Object::new().raw("Endpoint", string(&at.endpoint)).raw("Status", status(&at.status))
        })),
        Reply::Hashes(list) => array(list.iter().map(|at| {
            Object::new().raw("Endpoint", string(&at.endpoint)).raw("HashKV", hash(&at.hash))
        })),
        Reply::Healths(list) => array(list.iter().map(health)),
    };
    text.push('\n');
    text
}

fn range(response: &RangeResponse) -> String {
    Object::new()
        .header(response.header)
        .list("kvs", response.kvs.iter().map(pair))
        .flag("more", response.more)
        .int("count", response.count)
        .end()
}

fn put(response: &PutResponse) -> String {
    let prev_kv = response.prev_kv.as_ref().map(pair);
    Object::new().header(response.header).object("prev_kv", prev_kv).end()
}

fn delete(response: &DeleteRangeResponse) -> String {
    Object::new()
        .header(response.header)
        .int("deleted", response.deleted)
        .list("prev_kvs", response.prev_kvs.iter().map(pair))
        .end()
}

fn txn(response: &TxnResponse) -> String {
    Object::new()
        .header(response.header)
        .flag("succeeded", response.succeeded)
        .list("responses", response.responses.iter().map(response_op))
        .end()
}

fn response_op(op: &ResponseOp) -> String {
    let chosen = match &op.response {
        Some(Response::ResponseRange(it)) => Object::new().raw("response_range", range(it)).end(),
        Some(Response::ResponsePut(it)) => Object::new().raw("response_put", put(it)).end(),
        Some(Response::ResponseDeleteRange(it)) => {
            Object::new().raw("response_delete_range", delete(it)).end()
        }
        Some(Response::ResponseTxn(it)) => Object::new().raw("response_txn", txn(it)).end(),
        None => "null".to_owned(),
    };
    Object::new().raw("Response", chosen).end()
}

fn lease_grant(response: &LeaseGrantResponse) -> String {
    header_members(Object::new(), response.header)
        .raw("ID", response.id)
        .raw("TTL", response.ttl)
        .raw("Error", string(&response.error))
        .end()
}

fn lease_keep_alive(response: &LeaseKeepAliveResponse) -> String {
    header_members(Object::new(), response.header)
        .raw("ID", response.id)
        .raw("TTL", response.ttl)
        .end()
}

fn time_to_live(response: &LeaseTimeToLiveResponse) -> String {
    let keys: Vec<String> =
        response.keys.iter().map(|key| format!("\"{}\"", base64(key))).collect();
    let keys = if keys.is_empty() { "null".to_owned() } else { format!("[{}]", keys.join(",")) };
    header_members(Object::new(), response.header)
        .raw("id", response.id)
        .raw("ttl", response.ttl)
        .raw("granted-ttl", response.granted_ttl)
        .raw("keys", keys)
        .end()
}

fn lease_list(response: &LeaseLeasesResponse) -> String {
    let leases = array(response.leases.iter().map(|lease| Object::new().raw("id", lease.id)));
    header_members(Object::new(), response.header).raw("leases", leases).end()
}

/// An answer without a header never came from a server.
fn watch(response: &WatchResponse) -> String {
    let events = match response.header {
        Some(_) => array(response.events.iter().map(event)),
        None => "null".to_owned(),
    };
    Object::new()
        .raw("Header", header_members(Object::new(), response.header).end())
        .raw("Events", events)
        .raw("CompactRevision", response.compact_revision)
        .raw("Canceled", response.canceled)
        .raw("Created", response.created)
        .end()
}

fn event(event: &Event) -> Object {
    Object::new()
        .int("type", event.r#type)
        .object("kv", event.kv.as_ref().map(pair))
        .object("prev_kv", event.prev_kv.as_ref().map(pair))
}

fn member(member: &Member) -> String {
    Object::new()
        .int("ID", member.id)
        .text("name", &member.name)
        .list("peerURLs", member.peer_ur_ls.iter().map(|url| string(url)))
        .list("clientURLs", member.client_ur_ls.iter().map(|url| string(url)))
        .flag("isLearner", member.is_learner)
        .end()
}

/// With `--hex` numbers of members are strings; one name is spelt otherwise then, as etcdctl does.
fn members_hex(response: &MemberListResponse) -> String {
    let header = response.header.unwrap_or_default();
    let id = |id: u64| format!("\"{id:x}\"");
    let header = Object::new()
        .raw("cluster_id", id(header.cluster_id))
        .raw("member_id", id(header.member_id))
        .int("raft_term", header.raft_term)
        .end();
    let members = response.members.iter().map(|member| {
        Object::new()
            .raw("ID", id(member.id))
            .raw("name", string(&member.name))
            .raw("peerURLs", strings(&member.peer_ur_ls))
            .raw("clientURLS", strings(&member.client_ur_ls))
            .flag("isLearner", member.is_learner)
            .end()
    });
    Object::new().raw("header", header).list("members", members).end()
}

fn status(status: &StatusResponse) -> String {
    let downgrade = status.downgrade_info.as_ref().map(|downgrade| {
        Object::new()
            .flag("enabled", downgrade.enabled)
            .text("targetVersion", &downgrade.target_version)
            .end()
    });
    Object::new()
        .header(status.header)
        .text("version", &status.version)
        .int("dbSize", status.db_size)
        .int("leader", status.leader)
        .int("raftIndex", status.raft_index)
        .int("raftTerm", status.raft_term)
        .int("raftAppliedIndex", status.raft_applied_index)
        .list("errors", status.errors.iter().map(|error| string(error)))
        .int("dbSizeInUse", status.db_size_in_use)
        .flag("isLearner", status.is_learner)
        .text("storageVersion", &status.storage_version)
        .int("dbSizeQuota", status.db_size_quota)
        .object("downgradeInfo", downgrade)
        .end()
}

fn hash(hash: &HashKvResponse) -> String {
    Object::new()
        .header(hash.header)
        .int("hash", hash.hash)
        .int("compact_revision", hash.compact_revision)
        .int("hash_revision", hash.hash_revision)
        .end()
}

fn health(health: &EndpointHealth) -> Object {
    Object::new()
        .raw("endpoint", string(&health.endpoint))
        .raw("health", health.error.is_none())
        .raw("took", string(&took(health)))
        .text("error", health.error.as_deref().unwrap_or_default())
}

fn pair(kv: &KeyValue) -> String {
    Object::new()
        .bytes("key", &kv.key)
        .int("create_revision", kv.create_revision)
        .int("mod_revision", kv.mod_revision)
        .int("version", kv.version)
        .bytes("value", &kv.value)
        .int("lease", kv.lease)
        .end()
}

fn header_members(object: Object, header: Option<ResponseHeader>) -> Object {
    let header = header.unwrap_or_default();
    object
        .int("cluster_id", header.cluster_id)
        .int("member_id", header.member_id)
        .int("revision", header.revision)
        .int("raft_term", header.raft_term)
}

/// A JSON object being written.
struct Object(String);

impl Object {
    fn new() -> Self {
        Self(String::from("{"))
    }

    /// Always there; `value` is JSON.
    fn raw(mut self, name: &str, value: impl Display) -> Self {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push_str(&format!("\"{name}\":{value}"));
        self
    }

    fn unless(self, zero: bool, name: &str, value: impl Display) -> Self {
        if zero { self } else { self.raw(name, value) }
    }

    fn int<I: Display + Default + PartialEq>(self, name: &str, value: I) -> Self {
        self.unless(value == I::default(), name, &value)
    }

    fn flag(self, name: &str, value: bool) -> Self {
        self.unless(!value, name, value)
    }

    fn text(self, name: &str, value: &str) -> Self {
        self.unless(value.is_empty(), name, string(value))
    }

    fn bytes(self, name: &str, value: &[u8]) -> Self {
        self.unless(value.is_empty(), name, format!("\"{}\"", base64(value)))
    }

    fn object(self, name: &str, value: Option<String>) -> Self {
        match value {
            Some(value) => self.raw(name, value),
            None => self,
        }
    }

    fn list(self, name: &str, values: impl Iterator<Item = String>) -> Self {
        let values: Vec<String> = values.collect();
        self.unless(values.is_empty(), name, format!("[{}]", values.join(",")))
    }

    fn header(self, header: Option<ResponseHeader>) -> Self {
        self.object("header", header.map(|it| header_members(Self::new(), Some(it)).end()))
    }

    fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

fn array(objects: impl Iterator<Item = Object>) -> String {
    let objects: Vec<String> = objects.map(Object::end).collect();
    format!("[{}]", objects.join(","))
}

fn strings(texts: &[String]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| string(text)).collect();
    format!("[{}]", texts.join(","))
}

/// Go escapes what could end a script element, too.
fn string(text: &str) -> String {
    let escaped = serde_json::Value::from(text).to_string();
    escaped
        .replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped_as_go_does() {
        assert_eq!(string("a<b>&\"\n\u{2028}"), r#""a\u003cb\u003e\u0026\"\n\u2028""#);
    }

    #[test]
    fn zero_values_are_left_out() {
        let kv = KeyValue { key: "a".into(), mod_revision: 2, ..KeyValue::default() };
        assert_eq!(pair(&kv), r#"{"key":"YQ==","mod_revision":2}"#);
        assert_eq!(range(&RangeResponse::default()), "{}");
    }
}
