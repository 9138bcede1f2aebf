//! One endpoint: its address and the connection to it.

use std::io;
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tonic::transport::Channel;

use crate::error::Error;
use crate::options::Options;

/// Bytes of one answer that may be under way: 1 MiB fills a link of 1 Gbit/s at 8 ms.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// Bytes of all answers that may be under way.
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

/// An endpoint with a connection that is made at the first call and again when it breaks.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    /// As the caller wrote it.
    pub(crate) name: String,
    pub(crate) channel: Channel,
}

impl Endpoint {
    /// Connects to nothing yet, but must be called within a runtime.
    pub(crate) fn new(name: &str, options: &Options) -> Result<Self, Error> {
        let uri = parse(name).map_err(|reason| Error::InvalidEndpoint {
            endpoint: name.to_owned(),
            reason: reason.to_owned(),
        })?;
        let connect_timeout = options.connect_timeout;
        let connector = tower::service_fn(move |uri: Uri| connect(uri, connect_timeout));
        let channel = Channel::builder(uri)
            .http2_keep_alive_interval(options.keep_alive_interval)
            .keep_alive_timeout(options.keep_alive_timeout)
            // Servers of etcd punish probes on idle connections (behaviour.md §10.1).
            .keep_alive_while_idle(false)
            // Fixed: estimating windows takes probes, which such servers may count as well.
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .connect_with_connector_lazy(connector);
        Ok(Self { name: name.to_owned(), channel })
    }
}

/// Ours rather than tonic's, because a timeout must count as a failed connection: only then is it
/// certain that nothing was sent.
async fn connect(uri: Uri, timeout: Duration) -> io::Result<TokioIo<TcpStream>> {
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().unwrap_or(80);
    let connected = tokio::time::timeout(timeout, TcpStream::connect((host, port))).await;
    let stream = connected.map_err(|_| {
        io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {timeout:?}"))
    })??;
    stream.set_nodelay(true)?;
    Ok(TokioIo::new(stream))
}

fn parse(name: &str) -> Result<Uri, &'static str> {
    let address = match name.split_once("://") {
        None => name,
        Some(("http", address)) => address,
        Some(("https", _)) => return Err("TLS is not supported yet"),
        Some(("unix" | "unixs", _)) => return Err("unix sockets are not supported yet"),
        Some(_) => return Err("unknown scheme"),
    };
    let address = address.trim_end_matches('/');
    let uri: Uri = format!("http://{address}").parse().map_err(|_| "not a host and port")?;
    let named = uri.host().is_some_and(|host| !host.is_empty()) && uri.port_u16().is_some();
    if !named || uri.path() != "/" {
        return Err("not a host and port");
    }
    Ok(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_etcdctl_takes() {
        for name in ["127.0.0.1:2379", "http://127.0.0.1:2379", "http://localhost:2379/", "[::1]:1"]
        {
            assert!(parse(name).is_ok(), "{name}");
        }
        for name in
            ["", "http://", "https://a:1", "ftp://a:1", "a:b", "a", "a:1/x", "unix:///a", "a b"]
        {
            assert!(parse(name).is_err(), "{name}");
        }
    }
}
