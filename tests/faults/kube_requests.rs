//! Each request of kube-apiserver.md §2 on one member, in order, with its exact answer: on kvd and
//! on a real etcd.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use kvd_proto::etcdserverpb::WatchResponse;
use kvd_proto::mvccpb::KeyValue;
use kvd_tests::cluster::process::{Cluster, Program};
use kvd_tests::kube::cache::{Cache, Heard};
use kvd_tests::kube::change::text;
use kvd_tests::kube::compactor::Compactor;
use kvd_tests::kube::feature::has_progress_requests;
use kvd_tests::kube::identity::Identity;
use kvd_tests::kube::lease::{Leases, Reuse};
use kvd_tests::kube::reflector::{Reflector, open};
use kvd_tests::kube::requests;
use kvd_tests::kube::store::{Paging, Store, Written};
use kvd_tests::tools;
use tokio::runtime::Builder;
use tokio::time::timeout;

const PODS: &str = "/registry/pods/";
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn kvd_answers_each_request() -> anyhow::Result<()> {
    run(&Program::kvd()?)
}

#[test]
fn a_real_etcd_answers_each_request() -> anyhow::Result<()> {
    match Program::etcd() {
        Ok(etcd) => run(&etcd),
        Err(error) => {
            tools::skip("a_real_etcd_answers_each_request", &error.to_string());
            Ok(())
        }
    }
}

fn run(program: &Program) -> anyhow::Result<()> {
    let flags = ["--experimental-watch-progress-notify-interval=300ms".to_owned()];
    let cluster = Cluster::start(program, 1, &flags)?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let store = Store::new(&cluster.endpoints(), 0)?;
        probes(&store).await.context("probes")?;
        writes(&store).await.context("writes")?;
        lists(&store).await.context("lists")?;
        watches(&store).await.context("watches")?;
        leases(&store).await.context("leases")?;
        compactions(&store).await.context("compactions")?;
        refusals(&store).await.context("refusals")?;
        ensure!(store.wrong().is_empty(), "{:#?}", store.wrong());
        Ok(())
    })
}

/// 9, 10 and the feature check: an empty store is at revision 1.
async fn probes(store: &Store) -> anyhow::Result<()> {
    let status = store.status(0).await?;
    ensure!(has_progress_requests(&status.version), "version {:?}", status.version);
    ensure!(status.db_size > 0, "the database's size is {}", status.db_size);
    ensure!(store.get("/registry/pods").await == Ok((None, 1)));
    ensure!(store.get(requests::HEALTH_KEY).await == Ok((None, 1)));
    ensure!(store.range(requests::count(PODS)).await.is_ok_and(|reply| reply.count == 0));
    Ok(())
}

/// 1 to 4: revisions 2 to 4.
async fn writes(store: &Store) -> anyhow::Result<()> {
    let key = "/registry/pods/a";
    let held = |changed: i64, version: i64, value: &str| KeyValue {
        key: key.into(),
        value: value.to_owned().into(),
        create_revision: 2,
        mod_revision: changed,
        version,
        lease: 0,
    };
    let create = requests::create(key, "one", 0);
    ensure!(store.txn(create.clone()).await == Written::Done(2));
    ensure!(store.txn(create).await == Written::Conflict(None, 2));
    ensure!(store.get(key).await == Ok((Some(held(2, 1, "one")), 2)));
    ensure!(store.txn(requests::update(key, "two", 0, 2)).await == Written::Done(3));
    let now = Written::Conflict(Some(held(3, 2, "two")), 3);
    ensure!(store.txn(requests::update(key, "three", 0, 2)).await == now);
    ensure!(store.txn(requests::delete(key, 2)).await == now);
    ensure!(store.txn(requests::delete(key, 3)).await == Written::Done(4));
    ensure!(store.txn(requests::delete(key, 3)).await == Written::Conflict(None, 4));
    ensure!(store.txn(requests::update(key, "x", 0, 3)).await == Written::Conflict(None, 4));
    ensure!(store.get(key).await == Ok((None, 4)));
    Ok(())
}

