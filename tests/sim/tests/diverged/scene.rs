//! Three members, a client that writes all the time, and what is asked of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use kvd_core::command::RangeQuery;
use kvd_core::ids::MemberId;
use kvd_core::range::KeyRange;
use kvd_core::view::{Access, View};
use kvd_proto::etcdserverpb as pb;
use kvd_proto::etcdserverpb::kv_client::KvClient;
use kvd_proto::etcdserverpb::lease_client::LeaseClient;
use kvd_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use kvd_proto::etcdserverpb::watch_client::WatchClient;
use kvd_sim::machine::{CLIENT_PORT, Flags, Gained, Machine, NAMES as ALL_NAMES, id};
use kvd_sim::net::channel;
use tokio::sync::oneshot;
use tonic::{Code, Status};
use turmoil::{Builder, Sim};

/// The members' hosts.
pub(super) const NAMES: &[&str] = ALL_NAMES.split_at(3).0;

/// Simulated time in which anything that is waited for must happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a member answers whose state differs.
const DIVERGED: &str = "the state of this member differs from the majority's";

/// The value of a put that was applied wrongly.
pub(super) const FORGED: &str = "forged";

/// Three members, and a client that writes all the time.
pub(super) struct Scene {
    pub(super) sim: Sim<'static>,
    pub(super) machines: Vec<Machine>,
    written: Arc<AtomicU64>,
    pause: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
}

impl Scene {
    pub(super) fn new(seed: u64) -> Self {
        Self::with_tick(seed, 5)
    }

    /// The same in steps of so many milliseconds, where much time passes and little happens.
    pub(super) fn with_tick(seed: u64, tick_ms: u64) -> Self {
        let mut scene = Self::prepare(seed, tick_ms);
        scene.until("all serve", |machines| machines.iter().all(serves));
        scene.write_some();
        scene
    }

    /// The same while this member was never started.
    pub(super) fn without(seed: u64, late: usize) -> Self {
        let mut scene = Self::prepare(seed, 5);
        scene.sim.crash(NAMES[late]);
        scene.write_some();
        scene
    }

    fn prepare(seed: u64, tick_ms: u64) -> Self {
        let mut sim = Builder::new()
            .rng_seed(seed)
            .enable_random_order()
            .tick_duration(Duration::from_millis(tick_ms))
            .tcp_capacity(4096)
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(Duration::from_millis(5))
            .simulation_duration(Duration::from_secs(3600))
            .build();
        let flags = Flags {
            members: NAMES.len(),
            election_ms: 500,
            heartbeat_ms: 50,
            snapshot_count: 30,
            sync_ms: 4,
            progress_ms: 600_000,
            sample_entries: 8,
            compare_ms: 300,
        };
        let machines: Vec<Machine> = (0..NAMES.len())
            .map(|index| Machine::new(index, flags, Gained::default(), seed + 100))
            .collect();
        for (machine, name) in machines.iter().zip(NAMES) {
            let machine = machine.clone();
            sim.host(*name, move || {
                let machine = machine.clone();
                async move {
                    machine.run().await;
                    Ok(())
                }
            });
        }
        let (written, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let pause = Arc::new(AtomicBool::new(false));
        let writer = (Arc::clone(&written), Arc::clone(&pause), Arc::clone(&stop));
        sim.client("writer", async move {
            write(&writer.0, &writer.1, &writer.2).await;
            Ok(())
        });
        Self { sim, machines, written, pause, stop }
    }

    /// Goes on until this holds of the members.
    pub(super) fn until(&mut self, what: &str, holds: impl Fn(&[Machine]) -> bool) {
        let deadline = self.sim.elapsed() + PATIENCE;
        while !holds(&self.machines) {
            self.step();
            assert!(self.sim.elapsed() < deadline, "never: {what}");
        }
    }

    /// Goes on for so long.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.sim.elapsed() + time;
        while self.sim.elapsed() < end {
            self.step();
        }
    }

    /// Goes on until the client has written some more.
    pub(super) fn write_some(&mut self) {
        let (written, enough) =
            (Arc::clone(&self.written), self.written.load(Ordering::Relaxed) + 20);
        self.until("writes succeed", |_| written.load(Ordering::Relaxed) >= enough);
    }

