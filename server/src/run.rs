//! A member as a process: opens the data directory, starts the parts in order, serves until told to stop.
//!
//! Consensus and the peer port have a runtime of their own, so that a busy client port cannot starve
//! heartbeats.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use axum::Router;
use kvd_core::ids::{Incarnation, MemberId};
use kvd_core::members::Rules;
use kvd_storage::datadir::{DataDir, Identity};
use kvd_storage::fs::{Disk, RealDisk};
use kvd_storage::space::{Level, SpaceWatch, Thresholds};
use rand::TryRng;
use tokio::runtime;
use tokio::sync::{oneshot, watch};

use crate::bootstrap::{self, MemberConfig, World};
use crate::config::{ClusterState, Config, ETCD_VERSION, Url};
use crate::fatal::FatalSignal;
use crate::limits::{CHECKPOINT_BYTES, STATE_COMPARE_INTERVAL, STATE_SAMPLE_ENTRIES};
use crate::listen::{self, ConnectionLimits};
use crate::metrics::Metrics;
use crate::net::{Net, Tcp};
use crate::node::{Node, NodeLimits};
use crate::shutdown::Shutdown;
use crate::sled_stores::SledStores;
use crate::threads::Threads;
use crate::{http, member_id, service};

/// Bytes of one segment of the log.
const SEGMENT_BYTES: u64 = 64 << 20;

/// Bytes that a start may need: the stores' own opening, and one more segment of the log.
const START_BYTES: u64 = SEGMENT_BYTES + (16 << 20);

/// How often the device's free room is looked at.
const SPACE_POLL: Duration = Duration::from_secs(1);

/// How long a member takes to stop at most: a device that hangs must not keep the process.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// How a member's life ends when nothing is wrong with the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It was told to stop.
    Stopped,
    /// It was removed from the cluster.
    Removed,
    /// Its state differs from the majority's: it is to be started again, and then fetches another.
    Rebuild,
}

/// Serves one member until it ends; an error is one line that says what is wrong.
///
/// `told_to_stop` is somebody else's word: it counts until the end, also where the member was about to be
/// started again.
pub fn run(config: Config, told_to_stop: Shutdown) -> anyhow::Result<Ending> {
    let shutdown = Shutdown::new();
    let services = runtime::Builder::new_current_thread().enable_all().build()?;
    let fatal = FatalSignal::new();
    services.block_on(async {
        // Taken first: a taken port or directory must not cost anything.
        let clients = bind_all(&config.listen_client_urls).await?;
        let metrics_ports = bind_all(&config.listen_metrics_urls).await?;
        let member = start_member(&config, &fatal, &shutdown)?;
        let node = tokio::select! {
            node = member => node?,
            reason = fatal.raised() => bail!("{reason}"),
            // Nobody was served yet, and what is durable stays.
            () = told_to_stop.begun() => {
                shutdown.begin();
                return Ok(Ending::Stopped);
            }
        };
        let metrics = Arc::new(Metrics::new(&node.header().member_id.to_string(), ETCD_VERSION));
        let router = client_router(&node, &metrics, &shutdown)?;
        let limits = ConnectionLimits::new(
            config.max_concurrent_streams,
            config.keepalive_interval,
            config.keepalive_timeout,
        );
        let stop_listening = Shutdown::new();
        let mut serving = tokio::task::JoinSet::new();
        for (url, listener) in config.listen_client_urls.iter().zip(clients) {
            tracing::info!(address = %url.address(), "serving client traffic insecurely; this is strongly discouraged!");
            let (router, stop) = (router.clone(), stop_listening.clone());
            serving.spawn(listen::serve(listener, router, stop, limits.clone()));
        }
        for listener in metrics_ports {
            let router = http::metrics_router(Arc::clone(&node), Arc::clone(&metrics));
            serving.spawn(listen::serve(listener, router, stop_listening.clone(), limits.clone()));
        }
        let mut removed = false;
        tokio::select! {
            () = told_to_stop.begun() => {}
            () = node.fence().rebuild_asked() => {}
            () = node.removed() => removed = true,
            reason = fatal.raised() => bail!("{reason}"),
        }
        // Open streams and the member's own duties end with it.
        shutdown.begin();
        tracing::info!("stopping: leadership is handed over, requests under way end");
        let stopped = async {
            node.drain().await;
            stop_listening.begin();
            while serving.join_next().await.is_some() {}
            node.stop().await;
        };
        tokio::select! {
            () = stopped => {}
            () = tokio::time::sleep(STOP_LIMIT) => {
                tracing::warn!("stopping took too long; what was acknowledged is durable");
            }
            reason = fatal.raised() => bail!("{reason}"),
        }
        Ok(match (removed, told_to_stop.is_begun()) {
            (true, _) => Ending::Removed,
            (false, true) => Ending::Stopped,
            (false, false) => Ending::Rebuild,
        })
    })
}

