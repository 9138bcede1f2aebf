//! What a call costs beyond tonic: `cargo run --release -p kvd-client --example cost`.
//!
//! Two clients call one server in this process by turns, a bare tonic client and ours, a thousand calls each time; the
//! processor's time of the whole process is counted. Prints the median over the turns, and fails above 5 µs.

use std::pin::Pin;
use std::time::Duration;

use kvd_client::proto::etcdserverpb as pb;
use kvd_client::proto::etcdserverpb::kv_client::KvClient;
use kvd_client::proto::etcdserverpb::kv_server::{Kv, KvServer};
use kvd_client::{Client, Options};
use rustix::time::{ClockId, clock_gettime};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status};

/// Calls of one turn.
const CALLS: u32 = 1000;
/// Turns of each client: a million calls.
const TURNS: usize = 500;
/// What a call may cost beyond tonic.
const LIMIT: Duration = Duration::from_micros(5);

/// Answers puts, and nothing else.
struct Nothing;

#[tonic::async_trait]
impl Kv for Nothing {
    type RangeStreamStream =
        Pin<Box<dyn tokio_stream::Stream<Item = Result<pb::RangeStreamResponse, Status>> + Send>>;

    async fn put(&self, _: Request<pb::PutRequest>) -> Result<Response<pb::PutResponse>, Status> {
        Ok(Response::new(pb::PutResponse::default()))
    }

    async fn range(
        &self,
        _: Request<pb::RangeRequest>,
    ) -> Result<Response<pb::RangeResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn range_stream(
        &self,
        _: Request<pb::RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn delete_range(
        &self,
        _: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn txn(&self, _: Request<pb::TxnRequest>) -> Result<Response<pb::TxnResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn compact(
        &self,
        _: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let server = Server::builder().add_service(KvServer::new(Nothing));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true);
    let bare = KvClient::new(endpoint.connect().await?);
    let ours = Client::lazy(Options::new([address.to_string()]))?;
    let request = pb::PutRequest { key: "key".into(), value: "value".into(), ..Default::default() };
    let mut extra = Vec::with_capacity(TURNS);
    // The first turn warms up.
    for turn in 0..=TURNS {
        let begin = processor_time();
        for _ in 0..CALLS {
            bare.clone().put(request.clone()).await?;
        }
        let middle = processor_time();
        for _ in 0..CALLS {
            ours.put_request(request.clone()).await?;
        }
        let (tonic, client) = (middle - begin, processor_time() - middle);
        if turn > 0 {
            extra.push((client.saturating_sub(tonic) / CALLS, tonic / CALLS));
        }
    }
    extra.sort_unstable();
    let (median, _) = extra[TURNS / 2];
    let (low, high) = (extra[TURNS / 10].0, extra[TURNS - TURNS / 10].0);
    let mut tonic: Vec<Duration> = extra.iter().map(|(_, tonic)| *tonic).collect();
    tonic.sort_unstable();
    eprintln!(
        "tonic and the server: {:?} a call; ours: {median:?} more ({low:?} to {high:?})",
        tonic[TURNS / 2]
    );
    if median > LIMIT {
        return Err(format!("more than {LIMIT:?}").into());
    }
    Ok(())
}

fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or(0), nanos.unwrap_or(0))
}
