//! Watch responses as bytes: a head, and events that were encoded once for all who watch them.
//!
//! The generated service would encode every event for every watcher, so the method is served by hand: the same
//! path, the same messages.

use std::convert::Infallible;
use std::future::{Future, ready};
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BufMut;
use futures_util::FutureExt;
use http::Request;
use kvd_proto::etcdserverpb as pb;
use prost::Message as _;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Response, Status, Streaming};
use tower::Service;

use super::watch::{WatchResponses, WatchService};
use crate::node::watch::Batch;

/// One message to the client.
#[derive(Debug)]
pub(crate) struct Outgoing {
    /// All but the events.
    pub(crate) head: pb::WatchResponse,
    /// Which events of a batch it carries.
    pub(crate) events: Option<(Arc<Batch>, Range<usize>)>,
}

/// The service `etcdserverpb.Watch`.
#[derive(Clone)]
pub(crate) struct WatchServer {
    service: Arc<WatchService>,
    received_bytes_max: usize,
}

impl WatchServer {
    pub(crate) fn new(service: WatchService, received_bytes_max: usize) -> Self {
        Self { service: Arc::new(service), received_bytes_max }
    }
}

impl NamedService for WatchServer {
    const NAME: &'static str = "etcdserverpb.Watch";
}

type Answer<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl Service<Request<Body>> for WatchServer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    /// Paths that lead to no method were answered before (`layers`), so it can only be the one there is.
    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let method = Method(Arc::clone(&self.service));
        let mut grpc = Grpc::new(WatchCodec)
            .apply_max_message_size_config(Some(self.received_bytes_max), None);
        async move { grpc.streaming(method, request).await }.map(Ok).boxed()
    }
}

struct Method(Arc<WatchService>);

impl StreamingService<pb::WatchRequest> for Method {
    type Response = Outgoing;
    type ResponseStream = WatchResponses;
    type Future = std::future::Ready<Result<Response<WatchResponses>, Status>>;

    fn call(&mut self, request: tonic::Request<Streaming<pb::WatchRequest>>) -> Self::Future {
        ready(Ok(Response::new(self.0.open(request))))
    }
}

struct WatchCodec;

impl Codec for WatchCodec {
    type Encode = Outgoing;
    type Decode = pb::WatchRequest;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for WatchCodec {
    type Item = Outgoing;
    type Error = Status;

    fn encode(&mut self, item: Outgoing, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.head.encode(buffer).map_err(|error| Status::internal(error.to_string()))?;
        if let Some((batch, part)) = item.events {
            for event in &batch.events[part] {
                buffer.put_slice(event);
            }
        }
        Ok(())
    }
}

impl Decoder for WatchCodec {
    type Item = pb::WatchRequest;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<pb::WatchRequest>, Status> {
        let request = pb::WatchRequest::decode(buffer);
        request.map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}
