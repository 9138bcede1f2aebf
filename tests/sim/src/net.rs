//! turmoil as the server's network, and gRPC channels of clients over it.

use std::io;
use std::net::Ipv4Addr;

use hyper_util::rt::TokioIo;
use kvd::net::{BoxFuture, BoxIo, Listen, Net};
use tonic::transport::{Channel, Endpoint};
use turmoil::net::{TcpListener, TcpStream};

/// The simulated network.
#[derive(Clone, Copy, Debug)]
pub struct SimNet;

impl Net for SimNet {
    fn connect(&self, host: String, port: u16) -> BoxFuture<'static, io::Result<BoxIo>> {
        Box::pin(connect(host, port))
    }

    fn listen(&self, _host: String, port: u16) -> BoxFuture<'static, io::Result<Box<dyn Listen>>> {
        Box::pin(async move {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await?;
            Ok(Box::new(SimListen(listener)) as Box<dyn Listen>)
        })
    }
}

struct SimListen(TcpListener);

impl Listen for SimListen {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<BoxIo>> {
        Box::pin(async move { Ok(Box::new(self.0.accept().await?.0) as BoxIo) })
    }
}

async fn connect(host: String, port: u16) -> io::Result<BoxIo> {
    Ok(Box::new(TcpStream::connect((host.as_str(), port)).await?) as BoxIo)
}

/// A client's channel to a member, connected when first used.
#[must_use]
pub fn channel(host: &str, port: u16) -> Channel {
    let host = host.to_owned();
    let connector = tower::service_fn(move |_uri: http::Uri| {
        let connected = connect(host.clone(), port);
        async move { connected.await.map(TokioIo::new) }
    });
    let second = std::time::Duration::from_secs(1);
    // The URI names nobody: the connector knows the address.
    Endpoint::from_static("http://member")
        .connect_timeout(second)
        .http2_keep_alive_interval(second)
        .keep_alive_timeout(second)
        .connect_with_connector_lazy(connector)
}
