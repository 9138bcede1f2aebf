//! A correct store of three members, simulated from a seed, and what its clients ask and are told: with requests
//! that overlap, outcomes that nobody knows, members that lag, compaction, leases that end, locks, and watches
//! that break and go on.
#![allow(dead_code, reason = "each test uses a part of it")]

mod clients;
pub(crate) mod feed;
mod watches;

use std::collections::{BTreeMap, BTreeSet};

use kvd_check::model::Store;
use kvd_check::{
    Bytes, Caller, Event, FinalRead, KeyRange, LeaseId, Member, Nanos, OpId, Outcome, Refusal,
    Request, Response, Revision,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

pub(crate) use feed::{Feed, Recorded};

/// Nanoseconds of a millisecond.
pub(crate) const MS: Nanos = 1_000_000;

/// What is handed over at once.
const AT_ONCE: usize = 1_000;

/// The store's members.
pub(crate) const MEMBERS: u64 = 3;

/// How large a history is, and of what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Operations at least.
    pub(crate) operations: u64,
    /// Clients.
    pub(crate) clients: u64,
    /// Keys they fight for.
    pub(crate) keys: u64,
    /// Watches at once.
    pub(crate) watches: usize,
    /// Of a million requests, how many have an outcome that nobody knows.
    pub(crate) unknown_ppm: u32,
    /// Leases, locks and compactions too.
    pub(crate) everything: bool,
}

/// Small ones, in which everything happens.
pub(crate) const SMALL: Shape = Shape {
    operations: 40,
    clients: 4,
    keys: 3,
    watches: 2,
    unknown_ppm: 80_000,
    everything: true,
};

/// What happens next.
#[derive(Debug)]
enum Next {
    /// A client sends a request.
    Ask(u64),
    /// It is done.
    Do(OpId),
    /// Its client is told, or gives up.
    Tell(OpId),
    /// A member catches up.
    Catch(Member),
    /// A watch is sent something, maybe.
    Pump(usize),
    /// A lease's time may be over; renewed so often by then.
    Expire(LeaseId, u64),
}

/// A request that is under way.
#[derive(Debug)]
struct Asked {
    caller: Caller,
    request: Request,
    /// What its client will be told; none if nobody knows.
    answer: Option<Outcome>,
    /// It never reaches the store.
    lost: bool,
    /// Nobody will know.
    unknown: bool,
    /// Its client gave up on it already.
    told: bool,
}

/// A client's memory.
#[derive(Debug, Default)]
struct Client {
    /// The newest revision it knows of each key.
    changed: BTreeMap<Bytes, Revision>,
    lease: Option<LeaseId>,
    /// Its lock key's token.
    token: Option<Revision>,
    name: u64,
}

#[derive(Debug, Default)]
struct Lease {
    renewals: u64,
    seconds: u64,
}

/// The simulated world.
pub(crate) struct World {
    rng: StdRng,
    shape: Shape,
    now: Nanos,
    queue: BTreeMap<(Nanos, u64), Next>,
    queued: u64,
    store: Store,
    compacted: Revision,
    /// The log: what each revision from 2 on changed.
    log: Vec<Vec<Event>>,
    /// How far each member is, and how far its witness was told.
    applied: BTreeMap<Member, Revision>,
    witnessed: BTreeMap<Member, Revision>,
    clients: Vec<Client>,
    names: u64,
    leases: BTreeMap<LeaseId, Lease>,
    asked: BTreeMap<OpId, Asked>,
    watches: Vec<watches::Watch>,
    begun: u64,
    unique: u64,
    out: Recorded,
}

/// A history of a correct store.
pub(crate) fn generate(seed: u64, shape: Shape) -> Recorded {
    let mut feeds = Vec::new();
    let end = generate_into(seed, shape, &mut |some| feeds.extend(some));
    Recorded { feeds, ..end }
}

