//! A watch cache as kube-apiserver has one, that trusts nothing: it holds what a list and the
//! watch after it told, and checks each response against that and against the watch contract
//! (kube-apiserver.md §3, behaviour.md §3).
//!
//! Promises that [`Cache::wrong`] names every response that breaks the contract. Knows nothing of
//! the network: it is handed responses and told when a stream begins.

use std::collections::BTreeMap;

use kvd_proto::etcdserverpb::WatchResponse;
use kvd_proto::mvccpb::event::EventType;
use kvd_proto::mvccpb::{Event, KeyValue};

use super::change::{Change, Held, Put, text};

/// The id of a response that speaks of all watches of its stream.
const ALL_WATCHES: i64 = -1;

/// What is said of progress below a watch's start, which a member that lags behind the one before
/// must not tell (behaviour.md §3.3). etcd 3.5.16 tells it.
pub const EARLY_PROGRESS: &str = " of a watch from ";

/// A stretch of history without a gap: everything in `from < revision <= to`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// The revision of the list that it begins with.
    pub from: i64,
    /// As far as the store promised that nothing is missing.
    pub to: i64,
    /// All of it, in the order of delivery.
    pub changes: Vec<Change>,
}

/// What a response was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The watch has begun.
    Created,
    /// Events.
    Events,
    /// Everything up to here was delivered.
    Progress(i64),
    /// The history that the watch needs is gone: list again.
    Compacted(i64),
    /// The watch ended against the contract.
    Broken,
}

/// What is held of one prefix.
#[derive(Debug, Default)]
pub struct Cache {
    prefix: String,
    held: BTreeMap<String, Held>,
    segments: Vec<Segment>,
    /// Everything up to here is held.
    revision: i64,
    /// The newest that a progress response promised.
    promised: i64,
    /// The newest revision of an event.
    delivered: i64,
    /// Where the Go client would resume (kube-apiserver.md §3.4).
    resume: i64,
    /// Where the stream's watch was asked to begin.
    start: i64,
    /// The id of the stream's watch, once it is created.
    watch: Option<i64>,
    wrong: Vec<String>,
}

