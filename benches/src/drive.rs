//! The closed loop: clients that each wait for an answer before they ask again.
//!
//! Promises that only operations that began and ended inside the window are counted, and that the
//! servers' consumption is taken over the same window. Errors are counted apart, never as speed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::machine::Device;
use crate::process::Usage;
use crate::target::{Cluster, connect};
use crate::workload::{Client, Workload};

/// Clients that share a connection.
const CLIENTS_PER_CHANNEL: usize = 32;

/// Runs before the window opens: connections, caches and queues reach their usual state.
pub(crate) const WARM_UP: Duration = Duration::from_millis(500);

/// Latencies are kept with three digits up to a minute, in microseconds.
const LATENCY_MAX_MICROS: u64 = 60_000_000;

/// After a failed operation, so that a dead server does not turn the loop into a spin.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(20);

/// What to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// What each client does.
    pub(crate) workload: Workload,
    /// Clients at once.
    pub(crate) clients: usize,
    /// Length of the window.
    pub(crate) window: Duration,
    /// Keys that exist or are written.
    pub(crate) keys: u64,
    /// Bytes of a value.
    pub(crate) value_bytes: usize,
    /// Threads of this process that the clients are spread over.
    pub(crate) threads: usize,
}

/// What came of it.
pub(crate) struct Measured {
    /// Latencies of the operations that succeeded, microseconds.
    pub(crate) latencies: Histogram<u64>,
    /// Length of the window, seconds.
    pub(crate) seconds: f64,
    /// Operations that failed, and the words of one of them.
    pub(crate) errors: (u64, Option<String>),
    /// CPU time of all servers in the window, seconds.
    pub(crate) server_cpu_seconds: f64,
    /// CPU time of this process in the window, seconds.
    pub(crate) client_cpu_seconds: f64,
    /// Bytes that the servers handed to the disk in the window, by their own count.
    pub(crate) server_written_bytes: u64,
    /// Bytes written to the device in the window, by whomever.
    pub(crate) device_written_bytes: Option<u64>,
}

impl Measured {
    /// Operations that succeeded.
    pub(crate) fn operations(&self) -> u64 {
        self.latencies.len()
    }
}

/// From when to when operations count.
#[derive(Clone, Copy)]
pub(crate) struct Window {
    /// Nothing that began before counts.
    pub(crate) from: Instant,
    /// Nothing that ended after it counts in a closed loop, nothing that began after it in an
    /// open one.
    pub(crate) until: Instant,
}

impl Window {
    /// Opens when the warm-up that begins now is over.
    pub(crate) fn after_warm_up(length: Duration) -> Self {
        let from = Instant::now() + WARM_UP;
        Self { from, until: from + length }
    }
}

/// What one thread of clients brings back.
struct Share {
    latencies: Histogram<u64>,
    errors: u64,
    error: Option<String>,
}

/// Puts the load on the cluster and measures it.
pub(crate) async fn drive(cluster: &Cluster, load: Load) -> Result<Measured> {
    let urls = Arc::new(chosen_urls(cluster, load.workload).await?);
    let (window_sender, window) = watch::channel(None);
    let threads = load.threads.clamp(1, load.clients.max(1));
    // Each thread says twice something: that it is connected, and what it has measured.
    let (ready_sender, mut ready) = mpsc::channel(threads);
    let (share_sender, mut shares) = mpsc::channel(threads);
    for thread in 0..threads {
        let (urls, window) = (Arc::clone(&urls), window.clone());
        let (ready, share) = (ready_sender.clone(), share_sender.clone());
        std::thread::Builder::new().name(format!("clients-{thread}")).spawn(move || {
            // Nobody listens any more only if the command was interrupted.
            let _sent = share.blocking_send(clients_thread(load, thread, &urls, ready, window));
        })?;
    }
    drop((ready_sender, share_sender));
    // A thread that cannot connect ends without saying that it is ready; its error comes below.
    for _ in 0..threads {
        if ready.recv().await.is_none() {
            break;
        }
    }

    let window = Window::after_warm_up(load.window);
    window_sender.send_replace(Some(window));
    let mut measured = consumption(cluster, window).await?;
    for _ in 0..threads {
        let share = shares.recv().await.context("a thread of clients vanished")??;
        measured.latencies.add(&share.latencies)?;
        measured.errors.0 += share.errors;
        measured.errors.1 = measured.errors.1.or(share.error);
    }
    Ok(measured)
}

