//! Sockets and connections: HTTP/1.1 and HTTP/2 on one port, told apart by the first bytes (behaviour.md
//! 10.1), with bounds on what a connection may cost before and while it is served.
//!
//! Where connections come from is behind [`Listen`], so the simulator's go the same way as TCP's. Knows
//! nothing of what is served.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::config::{Scheme, Url};
use crate::limits::{
    ACCEPT_BACKOFF, CONNECTION_WINDOW_BYTES, CONNECTIONS_MAX, DESCRIPTOR_RESERVE, DRAIN_DEADLINE,
    FIRST_BYTE_DEADLINE, HEAD_DEADLINE,
};
use crate::net::{BoxIo, Listen, Net};
use crate::shutdown::Shutdown;

/// What every HTTP/2 connection begins with.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Why a URL is not listened on. One line that says which and why.
#[derive(Debug, Error)]
pub enum BindError {
    /// Its scheme needs what is not there yet.
    #[error("cannot listen on {0}: only http:// is served yet")]
    Scheme(Url),
    /// The address is taken or not this host's.
    #[error("cannot listen on {url}: {error}")]
    Address {
        /// What was to be listened on.
        url: Url,
        /// What the system said.
        error: io::Error,
    },
}

/// What connections may cost.
#[derive(Clone, Debug)]
pub struct ConnectionLimits {
    /// Connections at a time; the next one is closed at once.
    pub connections_max: usize,
    /// Time in which a new connection must show which HTTP it speaks.
    pub first_byte_deadline: Duration,
    /// Concurrent requests of one HTTP/2 connection.
    pub concurrent_streams_max: u32,
    /// Silence after which an HTTP/2 connection is asked whether it lives; `None` for never.
    pub keepalive_interval: Option<Duration>,
    /// Time that it has to answer.
    pub keepalive_timeout: Duration,
    /// Time that running requests get once the member stops.
    pub drain_deadline: Duration,
}

impl ConnectionLimits {
    /// Limits of a port: what the flags say, and connections as the process has descriptors for.
    #[must_use]
    pub fn new(
        concurrent_streams_max: u32,
        keepalive_interval: Option<Duration>,
        keepalive_timeout: Duration,
    ) -> Self {
        Self {
            connections_max: connections_max(),
            first_byte_deadline: FIRST_BYTE_DEADLINE,
            concurrent_streams_max,
            keepalive_interval,
            keepalive_timeout,
            drain_deadline: DRAIN_DEADLINE,
        }
    }

    /// Limits of the port for peers: they are few, and what they send is bounded elsewhere.
    #[must_use]
    pub fn of_peers() -> Self {
        let ping = Duration::from_secs(5);
        // Append streams never end by themselves, so nothing is gained by waiting for them.
        Self { drain_deadline: Duration::ZERO, ..Self::new(u32::MAX, Some(ping), ping) }
    }
}

/// Opens a socket for a URL.
pub async fn bind(net: &dyn Net, url: &Url) -> Result<Box<dyn Listen>, BindError> {
    if url.scheme != Scheme::Http {
        return Err(BindError::Scheme(url.clone()));
    }
    // As in etcd, the name means the IPv4 address; otherwise the order of the hosts file would decide.
    let host = if url.host == "localhost" { "127.0.0.1" } else { &url.host };
    let listening = net.listen(host.to_owned(), url.port).await;
    listening.map_err(|error| BindError::Address { url: url.clone(), error })
}

/// Serves what comes in until the member stops; then tells every connection to end, and waits for running
/// requests as long as the limits allow.
pub async fn serve(
    mut incoming: Box<dyn Listen>,
    router: Router,
    shutdown: Shutdown,
    limits: ConnectionLimits,
) {
    let free = Arc::new(Semaphore::new(limits.connections_max.min(Semaphore::MAX_PERMITS)));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.begun() => break,
            Some(_ended) = connections.join_next() => continue,
            accepted = incoming.accept() => accepted,
        };
        match accepted {
            Ok(io) => match Arc::clone(&free).try_acquire_owned() {
                Ok(permit) => {
                    let served = connection(io, router.clone(), shutdown.clone(), limits.clone());
                    connections.spawn(async move {
                        served.await;
                        drop(permit);
                    });
                }
                Err(_none_free) => tracing::debug!("connection refused: too many"),
            },
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::select! {
                    () = shutdown.begun() => break,
                    () = tokio::time::sleep(ACCEPT_BACKOFF) => {}
                }
            }
        }
    }
    drop(incoming);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(limits.drain_deadline, drained).await.is_err() {
        tracing::info!(connections = connections.len(), "closing connections that did not end");
    }
    connections.shutdown().await;
}

