//! What only the store itself can see: which records are still in the tree.

use kvd_core::checkpoint::conformance::checkpoint;

use super::*;

fn open(dir: &Path) -> SledStore {
    let options = StoreOptions { pace: Box::new(|_| {}), free_bytes: Box::new(|| Ok(u64::MAX)) };
    SledStore::open(dir, options).unwrap()
}

/// How many keys of each kind are in the tree: blocks, rows, metas, garbage marks.
fn census(store: &SledStore) -> [usize; 4] {
    [keys::BLOCK, keys::ROW, keys::META, keys::GARBAGE]
        .map(|kind| store.tree.scan_prefix([kind]).count())
}

#[test]
fn garbage_goes_record_first_and_mark_later() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let first = checkpoint(1).block(2, "two").block(9, vec![9; 10_000]).row(Table::Lease, "7", "a");
    store.commit(&first.blocks(2).rows(1).build()).unwrap();
    assert_eq!(census(&store), [3, 1, 1, 0]);

    let second = checkpoint(2).free(9, 1).row(Table::Lease, "7", "b").blocks(1).rows(1).build();
    store.commit_without_meta(&second).unwrap();
    assert_eq!(census(&store), [3, 2, 1, 2], "nothing is deleted before the meta is durable");
    store.commit(&second).unwrap();
    assert_eq!(census(&store), [1, 1, 1, 2], "marks outlive what they name by one commit");
    store.commit(&checkpoint(3).blocks(1).rows(1).build()).unwrap();
    assert_eq!(census(&store), [1, 1, 1, 0]);
}

#[test]
fn an_older_row_does_not_pass_for_a_lost_newer_one() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    for sequence in 1..=2 {
        let row = checkpoint(sequence).row(Table::Lease, "7", format!("{sequence}")).rows(1);
        store.commit(&row.build()).unwrap();
    }
    // As if sled had lost one page of the newest checkpoint: the number of rows is still right.
    let old = keys::row(Table::Lease, b"7", 1);
    for (key, value) in items::encode(&old, b"1") {
        store.tree.insert(key, value).unwrap();
    }
    store.tree.remove(keys::item(&keys::row(Table::Lease, b"7", 2), 0)).unwrap();
    store.tree.remove(keys::item(&keys::garbage(&old, 2), 0)).unwrap();
    drop(store);
    let options = StoreOptions { pace: Box::new(|_| {}), free_bytes: Box::new(|| Ok(u64::MAX)) };
    let Err(OpenError::Broken { reason }) = SledStore::open(folder.path(), options) else {
        panic!("an older row was served");
    };
    assert!(reason.contains("not those of the meta"), "{reason}");
}

#[test]
fn the_collector_waits_for_visitors() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let row = |sequence: u64| {
        checkpoint(sequence).row(Table::Lease, "7", format!("{sequence}")).rows(1).build()
    };
    store.commit(&row(1)).unwrap();
    store
        .rows(&mut |_, _, seen| {
            assert_eq!(seen, "1");
            store.commit(&row(2))?;
            assert_eq!(census(&store)[1], 2, "the visitor may still need the old row");
            Ok(())
        })
        .unwrap();
    store.commit(&row(3)).unwrap();
    assert_eq!(census(&store)[1], 1);
}

#[test]
fn items_in_the_tree_are_a_promise() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let first = checkpoint(1).block(2, "B").row(Table::Lease, "7", "R").blocks(1).rows(1).build();
    store.commit(&first).unwrap();
    store.commit(&checkpoint(2).row(Table::Lease, "7", "S").blocks(1).rows(1).build()).unwrap();
    let items: Vec<String> = store
        .tree
        .iter()
        .map(|item| item.unwrap())
        .filter(|(key, _)| key[0] != keys::META)
        .map(|(key, value)| format!("{} {}", items::hex(&key), items::hex(&value)))
        .collect();
    assert_eq!(items, GOLDEN);
}

/// The block of checkpoint 1, the mark over the row of checkpoint 1, the row of checkpoint 2.
const GOLDEN: [&str; 3] = [
    "62800000000000000200000000000000000000000100000000 010000000142509dc12e",
    "6774013700010000000000000001000000000000000200000000 01000000013c82721e",
    "7401370001000000000000000200000000 010000000153689e34cb",
];
