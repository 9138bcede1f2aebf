//! What every checkpoint store must do, as a suite that each implementation runs (hazard A1).
//!
//! A crash here is the end of the process or of the power at that moment: the suite never closes a store.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{BlockId, Checkpoint, CheckpointStore, Meta, StoreError, Table};
use crate::command::Membership;
use crate::ids::{ChangeId, Index, LogId, MemberId, Revision, Term};

/// A store under test.
pub trait Subject {
    /// The store.
    fn store(&self) -> &dyn CheckpointStore;

    /// Begins this commit and cuts the power when its rows are durable and its meta is not written.
    fn commit_without_meta(&self, checkpoint: &Checkpoint);

    /// Cuts the power and starts again.
    fn crash(self: Box<Self>) -> Box<dyn Subject>;
}

/// Runs the whole suite; `make` gives an empty store each time. Panics on the first violation.
pub fn run(make: &dyn Fn() -> Box<dyn Subject>) {
    empty(make());
    commit_survives(make());
    meta_comes_back_whole(make());
    rows_are_overwritten_and_deleted(make());
    unfinished_row_changes_are_invisible(make());
    unfinished_frees_are_invisible(make());
    freed_blocks_are_gone_once_durable(make());
    newer_block_of_the_same_change_wins(make());
    sequence_must_grow(make());
    contradictions_are_refused(make());
    large_blocks_come_back_whole(make());
    ids_are_any_bytes(make());
    many_rows_over_many_checkpoints(make());
}

/// Everything that a store shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// The last meta.
    pub meta: Option<Meta>,
    /// Blocks in the order in which they were visited.
    pub blocks: Vec<(BlockId, Bytes)>,
    /// Rows in the order in which they were visited.
    pub rows: Vec<(Table, Bytes, Bytes)>,
}

/// Reads everything, and checks that blocks read one by one are the same.
pub fn content(store: &dyn CheckpointStore) -> Result<Content, StoreError> {
    let mut content = Content { meta: store.meta()?, blocks: Vec::new(), rows: Vec::new() };
    store.blocks(&mut |id, block| {
        content.blocks.push((id, block));
        Ok(())
    })?;
    store.rows(&mut |table, id, row| {
        content.rows.push((table, id, row));
        Ok(())
    })?;
    for (id, block) in &content.blocks {
        assert_eq!(store.block(*id)?.as_ref(), Some(block), "a block read alone is the same");
    }
    Ok(content)
}

/// A checkpoint in the making, for tests.
#[derive(Clone, Debug)]
pub struct Draft(Checkpoint);

/// Begins an empty checkpoint with a membership of one.
pub fn checkpoint(sequence: u64) -> Draft {
    let id = |index| LogId { term: Term(2), node: MemberId(9), index: Index(index) };
    let membership = Membership {
        voters: vec![[MemberId(9)].into()],
        nodes: [(MemberId(9), vec!["http://localhost:2380".to_owned()])].into(),
    };
    let meta = Meta {
        sequence,
        applied: id(100 * sequence),
        membership: (Some(id(1)), membership),
        revision: Revision(1 + sequence.cast_signed()),
        compacted: None,
        live_hash: sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        history_hash: sequence.wrapping_mul(0xc2b2_ae3d_27d4_eb4f),
        blocks: 0,
        rows: 0,
    };
    Draft(Checkpoint { meta, blocks: Vec::new(), rows: Vec::new(), freed: Vec::new() })
}

impl Draft {
    /// Adds a block that starts with the first change of a revision.
    #[must_use]
    pub fn block(mut self, main: i64, block: impl Into<Bytes>) -> Self {
        self.0.blocks.push((block_id(main, self.0.meta.sequence), block.into()));
        self
    }

    /// Frees a block of an earlier checkpoint.
    #[must_use]
    pub fn free(mut self, main: i64, sequence: u64) -> Self {
        self.0.freed.push(block_id(main, sequence));
        self
    }

    /// Writes a row.
    #[must_use]
    pub fn row(mut self, table: Table, id: impl Into<Bytes>, row: impl Into<Bytes>) -> Self {
        self.0.rows.push((table, id.into(), Some(row.into())));
        self
    }

    /// Deletes a row.
    #[must_use]
    pub fn delete(mut self, table: Table, id: impl Into<Bytes>) -> Self {
        self.0.rows.push((table, id.into(), None));
        self
    }