/// The same, handed over a few at a time while it happens; what is left is the end.
pub(crate) fn generate_into(seed: u64, shape: Shape, take: &mut dyn FnMut(Vec<Feed>)) -> Recorded {
    let members = 1..=MEMBERS;
    let mut world = World {
        rng: StdRng::seed_from_u64(seed),
        shape,
        now: 0,
        queue: BTreeMap::new(),
        queued: 0,
        store: Store::default(),
        compacted: 0,
        log: Vec::new(),
        applied: members.clone().map(|member| (member, 1)).collect(),
        witnessed: members.map(|member| (member, 1)).collect(),
        clients: Vec::new(),
        names: 0,
        leases: BTreeMap::new(),
        asked: BTreeMap::new(),
        watches: Vec::new(),
        begun: 0,
        unique: 0,
        out: Recorded::default(),
    };
    world.run(take);
    world.out
}

/// As many seeds as `KVD_SEEDS` says, or just the one of `KVD_SEED`.
pub(crate) fn seeds(usual: u64) -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    match number("KVD_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("KVD_SEEDS").unwrap_or(usual),
    }
}

impl World {
    fn run(&mut self, take: &mut dyn FnMut(Vec<Feed>)) {
        for client in 0..self.shape.clients {
            self.clients.push(Client { name: client, ..Client::default() });
            self.later(100 * MS, Next::Ask(client));
        }
        self.names = self.shape.clients;
        for member in 1..=MEMBERS {
            self.later(50 * MS, Next::Catch(member));
        }
        for _ in 0..self.shape.watches {
            self.open_watch(None);
        }
        while let Some(((at, _), next)) = self.queue.pop_first() {
            self.now = at;
            self.happen(next);
            if self.out.feeds.len() >= AT_ONCE {
                take(std::mem::take(&mut self.out.feeds));
            }
        }
        self.settle();
        take(std::mem::take(&mut self.out.feeds));
    }

    /// Queues something for a random moment within a span from now.
    fn later(&mut self, within: Nanos, next: Next) {
        let at = self.now + 1 + self.rng.random_range(0..within);
        self.at(at, next);
    }

    fn at(&mut self, at: Nanos, next: Next) {
        self.queued += 1;
        self.queue.insert((at, self.queued), next);
    }

    fn asking(&self) -> bool {
        self.begun < self.shape.operations
    }

    fn happen(&mut self, next: Next) {
        match next {
            Next::Ask(client) if self.asking() => self.ask(client),
            Next::Ask(_) => {}
            Next::Do(op) => self.serve(op),
            Next::Tell(op) => self.tell(op),
            Next::Catch(member) => {
                self.catch_up(member);
                if self.asking() || !self.asked.is_empty() || !self.leases.is_empty() {
                    self.later(80 * MS, Next::Catch(member));
                }
            }
            Next::Pump(watch) => {
                if self.pump(watch) && (self.asking() || !self.asked.is_empty()) {
                    self.later(80 * MS, Next::Pump(watch));
                }
            }
            Next::Expire(id, renewals) => {
                let over = self.leases.get(&id).is_some_and(|lease| lease.renewals == renewals);
                if over {
                    self.leases.remove(&id);
                    let events = self.store.end_lease(id).unwrap_or_default();
                    self.record(events);
                }
            }
        }
    }

    fn revision(&self) -> Revision {
        self.store.state.revision()
    }

    fn record(&mut self, events: Vec<Event>) {
        if !events.is_empty() {
            self.log.push(events);
        }
    }

    /// What a revision changed.
    fn change(&self, revision: Revision) -> &[Event] {
        &self.log[usize::try_from(revision - 2).expect("a revision of the log")]
    }

