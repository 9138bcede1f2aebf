//! The floors: what the machine allows before any store does its work.
//!
//! A server that answers every request without doing anything shows the cost of gRPC; raw
//! fdatasync shows the cost of being durable. Both belong into every comparison, because they say
//! how much of a difference a store could make at all.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use hdrhistogram::Histogram;
use kvd_proto::etcdserverpb::kv_server::{Kv, KvServer};
use kvd_proto::etcdserverpb::maintenance_server::{Maintenance, MaintenanceServer};
use kvd_proto::etcdserverpb::{
    AlarmRequest, AlarmResponse, CompactionRequest, CompactionResponse, DefragmentRequest,
    DefragmentResponse, DeleteRangeRequest, DeleteRangeResponse, DowngradeRequest,
    DowngradeResponse, HashKvRequest, HashKvResponse, HashRequest, HashResponse, MoveLeaderRequest,
    MoveLeaderResponse, PutRequest, PutResponse, RangeRequest, RangeResponse, RangeStreamResponse,
    ResponseHeader, SnapshotRequest, SnapshotResponse, StatusRequest, StatusResponse, TxnRequest,
    TxnResponse,
};
use serde::Serialize;
use tokio_stream::Empty;
use tonic::{Request, Response, Status};

/// Bytes of one write before a sync: about a log entry with a value of 256 bytes.
const ENTRY_BYTES: usize = 300;

/// The file of the sync floor is written over within these bounds, as a recycled log is.
const FILE_BYTES: usize = 4 * 1024 * 1024;

/// Serves until it is killed.
pub(crate) async fn serve(listen: SocketAddr) -> Result<()> {
    let server = tonic::transport::Server::builder()
        .add_service(KvServer::new(Floor))
        .add_service(MaintenanceServer::new(Floor));
    Ok(server.serve(listen).await?)
}

/// How fast the disk makes small writes durable.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SyncFloor {
    /// Threads that sync a file of their own at the same time.
    pub(crate) threads: usize,
    /// Median, microseconds.
    pub(crate) p50_micros: u64,
    /// 99th percentile, microseconds.
    pub(crate) p99_micros: u64,
    /// All threads together, a second.
    pub(crate) syncs_per_second: f64,
}

/// Writes and syncs on `threads` files in `folder` for about `length`.
pub(crate) fn measure_sync(folder: &Path, threads: usize, length: Duration) -> Result<SyncFloor> {
    let mut sum = Histogram::<u64>::new(3)?;
    std::thread::scope(|scope| {
        let running: Vec<_> =
            (0..threads).map(|_| scope.spawn(|| sync_loop(folder, length))).collect();
        for thread in running {
            let one = thread.join().map_err(|_| anyhow!("a thread that syncs panicked"))??;
            sum.add(&one)?;
        }
        anyhow::Ok(())
    })?;
    Ok(SyncFloor {
        threads,
        p50_micros: sum.value_at_quantile(0.5),
        p99_micros: sum.value_at_quantile(0.99),
        syncs_per_second: sum.len() as f64 / length.as_secs_f64(),
    })
}

fn sync_loop(folder: &Path, length: Duration) -> Result<Histogram<u64>> {
    let mut file = prewritten_file(folder)?;
    let entry = [7; ENTRY_BYTES];
    let mut latencies = Histogram::new(3)?;
    let (begin, mut position) = (Instant::now(), 0);
    while begin.elapsed() < length {
        if position + ENTRY_BYTES > FILE_BYTES {
            file.seek(SeekFrom::Start(0))?;
            position = 0;
        }
        let one = Instant::now();
        file.write_all(&entry)?;
        file.sync_data()?;
        latencies.record(u64::try_from(one.elapsed().as_micros())?)?;
        position += ENTRY_BYTES;
    }
    Ok(latencies)
}

/// A file without a name whose blocks are all there, so that a sync need not write metadata.
fn prewritten_file(folder: &Path) -> Result<File> {
    let mut file = tempfile::tempfile_in(folder)?;
    file.write_all(&vec![1; FILE_BYTES])?;
    file.sync_all()?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

/// The server that does nothing.
struct Floor;

impl Floor {
    /// What every answer carries: a header of the usual size.
    #[expect(clippy::unnecessary_wraps, reason = "the field of every response is optional")]
    fn header() -> Option<ResponseHeader> {
        let id = u64::MAX / 3;
        Some(ResponseHeader { cluster_id: id, member_id: id, revision: 1 << 20, raft_term: 2 })
    }
}

type Answer<T> = Result<Response<T>, Status>;

fn not_measured<T>() -> Answer<T> {
    Err(Status::unimplemented("the floor server answers puts only"))
}

#[tonic::async_trait]
impl Kv for Floor {
    type RangeStreamStream = Empty<Result<RangeStreamResponse, Status>>;

    async fn range(&self, _request: Request<RangeRequest>) -> Answer<RangeResponse> {
        Ok(Response::new(RangeResponse { header: Self::header(), ..Default::default() }))
    }

    async fn range_stream(
        &self,
        _request: Request<RangeRequest>,
    ) -> Answer<Self::RangeStreamStream> {
        not_measured()
    }

    async fn put(&self, _request: Request<PutRequest>) -> Answer<PutResponse> {
        Ok(Response::new(PutResponse { header: Self::header(), prev_kv: None }))
    }

    async fn delete_range(
        &self,
        _request: Request<DeleteRangeRequest>,
    ) -> Answer<DeleteRangeResponse> {
        not_measured()
    }

    async fn txn(&self, _request: Request<TxnRequest>) -> Answer<TxnResponse> {
        not_measured()
    }

    async fn compact(&self, _request: Request<CompactionRequest>) -> Answer<CompactionResponse> {
        not_measured()
    }
}

#[tonic::async_trait]
impl Maintenance for Floor {
    type SnapshotStream = Empty<Result<SnapshotResponse, Status>>;

    async fn status(&self, _request: Request<StatusRequest>) -> Answer<StatusResponse> {
        let header = Self::header();
        let leader = header.as_ref().map_or(0, |header| header.member_id);
        Ok(Response::new(StatusResponse { header, leader, ..Default::default() }))
    }

    async fn alarm(&self, _request: Request<AlarmRequest>) -> Answer<AlarmResponse> {
        not_measured()
    }

    async fn defragment(&self, _request: Request<DefragmentRequest>) -> Answer<DefragmentResponse> {
        not_measured()
    }

    async fn hash(&self, _request: Request<HashRequest>) -> Answer<HashResponse> {
        not_measured()
    }

    async fn hash_kv(&self, _request: Request<HashKvRequest>) -> Answer<HashKvResponse> {
        not_measured()
    }

    async fn snapshot(&self, _request: Request<SnapshotRequest>) -> Answer<Self::SnapshotStream> {
        not_measured()
    }

    async fn move_leader(
        &self,
        _request: Request<MoveLeaderRequest>,
    ) -> Answer<MoveLeaderResponse> {
        not_measured()
    }

    async fn downgrade(&self, _request: Request<DowngradeRequest>) -> Answer<DowngradeResponse> {
        not_measured()
    }
}
