//! The data directory: created privately, used by one process, refused with a clear line when it is not ours.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use kvd_core::ids::{ClusterId, Incarnation, MemberId};
use kvd_storage::datadir::{DataDir, DataDirError, Identity};
use kvd_storage::fs::RealDisk;

fn identity(cluster: u64, incarnation: u64) -> Identity {
    Identity {
        cluster: ClusterId(cluster),
        member: MemberId(2),
        incarnation: Incarnation(incarnation),
    }
}

fn open(root: &Path, identity: Option<Identity>) -> Result<DataDir, DataDirError> {
    DataDir::open_or_create(Arc::new(RealDisk::new(root)), root, identity)
}

fn refusal(root: &Path, identity: Option<Identity>) -> DataDirError {
    let Err(error) = open(root, identity) else { panic!("{} was opened", root.display()) };
    assert!(!error.to_string().contains('\n'), "one line: {error}");
    error
}

#[test]
fn an_identity_is_kept_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("data");
    assert!(matches!(refusal(&root, None), DataDirError::Empty { .. }));
    let dir = open(&root, Some(identity(1, 11))).unwrap();
    assert_eq!(dir.identity(), Some(identity(1, 11)));
    let mode = root.join("member").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    assert!(dir.state().is_none());
    drop(dir);
    assert_eq!(open(&root, None).unwrap().identity(), Some(identity(1, 11)));
    let again = open(&root, Some(identity(1, 99))).unwrap();
    assert_eq!(again.identity(), Some(identity(1, 11)), "the incarnation is the first one");
}

#[test]
fn a_second_process_is_told_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let _first = open(folder.path(), Some(identity(1, 11))).unwrap();
    let error = refusal(folder.path(), Some(identity(1, 11)));
    assert!(matches!(error, DataDirError::Locked { .. }));
    let text = format!(
        "another process holds {}/member/LOCK; stop it or choose another --data-dir",
        folder.path().display()
    );
    assert_eq!(error.to_string(), text);
}

#[test]
fn what_is_not_ours_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    assert!(matches!(refusal(&file, Some(identity(1, 1))), DataDirError::NotADirectory { .. }));

    let theirs = folder.path().join("etcd");
    fs::create_dir_all(theirs.join("member/snap")).unwrap();
    assert!(matches!(refusal(&theirs, Some(identity(1, 1))), DataDirError::Etcd { .. }));

    let ours = folder.path().join("ours");
    drop(open(&ours, Some(identity(1, 1))).unwrap());
    let error = refusal(&ours, Some(identity(3, 1)));
    assert!(matches!(
        error,
        DataDirError::Foreign { expected: ClusterId(3), found: ClusterId(1), .. }
    ));
}

#[test]
fn damage_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let mut dir = open(root, Some(identity(1, 1))).unwrap();
    dir.switch(1).unwrap();
    drop(dir);
    for name in ["member/FORMAT", "member/CURRENT"] {
        let path = root.join(name);
        let text = fs::read(&path).unwrap();
        for len in 0..text.len() {
            fs::write(&path, &text[..len]).unwrap();
            assert!(matches!(refusal(root, None), DataDirError::Corrupt { .. }), "{name} {len}");
        }
        for huge in [vec![0xff; 30], vec![b'a'; 100_000]] {
            fs::write(&path, huge).unwrap();
            assert!(matches!(refusal(root, None), DataDirError::Corrupt { .. }));
        }
        fs::write(&path, &text).unwrap();
    }
    fs::remove_file(root.join("member/FORMAT")).unwrap();
    assert!(matches!(refusal(root, Some(identity(1, 1))), DataDirError::Corrupt { .. }));
}

#[test]
fn states_are_switched_set_aside_and_cleaned_up() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let mut dir = open(root, Some(identity(1, 1))).unwrap();
    let (first, path) = dir.next_state().unwrap();
    assert_eq!((first, &path), (1, &root.join("member/state-1")));
    fs::create_dir(&path).unwrap();
    dir.switch(first).unwrap();
    let (second, unfinished) = dir.next_state().unwrap();
    fs::create_dir(&unfinished).unwrap();
    assert_eq!(second, 2);
    drop(dir);

    let mut dir = open(root, None).unwrap();
    assert_eq!(dir.state(), Some(path.clone()));
    assert_eq!(dir.remove_stale().unwrap(), [2], "an unfinished state is deleted");
    assert!(path.exists());
    let aside = dir.set_aside().unwrap().unwrap();
    assert!(aside.exists());
    assert!(!path.exists());
    assert_eq!(dir.state(), None);
    assert_eq!(dir.next_state().unwrap().0, 2, "numbers are not used again");
    drop(dir);
    let mut dir = open(root, None).unwrap();
    assert_eq!((dir.state(), dir.remove_stale().unwrap()), (None, vec![]));
    assert!(aside.exists(), "what was set aside is kept");

    let (third, path) = dir.next_state().unwrap();
    fs::create_dir(&path).unwrap();
    dir.switch(third).unwrap();
    let next = dir.set_aside().unwrap().unwrap();
    assert!(next.exists() && !aside.exists(), "until the next one is");
}
