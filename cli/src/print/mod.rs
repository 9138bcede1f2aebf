//! What commands print, in five forms (etcdctl.md §3, §4). Knows the messages and nothing of how
//! they were come by.

mod fields;
mod json;
mod simple;
mod table;

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::time::Duration;

use kvd_client::proto::etcdserverpb::{
    DeleteRangeResponse, HashKvResponse, LeaseGrantResponse, LeaseKeepAliveResponse,
    LeaseLeasesResponse, LeaseRevokeResponse, LeaseTimeToLiveResponse, Member, MemberListResponse,
    PutResponse, RangeResponse, ResponseHeader, StatusResponse, TxnResponse, WatchResponse,
};
use prost::Message;

use crate::command::Outcome;
use crate::failure::Failure;
use crate::global::{Format, Global};

/// The forms of commands that concern keys, leases and so on.
pub(crate) const MESSAGE_FORMATS: [Format; 4] =
    [Format::Simple, Format::Fields, Format::Json, Format::Protobuf];
/// The forms of lists of endpoints.
pub(crate) const LIST_FORMATS: [Format; 4] =
    [Format::Simple, Format::Fields, Format::Json, Format::Table];
/// The forms of lists that are one message.
pub(crate) const ALL_FORMATS: [Format; 5] =
    [Format::Simple, Format::Fields, Format::Json, Format::Protobuf, Format::Table];

/// An answer to be printed.
pub(crate) enum Reply {
    Get { response: RangeResponse, values_only: bool },
    Put(PutResponse),
    Delete(DeleteRangeResponse),
    Txn(TxnResponse),
    LeaseGrant(LeaseGrantResponse),
    LeaseRevoke { id: i64, response: LeaseRevokeResponse },
    LeaseTimeToLive { response: LeaseTimeToLiveResponse, with_keys: bool },
    LeaseList(LeaseLeasesResponse),
    LeaseKeepAlive(LeaseKeepAliveResponse),
    Watch(WatchResponse),
    Members(MemberListResponse),
    Statuses(Vec<EndpointStatus>),
    Hashes(Vec<EndpointHash>),
    Healths(Vec<EndpointHealth>),
}

/// How the member at an endpoint is doing.
pub(crate) struct EndpointStatus {
    pub(crate) endpoint: String,
    pub(crate) status: StatusResponse,
}

/// The hash of the member at an endpoint.
pub(crate) struct EndpointHash {
    pub(crate) endpoint: String,
    pub(crate) hash: HashKvResponse,
}

/// Whether the member at an endpoint can be used.
pub(crate) struct EndpointHealth {
    pub(crate) endpoint: String,
    /// What is wrong.
    pub(crate) error: Option<String>,
    pub(crate) took: Duration,
}

impl Reply {
    pub(crate) fn print(&self, global: &Global) -> Vec<u8> {
        match global.format {
            Format::Simple => simple::print(self, global.hex),
            Format::Fields => fields::print(self).into_bytes(),
            Format::Json => json::print(self, global.hex).into_bytes(),
            Format::Table => table::print(self).into_bytes(),
            Format::Protobuf => self.encode(),
        }
    }

    /// Lists of endpoints are not messages; their commands do not allow this form.
    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Get { response, .. } => response.encode_to_vec(),
            Self::Put(response) => response.encode_to_vec(),
            Self::Delete(response) => response.encode_to_vec(),
            Self::Txn(response) => response.encode_to_vec(),
            // Of what it knows about leases etcdctl writes the header alone.
            Self::LeaseGrant(response) => header(response.header),
            Self::LeaseTimeToLive { response, .. } => header(response.header),
            Self::LeaseList(response) => header(response.header),
            Self::LeaseKeepAlive(response) => header(response.header),
            Self::LeaseRevoke { response, .. } => response.encode_to_vec(),
            Self::Watch(response) => watch(response).encode_to_vec(),
            Self::Members(response) => response.encode_to_vec(),
            Self::Statuses(_) | Self::Hashes(_) | Self::Healths(_) => Vec::new(),
        }
    }
}

/// Prints at once, for commands that go on. Breaks when nobody reads any more.
pub(crate) fn now(bytes: &[u8]) -> Result<ControlFlow<Outcome>, Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            Ok(ControlFlow::Break(Outcome::printed("")))
        }
        Err(error) => Err(Failure::error(error.to_string())),
    }
}

fn header(header: Option<ResponseHeader>) -> Vec<u8> {
    header.unwrap_or_default().encode_to_vec()
}

/// What etcdctl knows of an answer: neither the watch's number nor the server's words.
fn watch(response: &WatchResponse) -> WatchResponse {
    WatchResponse {
        header: Some(response.header.unwrap_or_default()),
        watch_id: 0,
        cancel_reason: String::new(),
        fragment: false,
        ..response.clone()
    }
}

