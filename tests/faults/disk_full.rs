//! A full disk: what grows is refused where it must be, the rest goes on, and service resumes by
//! itself when there is room again (hazard B5, behaviour.md §6.4).

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::ensure;
use kvd_tests::cluster::process::{Cluster, Program};
use kvd_tests::fault::caller::Caller;
use kvd_tests::fault::disk::{Filler, Kind, LoopDisk, in_private_mounts};
use kvd_tests::fault::load::{Load, Shape};
use kvd_tests::fault::refusal::Refusal;
use tonic::{Code, Status};

/// Room for the prepared log and the reserve, little more.
const DISK_BYTES: u64 = 700 << 20;
/// How long a member may take to see that its disk is full, or is no more.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn a_single_member_refuses_what_grows_and_resumes() -> anyhow::Result<()> {
    in_private_mounts(
        "disk_full::a_single_member_refuses_what_grows_and_resumes",
        &["mkfs.ext4"],
        || {
            let disk = LoopDisk::new(Kind::Ext4, DISK_BYTES)?;
            let mut cluster = Cluster::start_in(&Program::kvd()?, &[disk.path().to_owned()], &[])?;
            let endpoint = cluster.endpoints()[0].clone();
            let caller = Caller::new(&cluster.endpoints())?;
            for number in 0..20 {
                caller.put(&format!("k{number:02}"), vec![b'v'; 1000])?;
            }
            let filler = disk.fill()?;
            ensure_no_space(&until_refused(&caller, &endpoint)?)?;
            ensure_no_space(&refused(caller.raw_put(&endpoint, "k00", b"x".to_vec()))?)?;
            ensure!(
                caller.raw_get(&endpoint, "k01", false)?.kvs.len() == 1,
                "no reads on a full disk"
            );
            ensure!(caller.raw_delete(&endpoint, "k01")? == 1, "no deletes on a full disk");
            // Without any room it cannot start, and says so; what it had taken is not lost.
            cluster.member(0).kill()?;
            let arguments = cluster.members()[0].arguments().to_vec();
            Refusal::of(Program::kvd()?.path(), &arguments, None)?
                .ensure_says(&["no space left", "free some room"])?;
            filler.remove()?;
            cluster.member(0).restart()?;
            ensure!(caller.get("k02")?.is_some(), "a write before the full disk was lost");
            ensure!(caller.get("k01")?.is_none(), "a delete on a full disk was lost");
            resumes(disk.fill()?, &caller, &endpoint)
        },
    )
}

/// One full follower stops nothing; one full leader refuses what grows, or is none any more.
#[test]
fn one_full_member_of_three() -> anyhow::Result<()> {
    in_private_mounts("disk_full::one_full_member_of_three", &["mkfs.ext4"], || {
        let disks = [0; 3].map(|_| LoopDisk::new(Kind::Ext4, DISK_BYTES));
        let disks = disks.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
        let folders: Vec<PathBuf> = disks.iter().map(|disk| disk.path().to_owned()).collect();
        let cluster = Cluster::start_in(&Program::kvd()?, &folders, &[])?;
        let endpoints = cluster.endpoints();
        let caller = Caller::new(&endpoints)?;
        let shape =
            |prefix: &str| Shape { prefix: prefix.to_owned(), writers: 8, value_bytes: 500 };

        // A follower.
        let full = (caller.leader()? + 1) % 3;
        let filler = disks[full].fill()?;
        let healthy = without(&endpoints, full);
        let load = Load::start(&healthy, shape("f"))?;
        load.wait_acknowledged(500)?;
        let mut ledger = load.stop()?;
        ensure!(ledger.unknown() == 0, "a full follower disturbs: {} unknown", ledger.unknown());
        filler.remove()?;
        // It catches up by itself: a linearizable read there sees everything.
        let (kvs, _) = caller.all(&endpoints[full], "f")?;
        ensure!(kvs.len() >= ledger.acknowledged(), "the follower did not catch up");

        // The leader.
        let full = caller.leader()?;
        let filler = disks[full].fill()?;
        let refusal = until_refused(&caller, &endpoints[full])?;
        ensure_no_space(&refusal)?;
        let healthy = without(&endpoints, full);
        let other = Caller::new(&healthy)?;
        if let Err(status) = other.raw_put(&healthy[0], "g-leader-full", b"v".to_vec()) {
            ensure_no_space(&status)?;
        }
        let key = String::from_utf8(kvs[0].key.to_vec())?;
        ensure!(caller.raw_get(&endpoints[full], &key, true)?.kvs.len() == 1, "no reads");
        ensure!(other.raw_get(&healthy[0], &key, false)?.kvs.len() == 1, "no reads elsewhere");
        ensure!(other.raw_delete(&healthy[0], "g-nothing")? == 0, "no deletes");
        resumes(filler, &caller, &endpoints[full])?;

        let load = Load::start(&endpoints, shape("h"))?;
        load.wait_acknowledged(200)?;
        ledger.merge(load.stop()?);
        for prefix in ["f", "h"] {
            let (kvs, _) = caller.all(&endpoints[0], prefix)?;
            ensure!(kvs.len() <= ledger.acknowledged() + ledger.unknown(), "phantoms");
        }
        caller.ensure_same_hashes()
    })
}

/// All endpoints but one.
fn without(endpoints: &[String], left_out: usize) -> Vec<String> {
    let others = endpoints.iter().enumerate().filter(|(number, _)| *number != left_out);
    others.map(|(_, endpoint)| endpoint.clone()).collect()
}

/// Writes until a write is refused: the member looks at its disk now and then.
fn until_refused(caller: &Caller, endpoint: &str) -> anyhow::Result<Status> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Err(status) = caller.raw_put(endpoint, "grows", vec![b'g'; 1000]) {
            return Ok(status);
        }
    }
    anyhow::bail!("a full disk takes everything")
}

fn refused(reply: Result<i64, Status>) -> anyhow::Result<Status> {
    reply.err().ok_or_else(|| anyhow::anyhow!("not refused"))
}

/// Behaviour.md §6.4, §9.1: etcd's text and code.
fn ensure_no_space(status: &Status) -> anyhow::Result<()> {
    ensure!(status.code() == Code::ResourceExhausted, "{status:?}");
    ensure!(status.message() == "etcdserver: mvcc: database space exceeded", "{status:?}");
    Ok(())
}

/// Gives the room back and waits until writes are taken again.
fn resumes(filler: Filler, caller: &Caller, endpoint: &str) -> anyhow::Result<()> {
    filler.remove()?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match caller.raw_put(endpoint, "resumed", b"v".to_vec()) {
            Ok(_) => return Ok(()),
            Err(status) => ensure!(Instant::now() < deadline, "no service after: {status:?}"),
        }
    }
}
