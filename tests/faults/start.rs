//! Starts that must be refused: one line says what is wrong and what to do, the exit code is not 0,
//! and nothing that is there is destroyed. Where peers can mend it, it heals.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use kvd_tests::cluster::process::{Cluster, Program};
use kvd_tests::fault::caller::Caller;
use kvd_tests::fault::has_means;
use kvd_tests::fault::refusal::{Refusal, picture};

/// Somebody without rights.
const NOBODY: u32 = 65534;

/// A cluster of one with something in it.
fn one() -> anyhow::Result<Cluster> {
    one_with(&["--snapshot-count=10", "--snapshot-catchup-entries=5"])
}

fn one_with(flags: &[&str]) -> anyhow::Result<Cluster> {
    let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
    let cluster = Cluster::start(&Program::kvd()?, 1, &flags)?;
    let caller = Caller::new(&cluster.endpoints())?;
    for number in 0..50 {
        caller.put(&format!("k{number}"), vec![b'v'; 5_000])?;
    }
    Ok(cluster)
}

/// Starts member 0 once more with some flags replaced; it must be refused.
fn start_again(cluster: &Cluster, replaced: &[(&str, &str)]) -> anyhow::Result<Refusal> {
    let member = &cluster.members()[0];
    let mut arguments = member.arguments().to_vec();
    for (flag, value) in replaced {
        let begin = format!("--{flag}=");
        let given = arguments.iter_mut().find(|argument| argument.starts_with(&begin));
        *given.context("a flag that is given")? = format!("{begin}{value}");
    }
    Refusal::of(Program::kvd()?.path(), &arguments, None)
}

/// The value of a flag that member 0 was started with.
fn flag(cluster: &Cluster, name: &str) -> anyhow::Result<String> {
    let begin = format!("--{name}=");
    let mut arguments = cluster.members()[0].arguments().iter();
    let given = arguments.find_map(|argument| argument.strip_prefix(&begin));
    Ok(given.context("a flag that is given")?.to_owned())
}

/// Kills member 0, breaks something, and proves that a start is refused in these words, that
/// nothing was changed by it, and that undoing the damage brings everything back.
fn refuses(
    damage: impl FnOnce(&Path) -> anyhow::Result<Option<Undo>>,
    texts: &[&str],
) -> anyhow::Result<()> {
    let mut cluster = one()?;
    cluster.member(0).kill()?;
    let data_dir = cluster.members()[0].data_dir().to_owned();
    let undo = damage(&data_dir)?;
    let before = picture(&data_dir)?;
    start_again(&cluster, &[])?.ensure_says(texts)?;
    let after = picture(&data_dir)?;
    let lost: Vec<_> =
        before.iter().filter(|(path, file)| after.get(*path) != Some(file)).collect();
    let lost: Vec<_> = lost.into_iter().filter(|(path, _)| !is_of_sled(path)).collect();
    ensure!(lost.is_empty(), "a refused start changed {lost:?}");
    // The second refusal is the first one: nothing was "repaired" in between.
    start_again(&cluster, &[])?.ensure_says(texts)?;
    if let Some(undo) = undo {
        undo()?;
        cluster.member(0).restart()?;
        let kv = Caller::new(&cluster.endpoints())?.get("k49")?;
        ensure!(kv.is_some_and(|kv| kv.value.len() == 5_000), "not everything came back");
    }
    Ok(())
}

/// sled tidies its files whenever it opens them; what is in them is proved by reading it.
fn is_of_sled(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str().to_string_lossy().starts_with("state-"))
}

type Undo = Box<dyn FnOnce() -> anyhow::Result<()>>;

/// Changes one bit of a file; the undo changes it back.
fn flip(path: PathBuf, byte: u64, bit: u8) -> anyhow::Result<Option<Undo>> {
    let toggle = move || -> anyhow::Result<()> {
        let file = fs::File::options().read(true).write(true).open(&path)?;
        let mut one = [0];
        file.read_exact_at(&mut one, byte)?;
        one[0] ^= 1 << bit;
        file.write_all_at(&one, byte)?;
        Ok(file.sync_all()?)
    };
    toggle()?;
    Ok(Some(Box::new(toggle)))
}

#[test]
fn one_directory_serves_one_process() -> anyhow::Result<()> {
    let cluster = one()?;
    let address =
        [("listen-client-urls", "http://127.0.0.1:0"), ("listen-peer-urls", "http://127.0.0.1:0")];
    start_again(&cluster, &address)?.ensure_says(&["another process holds", "--data-dir"])?;
    ensure!(Caller::new(&cluster.endpoints())?.get("k1")?.is_some(), "the first one suffered");
    Ok(())
}

