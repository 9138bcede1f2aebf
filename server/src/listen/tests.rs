//! Connections that misbehave, and those that are served while the member stops.

use axum::routing::get;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::*;
use crate::net::{BoxFuture, Tcp};

fn limits() -> ConnectionLimits {
    ConnectionLimits {
        first_byte_deadline: Duration::from_millis(50),
        drain_deadline: Duration::from_secs(20),
        ..ConnectionLimits::new(100, None, Duration::from_secs(20))
    }
}

fn url(text: &str) -> Url {
    Url::parse(text).unwrap()
}

/// A free port of this host; taken again by whoever binds it next.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

async fn start(router: Router, limits: ConnectionLimits) -> (u16, Shutdown, JoinHandle<()>) {
    let port = free_port();
    let socket = bind(&Tcp, &url(&format!("http://localhost:{port}"))).await.unwrap();
    let shutdown = Shutdown::new();
    let served = tokio::spawn(serve(socket, router, shutdown.clone(), limits));
    (port, shutdown, served)
}

async fn connect(port: u16) -> TcpStream {
    TcpStream::connect(("127.0.0.1", port)).await.unwrap()
}

fn hello() -> Router {
    Router::new().route("/", get(|| async { "hello" }))
}

/// What the server says until it closes the connection.
async fn said(stream: &mut TcpStream) -> String {
    let mut said = Vec::new();
    stream.read_to_end(&mut said).await.unwrap();
    String::from_utf8_lossy(&said).into_owned()
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let (port, shutdown, served) = start(hello(), limits()).await;
    let again = bind(&Tcp, &url(&format!("http://127.0.0.1:{port}"))).await;
    let error = again.err().unwrap().to_string();
    assert!(error.starts_with(&format!("cannot listen on http://127.0.0.1:{port}: ")), "{error}");
    let other = bind(&Tcp, &url("https://127.0.0.1:1")).await.err().unwrap().to_string();
    assert_eq!(other, "cannot listen on https://127.0.0.1:1: only http:// is served yet");
    shutdown.begin();
    served.await.unwrap();
}

#[tokio::test]
async fn http1_is_served_byte_by_byte() {
    let (port, shutdown, served) = start(hello(), limits()).await;
    let mut stream = connect(port).await;
    for byte in b"PRI / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" {
        stream.write_all(&[*byte]).await.unwrap();
    }
    assert!(said(&mut stream).await.starts_with("HTTP/1.1 405"), "not taken for HTTP/2");
    let mut stream = connect(port).await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    assert!(said(&mut stream).await.ends_with("hello"));
    shutdown.begin();
    served.await.unwrap();
}

#[tokio::test]
async fn http2_is_served_on_the_same_port() {
    let (port, shutdown, served) = start(hello(), limits()).await;
    let io = TokioIo::new(connect(port).await);
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let connection = tokio::spawn(connection);
    let uri = format!("http://127.0.0.1:{port}/");
    let request = http::Request::get(uri).body(axum::body::Body::empty()).unwrap();
    assert_eq!(client.send_request(request).await.unwrap().status(), 200);
    shutdown.begin();
    served.await.unwrap();
    // GOAWAY ended it, not a broken pipe.
    connection.await.unwrap().unwrap();
}

#[tokio::test]
async fn silent_connections_are_closed() {
    let (port, shutdown, served) = start(hello(), limits()).await;
    let mut silent = connect(port).await;
    assert_eq!(said(&mut silent).await, "");
    let mut hesitant = connect(port).await;
    hesitant.write_all(b"PRI * HT").await.unwrap();
    assert_eq!(said(&mut hesitant).await, "");
    shutdown.begin();
    served.await.unwrap();
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_at_once() {
    let limits = ConnectionLimits {
        connections_max: 1,
        first_byte_deadline: Duration::from_secs(60),
        ..limits()
    };
    let (port, shutdown, served) = start(hello(), limits).await;
    let mut first = connect(port).await;
    first.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    first.read_exact(&mut answer).await.unwrap();
    let mut second = connect(port).await;
    // Closed with what it said unread, so the client may see a reset.
    second.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut said = Vec::new();
    let closed = second.read_to_end(&mut said).await;
    assert!(closed.is_err() || said.is_empty());
    shutdown.begin();
    served.await.unwrap();
}

/// A request that runs when the member stops is answered; new connections are not accepted.
#[tokio::test]
async fn running_requests_end_before_the_server() {
    let (entered, released) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (entering, releasing) = (Arc::clone(&entered), Arc::clone(&released));
    let slow = move || async move {
        entering.notify_one();
        releasing.notified().await;
        "done"
    };
    let (port, shutdown, served) = start(Router::new().route("/", get(slow)), limits()).await;
    let mut stream = connect(port).await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    entered.notified().await;
    shutdown.begin();
    released.notify_one();
    assert!(said(&mut stream).await.ends_with("done"));
    served.await.unwrap();
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err());
}

/// The wait for running requests is bounded.
#[tokio::test]
async fn requests_that_never_end_are_cut() {
    let entered = Arc::new(Notify::new());
    let entering = Arc::clone(&entered);
    let stuck = move || async move {
        entering.notify_one();
        std::future::pending::<()>().await;
    };
    let limits = ConnectionLimits { drain_deadline: Duration::from_millis(20), ..limits() };
    let (port, shutdown, served) = start(Router::new().route("/", get(stuck)), limits).await;
    let mut stream = connect(port).await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    entered.notified().await;
    shutdown.begin();
    served.await.unwrap();
}

/// A socket that fails some times before it accepts.
struct Flaky {
    failures: u32,
    then: Box<dyn Listen>,
}

impl Listen for Flaky {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<BoxIo>> {
        Box::pin(async move {
            if self.failures > 0 {
                self.failures -= 1;
                return Err(io::Error::other("too many open files"));
            }
            self.then.accept().await
        })
    }
}

#[tokio::test]
async fn failing_accepts_are_survived() {
    let port = free_port();
    let then = bind(&Tcp, &url(&format!("http://127.0.0.1:{port}"))).await.unwrap();
    let shutdown = Shutdown::new();
    let incoming = Box::new(Flaky { failures: 3, then });
    let served = tokio::spawn(serve(incoming, hello(), shutdown.clone(), limits()));
    let mut stream = connect(port).await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    assert!(said(&mut stream).await.ends_with("hello"));
    shutdown.begin();
    served.await.unwrap();
}
