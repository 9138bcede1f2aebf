//! The TCP connections of one endpoint, counted: what is certain about a request without an answer depends on whether
//! there was one.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// How many connections there are and were.
#[derive(Debug, Default)]
pub(super) struct Link {
    made: AtomicU64,
    open: AtomicU64,
}

/// The connections at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    made: u64,
    open: u64,
}

/// A connection, which counts until it is dropped.
#[derive(Debug)]
pub(super) struct Stream {
    stream: TcpStream,
    link: Arc<Link>,
}

impl Link {
    pub(super) fn look(&self) -> Seen {
        let made = self.made.load(Ordering::SeqCst);
        Seen { made, open: self.open.load(Ordering::SeqCst) }
    }

    /// Nothing can have been sent since then: there was no connection, and none was made.
    pub(super) fn was_down_since(&self, seen: Seen) -> bool {
        seen.open == 0 && self.made.load(Ordering::SeqCst) == seen.made
    }
}

/// Ours rather than tonic's, because a timeout must count as a failed connection: only then is it
/// certain that nothing was sent.
pub(super) async fn connect(
    uri: Uri,
    timeout: Duration,
    link: Arc<Link>,
) -> io::Result<TokioIo<Stream>> {
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().unwrap_or(80);
    let connected = tokio::time::timeout(timeout, TcpStream::connect((host, port))).await;
    let stream = connected.map_err(|_| {
        io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {timeout:?}"))
    })??;
    stream.set_nodelay(true)?;
    link.open.fetch_add(1, Ordering::SeqCst);
    link.made.fetch_add(1, Ordering::SeqCst);
    Ok(TokioIo::new(Stream { stream, link }))
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.link.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