async fn bind_all(urls: &[Url]) -> anyhow::Result<Vec<Box<dyn crate::net::Listen>>> {
    let mut listeners = Vec::new();
    for url in urls {
        listeners.push(listen::bind(&Tcp, url).await?);
    }
    Ok(listeners)
}

fn client_router(
    node: &Arc<Node>,
    metrics: &Arc<Metrics>,
    shutdown: &Shutdown,
) -> anyhow::Result<Router> {
    let seed = random_number()?;
    let grpc = service::router(Arc::clone(node), Arc::clone(metrics), shutdown.clone(), seed);
    Ok(grpc.merge(http::router(Arc::clone(node), Arc::clone(metrics))))
}

fn random_number() -> anyhow::Result<u64> {
    rand::rngs::SysRng.try_next_u64().context("the system has no random numbers")
}

/// Starts the member on its own runtime; the future gives it once it runs.
fn start_member(
    config: &Config,
    fatal: &FatalSignal,
    shutdown: &Shutdown,
) -> anyhow::Result<impl Future<Output = anyhow::Result<Arc<Node>>> + use<>> {
    let (config, fatal, shutdown) = (config.clone(), fatal.clone(), shutdown.clone());
    let (started, node) = oneshot::channel();
    std::thread::Builder::new().name("raft".to_owned()).spawn(move || {
        let failed = fatal.clone();
        let result = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(anyhow::Error::from)
            .and_then(|runtime| runtime.block_on(member(config, fatal, shutdown, started)));
        if let Err(error) = result {
            failed.raise(format!("{error:#}"));
        }
    })?;
    Ok(async move { node.await.map_err(|_closed| anyhow!("the member did not start"))? })
}

/// A member's life on the runtime of consensus.
async fn member(
    config: Config,
    fatal: FatalSignal,
    shutdown: Shutdown,
    started: oneshot::Sender<anyhow::Result<Arc<Node>>>,
) -> anyhow::Result<()> {
    let starting = async {
        let peers = bind_all(&config.listen_peer_urls).await?;
        let (member, world) = open_world(&config, &fatal, &shutdown).await?;
        anyhow::Ok((peers, bootstrap::open(member, world)?))
    };
    let (peers, starting) = match starting.await {
        Ok(ready) => ready,
        Err(error) => {
            let _nobody_waits = started.send(Err(error));
            return Ok(());
        }
    };
    let router = service::peer_router(Arc::clone(&starting.peer_side));
    let limits = ConnectionLimits::of_peers();
    let stop = Shutdown::new();
    for listener in peers {
        tokio::spawn(listen::serve(listener, router.clone(), stop.clone(), limits.clone()));
    }
    let node = starting.start().await.map_err(anyhow::Error::from);
    let failed = node.is_err();
    let _nobody_waits = started.send(node);
    if !failed {
        // The process ends when the services do; until then this thread runs consensus.
        std::future::pending::<()>().await;
    }
    stop.begin();
    Ok(())
}

/// What a member is told, and the real world around it.
async fn open_world(
    config: &Config,
    fatal: &FatalSignal,
    shutdown: &Shutdown,
) -> anyhow::Result<(MemberConfig, World)> {
    std::fs::create_dir_all(&config.data_dir)
        .with_context(|| format!("cannot create data directory {}", config.data_dir.display()))?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(&config.data_dir));
    let mut data_dir = DataDir::open(Arc::clone(&disk), &config.data_dir)?;
    let net: Arc<dyn Net> = Arc::new(Tcp);
    let (identity, members) = identity(config, &mut data_dir, &net).await?;
    let (wal, space) = (data_dir.wal().to_owned(), watch_space(&disk, shutdown)?);
    if data_dir.divergence()?.is_diverged() {
        let kept = data_dir.set_aside()?;
        tracing::warn!(kept = ?kept, "a state that differed from the majority's is set aside");
    }
    // The ballast is for this: a member that starts on a full disk can take up its work.
    if let Err(error) = space.0.make_room(START_BYTES) {
        tracing::warn!(%error, "the ballast was not let go");
    }
    let (stores, broken) = match SledStores::open(data_dir) {
        Ok(stores) => (stores, None),
        Err((data_dir, error)) => set_aside(data_dir, &error)?,
    };
    let room = {
        let watch = Arc::clone(&space.0);
        Arc::new(move |bytes| watch.make_room(bytes).unwrap_or(false))
    };
    let world = World {
        threads: Threads::Os,
        net,
        disk,
        wal,
        sync_delay: Arc::new(|| Duration::ZERO),
        segment_bytes: SEGMENT_BYTES,
        incarnation: identity.incarnation,
        stores: Arc::new(stores),
        broken,
        space: space.1,
        room,
        random: Arc::new(Mutex::new(rand::random::<u64>)),
        fatal: fatal.clone(),
        shutdown: shutdown.clone(),
    };
    Ok((member_config(config, identity, members), world))
}

