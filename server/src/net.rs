//! The port to the network: TCP in production, turmoil's simulated network in the simulator. What runs over
//! it (HTTP/2, gRPC, Raft) is the same code in both (decision D15).

use std::future::Future;
use std::io;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};

/// A byte stream to somebody else.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// A byte stream of either kind.
pub type BoxIo = Box<dyn Io>;

/// A future of either kind.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Opens connections and listens for them.
pub trait Net: Send + Sync + 'static {
    /// Connects to `host:port`.
    fn connect(&self, host: String, port: u16) -> BoxFuture<'static, io::Result<BoxIo>>;

    /// Listens on `host:port`.
    fn listen(&self, host: String, port: u16) -> BoxFuture<'static, io::Result<Box<dyn Listen>>>;
}

/// A socket that accepts connections.
pub trait Listen: Send + 'static {
    /// The next connection.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<BoxIo>>;
}

/// Real TCP.
#[derive(Clone, Copy, Debug)]
pub struct Tcp;

impl Net for Tcp {
    fn connect(&self, host: String, port: u16) -> BoxFuture<'static, io::Result<BoxIo>> {
        Box::pin(async move {
            let stream = tokio::net::TcpStream::connect((host.as_str(), port)).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as BoxIo)
        })
    }

    fn listen(&self, host: String, port: u16) -> BoxFuture<'static, io::Result<Box<dyn Listen>>> {
        Box::pin(async move {
            let listener = tokio::net::TcpListener::bind((host.as_str(), port)).await?;
            Ok(Box::new(TcpListen(listener)) as Box<dyn Listen>)
        })
    }
}

struct TcpListen(tokio::net::TcpListener);

impl Listen for TcpListen {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<BoxIo>> {
        Box::pin(async move {
            let (stream, _address) = self.0.accept().await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as BoxIo)
        })
    }
}
