//! `/version`: what the server and the cluster call themselves.

use axum::extract::State;
use axum::response::IntoResponse;
use http::header::CONTENT_TYPE;
use kvd_core::command::ClusterVersion;

use super::Member;
use crate::config::{ETCD_VERSION, STORAGE_VERSION};

/// The versions as JSON, in etcd's order and without blanks.
pub(super) async fn answer(State(member): State<Member>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], body(member.node.view().cluster_version()))
}

fn body(cluster_version: Option<ClusterVersion>) -> String {
    let (cluster, storage) = match cluster_version {
        Some(ClusterVersion { major, minor }) => (format!("{major}.{minor}.0"), STORAGE_VERSION),
        None => ("not_decided".to_owned(), "unknown"),
    };
    format!(
        "{{\"etcdserver\":\"{ETCD_VERSION}\",\"etcdcluster\":\"{cluster}\",\"storage\":\"{storage}\"}}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Behaviour.md 11.1.
    #[test]
    fn versions_are_written_as_in_etcd() {
        assert_eq!(
            body(Some(ClusterVersion { major: 3, minor: 6 })),
            r#"{"etcdserver":"3.6.14","etcdcluster":"3.6.0","storage":"3.6.0"}"#
        );
        assert_eq!(
            body(None),
            r#"{"etcdserver":"3.6.14","etcdcluster":"not_decided","storage":"unknown"}"#
        );
    }
}