/// 5 to 8 and 16: five pods at revisions 5 to 9, and one more at 10 in the middle of a list.
async fn lists(store: &Store) -> anyhow::Result<()> {
    for (pod, revision) in ["b", "c", "d", "e", "f"].iter().zip(5..) {
        let create = requests::create(&format!("{PODS}{pod}"), pod, 0);
        ensure!(store.txn(create).await == Written::Done(revision));
    }
    // A neighbour that no list of pods may hold.
    let first = store.range(requests::page(PODS, None, 2, 0)).await.map_err(failed)?;
    ensure!(names(&first.kvs) == "bc" && first.count == 5 && first.more, "{first:?}");
    let create = requests::create("/registry/pods/z", "z", 0);
    ensure!(store.txn(create).await == Written::Done(10));
    let after = Some(&b"/registry/pods/c"[..]);
    let next = store.range(requests::page(PODS, after, 2, 9)).await.map_err(failed)?;
    ensure!(names(&next.kvs) == "de" && next.count == 3 && next.more, "{next:?}");
    ensure!(next.header.is_some_and(|header| header.revision == 10), "the current revision");
    let after = Some(&b"/registry/pods/e"[..]);
    let last = store.range(requests::page(PODS, after, 2, 9)).await.map_err(failed)?;
    ensure!(names(&last.kvs) == "f" && last.count == 1 && !last.more, "{last:?}");

    for paging in [Paging::Count, Paging::More] {
        let listed = store.list(PODS, 4, 0, paging).await.map_err(failed)?;
        ensure!(names(&listed.kvs) == "bcdefz", "{listed:?}");
        ensure!((listed.revision, listed.pages) == (10, 2), "{listed:?}");
        let streamed = store.range_stream(requests::page(PODS, None, 0, 0)).await;
        match streamed.map_err(failed)? {
            Some(streamed) => {
                ensure!(streamed.kvs == listed.kvs && streamed.revision == 10, "{streamed:?}");
            }
            None => eprintln!("no RangeStream: an etcd before 3.7"),
        }
    }
    let count = store.range(requests::count(PODS)).await.map_err(failed)?;
    ensure!(count.count == 6 && count.kvs.is_empty(), "{count:?}");
    let keys = store.range(requests::keys(PODS)).await.map_err(failed)?;
    ensure!(names(&keys.kvs) == "bcdefz", "{keys:?}");
    ensure!(keys.kvs.iter().all(|kv| kv.value.is_empty() && kv.mod_revision > 0), "{keys:?}");
    Ok(())
}

/// 13 and 14: history from revision 5, an update at 11, a delete at 12; progress of both kinds.
async fn watches(store: &Store) -> anyhow::Result<()> {
    let mut cache = Cache::new(PODS);
    cache.fill(&[], 4);
    cache.begin_stream();
    let (asks, mut stream) = open(store, requests::watch(PODS, 5)).await?;
    let created = next(&mut stream).await?;
    ensure!(created.created && created.watch_id == 0, "{created:?}");
    ensure!(cache.take(&created) == Heard::Created);
    while cache.revision() < 10 {
        let response = next(&mut stream).await?;
        ensure!(cache.take(&response) == Heard::Events, "{response:?}");
    }
    let update = requests::update("/registry/pods/b", "b2", 0, 5);
    ensure!(store.txn(update).await == Written::Done(11));
    ensure!(store.txn(requests::delete("/registry/pods/b", 11)).await == Written::Done(12));
    for revision in [11, 12] {
        let response = heard_events(&mut cache, &mut stream).await?;
        let header = response.header.unwrap_or_default();
        ensure!(header.revision == revision && response.events.len() == 1, "one by one");
    }
    // Periodic: the watch's own id. Manual: everybody's.
    let periodic = next(&mut stream).await?;
    ensure!(periodic.watch_id == 0 && cache.take(&periodic) == Heard::Progress(12), "{periodic:?}");
    asks.send(requests::progress()).await?;
    let manual = loop {
        let response = next(&mut stream).await?;
        ensure!(cache.take(&response) == Heard::Progress(12), "{response:?}");
        if response.watch_id == -1 {
            break response;
        }
    };
    ensure!(manual.events.is_empty() && !manual.created && !manual.canceled, "{manual:?}");
    ensure!(cache.wrong().is_empty(), "{:#?}", cache.wrong());
    let changes = &cache.segments()[0].changes;
    ensure!(changes.len() == 8 && changes[7].before == (11, 0), "{changes:?}");

    // A whole cache, by the reflector: consistent once the revision is there.
    let reflector = Reflector::new(PODS, 2);
    let (_, revision) = store.get("/registry/pods").await.map_err(failed)?;
    tokio::select! {
        () = reflector.run(store) => bail!("a reflector never ends"),
        in_time = reflector.wait(revision, Duration::from_secs(3)) => {
            ensure!(in_time, "a consistent list waits for more than 3 s");
        }
    }
    ensure!(reflector.snapshot().0.len() == 5, "{:?}", reflector.snapshot());
    Ok(())
}