    /// Sets how many blocks the meta claims.
    #[must_use]
    pub fn blocks(mut self, blocks: u64) -> Self {
        self.0.meta.blocks = blocks;
        self
    }

    /// Sets how many rows the meta claims.
    #[must_use]
    pub fn rows(mut self, rows: u64) -> Self {
        self.0.meta.rows = rows;
        self
    }

    /// The checkpoint.
    pub fn build(self) -> Checkpoint {
        self.0
    }
}

/// Id of the block that starts with the first change of a revision.
pub fn block_id(main: i64, sequence: u64) -> BlockId {
    BlockId { first: ChangeId { main: Revision(main), sub: 0 }, sequence }
}

fn read(subject: &dyn Subject) -> Content {
    content(subject.store()).expect("a store that runs can be read")
}

fn commit(subject: &dyn Subject, checkpoint: &Checkpoint) {
    subject.store().commit(checkpoint).expect("a device that works takes a commit");
    assert_eq!(
        read(subject).meta.as_ref(),
        Some(&checkpoint.meta),
        "the meta is the committed one"
    );
}

/// Names and contents of all rows, as text.
fn rows(subject: &dyn Subject) -> Vec<(Table, String, String)> {
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    read(subject).rows.iter().map(|(table, id, row)| (*table, text(id), text(row))).collect()
}

fn row(table: Table, id: &str, row: &str) -> (Table, String, String) {
    (table, id.to_owned(), row.to_owned())
}

fn empty(subject: Box<dyn Subject>) {
    let nothing = Content { meta: None, blocks: Vec::new(), rows: Vec::new() };
    assert_eq!(read(&*subject), nothing);
    assert_eq!(subject.store().block(block_id(2, 1)).expect("readable"), None);
    assert_eq!(read(&*subject.crash()), nothing, "an empty store stays empty");
}

fn commit_survives(subject: Box<dyn Subject>) {
    let first = checkpoint(1)
        .block(2, "two")
        .block(18, "eighteen")
        .row(Table::Lease, "7", "ttl 60")
        .row(Table::Member, "9", "m1")
        .blocks(2)
        .rows(2)
        .build();
    commit(&*subject, &first);
    let before = read(&*subject);
    assert_eq!(before.blocks, first.blocks, "blocks come in order of their first change");
    assert_eq!(before.rows.len(), 2);
    let subject = subject.crash();
    assert_eq!(read(&*subject), before, "a committed checkpoint survives");

    commit(&*subject, &checkpoint(2).block(34, "more").blocks(3).rows(2).build());
    let before = read(&*subject);
    assert_eq!(before.blocks.len(), 3);
    assert_eq!(read(&*subject.crash()), before, "and so does the one after it");
}

fn meta_comes_back_whole(subject: Box<dyn Subject>) {
    let mut draft = checkpoint(1).build();
    draft.meta.membership.0 = None;
    draft.meta.membership.1.voters.push([MemberId(1), MemberId(2), MemberId(u64::MAX)].into());
    draft.meta.membership.1.nodes = (1..200)
        .map(|id| (MemberId(id), vec![format!("http://member-{id}.example:2380"); 3]))
        .collect();
    draft.meta.compacted = Some(Revision(i64::MAX));
    commit(&*subject, &draft);
    let subject = subject.crash();
    assert_eq!(read(&*subject).meta, Some(draft.meta));
}

fn rows_are_overwritten_and_deleted(subject: Box<dyn Subject>) {
    let first = checkpoint(1)
        .row(Table::Lease, "7", "a")
        .row(Table::Lease, "8", "b")
        .row(Table::Alarm, "7", "c")
        .rows(3);
    commit(&*subject, &first.build());
    // Of several changes of one id the last counts; deleting what is not there does nothing.
    let second = checkpoint(2)
        .row(Table::Lease, "7", "lost")
        .row(Table::Lease, "7", "A")
        .delete(Table::Lease, "8")
        .row(Table::Lease, "9", "never")
        .delete(Table::Lease, "9")
        .delete(Table::Cluster, "none")
        .rows(2);
    commit(&*subject, &second.build());
    let expected = vec![row(Table::Lease, "7", "A"), row(Table::Alarm, "7", "c")];
    assert_eq!(rows(&*subject), expected);
    let subject = subject.crash();
    assert_eq!(rows(&*subject), expected);
    commit(&*subject, &checkpoint(3).row(Table::Lease, "8", "").rows(3).build());
    assert_eq!(rows(&*subject.crash())[1], row(Table::Lease, "8", ""), "a deleted id can return");
}