/// The members that the clients talk to, the leader first: a single client talks to the leader.
async fn chosen_urls(cluster: &Cluster, workload: Workload) -> Result<Vec<String>> {
    let mut urls = cluster.urls_leader_first().await?;
    if workload.avoids_leader() && urls.len() > 1 {
        urls.remove(0);
    }
    Ok(urls)
}

/// Waits the window out and takes what it cost.
pub(crate) async fn consumption(cluster: &Cluster, window: Window) -> Result<Measured> {
    let device = Device::under(cluster.folder())?;
    let take =
        || anyhow::Ok((cluster.usage()?, Usage::of(std::process::id())?, device.written_bytes()));
    tokio::time::sleep_until(window.from.into()).await;
    let (server, client, device_bytes) = take()?;
    tokio::time::sleep_until(window.until.into()).await;
    let (server_after, client_after, device_bytes_after) = take()?;
    Ok(Measured {
        latencies: histogram()?,
        seconds: (window.until - window.from).as_secs_f64(),
        errors: (0, None),
        server_cpu_seconds: server_after.cpu_seconds - server.cpu_seconds,
        client_cpu_seconds: client_after.cpu_seconds - client.cpu_seconds,
        server_written_bytes: server_after.written_bytes.saturating_sub(server.written_bytes),
        device_written_bytes: device_bytes_after
            .zip(device_bytes)
            .map(|(after, before)| after.saturating_sub(before)),
    })
}

/// Runs the clients of one thread on a runtime of its own.
fn clients_thread(
    load: Load,
    thread: usize,
    urls: &[String],
    ready: mpsc::Sender<()>,
    window: watch::Receiver<Option<Window>>,
) -> Result<Share> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let threads = load.threads.clamp(1, load.clients.max(1));
        let numbers: Vec<usize> = (0..load.clients).skip(thread).step_by(threads).collect();
        let mut clients = JoinSet::new();
        let channels = channels(urls, thread, threads, numbers.len()).await?;
        for (place, number) in numbers.into_iter().enumerate() {
            let channel = channels[place / CLIENTS_PER_CHANNEL].clone();
            let client = Client::new(channel, number as u64, load.keys, load.value_bytes);
            clients.spawn(client_loop(client, load.workload, window.clone()));
        }
        // Only an interrupted command does not listen.
        let _sent = ready.send(()).await;
        drop(ready);
        let mut sum = Share { latencies: histogram()?, errors: 0, error: None };
        while let Some(share) = clients.join_next().await {
            let share = share??;
            sum.latencies.add(&share.latencies)?;
            sum.errors += share.errors;
            sum.error = sum.error.or(share.error);
        }
        Ok(sum)
    })
}

/// Enough connections for the clients of a thread. The threads take the members in turns, so that
/// all connections together are spread evenly.
async fn channels(
    urls: &[String],
    thread: usize,
    threads: usize,
    clients: usize,
) -> Result<Vec<Channel>> {
    let mut channels = Vec::new();
    for place in 0..clients.div_ceil(CLIENTS_PER_CHANNEL) {
        channels.push(connect(&urls[(place * threads + thread) % urls.len()]).await?);
    }
    Ok(channels)
}

async fn client_loop(
    mut client: Client,
    workload: Workload,
    mut window: watch::Receiver<Option<Window>>,
) -> Result<Share> {
    let opened = *window.wait_for(Option::is_some).await.context("interrupted")?;
    let window = opened.context("the window is there, we waited for it")?;
    let mut share = Share { latencies: histogram()?, errors: 0, error: None };
    loop {
        let begin = Instant::now();
        if begin >= window.until {
            return Ok(share);
        }
        let done = client.operate(workload).await;
        let end = Instant::now();
        match done {
            Ok(()) if begin >= window.from && end <= window.until => {
                let micros = u64::try_from((end - begin).as_micros()).unwrap_or(u64::MAX);
                share.latencies.saturating_record(micros);
            }
            Ok(()) => {}
            Err(status) => {
                share.errors += 1;
                share.error.get_or_insert_with(|| status.to_string());
                tokio::time::sleep(PAUSE_AFTER_ERROR).await;
            }
        }
    }
}

/// For latencies, in microseconds.
pub(crate) fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, LATENCY_MAX_MICROS, 3)?)
}