/// 15: one lease for events, one for each round of a master; an update without one detaches.
async fn leases(store: &Store) -> anyhow::Result<()> {
    let mut events = Leases::new(Reuse { objects: 2, ..Reuse::EVENTS });
    let mut given = Vec::new();
    for _ in 0..3 {
        given.push(events.next(store).await.map_err(|error| anyhow::anyhow!("{error:?}"))?);
    }
    ensure!(given[0] == given[1] && given[1] != given[2] && events.granted == 2, "{given:?}");
    let event = "/registry/events/default/e";
    ensure!(store.txn(requests::create(event, "e", given[0])).await == Written::Done(13));
    let lease_of = async |key| store.get(key).await.ok()?.0.map(|kv: KeyValue| kv.lease);
    ensure!(lease_of(event).await == Some(given[0]));
    ensure!(store.txn(requests::update(event, "e", 0, 13)).await == Written::Done(14));
    ensure!(lease_of(event).await == Some(0), "an update without a lease detaches");

    let master = "/registry/masterleases/10.0.0.1";
    let first = store.grant(15).await.map_err(|error| anyhow::anyhow!("{error:?}"))?;
    let second = store.grant(15).await.map_err(|error| anyhow::anyhow!("{error:?}"))?;
    ensure!(first != second, "a lease twice");
    ensure!(store.txn(requests::create(master, "m", first)).await == Written::Done(15));
    ensure!(store.txn(requests::update(master, "m", second, 15)).await == Written::Done(16));
    ensure!(lease_of(master).await == Some(second), "the key moves");
    Ok(())
}

/// 11 and 12: two apiservers, three rounds; what is compacted then says so.
async fn compactions(store: &Store) -> anyhow::Result<()> {
    let (mut one, mut other) = (Compactor::default(), Compactor::default());
    // The first claim is at version 0 and names nothing; the loser learns version and revision.
    one.round(store).await;
    other.round(store).await;
    ensure!((one.won, other.lost) == (1, 1), "{one:?} {other:?}");
    let follow = requests::follow(requests::COMPACT_REV_KEY, 17);
    let (_asks, mut follower) = open(store, follow).await?;
    ensure!(next(&mut follower).await?.created);
    other.round(store).await;
    ensure!(other.won == 1, "{other:?}");
    let mut told = Vec::new();
    while told.len() < 2 {
        told.extend(next(&mut follower).await?.events);
    }
    let told: Vec<(i64, String)> = told
        .into_iter()
        .map(|event| event.kv.map_or((0, String::new()), |kv| (kv.version, text(&kv.value))))
        .collect();
    ensure!(told == [(1, "0".to_owned()), (2, "17".to_owned())], "{told:?}");

    ensure!(store.compact(17).await == Err(Identity::Compacted), "compacted twice");
    let at = |revision| store.range(requests::page(PODS, None, 1, revision));
    ensure!(at(16).await == Err(Identity::Compacted));
    ensure!(at(17).await.is_ok(), "the compacted revision itself is there");
    ensure!(at(19).await == Err(Identity::Future));

    for (start, is_gone) in [(16, true), (17, false)] {
        let mut cache = Cache::new(PODS);
        cache.fill(&[], start - 1);
        cache.begin_stream();
        let (asks, mut stream) = open(store, requests::watch(PODS, start)).await?;
        ensure!(cache.take(&next(&mut stream).await?) == Heard::Created);
        asks.send(requests::progress()).await?;
        let heard = cache.take(&next(&mut stream).await?);
        let expected = if is_gone { Heard::Compacted(17) } else { Heard::Progress(18) };
        ensure!(heard == expected, "from {start}: {heard:?}");
        ensure!(cache.wrong().is_empty(), "{:#?}", cache.wrong());
    }
    Ok(())
}

/// §4: what is refused changes nothing.
async fn refusals(store: &Store) -> anyhow::Result<()> {
    let large = "x".repeat(1_600_000);
    let too_large = store.txn(requests::create("/registry/pods/large", &large, 0)).await;
    ensure!(too_large == Written::Refused(Identity::TooLarge));
    let no_lease = store.txn(requests::create("/registry/pods/leased", "x", 4711)).await;
    ensure!(no_lease == Written::Refused(Identity::NoLease), "{no_lease:?}");
    ensure!(store.get("/registry/pods").await == Ok((None, 18)));
    Ok(())
}

async fn next(stream: &mut tonic::Streaming<WatchResponse>) -> anyhow::Result<WatchResponse> {
    let message = timeout(PATIENCE, stream.message()).await.context("nothing comes")??;
    message.context("the stream ended")
}

/// The next response with events; progress may come before it.
async fn heard_events(
    cache: &mut Cache,
    stream: &mut tonic::Streaming<WatchResponse>,
) -> anyhow::Result<WatchResponse> {
    loop {
        let response = next(stream).await?;
        match cache.take(&response) {
            Heard::Events => return Ok(response),
            Heard::Progress(_) => {}
            other => bail!("{other:?}: {response:?}"),
        }
    }
}

/// The last letters of the keys.
fn names(kvs: &[KeyValue]) -> String {
    kvs.iter().filter_map(|kv| text(&kv.key).chars().last()).collect()
}

fn failed(identity: Identity) -> anyhow::Error {
    anyhow::anyhow!("{identity:?}")
}