/// The first form of hazard A1: a lease revoked by a checkpoint that never got its meta must be there.
fn unfinished_row_changes_are_invisible(subject: Box<dyn Subject>) {
    let first = checkpoint(1).row(Table::Lease, "7", "a").row(Table::Member, "9", "m").rows(2);
    commit(&*subject, &first.build());
    let before = read(&*subject);
    let second = checkpoint(2)
        .delete(Table::Lease, "7")
        .row(Table::Member, "9", "renamed")
        .row(Table::Lease, "8", "new")
        .rows(2)
        .build();
    subject.commit_without_meta(&second);
    let subject = subject.crash();
    assert_eq!(read(&*subject), before, "rows without a meta do not count");

    // The same sequence is used again, with other content: nothing of the first try may shine through.
    commit(&*subject, &checkpoint(2).row(Table::Alarm, "1", "x").rows(3).build());
    let expected = vec![
        row(Table::Lease, "7", "a"),
        row(Table::Member, "9", "m"),
        row(Table::Alarm, "1", "x"),
    ];
    assert_eq!(rows(&*subject), expected);
    assert_eq!(rows(&*subject.crash()), expected);
}

/// The second form of hazard A1: blocks freed by a checkpoint that never got its meta must be there.
fn unfinished_frees_are_invisible(subject: Box<dyn Subject>) {
    commit(&*subject, &checkpoint(1).block(2, "two").block(9, "nine").blocks(2).build());
    let before = read(&*subject);
    let merge = checkpoint(2).block(2, "two and nine").free(2, 1).free(9, 1).blocks(1).build();
    subject.commit_without_meta(&merge);
    let subject = subject.crash();
    assert_eq!(read(&*subject), before, "history is as it was");
    assert_eq!(subject.store().block(block_id(2, 2)).expect("readable"), None);
    commit(&*subject, &checkpoint(2).block(20, "other").blocks(3).build());
    assert_eq!(read(&*subject.crash()).blocks.len(), 3);
}

fn freed_blocks_are_gone_once_durable(subject: Box<dyn Subject>) {
    commit(&*subject, &checkpoint(1).block(2, "two").block(9, "nine").blocks(2).build());
    commit(&*subject, &checkpoint(2).block(2, "both").free(2, 1).free(9, 1).blocks(1).build());
    let merged = vec![(block_id(2, 2), Bytes::from("both"))];
    assert_eq!(read(&*subject).blocks, merged);
    assert_eq!(subject.store().block(block_id(9, 1)).expect("readable"), None);
    let mut subject = subject.crash();
    assert_eq!(read(&*subject).blocks, merged);
    // Whatever is deleted with later commits, the content stays.
    for sequence in 3..8 {
        commit(&*subject, &checkpoint(sequence).blocks(1).build());
        subject = subject.crash();
        assert_eq!(read(&*subject).blocks, merged);
    }
}

fn newer_block_of_the_same_change_wins(subject: Box<dyn Subject>) {
    commit(&*subject, &checkpoint(1).block(2, "old").block(9, "nine").blocks(2).build());
    commit(&*subject, &checkpoint(2).block(2, "new").blocks(2).build());
    let expected =
        vec![(block_id(2, 2), Bytes::from("new")), (block_id(9, 1), Bytes::from("nine"))];
    assert_eq!(read(&*subject).blocks, expected);
    assert_eq!(read(&*subject.crash()).blocks, expected);
}

fn sequence_must_grow(subject: Box<dyn Subject>) {
    commit(&*subject, &checkpoint(2).row(Table::Lease, "7", "a").rows(1).build());
    let before = read(&*subject);
    for sequence in [1, 2] {
        let again = checkpoint(sequence).row(Table::Lease, "7", "b").rows(1).build();
        assert!(subject.store().commit(&again).is_err(), "sequence {sequence} is used up");
    }
    assert_eq!(read(&*subject), before);
    assert_eq!(read(&*subject.crash()), before);
}

fn contradictions_are_refused(subject: Box<dyn Subject>) {
    commit(&*subject, &checkpoint(1).block(2, "two").blocks(1).build());
    let before = read(&*subject);
    for (what, draft) in [
        ("too many blocks claimed", checkpoint(2).blocks(2)),
        ("a row not counted", checkpoint(2).row(Table::Lease, "7", "a").blocks(1)),
        ("an unknown block freed", checkpoint(2).free(3, 1).blocks(1)),
    ] {
        assert!(subject.store().commit(&draft.build()).is_err(), "{what}");
        assert_eq!(read(&*subject), before, "{what}: nothing changed");
    }
    assert_eq!(read(&*subject.crash()), before);
}

