//! `/health`, `/livez` and `/readyz` with etcd's bodies (behaviour.md 11.1). They ask the node and decide
//! nothing that lasts.

use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderName, StatusCode};
use kvd_core::command::{AlarmKind, RangeQuery};
use kvd_core::range::KeyRange;

use super::Member;
use crate::limits::HEALTH_READ_DEADLINE;
use crate::node::{Consistency, Node};
use crate::service::convert::maintenance::alarm_name;
use crate::service::layers::not_found;
use crate::service::status;

const PLAIN: [(HeaderName, &str); 2] =
    [(CONTENT_TYPE, "text/plain; charset=utf-8"), (X_CONTENT_TYPE_OPTIONS, "nosniff")];

/// One thing that `/livez` or `/readyz` looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    /// A serializable read, unless the member knows why it serves none.
    Alive,
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

const LIVEZ: &[Check] = &[Check::Alive];

const READYZ: &[Check] =
    &[Check::DataCorruption, Check::SerializableRead, Check::LinearizableRead, Check::NonLearner];

impl Check {
    fn name(self) -> &'static str {
        match self {
            Self::DataCorruption => "data_corruption",
            Self::Alive | Self::SerializableRead => "serializable_read",
            Self::LinearizableRead => "linearizable_read",
            Self::NonLearner => "non_learner",
        }
    }

    /// `Err` says what is wrong.
    async fn run(self, node: &Node) -> Result<(), String> {
        match self {
            Self::DataCorruption => {
                if node.fence().is_raised() {
                    return Err("the state of this member differs from the majority's".to_owned());
                }
                let corrupt =
                    node.view().alarms().iter().any(|(_, kind)| *kind == AlarmKind::Corrupt);
                if corrupt { Err("alarm activated: CORRUPT".to_owned()) } else { Ok(()) }
            }
            // It refuses on purpose: to start it again would mend nothing. What it lacks is readiness.
            Self::Alive if node.fence().is_raised() => Ok(()),
            Self::Alive | Self::SerializableRead => read_one(node, Consistency::Serializable).await,
            Self::LinearizableRead => read_one(node, Consistency::Linearizable).await,
            Self::NonLearner if node.status().is_learner => {
                Err("not supported for learner".to_owned())
            }
            Self::NonLearner => Ok(()),
        }
    }
}

