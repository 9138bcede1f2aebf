//! More data than memory: a member under a memory limit takes it, reads old revisions of it, and
//! comes back after SIGKILL.

use std::time::Instant;

use anyhow::ensure;
use kvd_client::proto::etcdserverpb::request_op::Request;
use kvd_client::proto::etcdserverpb::{PutRequest, RangeRequest, RequestOp, TxnRequest};
use kvd_tests::cluster::process::{Cluster, Program};
use kvd_tests::fault::caller::Caller;
use kvd_tests::fault::memory::{MemoryLimit, peak_resident_bytes};
use kvd_tests::fault::{has_means, number};
use kvd_tests::tools;
use tokio::task::JoinSet;

const TEST: &str = "memory::more_than_the_memory";
const MIB: u64 = 1 << 20;
/// Bytes of a value.
const VALUE_BYTES: usize = 4096;
/// Puts of one transaction, each on a key of its own.
const PUTS_PER_TXN: u64 = 64;
/// Transactions in flight.
const TXNS_AT_ONCE: usize = 8;
/// Transactions that write the same keys: what older ones wrote is history then.
const GENERATIONS: u64 = 4;

/// 4 GB under 512 MB with `KVD_LONG=1` (a release binary in `KVD_BINARY` makes it bearable), else
/// 768 MB under the same limit. The limit is the judge: the kernel kills who goes beyond it.
#[test]
fn more_than_the_memory() -> anyhow::Result<()> {
    if !has_means(TEST, &[]) {
        return Ok(());
    }
    if !MemoryLimit::is_possible() {
        tools::skip(TEST, "no memory controller of version 1");
        return Ok(());
    }
    let is_long = number("KVD_LONG", 0) == 1;
    let data_bytes = if is_long { 4096 * MIB } else { 768 * MIB };
    let limit_bytes = number("KVD_MEMORY_MIB", 512) * MIB;
    let txns = data_bytes / (PUTS_PER_TXN * VALUE_BYTES as u64);
    let limit = MemoryLimit::new(limit_bytes)?;
    let flags = ["--quota-backend-bytes=17179869184".to_owned()];
    let mut cluster = Cluster::start(&Program::kvd()?, 1, &flags)?;
    limit.hold(cluster.members()[0].pid())?;
    let caller = Caller::new(&cluster.endpoints())?;

    let begun = Instant::now();
    let revisions = fill(&caller, txns)?;
    let filled = begun.elapsed();
    let peak = peak_resident_bytes(cluster.members()[0].pid())?;
    let begun = Instant::now();
    read_back(&caller, &revisions)?;
    let read = begun.elapsed();

    cluster.member(0).kill()?;
    let begun = Instant::now();
    cluster.member(0).spawn()?;
    limit.hold(cluster.members()[0].pid())?;
    cluster.members()[0].wait_ready()?;
    let restarted = begun.elapsed();
    read_back(&caller, &revisions)?;
    let peak_after = peak_resident_bytes(cluster.members()[0].pid())?;
    eprintln!(
        "{} MiB under {} MiB: filled in {filled:.1?}, {} reads in {read:.1?}, restarted in \
         {restarted:.1?}; peak {} MiB, after the restart {} MiB",
        data_bytes / MIB,
        limit_bytes / MIB,
        samples(txns).count(),
        peak / MIB,
        peak_after / MIB
    );
    ensure!(limit.kills()? == 0, "the limit has killed");
    cluster.member(0).kill()
}

/// Writes all transactions; gives the revision of each.
fn fill(caller: &Caller, txns: u64) -> anyhow::Result<Vec<i64>> {
    caller.run(|client| async move {
        let mut revisions = vec![0; usize::try_from(txns)?];
        let mut writers = JoinSet::new();
        for writer in 0..TXNS_AT_ONCE as u64 {
            let client = client.clone();
            writers.spawn(async move {
                let mut told = Vec::new();
                for txn in (writer..txns).step_by(TXNS_AT_ONCE) {
                    let request = TxnRequest { success: puts(txn, txns), ..Default::default() };
                    let reply = client.txn(request).await?;
                    told.push((txn, reply.header.unwrap_or_default().revision));
                }
                Ok::<_, kvd_client::Error>(told)
            });
        }
        while let Some(told) = writers.join_next().await {
            for (txn, revision) in told?? {
                revisions[usize::try_from(txn)?] = revision;
            }
        }
        Ok(revisions)
    })
}

/// Reads keys at the revisions of their transactions, old and new ones.
fn read_back(caller: &Caller, revisions: &[i64]) -> anyhow::Result<()> {
    let txns = revisions.len() as u64;
    for (txn, put) in samples(txns) {
        let revision = revisions[usize::try_from(txn)?];
        let request =
            RangeRequest { key: key(txn, txns, put).into(), revision, ..Default::default() };
        let reply = caller.run(|client| async move { client.range(request).await })?;
        ensure!(reply.kvs.len() == 1, "transaction {txn} is not there at {revision}");
        ensure!(reply.kvs[0].mod_revision == revision, "transaction {txn}: {:?}", reply.kvs[0]);
        ensure!(reply.kvs[0].value == value(txn, put), "transaction {txn}: another value");
    }
    Ok(())
}

/// Some puts from everywhere.
fn samples(txns: u64) -> impl Iterator<Item = (u64, u64)> {
    let step = (txns / 500).max(1);
    (0..txns).step_by(usize::try_from(step).unwrap_or(1)).map(|txn| (txn, txn % PUTS_PER_TXN))
}

fn puts(txn: u64, txns: u64) -> Vec<RequestOp> {
    let one = |put| PutRequest {
        key: key(txn, txns, put).into(),
        value: value(txn, put).into(),
        ..Default::default()
    };
    (0..PUTS_PER_TXN)
        .map(|put| RequestOp { request: Some(Request::RequestPut(one(put))) })
        .collect()
}

fn key(txn: u64, txns: u64, put: u64) -> String {
    format!("k{:06}/{put:02}", txn % (txns / GENERATIONS))
}

/// Differs everywhere, so that nothing is gained by squeezing it.
fn value(txn: u64, put: u64) -> Vec<u8> {
    let mut state = txn * PUTS_PER_TXN + put + 1;
    let mut value = Vec::with_capacity(VALUE_BYTES);
    while value.len() < VALUE_BYTES {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        value.extend_from_slice(&state.to_be_bytes());
    }
    value
}
