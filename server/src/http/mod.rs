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
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ALLOW,
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
        .route("/version", get(version::answer).fallback(only_get))
        .with_state(member)
        .route_layer(from_fn(cross_origin))
}

/// The routes of metrics URLs.
pub fn metrics_router(node: Arc<Node>, metrics: Arc<Metrics>) -> Router {
    shared_routes().with_state(Member { node, metrics }).fallback(not_found)
}

fn shared_routes() -> Router<Member> {
    Router::new()
        .route("/health", get(health::health).fallback(only_get))
        .route("/livez", get(health::livez).fallback(only_get))
        .route("/livez/{check}", get(health::livez_one).fallback(only_get))
        .route("/readyz", get(health::readyz).fallback(only_get))
        .route("/readyz/{check}", get(health::readyz_one).fallback(only_get))
        .route("/metrics", get(metrics::answer).fallback(only_get))
}

/// The answer to another method than GET.
async fn only_get() -> impl IntoResponse {
    (StatusCode::METHOD_NOT_ALLOWED, [(ALLOW, "GET")], "Method Not Allowed\n")
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

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http::Request as HttpRequest;
    use tower::ServiceExt;

    use super::*;

    fn router() -> Router {
        let hello = get(|| async { "hello" }).fallback(only_get);
        Router::new().route("/health", hello).route_layer(from_fn(cross_origin))
    }

    async fn ask(method: Method) -> Response {
        let request = HttpRequest::builder().method(method).uri("/health").body(Body::empty());
        router().oneshot(request.unwrap()).await.unwrap()
    }

    /// Behaviour.md 11.1: GET only, OPTIONS for browsers, every origin.
    #[tokio::test]
    async fn methods_and_origins() {
        let answer = ask(Method::GET).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()[ACCESS_CONTROL_ALLOW_ORIGIN], "*");
        let answer = ask(Method::POST).await;
        assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(answer.headers()[ALLOW], "GET");
        assert_eq!(ask(Method::OPTIONS).await.status(), StatusCode::OK);
    }
}