    /// A lease has its whole time again.
    fn renew(&mut self, id: LeaseId) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        lease.renewals += 1;
        let (renewals, seconds) = (lease.renewals, lease.seconds);
        let late = self.rng.random_range(1..400 * MS);
        self.at(self.now + seconds * 1_000 * MS + late, Next::Expire(id, renewals));
    }

    /// A request reaches the store.
    fn serve(&mut self, op: OpId) {
        let Some(asked) = self.asked.get(&op).filter(|asked| !asked.lost) else { return };
        let (caller, request) = (asked.caller, asked.request.clone());
        let outcome = self.done(caller, &request);
        let Some(asked) = self.asked.get_mut(&op) else { return };
        asked.answer = Some(outcome);
        if asked.told {
            self.asked.remove(&op);
        }
    }

    fn done(&mut self, caller: Caller, request: &Request) -> Outcome {
        if let Request::Compact { revision } = request {
            if *revision <= self.compacted {
                return Outcome::Refused(Refusal::Compacted);
            }
            if *revision > self.revision() {
                return Outcome::Refused(Refusal::FutureRevision);
            }
            self.compacted = *revision;
            self.applied.insert(caller.member, self.revision());
            let reply = kvd_check::Reply::Compact;
            return Outcome::Answered { revision: self.revision(), reply };
        }
        if request.is_serializable() {
            let revision = self.applied[&caller.member];
            let view = self.store.state.at(revision).expect("all is kept");
            return match kvd_check::model::evaluate(view, request) {
                Ok(effect) => Outcome::Answered { revision, reply: effect.reply },
                Err(refusal) => Outcome::Refused(refusal),
            };
        }
        if let Request::Range(range) = request
            && range.revision > 0
            && range.revision < self.compacted
        {
            return Outcome::Refused(Refusal::Compacted);
        }
        let done = self.store.step(request);
        // Whoever answers has applied what it answers of.
        self.applied.insert(caller.member, self.revision());
        match (request, done.is_ok()) {
            (Request::LeaseGrant { id, ttl_seconds }, true) => {
                let seconds = u64::try_from(*ttl_seconds).expect("a time to live");
                self.leases.insert(*id, Lease { renewals: 0, seconds });
                self.renew(*id);
            }
            (Request::LeaseKeepAlive { id }, true) => self.renew(*id),
            (Request::LeaseRevoke { id }, true) => drop(self.leases.remove(id)),
            _ => {}
        }
        match done {
            Ok(effect) => {
                self.record(effect.events);
                let revision = self.revision();
                Outcome::Answered { revision, reply: effect.reply }
            }
            Err(refusal) => Outcome::Refused(refusal),
        }
    }

    /// A member applies some more, and its witness is told of some.
    fn catch_up(&mut self, member: Member) {
        let (applied, newest) = (self.applied[&member], self.revision());
        let behind = self.rng.random_bool(0.6);
        let to = if behind { self.rng.random_range(applied..=newest) } else { newest };
        self.applied.insert(member, to);
        let told = self.witnessed[&member];
        let upto = if behind { self.rng.random_range(told..=to) } else { to };
        self.witness(member, upto);
    }

    fn witness(&mut self, member: Member, upto: Revision) {
        let told = self.witnessed.insert(member, upto).expect("a member");
        if told < upto {
            let events = (told + 1..=upto).flat_map(|at| self.change(at).to_vec()).collect();
            let response = Response::events(self.now, self.applied[&member], events);
            self.out.push(Feed::Witness(member, response));
        } else if self.rng.random_bool(0.1) {
            self.out.push(Feed::Witness(member, Response::progress(self.now, upto)));
        }
    }

    /// Everybody is told everything, and the members are read.
    fn settle(&mut self) {
        let newest = self.revision();
        for member in 1..=MEMBERS {
            self.now += 1;
            self.applied.insert(member, newest);
            self.witness(member, newest);
        }
        for watch in 0..self.watches.len() {
            self.now += 1;
            self.drain(watch);
        }
        self.now += 1;
        self.out.push(Feed::Healthy(0, self.now));
        let kvs = self.store.state.now().range(&KeyRange::all()).into_iter().cloned();
        let kvs: Vec<_> = kvs.collect();
        self.out.finals = (1..=MEMBERS)
            .map(|member| FinalRead { member, revision: newest, hash: 7, kvs: kvs.clone() })
            .collect();
        self.out.ended = self.now;
        self.out.log = std::mem::take(&mut self.log);
    }

    fn unique(&mut self) -> Bytes {
        self.unique += 1;
        format!("v{}", self.unique).into()
    }

    fn keys_of(&self, prefix: &str) -> BTreeSet<Bytes> {
        let view = self.store.state.now();
        let found = view.range(&KeyRange::prefix(prefix.as_bytes()));
        found.into_iter().map(|kv| kv.key.clone()).collect()
    }
}
