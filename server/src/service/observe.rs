//! Counts how calls end: reads the status from an answer's head or, as it passes, from its trailers.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::Code;

use crate::metrics::{GrpcMethod, Metrics};

/// Counts the end of this call, now or when its body has passed.
pub(super) fn observe(
    response: Response,
    method: &'static GrpcMethod,
    metrics: Arc<Metrics>,
) -> Response {
    if let Some(code) = code(response.headers()) {
        metrics.grpc_handled(method, code as i32);
        return response;
    }
    response.map(|body| Body::new(Observed { body, pending: Some(Pending { method, metrics }) }))
}

/// A body whose trailers are read as they pass.
struct Observed {
    body: Body,
    pending: Option<Pending>,
}

/// A call whose end is not known yet. Dropped before that, the caller has gone.
struct Pending {
    method: &'static GrpcMethod,
    metrics: Arc<Metrics>,
}

impl Pending {
    fn ended(&self, code: Code) {
        self.metrics.grpc_handled(self.method, code as i32);
    }
}

impl HttpBody for Observed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(code) = frame.trailers_ref().and_then(code)
            && let Some(pending) = self.pending.take()
        {
            pending.ended(code);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        if let Some(pending) = self.pending.take() {
            pending.ended(Code::Cancelled);
        }
    }
}

fn code(headers: &HeaderMap) -> Option<Code> {
    headers.get("grpc-status").map(|value| Code::from_bytes(value.as_bytes()))
}