#[test]
fn a_taken_port_is_named() -> anyhow::Result<()> {
    let cluster = one()?;
    let taken = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let holder = TcpListener::bind(taken)?;
    let url = format!("http://{taken}");
    let fresh = tempfile::tempdir()?;
    let data_dir = fresh.path().join("m0").display().to_string();
    let client = [("listen-client-urls", url.as_str()), ("data-dir", &data_dir)];
    start_again(&cluster, &client)?.ensure_says(&[&taken.to_string(), "in use"])?;
    ensure!(!Path::new(&data_dir).exists(), "a taken port left a data directory behind");
    let peer = [
        ("listen-client-urls", "http://127.0.0.1:0"),
        ("listen-peer-urls", url.as_str()),
        ("data-dir", &data_dir),
    ];
    start_again(&cluster, &peer)?.ensure_says(&[&taken.to_string(), "in use"])?;
    drop(holder);
    Ok(())
}

#[test]
fn another_clusters_directory_is_refused() -> anyhow::Result<()> {
    let mut cluster = one()?;
    cluster.member(0).kill()?;
    let peers = flag(&cluster, "initial-cluster")?;
    let other = format!("{peers},m1=http://127.0.0.1:1");
    let refusal = start_again(&cluster, &[("initial-cluster", &other)])?;
    refusal.ensure_says(&["belongs to cluster", "--initial-cluster", "--data-dir"])?;
    cluster.member(0).restart()
}

#[test]
fn a_member_must_be_in_its_own_initial_cluster() -> anyhow::Result<()> {
    let cluster = one()?;
    let fresh = tempfile::tempdir()?;
    let data_dir = fresh.path().join("m0").display().to_string();
    let flags = [
        ("initial-cluster", "else=http://127.0.0.1:2380"),
        ("listen-client-urls", "http://127.0.0.1:0"),
        ("listen-peer-urls", "http://127.0.0.1:0"),
        ("data-dir", &data_dir),
    ];
    start_again(&cluster, &flags)?.ensure_says(&[
        // Etcd's own words.
        "couldn't find local name \"m0\" in the initial cluster configuration",
    ])
}

#[test]
fn an_unreadable_directory_is_refused() -> anyhow::Result<()> {
    if !has_means("start::an_unreadable_directory_is_refused", &["setpriv"]) {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    // The binary may lie where nobody else may look.
    let program = folder.path().join("kvd");
    fs::copy(Program::kvd()?.path(), &program)?;
    let data_dir = folder.path().join("m0");
    fs::create_dir(&data_dir)?;
    fs::set_permissions(&data_dir, fs::Permissions::from_mode(0o700))?;
    let arguments = [
        format!("--data-dir={}", data_dir.display()),
        "--listen-client-urls=http://127.0.0.1:0".to_owned(),
        "--advertise-client-urls=http://127.0.0.1:0".to_owned(),
        "--listen-peer-urls=http://127.0.0.1:0".to_owned(),
    ];
    let refusal = Refusal::of(&program, &arguments, Some(NOBODY))?;
    refusal.ensure_says(&["no permission", "m0", "owner"])
}

/// Hazard A6: an emptied disk under an old id must not vote.
#[test]
fn an_emptied_disk_is_refused_while_peers_know_it() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&Program::kvd()?, 3, &[])?;
    let caller = Caller::new(&cluster.endpoints())?;
    caller.put("k", "v")?;
    cluster.member(0).kill()?;
    let data_dir = cluster.members()[0].data_dir().to_owned();
    let aside = data_dir.with_extension("aside");
    fs::rename(&data_dir, &aside)?;
    let texts = ["has already been bootstrapped", "remove the member"];
    start_again(&cluster, &[])?.ensure_says(&texts)?;
    // And again: the directory that the first attempt made is no longer empty.
    start_again(&cluster, &[])?.ensure_says(&texts)?;
    fs::remove_dir_all(&data_dir)?;
    fs::rename(&aside, &data_dir)?;
    cluster.member(0).restart()?;
    ensure!(Caller::new(&cluster.endpoints()[..1])?.get("k")?.is_some(), "not back");
    Ok(())
}

#[test]
fn a_directory_of_etcd_is_refused() -> anyhow::Result<()> {
    let mut cluster = one()?;
    cluster.member(0).kill()?;
    let folder = tempfile::tempdir()?;
    fs::create_dir_all(folder.path().join("member/wal"))?;
    fs::create_dir_all(folder.path().join("member/snap"))?;
    fs::write(folder.path().join("member/snap/db"), b"bolt")?;
    fs::write(folder.path().join("member/wal/0000000000000000-0000000000000000.wal"), b"wal")?;
    let before = picture(folder.path())?;
    let data_dir = folder.path().display().to_string();
    start_again(&cluster, &[("data-dir", &data_dir)])?
        .ensure_says(&["holds data of etcd", "--data-dir"])?;
    let after = picture(folder.path())?;
    ensure!(before.iter().all(|(path, file)| after.get(path) == Some(file)), "etcd's data changed");
    Ok(())
}

