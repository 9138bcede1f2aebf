//! Every method of every service that a client may call, with the kind of its call: what metrics are
//! labelled with, and what tells an unknown method from one that is not served yet.

use crate::metrics::GrpcMethod;

/// Why a path names no method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unknown<'a> {
    /// There is no such service.
    Service(&'a str),
    /// The service has no such method: service, method.
    Method(&'a str, &'a str),
}

/// Services of which nothing is served yet.
const UNSERVED: [&str; 1] = ["etcdserverpb.Auth"];

/// Whether a method's service is served at all; a served service may still refuse some of its methods.
pub(crate) fn is_served(method: &GrpcMethod) -> bool {
    !UNSERVED.contains(&method.service)
}

/// The method of a path `/package.Service/Method`.
pub(crate) fn find(path: &str) -> Result<&'static GrpcMethod, Unknown<'_>> {
    let path = path.strip_prefix('/').unwrap_or(path);
    let (service, name) = path.rsplit_once('/').unwrap_or((path, ""));
    if !METHODS.iter().any(|method| method.service == service) {
        return Err(Unknown::Service(service));
    }
    METHODS
        .iter()
        .find(|method| method.service == service && method.name == name)
        .ok_or(Unknown::Method(service, name))
}

const fn method(service: &'static str, name: &'static str, kind: &'static str) -> GrpcMethod {
    GrpcMethod { service, name, kind }
}

/// All of them, the frequent ones first.
pub(crate) const METHODS: &[GrpcMethod] = &[
    method("etcdserverpb.KV", "Range", "unary"),
    method("etcdserverpb.KV", "RangeStream", "server_stream"),
    method("etcdserverpb.KV", "Put", "unary"),
    method("etcdserverpb.KV", "DeleteRange", "unary"),
    method("etcdserverpb.KV", "Txn", "unary"),
    method("etcdserverpb.KV", "Compact", "unary"),
    method("etcdserverpb.Watch", "Watch", "bidi_stream"),
    method("etcdserverpb.Lease", "LeaseGrant", "unary"),
    method("etcdserverpb.Lease", "LeaseRevoke", "unary"),
    method("etcdserverpb.Lease", "LeaseKeepAlive", "bidi_stream"),
    method("etcdserverpb.Lease", "LeaseTimeToLive", "unary"),
    method("etcdserverpb.Lease", "LeaseLeases", "unary"),
    method("etcdserverpb.Cluster", "MemberAdd", "unary"),
    method("etcdserverpb.Cluster", "MemberRemove", "unary"),
    method("etcdserverpb.Cluster", "MemberUpdate", "unary"),
    method("etcdserverpb.Cluster", "MemberList", "unary"),
    method("etcdserverpb.Cluster", "MemberPromote", "unary"),
    method("etcdserverpb.Maintenance", "Alarm", "unary"),
    method("etcdserverpb.Maintenance", "Status", "unary"),
    method("etcdserverpb.Maintenance", "Defragment", "unary"),
    method("etcdserverpb.Maintenance", "Hash", "unary"),
    method("etcdserverpb.Maintenance", "HashKV", "unary"),
    method("etcdserverpb.Maintenance", "Snapshot", "server_stream"),
    method("etcdserverpb.Maintenance", "MoveLeader", "unary"),
    method("etcdserverpb.Maintenance", "Downgrade", "unary"),
    method("etcdserverpb.Auth", "AuthEnable", "unary"),
    method("etcdserverpb.Auth", "AuthDisable", "unary"),
    method("etcdserverpb.Auth", "AuthStatus", "unary"),
    method("etcdserverpb.Auth", "Authenticate", "unary"),
    method("etcdserverpb.Auth", "UserAdd", "unary"),
    method("etcdserverpb.Auth", "UserGet", "unary"),
    method("etcdserverpb.Auth", "UserList", "unary"),
    method("etcdserverpb.Auth", "UserDelete", "unary"),
    method("etcdserverpb.Auth", "UserChangePassword", "unary"),
    method("etcdserverpb.Auth", "UserGrantRole", "unary"),
    method("etcdserverpb.Auth", "UserRevokeRole", "unary"),
    method("etcdserverpb.Auth", "RoleAdd", "unary"),
    method("etcdserverpb.Auth", "RoleGet", "unary"),
    method("etcdserverpb.Auth", "RoleList", "unary"),
    method("etcdserverpb.Auth", "RoleDelete", "unary"),
    method("etcdserverpb.Auth", "RoleGrantPermission", "unary"),
    method("etcdserverpb.Auth", "RoleRevokePermission", "unary"),
    method("v3lockpb.Lock", "Lock", "unary"),
    method("v3lockpb.Lock", "Unlock", "unary"),
    method("v3electionpb.Election", "Campaign", "unary"),
    method("v3electionpb.Election", "Proclaim", "unary"),
    method("v3electionpb.Election", "Leader", "unary"),
    method("v3electionpb.Election", "Observe", "server_stream"),
    method("v3electionpb.Election", "Resign", "unary"),
    method("kvd.v1.Sessions", "Open", "unary"),
    method("grpc.health.v1.Health", "Check", "unary"),
    method("grpc.health.v1.Health", "Watch", "server_stream"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_told_apart() {
        let put = find("/etcdserverpb.KV/Put").unwrap();
        assert_eq!((put.name, put.kind, is_served(put)), ("Put", "unary", true));
        let watch = find("/etcdserverpb.Watch/Watch").unwrap();
        assert_eq!((watch.kind, is_served(watch)), ("bidi_stream", true));
        assert!(is_served(find("/v3lockpb.Lock/Lock").unwrap()));
        assert!(!is_served(find("/etcdserverpb.Auth/AuthStatus").unwrap()));
        assert_eq!(find("/etcdserverpb.KV/Pet"), Err(Unknown::Method("etcdserverpb.KV", "Pet")));
        assert_eq!(find("/a.B/C"), Err(Unknown::Service("a.B")));
        assert_eq!(find("/"), Err(Unknown::Service("")));
        assert_eq!(METHODS.len(), 52);
    }
}
