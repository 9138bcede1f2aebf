//! Leases in great numbers: granting them, counting them, waiting for their end.
//!
//! Promises that every grant is acknowledged with the time to live that was asked for, and that
//! keys are attached before granting is called done. Knows nothing about what is measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use kvd_proto::etcdserverpb::kv_client::KvClient;
use kvd_proto::etcdserverpb::lease_client::LeaseClient;
use kvd_proto::etcdserverpb::request_op::Request;
use kvd_proto::etcdserverpb::watch_client::WatchClient;
use kvd_proto::etcdserverpb::watch_create_request::FilterType;
use kvd_proto::etcdserverpb::watch_request::RequestUnion;
use kvd_proto::etcdserverpb::{
    LeaseGrantRequest, LeaseLeasesRequest, PutRequest, RequestOp, TxnRequest, WatchCreateRequest,
    WatchRequest, WatchResponse,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::bulk::BATCH;
use crate::target::{Cluster, connect};

/// Clients that share a connection while they grant.
const GRANTERS_PER_CHANNEL: usize = 16;

/// Where the keys with leases begin, and the end of a range of them all.
const PREFIX: &str = "leased/";
const PREFIX_END: &str = "leased0";

/// Between two looks at the list of leases, which costs the server something when it is long.
const LIST_POLL: Duration = Duration::from_millis(500);

/// When granted leases end if nobody renews them.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    /// All of them within the second after this moment.
    At(Instant),
    /// Each of them so many seconds after its grant.
    After(i64),
}

impl End {
    /// Seconds to live for a lease that is granted now. The time to live has whole seconds.
    fn ttl(self) -> i64 {
        match self {
            Self::At(moment) => {
                let left = moment.saturating_duration_since(Instant::now()).as_secs();
                i64::try_from(left).unwrap_or(i64::MAX - 1) + 1
            }
            Self::After(seconds) => seconds,
        }
    }
}

/// Leases to grant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grants {
    /// How many.
    pub(crate) leases: u64,
    /// Whether each of them has a key.
    pub(crate) with_keys: bool,
    /// When they end.
    pub(crate) end: End,
    /// Clients that grant at once.
    pub(crate) granters: usize,
}

/// Grants all of them through all members and attaches their keys.
pub(crate) async fn grant_all(cluster: &Cluster, grants: Grants) -> Result<()> {
    let (next, urls) = (Arc::new(AtomicU64::new(0)), cluster.urls_leader_first().await?);
    let mut channels = Vec::new();
    for place in 0..grants.granters.div_ceil(GRANTERS_PER_CHANNEL).max(urls.len()) {
        channels.push(connect(&urls[place % urls.len()]).await?);
    }
    let mut granters = JoinSet::new();
    for place in 0..grants.granters.max(1) {
        let channel = channels[place % channels.len()].clone();
        granters.spawn(grant_batches(channel, Arc::clone(&next), grants));
    }
    while let Some(done) = granters.join_next().await {
        done??;
    }
    Ok(())
}

async fn grant_batches(channel: Channel, next: Arc<AtomicU64>, grants: Grants) -> Result<()> {
    let (mut lease, mut kv) = (LeaseClient::new(channel.clone()), KvClient::new(channel));
    loop {
        let first = next.fetch_add(BATCH, Ordering::Relaxed);
        if first >= grants.leases {
            return Ok(());
        }
        let mut puts = Vec::new();
        for number in first..grants.leases.min(first + BATCH) {
            let ttl = grants.end.ttl();
            let granted = lease.lease_grant(LeaseGrantRequest { ttl, id: 0 }).await?.into_inner();
            ensure!(granted.ttl == ttl, "asked for {ttl} seconds, granted {}", granted.ttl);
            let key = format!("{PREFIX}{number:010}").into();
            let put = PutRequest { key, lease: granted.id, ..Default::default() };
            puts.push(RequestOp { request: Some(Request::RequestPut(put)) });
        }
        if grants.with_keys {
            kv.txn(TxnRequest { success: puts, ..Default::default() }).await?;
        }
    }
}

/// The leases that a member has, by its own list.
pub(crate) async fn count(url: &str) -> Result<u64> {
    let mut lease = LeaseClient::new(connect(url).await?).max_decoding_message_size(usize::MAX);
    let listed = lease.lease_leases(LeaseLeasesRequest {}).await?.into_inner();
    Ok(u64::try_from(listed.leases.len())?)
}

/// Waits until no member has a lease.
pub(crate) async fn all_gone(urls: &[String], limit: Instant) -> Result<()> {
    for url in urls {
        loop {
            let left = count(url).await?;
            if left == 0 {
                break;
            }
            ensure!(Instant::now() < limit, "{url} still has {left} leases");
            tokio::time::sleep(LIST_POLL).await;
        }
    }
    Ok(())
}

/// A watch on the deletion of all keys with leases.
pub(crate) struct Deletions {
    answers: Streaming<WatchResponse>,
    /// The stream lives as long as its requests may come.
    _requests: mpsc::Sender<WatchRequest>,
}

impl Deletions {
    /// Begins to watch at this member.
    pub(crate) async fn watch(url: &str) -> Result<Self> {
        let create = WatchCreateRequest {
            key: Bytes::from(PREFIX),
            range_end: Bytes::from(PREFIX_END),
            filters: vec![FilterType::Noput.into()],
            ..Default::default()
        };
        let (requests, outgoing) = mpsc::channel(1);
        let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        requests.send(request).await?;
        let mut client =
            WatchClient::new(connect(url).await?).max_decoding_message_size(usize::MAX);
        let mut answers = client.watch(ReceiverStream::new(outgoing)).await?.into_inner();
        let created = answers.message().await?.context("the server ended the watch")?;
        ensure!(created.created && !created.canceled, "the watch was not created: {created:?}");
        Ok(Self { answers, _requests: requests })
    }

    /// Waits for so many deletions; the moments of the first and of the last one.
    pub(crate) async fn wait(mut self, keys: u64, limit: Instant) -> Result<(Instant, Instant)> {
        let (mut seen, mut first) = (0, None);
        while seen < keys {
            let answer = tokio::time::timeout_at(limit.into(), self.answers.message()).await;
            let answer = answer.with_context(|| format!("{seen} of {keys} keys are gone"))??;
            let answer = answer.context("the server ended the watch")?;
            ensure!(!answer.canceled, "the server ended the watch: {}", answer.cancel_reason);
            seen += u64::try_from(answer.events.len())?;
            first.get_or_insert_with(Instant::now);
        }
        ensure!(seen == keys, "{seen} deletions of {keys} keys");
        Ok((first.context("there is no key to wait for")?, Instant::now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_granted_at_different_moments_end_in_the_same_second() {
        let end = Instant::now() + Duration::from_millis(10_500);
        assert_eq!(End::At(end).ttl(), 11);
        assert_eq!(End::At(end - Duration::from_secs(1)).ttl(), 10);
        assert_eq!(End::After(60).ttl(), 60);
    }
}