#[test]
fn a_damaged_format_is_refused() -> anyhow::Result<()> {
    let damage = |data_dir: &Path| flip(data_dir.join("member/FORMAT"), 30, 2);
    refuses(damage, &["is damaged", "FORMAT", "restore"])
}

/// Hazard A3.2: a bit that changed in what was acknowledged is told, never cut off.
#[test]
fn a_flipped_bit_in_the_log_is_refused() -> anyhow::Result<()> {
    let damage = |data_dir: &Path| flip(first_segment(data_dir)?, 100_000, 3);
    refuses(damage, &["log", "damaged", "restore"])
}

#[test]
fn a_deleted_log_is_refused() -> anyhow::Result<()> {
    let damage = |data_dir: &Path| {
        let (wal, aside) = (data_dir.join("member/wal"), data_dir.join("aside"));
        fs::rename(&wal, &aside)?;
        let undo: Undo = Box::new(move || {
            if wal.exists() {
                fs::remove_dir_all(&wal)?;
            }
            Ok(fs::rename(aside, wal)?)
        });
        Ok(Some(undo))
    };
    refuses(damage, &["log", "missing", "restore"])
}

#[test]
fn a_broken_state_without_peers_is_refused() -> anyhow::Result<()> {
    let mut cluster = one()?;
    cluster.member(0).kill()?;
    damage_states(cluster.members()[0].data_dir())?;
    let texts = ["checkpoint", "no peer", "restore"];
    start_again(&cluster, &[])?.ensure_says(&texts)?;
    start_again(&cluster, &[])?.ensure_says(&texts)?;
    let kept = fs::read_dir(cluster.members()[0].data_dir().join("member"))?
        .filter_map(Result::ok)
        .any(|entry| entry.file_name().to_string_lossy().contains("broken"));
    ensure!(kept, "the broken state was not kept for an examination");
    Ok(())
}

/// A log that was never purged is all that a member needs.
#[test]
fn a_broken_state_is_made_anew_from_a_whole_log() -> anyhow::Result<()> {
    let mut cluster = one_with(&["--snapshot-count=10"])?;
    cluster.member(0).kill()?;
    damage_states(cluster.members()[0].data_dir())?;
    cluster.member(0).restart()?;
    cluster.members()[0].wait_log("broken checkpoints are set aside")?;
    let kv = Caller::new(&cluster.endpoints())?.get("k49")?;
    ensure!(kv.is_some_and(|kv| kv.value.len() == 5_000), "not everything came back");
    Ok(())
}

/// Hazard A5: with a peer, the state is fetched and the member serves again.
#[test]
fn a_broken_state_heals_from_a_peer() -> anyhow::Result<()> {
    let flags = ["--snapshot-count=10", "--snapshot-catchup-entries=5"].map(str::to_owned);
    let mut cluster = Cluster::start(&Program::kvd()?, 3, &flags)?;
    let caller = Caller::new(&cluster.endpoints())?;
    for number in 0..50 {
        caller.put(&format!("k{number}"), vec![b'v'; 5_000])?;
    }
    cluster.member(1).kill()?;
    damage_states(cluster.members()[1].data_dir())?;
    cluster.member(1).restart()?;
    cluster.members()[1].wait_log("fetching the state from a peer")?;
    let kv = Caller::new(&cluster.endpoints()[1..2])?.get("k49")?;
    ensure!(kv.is_some_and(|kv| kv.value.len() == 5_000), "not healed");
    caller.put("after", "healing")?;
    caller.ensure_same_hashes()
}

/// Overwrites a little of each page of each state.
pub(crate) fn damage_states(data_dir: &Path) -> anyhow::Result<()> {
    let mut damaged = 0;
    for entry in fs::read_dir(data_dir.join("member"))? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with("state-") {
            continue;
        }
        let file = fs::File::options().write(true).open(entry.path().join("db"))?;
        for at in (512..file.metadata()?.len()).step_by(4096) {
            file.write_all_at(&[0xa5; 64], at)?;
        }
        file.sync_all()?;
        damaged += 1;
    }
    ensure!(damaged > 0, "there is no state to damage");
    Ok(())
}

fn first_segment(data_dir: &Path) -> anyhow::Result<PathBuf> {
    let mut names: Vec<PathBuf> = fs::read_dir(data_dir.join("member/wal"))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    names.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
    names.sort();
    names.into_iter().next().context("the log has a segment")
}