/// `/health`: alarms, then the leader, then a read.
pub(super) async fn health(State(member): State<Member>, RawQuery(query): RawQuery) -> Response {
    let query = Query(query.unwrap_or_default());
    let reason = match health_reason(&member.node, &query).await {
        Ok(()) => return (PLAIN, r#"{"health":"true","reason":""}"#).into_response(),
        Err(reason) => reason,
    };
    tracing::warn!(reason, "serving /health false");
    let reason = serde_json::Value::from(reason);
    let body = format!("{{\"health\":\"false\",\"reason\":{reason}}}\n");
    (StatusCode::SERVICE_UNAVAILABLE, PLAIN, body).into_response()
}

async fn health_reason(node: &Node, query: &Query) -> Result<(), String> {
    let excluded: Vec<&str> = query.all("exclude").collect();
    let view = node.view();
    // A member that knows itself to be wrong says so as if it had raised the alarm.
    let fenced = node.fence().is_raised().then_some(AlarmKind::Corrupt);
    let alarms = view.alarms().iter().map(|(_, kind)| *kind).chain(fenced).map(alarm_name);
    if let Some(alarm) = alarms.into_iter().find(|name| !excluded.contains(name)) {
        return Err(format!("ALARM {alarm}"));
    }
    let serializable = query.all("serializable").next() == Some("true");
    if !serializable && node.leader().is_none() {
        return Err("RAFT NO LEADER".to_owned());
    }
    let consistency =
        if serializable { Consistency::Serializable } else { Consistency::Linearizable };
    match tokio::time::timeout(HEALTH_READ_DEADLINE, read_one(node, consistency)).await {
        Ok(read) => read.map_err(|error| format!("RANGE ERROR:{error}")),
        Err(_elapsed) => Err("RANGE ERROR:context deadline exceeded".to_owned()),
    }
}

/// `/livez`: all its checks.
pub(super) async fn livez(State(member): State<Member>, RawQuery(query): RawQuery) -> Response {
    group(&member.node, LIVEZ, &Query(query.unwrap_or_default())).await
}

/// `/readyz`: all its checks.
pub(super) async fn readyz(State(member): State<Member>, RawQuery(query): RawQuery) -> Response {
    group(&member.node, READYZ, &Query(query.unwrap_or_default())).await
}

/// `/livez/<check>`.
pub(super) async fn livez_one(
    State(member): State<Member>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    one(&member.node, LIVEZ, &name, &Query(query.unwrap_or_default())).await
}

/// `/readyz/<check>`.
pub(super) async fn readyz_one(
    State(member): State<Member>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    one(&member.node, READYZ, &name, &Query(query.unwrap_or_default())).await
}

async fn group(node: &Node, checks: &[Check], query: &Query) -> Response {
    let excluded: Vec<&str> = query.all("exclude").collect();
    let wanted = checks.iter().filter(|check| !excluded.contains(&check.name()));
    run(node, wanted, query.has("verbose")).await
}

async fn one(node: &Node, checks: &[Check], name: &str, query: &Query) -> Response {
    match checks.iter().find(|check| check.name() == name) {
        Some(check) => run(node, std::iter::once(check), query.has("verbose")).await,
        None => not_found().await,
    }
}

/// Runs checks one after the other and says how they went.
async fn run(node: &Node, checks: impl Iterator<Item = &Check>, verbose: bool) -> Response {
    let mut results = Vec::new();
    for check in checks {
        results.push((check.name(), check.run(node).await));
    }
    let (status, body) = report(&results, verbose);
    (status, PLAIN, body).into_response()
}

fn report(results: &[(&str, Result<(), String>)], verbose: bool) -> (StatusCode, String) {
    let lines: String = results
        .iter()
        .map(|(name, result)| match result {
            Ok(()) => format!("[+]{name} ok\n"),
            Err(error) => format!("[-]{name} failed: {error}\n"),
        })
        .collect();
    let failed = results.iter().any(|(_, result)| result.is_err());
    match (failed, verbose) {
        (true, _) => (StatusCode::SERVICE_UNAVAILABLE, lines),
        (false, true) => (StatusCode::OK, format!("{lines}ok\n")),
        (false, false) => (StatusCode::OK, "ok\n".to_owned()),
    }
}

/// Reads one key, as a client would.
async fn read_one(node: &Node, consistency: Consistency) -> Result<(), String> {
    let key = KeyRange::Key(Bytes::from_static(b"health"));
    let query = RangeQuery { limit: Some(1), ..RangeQuery::latest(key) };
    let read = node.read(consistency, move |view, access| view.range(&query, access));
    read.await.map(|_answer| ()).map_err(|error| status::status(error).message().to_owned())
}

/// A query string. Names and values of these routes need no escapes.
struct Query(String);

impl Query {
    /// Every value of a name.
    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs().filter(move |(given, _)| *given == name).map(|(_, value)| value)
    }

    /// Whether a name is given, with or without a value.
    fn has(&self, name: &str) -> bool {
        self.pairs().any(|(given, _)| given == name)
    }

    fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_split() {
        let query = Query("exclude=NOSPACE&exclude=CORRUPT&verbose&x=1=2".into());
        assert_eq!(query.all("exclude").collect::<Vec<_>>(), ["NOSPACE", "CORRUPT"]);
        assert!(query.has("verbose") && !query.has("serializable"));
        assert_eq!(query.all("x").next(), Some("1=2"));
        assert!(!Query(String::new()).has("verbose"));
    }

    /// Behaviour.md 11.1.
    #[test]
    fn reports_are_etcds() {
        let good = [("a", Ok(())), ("b", Ok(()))];
        assert_eq!(report(&good, false), (StatusCode::OK, "ok\n".into()));
        assert_eq!(report(&good, true), (StatusCode::OK, "[+]a ok\n[+]b ok\nok\n".into()));
        let bad = [("a", Ok(())), ("b", Err("etcdserver: no leader".into()))];
        let text = "[+]a ok\n[-]b failed: etcdserver: no leader\n";
        assert_eq!(report(&bad, false), (StatusCode::SERVICE_UNAVAILABLE, text.into()));
    }
}
