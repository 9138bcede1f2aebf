//! Plain HTTP beside gRPC: health, version and metrics (behaviour.md 11.1).

mod health;
mod metrics;
mod version;

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
};
use http::{HeaderValue, Method, StatusCode};

use crate::metrics::Metrics;
use crate::node::Node;
use crate::service::layers::not_found;

/// What the routes need of the member.
#[derive(Clone)]
struct Member {
    node: Arc<Node>,
    metrics: Arc<Metrics>,
}

/// The routes of client URLs, without a fallback: the caller adds the gRPC services there.
pub fn router(node: Arc<Node>, metrics: Arc<Metrics>) -> Router {
    let member = Member { node, metrics };
    shared_routes()
        .route("/version", get(version::answer))
        .with_state(member)
        .route_layer(from_fn(cross_origin))
}

/// The routes of metrics URLs.
pub fn metrics_router(node: Arc<Node>, metrics: Arc<Metrics>) -> Router {
    shared_routes().with_state(Member { node, metrics }).fallback(not_found)
}

fn shared_routes() -> Router<Member> {
    Router::new()
        .route("/health", get(health::health))
        .route("/livez", get(health::livez))
        .route("/livez/{check}", get(health::livez_one))
        .route("/readyz", get(health::readyz))
        .route("/readyz/{check}", get(health::readyz_one))
        .route("/metrics", get(metrics::answer))
}

/// Lets pages of any origin ask: `--cors` and `--host-whitelist` are `*`.
async fn cross_origin(request: Request, next: Next) -> Response {
    let mut response = if request.method() == Method::OPTIONS {
        StatusCode::OK.into_response()
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    let methods = HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE");
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    let allowed = HeaderValue::from_static("accept, content-type, authorization");
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    response
}