/// The columns of a list, shared by the simple form and the table.
struct Columns {
    titles: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

/// `None` if the reply is not a list.
fn columns(reply: &Reply) -> Option<Columns> {
    match reply {
        Reply::Members(list) => Some(member_columns(&list.members)),
        Reply::Statuses(list) => Some(status_columns(list)),
        Reply::Hashes(list) => Some(hash_columns(list)),
        Reply::Healths(list) => Some(health_columns(list)),
        _ => None,
    }
}

fn member_columns(members: &[Member]) -> Columns {
    let row = |member: &Member| {
        let status = if member.name.is_empty() { "unstarted" } else { "started" };
        vec![
            format!("{:x}", member.id),
            status.to_owned(),
            member.name.clone(),
            member.peer_ur_ls.join(","),
            member.client_ur_ls.join(","),
            member.is_learner.to_string(),
        ]
    };
    Columns {
        titles: vec!["ID", "Status", "Name", "Peer Addrs", "Client Addrs", "Is Learner"],
        rows: members.iter().map(row).collect(),
    }
}

/// etcdctl prints what its own release knows. We print what the server's release has: 3.6 added
/// the storage version, the quota and the downgrade.
fn status_columns(list: &[EndpointStatus]) -> Columns {
    let later = list.iter().any(|at| is_since_3_6(&at.status));
    let mut titles = vec!["endpoint", "ID", "version"];
    if later {
        titles.extend(["storage version", "db size", "in use", "percentage not in use", "quota"]);
    } else {
        titles.push("db size");
    }
    titles.extend(["is leader", "is learner", "raft term", "raft index", "raft applied index"]);
    titles.push("errors");
    if later {
        titles.extend(["downgrade target version", "downgrade enabled"]);
    }
    Columns { titles, rows: list.iter().map(|at| status_row(at, later)).collect() }
}

fn status_row(at: &EndpointStatus, later: bool) -> Vec<String> {
    let EndpointStatus { endpoint, status } = at;
    let member = status.header.unwrap_or_default().member_id;
    let mut row = vec![endpoint.clone(), format!("{member:x}"), status.version.clone()];
    if later {
        row.push(status.storage_version.clone());
    }
    row.push(size(status.db_size));
    if later {
        row.push(size(status.db_size_in_use));
        let in_use = status.db_size_in_use.saturating_mul(100).checked_div(status.db_size);
        row.push(format!("{}%", 100 - in_use.unwrap_or(100)));
        row.push(size(status.db_size_quota));
    }
    row.push((status.leader == member).to_string());
    row.push(status.is_learner.to_string());
    row.push(status.raft_term.to_string());
    row.push(status.raft_index.to_string());
    row.push(status.raft_applied_index.to_string());
    row.push(status.errors.join(", "));
    if later {
        let downgrade = status.downgrade_info.clone().unwrap_or_default();
        row.push(downgrade.target_version);
        row.push(downgrade.enabled.to_string());
    }
    row
}

fn hash_columns(list: &[EndpointHash]) -> Columns {
    let later = list.iter().any(|at| at.hash.hash_revision != 0);
    let row = |at: &EndpointHash| {
        let mut row = vec![at.endpoint.clone(), at.hash.hash.to_string()];
        if later {
            row.push(at.hash.hash_revision.to_string());
        }
        row
    };
    let mut titles = vec!["endpoint", "hash"];
    if later {
        titles.push("hash_revision");
    }
    Columns { titles, rows: list.iter().map(row).collect() }
}

fn health_columns(list: &[EndpointHealth]) -> Columns {
    let row = |at: &EndpointHealth| {
        let error = at.error.clone().unwrap_or_default();
        vec![at.endpoint.clone(), at.error.is_none().to_string(), took(at), error]
    };
    Columns {
        titles: vec!["endpoint", "health", "took", "error"],
        rows: list.iter().map(row).collect(),
    }
}

/// Whether the server knows what 3.6 added to the status.
fn is_since_3_6(status: &StatusResponse) -> bool {
    !status.storage_version.is_empty() || status.db_size_quota != 0
}

fn took(health: &EndpointHealth) -> String {
    format!("{:?}", health.took)
}

/// A size for people: two digits and the unit, by thousands.
fn size(bytes: i64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    let bytes = u64::try_from(bytes).unwrap_or(0);
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut unit_bytes = 1000_u128;
    let mut at = 0;
    while u128::from(bytes) >= unit_bytes * 1000 && at + 1 < UNITS.len() {
        unit_bytes *= 1000;
        at += 1;
    }
    let tenths = (u128::from(bytes) * 10 + unit_bytes / 2) / unit_bytes;
    if tenths < 100 {
        return format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[at]);
    }
    // Rounded twice, to tenths and to wholes, half to even: as the library does that etcdctl uses.
    let whole = match tenths % 10 {
        0..5 => tenths / 10,
        5 => tenths / 10 + tenths / 10 % 2,
        _ => tenths / 10 + 1,
    };
    format!("{whole} {}", UNITS[at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_two_digits() {
        let sizes = [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (8192, "8.2 kB"),
            (20480, "20 kB"),
            (24576, "25 kB"),
            (2_147_483_648, "2.1 GB"),
            (i64::MAX, "9.2 EB"),
            (-1, "0 B"),
        ];
        for (bytes, text) in sizes {
            assert_eq!(size(bytes), text);
        }
    }
}