/// Moves broken checkpoints out of the way, so that the state can be fetched from a peer (hazard A5).
fn set_aside(
    mut data_dir: DataDir,
    error: &kvd_storage::sled_store::OpenError,
) -> anyhow::Result<(SledStores, Option<String>)> {
    let reason = match error {
        kvd_storage::sled_store::OpenError::Broken { reason } => reason.clone(),
        other => bail!("{other}"),
    };
    let kept = data_dir.set_aside()?;
    tracing::warn!(%reason, kept = ?kept, "broken checkpoints are set aside");
    match SledStores::open(data_dir) {
        Ok(stores) => Ok((stores, Some(reason))),
        Err((_, error)) => bail!("{error}"),
    }
}

/// Whose directory it is, and who belongs to the cluster: as it was created, or where it is new, as the flags or the
/// cluster that it is to join say (behaviour.md 5.1).
async fn identity(
    config: &Config,
    data_dir: &mut DataDir,
    net: &Arc<dyn Net>,
) -> anyhow::Result<(Identity, BTreeMap<MemberId, Vec<String>>)> {
    let founders = founders(config);
    let asked = member_id::cluster(founders.keys());
    if let Some(identity) = data_dir.identity() {
        if config.initial_cluster_state == ClusterState::New && identity.cluster != asked {
            bail!(
                "data directory {} belongs to cluster {}, the flags describe cluster {asked}: \
                 give the directory's own --initial-cluster and --initial-cluster-token, \
                 or another --data-dir",
                config.data_dir.display(),
                identity.cluster
            );
        }
        let known = match config.initial_cluster_state {
            ClusterState::New => None,
            ClusterState::Existing => {
                bootstrap::members_now(net, &config.initial_cluster, identity.cluster).await
            }
        };
        return Ok((identity, known.unwrap_or(founders)));
    }
    config.verify_bootstrap()?;
    let advertised = &config.initial_advertise_peer_urls;
    let (cluster, member, members) = match config.initial_cluster_state {
        ClusterState::New => {
            let own = member_id::founding_member(advertised, &config.initial_cluster_token);
            (asked, own, founders)
        }
        ClusterState::Existing => {
            let joined = bootstrap::join(net, &config.initial_cluster, advertised).await?;
            (joined.cluster_id, joined.member_id, joined.members)
        }
    };
    let incarnation = Incarnation(random_number()?.max(1));
    data_dir.create(Identity { cluster, member, incarnation })?;
    let identity = data_dir.identity();
    let identity = identity.ok_or_else(|| anyhow!("a new data directory lost its identity"))?;
    Ok((identity, members))
}

fn founders(config: &Config) -> BTreeMap<MemberId, Vec<String>> {
    member_id::founders(&config.initial_cluster, &config.initial_cluster_token)
}

fn member_config(
    config: &Config,
    identity: Identity,
    founders: BTreeMap<MemberId, Vec<String>>,
) -> MemberConfig {
    MemberConfig {
        name: config.name.clone(),
        member_id: identity.member,
        cluster_id: identity.cluster,
        founders,
        may_found: config.initial_cluster_state == ClusterState::New,
        client_urls: config.advertise_client_urls.clone(),
        limits: NodeLimits {
            request_bytes_max: config.request_bytes_max,
            txn_ops_max: config.txn_ops_max,
            quota_bytes: config.quota_bytes,
            election_ms: config.election_ms,
            heartbeat_ms: config.heartbeat_ms,
            watch_progress_interval: config.watch_progress_interval,
            state_sample_entries: STATE_SAMPLE_ENTRIES,
            state_compare_interval: STATE_COMPARE_INTERVAL,
        },
        rules: Rules { strict: config.strict_reconfig_check, learners_max: config.learners_max },
        snapshot_count: config.snapshot_count,
        snapshot_catchup_entries: config.snapshot_catchup_entries,
    }
}

/// Looks at the device's free room now and then, on a thread: writing the ballast takes time.
fn watch_space(
    disk: &Arc<dyn Disk>,
    shutdown: &Shutdown,
) -> anyhow::Result<(Arc<SpaceWatch>, watch::Receiver<Level>)> {
    let thresholds = Thresholds::new(SEGMENT_BYTES, 4 * CHECKPOINT_BYTES);
    let ballast = Path::new("member/ballast").to_owned();
    let space = Arc::new(SpaceWatch::new(Arc::clone(disk), ballast, thresholds, SPACE_POLL)?);
    let (levels, receiver) = watch::channel(space.level());
    let (polled, shutdown) = (Arc::clone(&space), shutdown.clone());
    tokio::spawn(async move {
        let started = tokio::time::Instant::now();
        while !shutdown.is_begun() {
            let polled = Arc::clone(&polled);
            let now = started.elapsed();
            let look = tokio::task::spawn_blocking(move || polled.poll(now)).await;
            if let Ok(Ok(Some(level))) = look {
                tracing::warn!(?level, "room on the device");
                levels.send_replace(level);
            }
            tokio::time::sleep(SPACE_POLL).await;
        }
    });
    Ok((space, receiver))
}
