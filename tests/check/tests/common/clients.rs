//! What clients ask, and what they learn.

use kvd_check::{
    Acquisition, Bytes, Caller, Compare, DeleteRequest, KeyRange, LeaseId, OpId, Outcome,
    PutRequest, RangeRequest, Refusal, Relation, Reply, Request, Revision, Target, TxnOp,
    TxnRequest,
};
use rand::RngExt;

use super::{Asked, Feed, MEMBERS, MS, Next, World};

/// What the keys of everybody who wants the lock begin with.
pub(super) const LOCK: &str = "lock/";

impl World {
    /// A client sends a request.
    pub(super) fn ask(&mut self, client: u64) {
        let member = self.rng.random_range(1..=MEMBERS);
        let request = self.draw(client);
        let place = usize::try_from(client).expect("a client");
        let caller = Caller { client: self.clients[place].name, member };
        let op = OpId(self.begun);
        self.begun += 1;
        self.out.push(Feed::Begin(self.now, caller, request.clone()));
        let of_million = self.rng.random_range(0..1_000_000);
        // A delete without a mark cannot be told from another, so its outcome must be known.
        let known = matches!(request, Request::DeleteRange(_));
        let unknown = !known && of_million < self.shape.unknown_ppm;
        let refused = !unknown && of_million > 990_000;
        let lost = refused || (unknown && self.rng.random_bool(0.4));
        let answer = refused.then_some(Outcome::Refused(Refusal::NotProposed));
        self.asked.insert(op, Asked { caller, request, answer, lost, unknown, told: false });
        let done = self.now + self.rng.random_range(1..40 * MS);
        let told = if unknown { self.now } else { done } + self.rng.random_range(1..60 * MS);
        self.at(done, Next::Do(op));
        self.at(told, Next::Tell(op));
    }

    /// A client knows what became of its request, or gives up.
    pub(super) fn tell(&mut self, op: OpId) {
        let asked = self.asked.get_mut(&op).expect("it was asked");
        let Asked { caller, unknown, lost, .. } = *asked;
        asked.told = true;
        let place = self.clients.iter().position(|client| client.name == caller.client);
        let place = place.expect("a client that asks");
        let next = Next::Ask(place as u64);
        if unknown {
            if lost || asked.answer.is_some() {
                self.asked.remove(&op);
            }
            self.out.push(Feed::End(self.now, op, Outcome::Unknown));
            // It reconnects, as somebody new.
            self.names += 1;
            self.clients[place].name = self.names;
            self.later(30 * MS, next);
            return;
        }
        let asked = self.asked.remove(&op).expect("it was asked");
        let outcome = asked.answer.expect("it was done before");
        self.out.push(Feed::End(self.now, op, outcome.clone()));
        if let Outcome::Answered { revision, reply } = outcome {
            self.learn(place, caller, &asked.request, revision, &reply);
        }
        self.later(30 * MS, next);
    }

    fn key(&mut self) -> Bytes {
        let keys = self.shape.keys;
        format!("k{}", self.rng.random_range(0..keys)).into()
    }

    fn draw(&mut self, client: u64) -> Request {
        let place = usize::try_from(client).expect("a client");
        let part = self.rng.random_range(0..100);
        if !self.shape.everything {
            return self.draw_plain(place, part);
        }
        match part {
            0..22 => {
                let (key, value, prev_kv) = (self.key(), self.unique(), self.rng.random());
                let lease = self.clients[place].lease.unwrap_or(0);
                let lease = if self.rng.random_bool(0.3) { lease } else { 0 };
                Request::Put(PutRequest { key, value, lease, prev_kv })
            }
            22..36 => Request::Range(RangeRequest::of(KeyRange::one(self.key()))),
            36..46 => self.draw_list(),
            46..58 => self.draw_swap(place),
            58..65 => self.draw_delete(),
            65..72 => self.draw_txn(),
            72..76 => {
                let (keys, prev_kv) = (KeyRange::one(self.key()), self.rng.random());
                Request::DeleteRange(DeleteRequest { keys, prev_kv })
            }
            76..79 => {
                let slowest = self.witnessed.values().copied().min().unwrap_or(1);
                let revision = self.rng.random_range(0..=slowest.min(self.revision()));
                Request::Compact { revision: revision.max(1) }
            }
            79..91 => self.draw_lease(place),
            _ => self.draw_lock(place),
        }
    }

    /// Reads and writes only, in the parts by which checkers were compared before.
    fn draw_plain(&mut self, place: usize, part: u64) -> Request {
        match part {
            0..30 => Request::Range(RangeRequest::of(KeyRange::one(self.key()))),
            30..40 => self.draw_list(),
            40..75 => Request::Put(PutRequest::of(self.key(), self.unique())),
            75..80 => self.draw_delete(),
            80..90 => self.draw_swap(place),
            _ => self.draw_txn(),
        }
    }

    fn draw_list(&mut self) -> Request {
        let all = RangeRequest::of(KeyRange::all());
        let newest = self.revision();
        let revision = self.rng.random_range((newest - 100).max(1)..=newest);
        Request::Range(match self.rng.random_range(0..6) {
            0 => RangeRequest { serializable: true, ..all },
            1 => RangeRequest { keys_only: true, limit: 2, ..all },
            2 => RangeRequest { count_only: true, ..all },
            3 => RangeRequest { revision, ..all },
            4 => RangeRequest { limit: 1, ..RangeRequest::of(KeyRange::prefix(b"k")) },
            _ => all,
        })
    }

