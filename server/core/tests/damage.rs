//! A checkpoint that was damaged is never served: opening it ends in a refusal, not in a panic and not in a
//! state (decision D4).

mod common;

use std::sync::Arc;

use bytes::Bytes;
use kvd_core::checkpoint::mem::MemStore;
use kvd_core::checkpoint::{Checkpoint, CheckpointStore, Table};
use kvd_core::codec::encode_proposal;
use kvd_core::command::{Command, Compact, DeleteRange, Entry, LeaseGrant, Proposal, Put};
use kvd_core::ids::{Index, LeaseId, RequestId};
use kvd_core::range::KeyRange;
use kvd_core::state::{CompactProgress, Options, State};

fn put(key: &str, lease: i64) -> Command {
    Command::Put(Put {
        key: Bytes::from(key.to_owned()),
        value: Bytes::from_static(b"value"),
        lease: LeaseId(lease),
        prev_kv: false,
        ignore_value: false,
        ignore_lease: false,
    })
}

fn open(store: MemStore) -> Result<State, kvd_core::outcome::Fatal> {
    State::open(Arc::new(store), Options::DEFAULT)
}

/// Two blocks, the first with dead records, and rows of every kind that matters.
fn checkpoint() -> Checkpoint {
    let mut commands = vec![Command::LeaseGrant(LeaseGrant { id: LeaseId(1), ttl_seconds: 9 })];
    commands.extend((0..20).map(|number| put(&format!("k{number:02}"), number % 2)));
    let range = KeyRange::Key(Bytes::from_static(b"k03"));
    commands.push(Command::DeleteRange(DeleteRange { range, prev_kv: false }));
    commands.push(put("last", 0));
    commands.push(Command::Compact(Compact { revision: 23 }));
    let mut state = open(MemStore::new()).expect("opens");
    for entry in common::entries(commands) {
        assert!(state.apply(&entry, true).expect("applies").outcome.is_ok());
    }
    for sequence in 1..3 {
        let request_id = Some(RequestId { client: 7, opened: Index(1), sequence, settled: 0 });
        let proposal = Proposal { request_id, actor: None, command: put("k03", 0) };
        let log_id = common::log_id(state.applied().index.0 + 1);
        let proposal = Some(encode_proposal(&proposal));
        let applied = state.apply(&Entry { log_id, proposal, membership: None }, true);
        assert!(applied.expect("applies").outcome.is_ok());
    }
    state.publish();
    while state.compact_step(7).expect("compacts") == CompactProgress::More {}
    state.checkpoint()
}

/// Whether a state comes of it; the store may refuse it first.
fn opens(checkpoint: &Checkpoint) -> bool {
    let store = MemStore::new();
    store.commit(checkpoint).is_ok() && open(store).is_ok()
}

#[test]
fn an_undamaged_one_opens() {
    let good = checkpoint();
    assert!(opens(&good));
    assert!(good.blocks.len() >= 2, "there is more than one block");
    for kind in [Table::Dead, Table::Lease, Table::Session, Table::Answer] {
        assert!(good.rows.iter().any(|(table, ..)| *table == kind), "no row of {kind:?}");
    }
}

#[test]
fn a_missing_part_is_found() {
    let good = checkpoint();
    for block in 0..good.blocks.len() {
        let mut bad = good.clone();
        bad.blocks.remove(block);
        assert!(!opens(&bad), "without block {block}");
        bad.meta.blocks -= 1;
        assert!(!opens(&bad), "without block {block}, not counted");
    }
    for row in 0..good.rows.len() {
        let mut bad = good.clone();
        let (table, ..) = bad.rows.remove(row);
        assert!(!opens(&bad), "without a row of {table:?}");
        bad.meta.rows -= 1;
        // Marks only repeat what compaction would find again, as long as no tombstone's block was freed.
        assert!(table == Table::Dead || !opens(&bad), "without a row of {table:?}, not counted");
    }
}

#[test]
fn a_changed_bit_is_found() {
    let good = checkpoint();
    for (number, (_, bytes)) in good.blocks.iter().enumerate() {
        for bit in (0..bytes.len() * 8).step_by(5) {
            let mut changed = bytes.to_vec();
            changed[bit / 8] ^= 1 << (bit % 8);
            let mut bad = good.clone();
            bad.blocks[number].1 = Bytes::from(changed);
            assert!(!opens(&bad), "block {number}, bit {bit}");
        }
    }
    for (number, (table, _, row)) in good.rows.iter().enumerate() {
        let row = row.as_ref().expect("nothing is deleted in a first checkpoint");
        for bit in 0..row.len() * 8 {
            let mut changed = row.to_vec();
            changed[bit / 8] ^= 1 << (bit % 8);
            let mut bad = good.clone();
            bad.rows[number].2 = Some(Bytes::from(changed));
            assert!(!opens(&bad), "row of {table:?}, bit {bit}");
        }
    }
}

#[test]
fn a_meta_that_does_not_fit_is_found() {
    let good = checkpoint();
    let changes: [fn(&mut Checkpoint); 5] = [
        |bad| bad.meta.live_hash ^= 1,
        |bad| bad.meta.revision.0 -= 1,
        |bad| bad.meta.blocks += 1,
        |bad| bad.meta.rows += 1,
        |bad| bad.blocks.swap(0, 1),
    ];
    for (number, change) in changes.iter().enumerate() {
        let mut bad = good.clone();
        change(&mut bad);
        // A store that sorts blocks by name may put swapped ones right again.
        if number < 4 || bad.blocks[0].0 < bad.blocks[1].0 {
            assert!(!opens(&bad), "change {number}");
        }
    }
}