/// Serves one connection to its end. How it fails is its client's business.
async fn connection(io: BoxIo, router: Router, shutdown: Shutdown, limits: ConnectionLimits) {
    let begun = tokio::time::timeout(limits.first_byte_deadline, Begun::read(io));
    let begun = tokio::select! {
        () = shutdown.begun() => return,
        begun = begun => begun,
    };
    let ended = match begun {
        Ok(Ok(Some(begun))) if begun.is_http2() => http2(begun, router, &shutdown, &limits).await,
        Ok(Ok(Some(begun))) => http1(begun, router, &shutdown).await,
        Ok(Ok(None)) => Ok(()),
        Ok(Err(error)) => {
            tracing::debug!(%error, "connection broke before its first request");
            Ok(())
        }
        Err(_elapsed) => {
            tracing::debug!("connection said nothing in time");
            Ok(())
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

async fn http1(io: Begun, router: Router, shutdown: &Shutdown) -> hyper::Result<()> {
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_DEADLINE)
            .serve_connection(TokioIo::new(io), TowerToHyperService::new(router))
    );
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = shutdown.begun() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

async fn http2(
    io: Begun,
    router: Router,
    shutdown: &Shutdown,
    limits: &ConnectionLimits,
) -> hyper::Result<()> {
    let mut connection = std::pin::pin!(
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.concurrent_streams_max)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .keep_alive_interval(limits.keepalive_interval)
            .keep_alive_timeout(limits.keepalive_timeout)
            .serve_connection(TokioIo::new(io), TowerToHyperService::new(router))
    );
    tokio::select! {
        ended = connection.as_mut() => return ended,
        // GOAWAY: running requests go on, new ones go elsewhere.
        () = shutdown.begun() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

/// A connection of which enough was read to tell HTTP/2 from HTTP/1.1.
struct Begun {
    /// Read already, to be read again.
    first: [u8; HTTP2_PREFACE.len()],
    /// Bytes of `first` that count.
    filled: usize,
    /// Bytes of `first` that were handed on.
    taken: usize,
    rest: BoxIo,
}

impl Begun {
    /// Reads until the versions differ; `None` if the client left without a word.
    async fn read(rest: BoxIo) -> io::Result<Option<Self>> {
        let mut begun = Self { first: [0; HTTP2_PREFACE.len()], filled: 0, taken: 0, rest };
        while begun.filled < HTTP2_PREFACE.len() && HTTP2_PREFACE.starts_with(begun.seen()) {
            let read = begun.rest.read(&mut begun.first[begun.filled..]).await?;
            if read == 0 {
                return Ok((begun.filled > 0).then_some(begun));
            }
            begun.filled += read;
        }
        Ok(Some(begun))
    }

    fn is_http2(&self) -> bool {
        self.seen() == HTTP2_PREFACE
    }

    fn seen(&self) -> &[u8] {
        &self.first[..self.filled]
    }
}

impl AsyncRead for Begun {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let left = &self.first[self.taken..self.filled];
        if left.is_empty() {
            return Pin::new(&mut self.rest).poll_read(context, into);
        }
        let moved = left.len().min(into.remaining());
        into.put_slice(&left[..moved]);
        self.taken += moved;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Begun {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.rest).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.rest).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.rest.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.rest).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.rest).poll_shutdown(context)
    }
}

/// Descriptors that the process may have, less those kept for files and peers (behaviour.md 10.3).
fn connections_max() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let spare = limit.map(|limit| limit.saturating_sub(DESCRIPTOR_RESERVE).max(1));
    let spare = spare.and_then(|spare| usize::try_from(spare).ok());
    spare.map_or(CONNECTIONS_MAX, |spare| spare.min(CONNECTIONS_MAX))
}

#[cfg(test)]
mod tests;
