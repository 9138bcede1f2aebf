//! A member whose state was made wrong behind its back, soundly: every checksum holds. It must be found, named,
//! kept from serving, and come back with the others' state, all by itself.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail, ensure};
use bytes::Bytes;
use kvd::sled_stores::SledStores;
use kvd::stores::Stores as _;
use kvd_client::proto::etcdserverpb::alarm_request::AlarmAction;
use kvd_client::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use kvd_client::proto::etcdserverpb::{AlarmRequest, AlarmType};
use kvd_core::codec::encode_proposal;
use kvd_core::command::{Command, Entry, Proposal, Put};
use kvd_core::ids::{LeaseId, LogId};
use kvd_core::state::{Options, State};
use kvd_storage::datadir::DataDir;
use kvd_storage::fs::RealDisk;
use kvd_tests::cluster::process::{Cluster, Program};
use kvd_tests::fault::caller::Caller;
use tonic::Code;

use crate::away::metric;

/// What the member itself says.
const FOUND: &str = "the state of this member differs from the majority's";

/// What the others say.
const NAMED: &str = "the state of another member differs from the majority's";

/// Members compare their states at every 1,024th entry.
const WRITES_MAX: usize = 4 * 1024;

/// A cluster in which one member, which did not lead, has a wrong value under `k`, or will when it is started.
fn forged(count: usize) -> anyhow::Result<(Cluster, usize)> {
    let mut cluster = Cluster::start(&Program::kvd()?, count, &[])?;
    let caller = Caller::new(&cluster.endpoints())?;
    caller.put("k", "before")?;
    let victim = (caller.leader()? + 1) % count;
    // Leaves a checkpoint behind, after which its log goes on with this put.
    cluster.member(victim).terminate()?;
    cluster.member(victim).restart()?;
    caller.put("k", "right")?;
    let reply = caller.raw_get(&cluster.endpoints()[victim], "k", false)?;
    ensure!(reply.kvs[0].value == "right", "the victim did not follow: {reply:?}");
    cluster.member(victim).kill()?;
    forge(cluster.members()[victim].data_dir())?;
    Ok((cluster, victim))
}

/// Leaves a checkpoint that has another put than the log, in the same place.
fn forge(data_dir: &Path) -> anyhow::Result<()> {
    let dir = DataDir::open(Arc::new(RealDisk::new(data_dir)), data_dir)?;
    let stores = SledStores::open(dir).map_err(|(_dir, error)| error)?;
    let mut state = State::open(stores.live(), Options::DEFAULT)?;
    let log_id = LogId { index: state.applied().index.next(), ..state.applied() };
    let put = Put {
        key: Bytes::from_static(b"k"),
        value: Bytes::from_static(b"wrong"),
        lease: LeaseId(0),
        prev_kv: false,
        ignore_value: false,
        ignore_lease: false,
    };
    let proposal = Some(encode_proposal(&Proposal::internal(Command::Put(put))));
    let applied = state.apply(&Entry { log_id, proposal, membership: None }, false)?;
    ensure!(applied.outcome.is_ok(), "{:?}", applied.outcome);
    state.publish();
    let checkpoint = state.checkpoint();
    stores.live().commit(&checkpoint).map_err(|error| anyhow!("{error}"))
}

/// Writes until this holds of the number of writes that succeeded.
fn write_until(caller: &Caller, holds: impl Fn(usize) -> bool) -> anyhow::Result<()> {
    let mut written = 0;
    for number in 0..WRITES_MAX {
        if holds(written) {
            return Ok(());
        }
        match caller.put(&format!("other/{}", number % 100), number.to_string()) {
            Ok(_revision) => written += 1,
            // A busy machine may lose its leader for a moment.
            Err(error) => eprintln!("a write failed: {error:#}"),
        }
    }
    bail!("not within {WRITES_MAX} writes");
}

/// Whether one member says of another that its state differs.
fn differs(caller: &Caller, says: &str, of: &str) -> anyhow::Result<Option<u64>> {
    let id = caller.status(of)?.header.unwrap_or_default().member_id;
    metric(says, &format!("kvd_state_hash_diverged{{member=\"{id:x}\"}}"))
}

