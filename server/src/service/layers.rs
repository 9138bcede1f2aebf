//! What happens to every gRPC call before and after its handler: unknown names, checks of the metadata, the
//! caller's deadline, metrics, and the one text that tonic words differently (behaviour.md 10.1, 10.2).

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};
use tonic::{Code, Status};

use super::learner;
use super::methods::{self, Unknown};
use super::observe::observe;
use super::status;
use crate::metrics::{GrpcMethod, Metrics};
use crate::node::{Node, RequestError, Unavailable};

/// What the layer needs of the member.
#[derive(Clone)]
pub(crate) struct Layer {
    /// Asked for the leader.
    pub(crate) node: Arc<Node>,
    /// Counts calls.
    pub(crate) metrics: Arc<Metrics>,
}

/// Handles one request of the client port that no HTTP route claimed.
pub(crate) async fn grpc(State(layer): State<Layer>, request: Request, next: Next) -> Response {
    if !is_grpc(request.headers()) {
        return not_found().await;
    }
    let path = request.uri().path().to_owned();
    let method = match methods::find(&path) {
        Ok(found) => found,
        Err(unknown) => return refusal(unknown_text(unknown)),
    };
    layer.metrics.grpc_started(method);
    let response = if methods::is_served(method) {
        let allowed = answers(&layer.node, method);
        let allowed = allowed.and_then(|()| learner::answers(&layer.node, method));
        match allowed.and_then(|()| checked(&layer.node, request.headers())) {
            Ok(()) => within(deadline(request.headers()), next.run(request)).await,
            Err(refused) => refusal(refused),
        }
    } else {
        refusal(status::unserved(method.name))
    };
    observe(etcds_wording(response), method, layer.metrics)
}

/// The answer to a path that leads nowhere, in the words of etcd's HTTP server (behaviour.md 11.1).
pub(crate) async fn not_found() -> Response {
    (
        StatusCode::NOT_FOUND,
        [
            (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        ],
        "404 page not found\n",
    )
        .into_response()
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

fn unknown_text(unknown: Unknown<'_>) -> Status {
    Status::unimplemented(match unknown {
        Unknown::Service(service) => format!("unknown service {service}"),
        Unknown::Method(service, method) => {
            format!("unknown method {method} for service {service}")
        }
    })
}

/// The checks of behaviour.md 10.2 that need no message: the client's version, then its wish for a leader.
fn checked(node: &Node, headers: &HeaderMap) -> Result<(), Status> {
    if let Some(version) = headers.get("client-api-version")
        && std::str::from_utf8(version.as_bytes()).is_err()
    {
        return Err(Status::invalid_argument("etcdserver: invalid client api version"));
    }
    let wants_leader = headers.get("hasleader").is_some_and(|value| value.as_bytes() == b"true");
    if wants_leader && node.leader().is_none() {
        return Err(status::status(RequestError::Unavailable(Unavailable::NoLeader)));
    }
    Ok(())
}

/// A member whose state is known to be wrong tells how it is doing, and nothing else (hazard B10).
fn answers(node: &Node, method: &GrpcMethod) -> Result<(), Status> {
    let tells = ["etcdserverpb.Maintenance", "grpc.health.v1.Health"].contains(&method.service);
    if tells || !node.fence().is_raised() {
        return Ok(());
    }
    Err(status::status(RequestError::Unavailable(Unavailable::Diverged)))
}

/// A call that failed before its handler: status in the head, no body.
fn refusal(status: Status) -> Response {
    status.into_http()
}

/// The time that the caller gives, from the header that gRPC defines for it.
fn deadline(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let nanoseconds_each: u64 = match unit {
        "n" => 1,
        "u" => 1_000,
        "m" => 1_000_000,
        "S" => 1_000_000_000,
        "M" => 60_000_000_000,
        "H" => 3_600_000_000_000,
        _ => return None,
    };
    let number: u64 = number.parse().ok()?;
    Some(Duration::from_nanos(number.saturating_mul(nanoseconds_each)))
}

/// Waits for an answer's head as long as the caller does.
async fn within(deadline: Option<Duration>, answer: impl Future<Output = Response>) -> Response {
    let Some(deadline) = deadline else {
        return answer.await;
    };
    match tokio::time::timeout(deadline, answer).await {
        Ok(response) => response,
        Err(_elapsed) => {
            refusal(status::status(RequestError::Unavailable(Unavailable::DeadlineExceeded)))
        }
    }
}

/// tonic refuses a message above the limit with another code and text than gRPC in Go, which clients of
/// etcd know (behaviour.md 9.2).
fn etcds_wording(response: Response) -> Response {
    match Status::from_header_map(response.headers()).as_ref().and_then(too_large) {
        Some(status) => refusal(status),
        None => response,
    }
}

/// A message above the limit in gRPC's words, if that is what it is.
pub(crate) fn too_large(status: &Status) -> Option<Status> {
    if status.code() != Code::OutOfRange {
        return None;
    }
    let sizes = status.message().strip_prefix("Error, decoded message length too large: found ")?;
    let (found, limit) = sizes.split_once(" bytes, the limit is: ")?;
    let limit = limit.strip_suffix(" bytes")?;
    Some(Status::resource_exhausted(format!(
        "grpc: received message larger than max ({found} vs. {limit})"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_read() {
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            deadline(&headers)
        };
        assert_eq!(of("100m"), Some(Duration::from_millis(100)));
        assert_eq!(of("7S"), Some(Duration::from_secs(7)));
        assert_eq!(of("1H"), Some(Duration::from_secs(3600)));
        assert_eq!(of("99999999H"), Some(Duration::from_nanos(u64::MAX)));
        for bad in ["", "S", "5", "5s", "-5S", "5.0S"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    /// The message is tonic's; should it change its words, clients must not notice.
    #[test]
    fn too_large_messages_are_refused_in_gos_words() {
        let tonics = Status::out_of_range(
            "Error, decoded message length too large: found 2097153 bytes, the limit is: 2097152 bytes",
        );
        let status = too_large(&tonics).unwrap();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(
            status.message(),
            "grpc: received message larger than max (2097153 vs. 2097152)"
        );
        let other = Status::out_of_range("etcdserver: mvcc: required revision has been compacted");
        assert!(too_large(&other).is_none());
    }
}