fn large_blocks_come_back_whole(subject: Box<dyn Subject>) {
    // A value of etcd's default request limit, incompressible, beside its neighbours.
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut noise = |len: usize| -> Bytes {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            bytes.extend_from_slice(&seed.to_le_bytes());
        }
        bytes.truncate(len);
        bytes.into()
    };
    let large = noise(1536 * 1024);
    let first = checkpoint(1)
        .block(2, "before")
        .block(3, large)
        .block(4, noise(6 * 1024))
        .block(5, Bytes::new())
        .row(Table::Cluster, "big", noise(20_000))
        .blocks(4)
        .rows(1)
        .build();
    commit(&*subject, &first);
    let subject = subject.crash();
    assert_eq!(read(&*subject).blocks, first.blocks);
    commit(&*subject, &checkpoint(2).free(3, 1).blocks(3).rows(1).build());
    commit(&*subject, &checkpoint(3).blocks(3).rows(1).build());
    assert_eq!(read(&*subject.crash()).blocks.len(), 3, "and it can be freed");
}

fn ids_are_any_bytes(subject: Box<dyn Subject>) {
    let mut ids: Vec<&[u8]> =
        vec![b"", b"\0", b"\0\0", b"\0\x01", b"\0\xff", b"\x01", b"a", b"a\0", b"a\0b", b"\xff"];
    let mut draft = checkpoint(1).rows(ids.len() as u64);
    for id in &ids {
        draft = draft.row(Table::Removed, id.to_vec(), id.to_vec());
    }
    commit(&*subject, &draft.build());
    let read_ids: Vec<Bytes> = read(&*subject).rows.into_iter().map(|(_, id, _)| id).collect();
    ids.sort_unstable();
    assert_eq!(read_ids, ids, "every id is its own, in order");
    commit(&*subject, &checkpoint(2).delete(Table::Removed, "a").rows(9).build());
    assert_eq!(read(&*subject.crash()).rows.len(), 9, "only the id itself is deleted");
}

/// A long life: each checkpoint adds, overwrites, deletes, merges and frees; a model says what must be there.
fn many_rows_over_many_checkpoints(mut subject: Box<dyn Subject>) {
    let mut leases: BTreeMap<String, String> = BTreeMap::new();
    let mut blocks: BTreeMap<i64, (u64, String)> = BTreeMap::new();
    for sequence in 1..=24_u64 {
        let mut draft = checkpoint(sequence);
        for number in 0..60 {
            let id = format!("{:03}", (sequence * 37 + number * 11) % 400);
            if (sequence + number) % 3 == 0 {
                leases.remove(&id);
                draft = draft.delete(Table::Lease, id);
            } else {
                let lease = format!("{sequence}/{number}");
                leases.insert(id.clone(), lease.clone());
                draft = draft.row(Table::Lease, id, lease);
            }
        }
        for number in 0..20 {
            let main = 2 + sequence.cast_signed() * 100 + number;
            blocks.insert(main, (sequence, format!("block {main}")));
            draft = draft.block(main, format!("block {main}"));
        }
        let old: Vec<i64> =
            blocks.iter().filter(|(_, (s, _))| *s + 3 == sequence).map(|(m, _)| *m).collect();
        for main in old.iter().skip(2) {
            let (written, _) = blocks.remove(main).expect("it was listed a line above");
            draft = draft.free(*main, written);
        }
        let draft = draft.blocks(blocks.len() as u64).rows(leases.len() as u64).build();
        if sequence % 5 == 0 {
            subject.commit_without_meta(&draft);
            subject = subject.crash();
        }
        commit(&*subject, &draft);
        if sequence % 4 == 0 {
            subject = subject.crash();
        }
    }
    let content = read(&*subject);
    let rows: BTreeMap<String, String> = content
        .rows
        .iter()
        .map(|(_, id, row)| {
            (String::from_utf8_lossy(id).into_owned(), String::from_utf8_lossy(row).into_owned())
        })
        .collect();
    assert_eq!(rows, leases);
    let found: Vec<i64> = content.blocks.iter().map(|(id, _)| id.first.main.0).collect();
    assert_eq!(found, blocks.keys().copied().collect::<Vec<_>>());
}