#[test]
fn a_wrong_state_is_found_and_replaced_without_help() -> anyhow::Result<()> {
    let (mut cluster, victim) = forged(3)?;
    let endpoints = cluster.endpoints();
    cluster.member(victim).restart()?;
    let reply = Caller::new(&endpoints)?.raw_get(&endpoints[victim], "k", true)?;
    ensure!(reply.kvs[0].value == "wrong", "the state was not forged: {reply:?}");

    let mut others = endpoints.clone();
    others.remove(victim);
    let caller = Caller::new(&others)?;
    let says = |member: usize, text: &str| {
        cluster.members()[member].log().iter().any(|line| line.contains(text))
    };
    let pid = cluster.members()[victim].pid();
    write_until(&caller, |_written| says(victim, FOUND))?;
    for member in (0..endpoints.len()).filter(|member| *member != victim) {
        cluster.members()[member].wait_log(NAMED)?;
        let named = cluster.members()[member].log();
        let named = named.iter().filter(|line| line.contains(NAMED)).count();
        ensure!(named == 1, "named {named} times");
    }
    cluster.members()[victim].wait_log("set aside")?;
    cluster.members()[victim].wait_log("the state is the majority's")?;
    ensure!(cluster.members()[victim].pid() == pid, "somebody else started it again");

    let alone = Caller::new(&endpoints[victim..=victim])?;
    let deadline = Instant::now() + Duration::from_secs(30);
    while alone.raw_get(&endpoints[victim], "k", false).is_err() {
        ensure!(Instant::now() < deadline, "{}", cluster.members()[victim].tail());
    }
    let reply = alone.raw_get(&endpoints[victim], "k", true)?;
    ensure!(reply.kvs[0].value == "right", "the wrong value is still there: {reply:?}");
    // Beyond the next comparison.
    write_until(&caller, |written| written > 1_100)?;
    Caller::new(&endpoints)?.ensure_same_hashes()?;
    let deadline = Instant::now() + Duration::from_secs(30);
    for endpoint in &endpoints {
        while differs(&caller, endpoint, &endpoints[victim])? != Some(0) {
            ensure!(Instant::now() < deadline, "not trusted again by {endpoint}");
        }
    }
    Ok(())
}

/// One against one: writes stop. What the log then advises to do works.
#[test]
fn one_against_one_stops_writes_until_somebody_decides() -> anyhow::Result<()> {
    let (mut cluster, victim) = forged(2)?;
    cluster.member(victim).restart()?;
    let caller = Caller::new(&cluster.endpoints())?;
    let right = cluster.endpoints()[1 - victim].clone();
    let mut refused = None;
    for number in 0..WRITES_MAX {
        let put = caller.raw_put(&right, &format!("other/{}", number % 100), b"v".to_vec());
        // A busy machine may lose its leader for a moment.
        if let Err(status) = put
            && status.code() != Code::Unavailable
        {
            refused = Some(status);
            break;
        }
    }
    let refused = refused.ok_or_else(|| anyhow!("writes went on"))?;
    ensure!(refused.code() == Code::DataLoss, "{refused:?}");
    ensure!(refused.message() == "etcdserver: corrupt cluster", "{refused:?}");
    let leader = caller.leader()?;
    cluster.members()[leader].wait_log("no majority says which one is right")?;

    cluster.member(victim).kill()?;
    let member = cluster.members()[victim].data_dir().join("member");
    std::fs::rename(member.join("CURRENT"), member.join("CURRENT.wrong"))?;
    cluster.member(victim).restart()?;
    let caller = Caller::new(&cluster.endpoints())?;
    let reply = caller.raw_get(&cluster.endpoints()[victim], "k", false)?;
    ensure!(reply.kvs[0].value == "right", "not healed: {reply:?}");
    caller.ensure_same_hashes()?;
    let alarms = caller.run(|client| async move { client.alarm_list().await })?.alarms;
    ensure!(alarms.len() == 1 && alarms[0].member_id == 0, "{alarms:?}");
    let (member_id, alarm) = (0, AlarmType::Corrupt.into());
    let disarm = AlarmRequest { action: AlarmAction::Deactivate.into(), member_id, alarm };
    caller.run(
        |client| async move { MaintenanceClient::new(client.channel()).alarm(disarm).await },
    )?;
    caller.put("k", "goes on")?;
    Ok(())
}