impl Cache {
    /// An empty one.
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), ..Self::default() }
    }

    /// Holds what a list found and nothing else. A watch from the next revision must follow.
    pub fn fill(&mut self, kvs: &[KeyValue], revision: i64) {
        self.held = kvs.iter().map(|kv| (text(&kv.key), Held::of(kv))).collect();
        if revision < self.revision {
            self.accuse(format!("a list at {revision}, when {} was held", self.revision));
        }
        (self.revision, self.resume) = (revision, revision + 1);
        self.segments.push(Segment { from: revision, to: revision, changes: Vec::new() });
    }

    /// Where the next stream's watch must start.
    pub fn resume_point(&self) -> i64 {
        self.resume
    }

    /// A new stream begins, with a watch from the resume point.
    pub fn begin_stream(&mut self) {
        (self.watch, self.start) = (None, self.resume);
    }

    /// Takes a response of the stream.
    pub fn take(&mut self, response: &WatchResponse) -> Heard {
        let Some(header) = &response.header else {
            self.accuse("a response without a header".to_owned());
            return Heard::Broken;
        };
        let told = header.revision;
        if header.cluster_id == 0 {
            self.accuse("a header without a cluster".to_owned());
        }
        if response.fragment {
            self.accuse("a fragment that nobody asked for".to_owned());
        }
        if response.created {
            return self.created(response, told);
        }
        if self.watch.is_none() {
            self.accuse(format!("not created yet: {response:?}"));
            return Heard::Broken;
        }
        let for_all = response.watch_id == ALL_WATCHES && response.events.is_empty();
        if !for_all && self.watch != Some(response.watch_id) {
            self.accuse(format!("for watch {}", response.watch_id));
        }
        if response.canceled {
            return self.canceled(response, told);
        }
        // What the Go client does with headers: a header ahead of the events loses them.
        self.resume = self.resume.max(told + 1);
        if response.events.is_empty() {
            return self.progress(told);
        }
        self.events(&response.events, told);
        self.resume = self.delivered + 1;
        Heard::Events
    }

    /// Everything up to here is held.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// What is held, and as of which revision.
    pub fn snapshot(&self) -> (BTreeMap<String, Held>, i64) {
        (self.held.clone(), self.revision)
    }

    /// What is held of one key.
    pub fn get(&self, key: &str) -> Option<&Held> {
        self.held.get(key)
    }

    /// All that was delivered.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Each breach of the contract.
    pub fn wrong(&self) -> &[String] {
        &self.wrong
    }

    fn created(&mut self, response: &WatchResponse, told: i64) -> Heard {
        if self.watch.is_some() {
            self.accuse("created twice".to_owned());
        }
        if response.canceled || !response.events.is_empty() {
            self.accuse(format!("created with more: {response:?}"));
            return Heard::Broken;
        }
        if told == 0 {
            self.accuse("created at revision 0".to_owned());
        }
        self.watch = Some(response.watch_id);
        Heard::Created
    }

    fn canceled(&mut self, response: &WatchResponse, told: i64) -> Heard {
        let compacted = response.compact_revision;
        if compacted == 0 {
            self.accuse(format!("canceled without compaction: {:?}", response.cancel_reason));
            return Heard::Broken;
        }
        let is_plain = response.cancel_reason.is_empty() && response.events.is_empty();
        if !is_plain || told != 0 {
            self.accuse(format!("a compacted cancel with more: {response:?}"));
        }
        if compacted <= self.start.max(self.revision + 1) {
            let next = self.revision + 1;
            self.accuse(format!("compacted at {compacted}, but {next} is what it needs"));
        }
        Heard::Compacted(compacted)
    }

    fn progress(&mut self, told: i64) -> Heard {
        if told < self.start {
            self.accuse(format!("progress {told}{EARLY_PROGRESS}{}", self.start));
            return Heard::Progress(told);
        }
        if told < self.promised || told < self.delivered {
            let (promised, delivered) = (self.promised, self.delivered);
            self.accuse(format!("progress {told} after progress {promised}, event {delivered}"));
        }
        self.promised = self.promised.max(told);
        self.advance(told);
        Heard::Progress(told)
    }

    fn events(&mut self, events: &[Event], told: i64) {
        let delivered_before = self.delivered;
        for event in events {
            let Some(kv) = &event.kv else {
                self.accuse(format!("an event without a key: {event:?}"));
                continue;
            };
            let revision = kv.mod_revision;
            self.check_place(kv, delivered_before, told);
            let before = self.held.get(&text(&kv.key)).cloned();
            let change = self.change(event, kv, before.as_ref());
            match change.held() {
                Some(held) => self.held.insert(change.key.clone(), held),
                None => self.held.remove(&change.key),
            };
            self.delivered = self.delivered.max(revision);
            self.advance(revision);
            if let Some(segment) = self.segments.last_mut() {
                segment.changes.push(change);
            }
        }
    }

    /// Whether an event may stand where it does.
    fn check_place(&mut self, kv: &KeyValue, delivered_before: i64, told: i64) {
        let (revision, key) = (kv.mod_revision, text(&kv.key));
        if !key.starts_with(&self.prefix) {
            self.accuse(format!("{key} at {revision} is outside {}", self.prefix));
        }
        if revision < self.start {
            self.accuse(format!("{key} at {revision} is before the start {}", self.start));
        }
        if revision <= self.promised {
            self.accuse(format!("{key} at {revision} comes after progress {}", self.promised));
        }
        if revision == delivered_before {
            self.accuse(format!("{key} at {revision}: a revision in two responses"));
        }
        if revision < self.delivered {
            self.accuse(format!("{key} at {revision} comes after {}", self.delivered));
        }
        if revision > told {
            self.accuse(format!("{key} at {revision} under a header of {told}"));
        }
        let changes = self.segments.last().into_iter().flat_map(|segment| segment.changes.iter());
        let mut same = changes.rev().take_while(|change| change.revision == revision);
        if same.any(|change| change.key == key) {
            self.accuse(format!("{key} at {revision} is told twice"));
        }
    }

    /// What an event says, checked against what is held.
    fn change(&mut self, event: &Event, kv: &KeyValue, before: Option<&Held>) -> Change {
        let (revision, key) = (kv.mod_revision, text(&kv.key));
        let told_before = event.prev_kv.as_ref().map(Held::of);
        let is_delete = event.r#type == i32::from(EventType::Delete);
        let is_create = !is_delete && kv.create_revision == revision;
        let mut accuse = |what: String| self.wrong.push(format!("{key} at {revision}: {what}"));
        if is_create && (told_before.is_some() || before.is_some() || kv.version != 1) {
            accuse(format!("created as {kv:?}, told {told_before:?}, held {before:?}"));
        }
        if !is_create && told_before.is_none() {
            accuse("no prev_kv".to_owned());
        }
        if !is_create && told_before.is_some() && told_before.as_ref() != before {
            accuse(format!("prev_kv is {told_before:?}, held {before:?}"));
        }
        if event.prev_kv.as_ref().is_some_and(|previous| previous.key != kv.key) {
            accuse("prev_kv is another key's".to_owned());
        }
        let is_bare = kv.value.is_empty() && kv.create_revision == 0 && kv.version == 0;
        if is_delete && (!is_bare || kv.lease != 0) {
            accuse(format!("deleted as {kv:?}"));
        }
        let follows =
            |held: &Held| kv.version == held.version + 1 && kv.create_revision == held.created;
        if !is_delete && !is_create && !before.is_some_and(follows) {
            accuse(format!("updated as {kv:?}, held {before:?}"));
        }
        let put = Put {
            value: text(&kv.value),
            created: kv.create_revision,
            version: kv.version,
            lease: kv.lease,
        };
        let before = before.map_or((0, 0), |held| (held.changed, held.lease));
        Change { revision, key, put: (!is_delete).then_some(put), before }
    }

    fn advance(&mut self, revision: i64) {
        self.revision = self.revision.max(revision);
        if let Some(segment) = self.segments.last_mut() {
            segment.to = self.revision;
        }
    }

    fn accuse(&mut self, what: String) {
        self.wrong.push(format!("{}: {what}", self.prefix));
    }
}

#[cfg(test)]
mod tests;