    fn step(&mut self) {
        self.sim.step().expect("no host fails");
        for machine in &self.machines {
            assert_eq!(machine.stopped(), None, "a member stopped");
        }
    }

    /// Starts a member again, its process only, or its machine too.
    pub(super) fn restart(&mut self, member: usize, power_fails: Option<u64>) {
        self.sim.crash(NAMES[member]);
        self.machines[member].crash(power_fails);
        self.sim.bounce(NAMES[member]);
    }

    /// Who leads, by what the members say themselves: their clocks stand still between two steps.
    pub(super) fn leader(&mut self) -> usize {
        let deadline = self.sim.elapsed() + PATIENCE;
        loop {
            for (member, name) in NAMES.iter().enumerate() {
                let status = self.ask(async move {
                    let mut client = MaintenanceClient::new(channel(name, CLIENT_PORT));
                    client.status(pb::StatusRequest {}).await.map(tonic::Response::into_inner)
                });
                if status.is_ok_and(|status| status.leader == id(member).0) {
                    return member;
                }
            }
            assert!(self.sim.elapsed() < deadline, "nobody leads");
        }
    }

    /// Lets the client rest, or go on; what it asked for before is answered.
    pub(super) fn pause(&mut self, pause: bool) {
        self.pause.store(pause, Ordering::Relaxed);
        if pause {
            self.pass(Duration::from_secs(3));
        }
    }

    /// From its next put on, this member's state differs.
    pub(super) fn forge(&self, member: usize, value: &'static str) {
        self.machines[member]
            .node()
            .expect("the member runs")
            .forge_next_put(Bytes::from_static(value.as_bytes()));
    }

    /// What a call of a client gives.
    pub(super) fn ask<T: Send + 'static>(
        &mut self,
        call: impl Future<Output = T> + Send + 'static,
    ) -> T {
        let (answer, mut answered) = oneshot::channel();
        self.sim.client(format!("asker-{}", self.sim.elapsed().as_nanos()), async move {
            let _waited_for = answer.send(call.await);
            Ok(())
        });
        let deadline = self.sim.elapsed() + PATIENCE;
        loop {
            self.step();
            if let Ok(answer) = answered.try_recv() {
                return answer;
            }
            assert!(self.sim.elapsed() < deadline, "no answer");
        }
    }

    pub(super) fn read(
        &mut self,
        member: usize,
        serializable: bool,
    ) -> Result<pb::RangeResponse, Status> {
        self.ask(async move {
            let key = Bytes::from_static(b"k/0");
            let range = pb::RangeRequest { key, serializable, ..Default::default() };
            let mut client = KvClient::new(channel(NAMES[member], CLIENT_PORT));
            client.range(range).await.map(tonic::Response::into_inner)
        })
    }

    pub(super) fn put(&mut self, member: usize) -> Result<(), Status> {
        self.ask(async move {
            let mut client = KvClient::new(channel(NAMES[member], CLIENT_PORT));
            client.put(put("k/0", "more")).await.map(|_answer| ())
        })
    }

    /// Watches everything at a member; tells how the stream ended.
    pub(super) fn watch(&mut self, member: usize) -> oneshot::Receiver<Status> {
        let (ended, end) = oneshot::channel();
        self.sim.client(format!("watcher-{}", self.sim.elapsed().as_nanos()), async move {
            let _told = ended.send(watch(member).await);
            Ok(())
        });
        end
    }

    /// Ends the writing; then all members have the same state, and nothing in it was forged.
    pub(super) fn ensure_all_is_well(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.until("all are trusted", |machines| {
            machines.iter().all(|machine| serves(machine) && names(machine).is_empty())
        });
        self.until("all have applied the same", |machines| {
            let views: Vec<View> = machines.iter().filter_map(view).collect();
            views.len() == machines.len() && views.windows(2).all(|two| two[0].at() == two[1].at())
        });
        let views: Vec<View> = self.machines.iter().filter_map(view).collect();
        for view in &views {
            assert_eq!(view.state_hash(), views[0].state_hash());
            let hash = |view: &View| {
                view.hash_kv(0, Access::Disk).expect("nothing is lost").expect("a hash")
            };
            assert_eq!(hash(view), hash(&views[0]));
            let every = RangeQuery::latest(KeyRange::From(Bytes::from_static(b"\0")));
            let answer = view.range(&every, Access::Disk).expect("nothing is lost").expect("keys");
            assert!(!answer.kvs.is_empty());
            let forged = format!("{answer:?}").contains(FORGED);
            assert!(!forged, "a wrong value is there: {answer:?}");
            assert!(view.alarms().is_empty(), "{:?}", view.alarms());
        }
    }
}

