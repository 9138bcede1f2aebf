//! The power goes in the middle of writes, on real file systems: nothing acknowledged is lost.

use std::path::PathBuf;

use anyhow::Context as _;
use kvd_tests::cluster::process::{Cluster, Program};
use kvd_tests::fault::caller::Caller;
use kvd_tests::fault::disk::{Kind, LoopDisk, in_private_mounts};
use kvd_tests::fault::ledger::Ledger;
use kvd_tests::fault::load::{Load, Shape};
use kvd_tests::fault::{number, seed};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// Frequent checkpoints, so that cuts meet the checkpoint store and a log that is purged.
const FLAGS: [&str; 2] = ["--snapshot-count=300", "--snapshot-catchup-entries=50"];

#[test]
fn one_member_on_ext4() -> anyhow::Result<()> {
    cut("powercut::one_member_on_ext4", Kind::Ext4, 1)
}

#[test]
fn one_member_on_xfs() -> anyhow::Result<()> {
    cut("powercut::one_member_on_xfs", Kind::Xfs, 1)
}

/// A rack without power: all members at once.
#[test]
fn three_members_on_ext4() -> anyhow::Result<()> {
    cut("powercut::three_members_on_ext4", Kind::Ext4, 3)
}

#[test]
fn three_members_on_xfs() -> anyhow::Result<()> {
    cut("powercut::three_members_on_xfs", Kind::Xfs, 3)
}

/// Hazards A1, A2, A3: cut, mount, start, read everything that was ever acknowledged.
fn cut(test: &str, kind: Kind, members: usize) -> anyhow::Result<()> {
    in_private_mounts(test, &[kind.maker()], || {
        let mut random = StdRng::seed_from_u64(seed(test));
        let disk = LoopDisk::new(kind, 3 << 30)?;
        let folders: Vec<PathBuf> = vec![disk.path().to_owned(); members];
        let mut cluster = Cluster::start_in(&Program::kvd()?, &folders, &FLAGS.map(str::to_owned))?;
        let endpoints = cluster.endpoints();
        let caller = Caller::new(&endpoints)?;
        let mut ledger = Ledger::default();
        for round in 0..number("KVD_CUTS", 2) {
            let prefix = format!("c{round:03}/");
            let shape = Shape { prefix, writers: 8, value_bytes: 500 };
            let load = Load::start(&endpoints, shape)?;
            load.wait_acknowledged(random.random_range(50..800))?;
            disk.cut_power()?;
            for at in 0..members {
                // Who cannot sync must stop by itself, with the reason (hazard A3.4).
                let status = cluster.member(at).wait_end()?;
                anyhow::ensure!(!status.success(), "a member without a disk ended well");
            }
            ledger.merge(load.stop()?);
            disk.restore_power()?;
            for at in 0..members {
                cluster.member(at).spawn()?;
            }
            for member in cluster.members() {
                member.wait_ready().with_context(|| format!("after cut {round}"))?;
            }
            for endpoint in &endpoints {
                let (kvs, revision) = caller.all(endpoint, "c")?;
                ledger.ensure_holds(&kvs, revision).with_context(|| format!("cut {round}"))?;
            }
            caller.ensure_same_hashes()?;
        }
        let (acknowledged, unknown) = (ledger.acknowledged(), ledger.unknown());
        eprintln!("{test}: {acknowledged} acknowledged, {unknown} unknown, none lost");
        Ok(())
    })
}
