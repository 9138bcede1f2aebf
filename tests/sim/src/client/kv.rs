//! Reads, writes and transactions on a few keys that all clients fight for. No two writes write the same: a put
//! has a value of its own, a delete puts a mark beside it.

use kvd_check::{
    Bytes, Compare, DeleteRequest, KeyRange, KeyValue, Outcome, PutRequest, RangeRequest, Relation,
    Reply, Request, Target, TxnOp, TxnRequest,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::Scene;
use super::asker::Asker;
use crate::convert::everything;

/// Keys that clients fight for.
const KEYS: usize = 6;

/// What a client knows and draws from.
struct Kv {
    rng: StdRng,
    client: u64,
    written: u64,
    /// The newest revision this client knows of each key, for conditions that hold now and then.
    changed: [i64; KEYS],
}

/// Asks until told to stop.
pub async fn work(scene: Scene, client: u64, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut asker = Asker::new(&scene, client, &mut rng);
    let mut kv = Kv { rng, client, written: 0, changed: [0; KEYS] };
    while scene.goes_on() {
        scene.pause(&mut kv.rng).await;
        let newest = scene.record.newest();
        let request = kv.draw(newest);
        let outcome = asker.ask(&mut kv.rng, request).await;
        kv.remember(&outcome);
        if kv.looks_again(&outcome) {
            let request = RangeRequest { serializable: true, ..everything() };
            asker.ask_here(&mut kv.rng, Request::Range(request)).await;
        }
    }
}

fn name(key: usize) -> String {
    format!("k/{key}")
}

impl Kv {
    fn draw(&mut self, newest: i64) -> Request {
        let key = self.rng.random_range(0..KEYS);
        match self.rng.random_range(0..100) {
            0..30 => {
                let prev_kv = self.rng.random_bool(0.5);
                Request::Put(PutRequest { prev_kv, ..self.put(&name(key)) })
            }
            30..48 => Request::Txn(self.swap(key)),
            48..56 => Request::Txn(self.delete(KeyRange::one(name(key)))),
            56..58 => {
                let (from, to) = (name(key), name(key + 2));
                Request::Txn(self.delete(KeyRange::between(from, to)))
            }
            58..66 => Request::Txn(self.two_at_once(key)),
            66..78 => Request::Range(RangeRequest::of(KeyRange::one(name(key)))),
            78..84 => Request::Range(everything()),
            84..88 => {
                let range = RangeRequest::of(KeyRange::prefix(b"k/"));
                let limit = self.rng.random_range(1..4);
                let keys_only = self.rng.random_bool(0.5);
                Request::Range(RangeRequest { limit, keys_only, ..range })
            }
            88..90 => Request::Range(RangeRequest { count_only: true, ..everything() }),
            90..95 => Request::Range(RangeRequest { serializable: true, ..everything() }),
            _ => {
                let back = self.rng.random_range(-2..60);
                let revision = (newest - back).max(1);
                let serializable = self.rng.random_bool(0.3);
                Request::Range(RangeRequest { revision, serializable, ..everything() })
            }
        }
    }

    /// A put of what nobody put before.
    fn put(&mut self, key: &str) -> PutRequest {
        self.written += 1;
        // Now and then one that fills several of the disk's sectors: those can be torn.
        let padding = if self.rng.random_bool(0.1) { self.rng.random_range(0..3000) } else { 0 };
        let value = format!("{}.{}.{}", self.client, self.written, ".".repeat(padding));
        PutRequest::of(key, value)
    }

    /// Puts a key if it was last changed when this client thinks, else reads it.
    fn swap(&mut self, key: usize) -> TxnRequest {
        let keys = KeyRange::one(name(key));
        let target = Target::Mod(self.changed[key]);
        TxnRequest {
            compares: vec![Compare { keys: keys.clone(), target, result: Relation::Equal }],
            success: vec![TxnOp::Put(self.put(&name(key)))],
            failure: vec![TxnOp::Range(RangeRequest::of(keys))],
        }
    }

    /// Deletes, and puts this client's mark.
    fn delete(&mut self, keys: KeyRange) -> TxnRequest {
        let delete = DeleteRequest { keys, prev_kv: true };
        let mark = self.put(&format!("mark/{}", self.client));
        let success = vec![TxnOp::DeleteRange(delete), TxnOp::Put(mark)];
        TxnRequest { success, ..TxnRequest::default() }
    }

    /// Changes two keys and reads in between: one of two branches within a branch.
    fn two_at_once(&mut self, key: usize) -> TxnRequest {
        let (one, other) = (name(key), name((key + 1) % KEYS));
        let target = Target::Version(self.rng.random_range(0..3));
        let exists = Compare { keys: KeyRange::one(&*other), target, result: Relation::Greater };
        let within = TxnRequest {
            compares: vec![exists],
            success: vec![TxnOp::Put(PutRequest { prev_kv: true, ..self.put(&other) })],
            failure: vec![TxnOp::Range(RangeRequest::of(KeyRange::one(&*other)))],
        };
        TxnRequest {
            compares: Vec::new(),
            success: vec![
                TxnOp::Put(self.put(&one)),
                TxnOp::Range(RangeRequest::of(KeyRange::prefix(b"k/"))),
                TxnOp::Txn(within),
            ],
            failure: Vec::new(),
        }
    }

    /// Whether a client looks at once whether its member has what it said to have written, without asking the
    /// others.
    fn looks_again(&mut self, outcome: &Outcome) -> bool {
        let wrote = matches!(outcome, Outcome::Answered { reply, .. } if reply.wrote());
        wrote && self.rng.random_bool(0.2)
    }

    fn remember(&mut self, outcome: &Outcome) {
        let Outcome::Answered { reply, .. } = outcome else { return };
        let kvs: Vec<&KeyValue> = match reply {
            Reply::Range(range) => range.kvs.iter().collect(),
            Reply::Txn { replies, .. } => {
                let reads = replies.iter().filter_map(|reply| match reply {
                    Reply::Range(range) => Some(&range.kvs),
                    _ => None,
                });
                reads.flatten().collect()
            }
            _ => return,
        };
        for kv in kvs {
            let known = (0..KEYS).find(|key| kv.key == Bytes::from(name(*key)));
            if let Some(key) = known {
                self.changed[key] = kv.mod_revision;
            }
        }
    }
}