    fn draw_swap(&mut self, place: usize) -> Request {
        let key = self.key();
        let known = self.clients[place].changed.get(&key).copied().unwrap_or(0);
        let compare = is(key.clone(), Target::Mod(known));
        let put = PutRequest { prev_kv: true, ..PutRequest::of(key.clone(), self.unique()) };
        let read = TxnOp::Range(RangeRequest::of(KeyRange::one(key)));
        let (success, failure) = (vec![TxnOp::Put(put)], vec![read]);
        Request::Txn(TxnRequest { compares: vec![compare], success, failure })
    }

    fn draw_delete(&mut self) -> Request {
        let marker = PutRequest::of(format!("gone/{}", self.unique), self.unique());
        let keys = match self.rng.random_range(0..3) {
            0 => KeyRange::between("k1", "k9"),
            _ => KeyRange::one(self.key()),
        };
        let delete = TxnOp::DeleteRange(DeleteRequest { keys, prev_kv: true });
        // Markers are swept now and then, so that not everything is a marker.
        let keys = KeyRange::between("gone/", format!("gone/{}", self.unique - 1));
        let sweep = TxnOp::DeleteRange(DeleteRequest { keys, prev_kv: false });
        let success = vec![delete, sweep, TxnOp::Put(marker)];
        Request::Txn(TxnRequest { success, ..TxnRequest::default() })
    }

    fn draw_txn(&mut self) -> Request {
        let (one, other) = (self.key(), self.key());
        let value = self.unique();
        let mut success = vec![TxnOp::Put(PutRequest::of(one.clone(), value.clone()))];
        if one != other {
            success.push(TxnOp::Put(PutRequest::of(other.clone(), value.clone())));
        }
        success.push(TxnOp::Range(RangeRequest::of(KeyRange::prefix(b"k"))));
        let inner = TxnRequest {
            compares: vec![Compare {
                keys: KeyRange::prefix(b"k"),
                target: Target::Version(2),
                result: Relation::Less,
            }],
            success,
            failure: vec![TxnOp::Put(PutRequest::of(other.clone(), value))],
        };
        let compares = vec![Compare {
            keys: KeyRange::one(one),
            target: Target::Create(0),
            result: if self.rng.random() { Relation::Greater } else { Relation::Equal },
        }];
        let failure = vec![TxnOp::Range(RangeRequest::of(KeyRange::one(other)))];
        Request::Txn(TxnRequest { compares, success: vec![TxnOp::Txn(inner)], failure })
    }

    fn draw_lease(&mut self, place: usize) -> Request {
        let Some(id) = self.clients[place].lease else {
            self.unique += 1;
            let id = LeaseId::try_from(self.unique).expect("small");
            return Request::LeaseGrant { id, ttl_seconds: self.rng.random_range(1..3) };
        };
        if self.rng.random_bool(0.2) {
            self.clients[place].lease = None;
            return Request::LeaseRevoke { id };
        }
        Request::LeaseKeepAlive { id }
    }

    fn draw_lock(&mut self, place: usize) -> Request {
        let Some(lease) = self.clients[place].lease else { return self.draw_lease(place) };
        let key: Bytes = format!("{LOCK}{lease}").into();
        let list = TxnOp::Range(RangeRequest::of(KeyRange::prefix(LOCK.as_bytes())));
        let target = Target::Create(self.clients[place].token.unwrap_or(0));
        let compares = vec![is(key.clone(), target)];
        let put = match self.clients[place].token {
            Some(_) => TxnOp::Put(PutRequest::of(self.key(), self.unique())),
            None => TxnOp::Put(PutRequest { lease, ..PutRequest::of(key, self.unique()) }),
        };
        let success = vec![put, list.clone()];
        Request::Txn(TxnRequest { compares, success, failure: vec![list] })
    }

    /// A client remembers what it was told.
    fn learn(
        &mut self,
        place: usize,
        caller: Caller,
        request: &Request,
        revision: Revision,
        reply: &Reply,
    ) {
        match (request, reply) {
            (Request::LeaseGrant { id, .. }, _) => {
                self.clients[place].lease = Some(*id);
                self.clients[place].token = None;
            }
            (Request::LeaseKeepAlive { .. }, Reply::LeaseKeepAlive { ttl_seconds: 0 }) => {
                self.clients[place].lease = None;
            }
            (Request::Put(put), _) => {
                self.clients[place].changed.insert(put.key.clone(), revision);
            }
            (Request::Range(range), Reply::Range(read)) => {
                if let Some(key) = range.keys.single() {
                    let changed = read.kvs.first().map_or(0, |kv| kv.mod_revision);
                    self.clients[place].changed.insert(key.clone(), changed);
                }
            }
            (_, Reply::Txn { replies, .. }) => self.learn_lock(place, caller, revision, replies),
            _ => {}
        }
    }

    /// Whether the client sees that it holds the lock.
    fn learn_lock(&mut self, place: usize, caller: Caller, revision: Revision, told: &[Reply]) {
        let Some(lease) = self.clients[place].lease else { return };
        let key: Bytes = format!("{LOCK}{lease}").into();
        let lists = told.iter().filter_map(|reply| match reply {
            Reply::Range(range) => Some(&range.kvs),
            _ => None,
        });
        let Some(own) = lists.clone().flatten().find(|kv| kv.key == key) else { return };
        let create_revision = own.create_revision;
        self.clients[place].token = Some(create_revision);
        let oldest = lists.flatten().filter(|kv| kv.key.starts_with(LOCK.as_bytes()));
        if oldest.map(|kv| kv.create_revision).min() == Some(create_revision) {
            let prefix = LOCK.into();
            let held = Acquisition { caller, prefix, key, create_revision, revision };
            self.out.push(Feed::Acquired(self.now, held));
        }
    }
}

fn is(key: Bytes, target: Target) -> Compare {
    Compare { keys: KeyRange::one(key), target, result: Relation::Equal }
}