pub(super) fn view(machine: &Machine) -> Option<View> {
    machine.node().map(|node| node.view())
}

pub(super) fn serves(machine: &Machine) -> bool {
    machine.node().is_some_and(|node| node.is_ready() && !node.fence().is_raised())
}

pub(super) fn is_fenced(machine: &Machine) -> bool {
    machine.node().is_some_and(|node| node.fence().is_raised())
}

/// Whom a member accuses, itself included.
pub(super) fn names(machine: &Machine) -> Vec<MemberId> {
    let Some(node) = machine.node() else { return Vec::new() };
    let differs = node.status().state_differs;
    differs.into_iter().filter(|(_, differs)| *differs).map(|(id, _)| id).collect()
}

fn put(key: &str, value: &str) -> pb::PutRequest {
    let (key, value) = (key.to_owned().into(), value.to_owned().into());
    pb::PutRequest { key, value, ..Default::default() }
}

/// Watches until the stream ends; says why it did.
pub(super) async fn watch(member: usize) -> Status {
    let (key, range_end) = (Bytes::from_static(b"\0"), Bytes::from_static(b"\0"));
    let create = pb::WatchCreateRequest { key, range_end, ..Default::default() };
    let create = pb::watch_request::RequestUnion::CreateRequest(create);
    let requests = futures_util::stream::iter([pb::WatchRequest { request_union: Some(create) }])
        .chain(futures_util::stream::pending());
    let mut client = WatchClient::new(channel(NAMES[member], CLIENT_PORT));
    let mut events = match client.watch(requests).await {
        Ok(stream) => stream.into_inner(),
        Err(refused) => return refused,
    };
    loop {
        match events.message().await {
            Ok(Some(_events)) => {}
            Ok(None) => return Status::ok("the stream ended"),
            Err(status) => return status,
        }
    }
}

/// Writes: mostly puts, and of everything else that changes the state a little. Failures are passed over.
async fn write(written: &AtomicU64, pause: &AtomicBool, stop: &AtomicBool) {
    let mut revision = 0;
    for number in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        if pause.load(Ordering::Relaxed) {
            continue;
        }
        let name = NAMES[usize::try_from(number / 7 % 3).expect("below three")];
        let some = tokio::time::timeout(Duration::from_secs(2), write_one(name, number, revision));
        if let Ok(Ok(header)) = some.await {
            revision = header.unwrap_or_default().revision;
            written.fetch_add(1, Ordering::Relaxed);
        }
    }
}

async fn write_one(
    name: &'static str,
    number: u64,
    revision: i64,
) -> Result<Option<pb::ResponseHeader>, Status> {
    let mut kv = KvClient::new(channel(name, CLIENT_PORT));
    let key = format!("k/{}", number % 5);
    match number % 40 {
        13 => {
            let delete = pb::DeleteRangeRequest { key: key.into(), ..Default::default() };
            Ok(kv.delete_range(delete).await?.into_inner().header)
        }
        21 => {
            let grant = pb::LeaseGrantRequest { ttl: 60, id: 0 };
            let granted = LeaseClient::new(channel(name, CLIENT_PORT)).lease_grant(grant).await?;
            let lease = granted.into_inner().id;
            let leased = pb::PutRequest { lease, ..put("k/leased", &number.to_string()) };
            Ok(kv.put(leased).await?.into_inner().header)
        }
        34 if revision > 30 => {
            let compact = pb::CompactionRequest { revision: revision - 10, physical: false };
            kv.compact(compact).await?;
            Ok(Some(pb::ResponseHeader { revision, ..Default::default() }))
        }
        _ => Ok(kv.put(put(&key, &number.to_string())).await?.into_inner().header),
    }
}

pub(super) fn ensure_refused<T: std::fmt::Debug>(answer: Result<T, Status>) {
    let status = answer.expect_err("a wrong state was served");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.message().contains(DIVERGED), "{status:?}");
}
