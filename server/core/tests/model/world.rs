//! Two members of the core beside the model, taking the same steps.
//!
//! One member builds answers, the other does not; they compact, checkpoint and crash each at times of its own.
//! None of that may show.

use std::ops::ControlFlow;

use kvd_core::codec::encode_proposal;
use kvd_core::command::{Command, Entry, Proposal, RangeQuery, Txn};
use kvd_core::event::{Event, EventKind, KeyValue};
use kvd_core::ids::{Index, LogId, MemberId, Revision, Term};
use kvd_core::mvcc::txn::check_overlap;
use kvd_core::outcome::{Applied, Rejection};
use kvd_core::range::KeyRange;
use kvd_core::state::CompactProgress;
use kvd_core::view::{Access, ReadError, View};

use super::member::Member;
use super::steps::{Places, Read, Step};
use super::store::{Lease, Model, Told};
use super::txn::{accepted, accepted_branch};

/// What disagreed; the steps up to there, as taken, are in it.
pub(crate) type Disagreement = String;

/// See the module.
pub(crate) struct World {
    model: Model,
    log: Vec<Entry>,
    /// What each entry did, to be done again after a crash.
    applied: Vec<Applied>,
    members: [Member; 2],
    held: Option<(View, Model)>,
    taken: Vec<String>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            model: Model::new(),
            log: Vec::new(),
            applied: Vec::new(),
            members: [Member::new(true, 4096), Member::new(false, 0)],
            held: None,
            taken: Vec::new(),
        }
    }

    /// Takes a step on both sides.
    pub(crate) fn take(&mut self, step: &Step) -> Result<(), Disagreement> {
        self.try_step(step).map_err(|what| self.story(&what))
    }

    /// Looks at everything, before and after physical compaction came to its end.
    pub(crate) fn finish(&mut self) -> Result<(), Disagreement> {
        self.held = None;
        self.taken.push("the end".to_owned());
        self.look().map_err(|what| self.story(&what))?;
        self.taken.push("all compacted".to_owned());
        let looked = self.compact().and_then(|()| self.look()).and_then(|()| self.weigh());
        looked.map_err(|what| self.story(&what))
    }

    fn compact(&mut self) -> Result<(), String> {
        for member in &mut self.members {
            while member.sweep(3)? == CompactProgress::More {}
            let progress = member.sweep(3)?;
            agree(progress == CompactProgress::Done, &CompactProgress::Done, &progress)?;
            // A View tells the size as of its publication.
            member.state.publish();
        }
        Ok(())
    }

    /// Compaction took all that it may (rule M11).
    fn weigh(&self) -> Result<(), String> {
        let expected = self.model.kept_bytes();
        let views = self.members.iter().map(|member| member.state.view());
        let bytes: Vec<u64> = views.map(|view| view.live_bytes()).collect();
        agree(bytes.iter().all(|bytes| *bytes == expected), &expected, &bytes)
    }

    /// Long values are all alike, and shown short.
    fn story(&self, what: &str) -> Disagreement {
        let story = format!("{what}\nafter\n  {}", self.taken.join("\n  "));
        let mut short = String::new();
        for (part, text) in story.split("vvvv").enumerate() {
            if part > 0 && !short.ends_with('~') {
                short.push('~');
            }
            short.push_str(text);
        }
        short
    }

    /// Commands committed so far.
    pub(crate) fn commands(&self) -> usize {
        self.log.len()
    }

    fn try_step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Commit(command) => self.propose(command.clone()),
            Step::Blank => self.commit(None),
            Step::Read { replica, held, read } => self.read(*replica, *held, read.clone()),
            Step::Hold { replica } => {
                self.taken.push(format!("{step:?}"));
                self.held = Some((self.members[*replica].state.view(), self.model.clone()));
                Ok(())
            }
            Step::Release => {
                self.taken.push(format!("{step:?}"));
                self.held = None;
                Ok(())
            }
            Step::Sweep { replica, .. }
            | Step::Checkpoint { replica }
            | Step::Write { replica, .. }
            | Step::Crash { replica }
            | Step::Check { replica } => {
                self.taken.push(format!("{step:?}"));
                self.members[*replica].care(step, &self.log, &self.applied)
            }
        }
    }

    fn propose(&mut self, mut command: Command) -> Result<(), String> {
        Places(&self.model).command(&mut command);
        if let Command::Txn(txn) = &mut command {
            overlap(txn)?;
            // What is refused before it is proposed is cut down to what is not.
            for branch in [&mut txn.success, &mut txn.failure] {
                while !accepted_branch(branch) {
                    branch.pop();
                }
            }
            overlap(txn)?;
        }
        self.commit(Some(command))
    }

    fn commit(&mut self, command: Option<Command>) -> Result<(), String> {
        let index = self.log.len() as u64 + 1;
        self.taken.push(match &command {
            Some(command) => format!("{index}: {command:?}"),
            None => format!("{index}: blank"),
        });
        let log_id = LogId { term: Term(1), node: MemberId(7), index: Index(index) };
        let told = command.as_ref().map(|command| self.model.apply(index, command));
        let proposal = command.map(|command| encode_proposal(&Proposal::internal(command)));
        let entry = Entry { log_id, proposal, membership: None };
        let [first, second] = &mut self.members;
        let applied = first.apply(&entry)?;
        let silent = second.apply(&entry)?;
        if let Some(told) = &told {
            compare(&applied, told, self.model.revision())?;
        }
        let said = |applied: &Applied| (applied.revision, applied.outcome.as_ref().err().cloned());
        let same = said(&applied) == said(&silent)
            && (&applied.events, &applied.leases) == (&silent.events, &silent.leases);
        if !same {
            return Err(format!("without an answer it does {silent:?} instead of {applied:?}"));
        }
        let hashes = [first, second].map(|member| member.state.view().state_hash());
        if hashes[0] != hashes[1] {
            return Err(format!("hashes differ: {hashes:?}"));
        }
        self.log.push(entry);
        self.applied.push(applied);
        Ok(())
    }

    fn read(&mut self, replica: usize, held: bool, mut read: Read) -> Result<(), String> {
        let held = self.held.as_ref().filter(|_| held);
        let latest = self.members[replica].state.view();
        let (view, model) = match held {
            Some((view, model)) => (view, model),
            None => (&latest, &self.model),
        };
        Places(model).read(&mut read);
        let from = if held.is_some() { "held" } else { "latest" };
        self.taken.push(format!("{replica} {from}: {read:?}"));
        match &read {
            Read::Range(query) => range(view, model, query),
            Read::Txn(txn) => {
                let expected = model.txn(txn, &mut model.begin());
                let answer = either(|access| view.txn(txn, access))?;
                let agreed = match (&expected, &answer) {
                    (Ok(expected), Ok(answer)) => expected.explains(answer),
                    (Err(refusal), Err(rejection)) => refusal.contains(rejection),
                    _ => false,
                };
                agree(agreed, &expected, &answer)
            }
            Read::HashKv(revision) => {
                let expected = model.hash_kv(*revision);
                let answer = either(|access| view.hash_kv(*revision, access))?;
                agree(expected == answer, &expected, &answer)
            }
            Read::Scan { from, to } => scan(view, model, *from, *to),
        }
    }

    /// All that both members show.
    fn look(&self) -> Result<(), String> {
        for member in &self.members {
            let view = member.state.view();
            let first = self.model.compacted.unwrap_or(1).max(1);
            for revision in first..=self.model.revision() {
                let all = RangeQuery::latest(KeyRange::all());
                range(
                    &view,
                    &self.model,
                    &RangeQuery { revision: Some(Revision(revision)), ..all },
                )?;
                let expected = self.model.hash_kv(revision);
                let answer = either(|access| view.hash_kv(revision, access))?;
                agree(expected == answer, &expected, &answer)?;
            }
            scan(&view, &self.model, first, self.model.revision())?;
            self.tables(&view)?;
            member.state.check().map_err(|fatal| fatal.to_string())?;
        }
        Ok(())
    }

    fn tables(&self, view: &View) -> Result<(), String> {
        let expected: Vec<_> = self
            .model
            .leases
            .iter()
            .map(|(id, lease)| (*id, *lease, self.model.lease_keys(*id)))
            .collect();
        let leases = view.leases().into_iter().filter_map(|(id, _)| view.lease(id));
        let answer: Vec<_> = leases
            .map(|info| {
                let lease = Lease {
                    ttl: info.terms.ttl_seconds,
                    granted_at: info.terms.granted_at.0,
                    remaining: info.terms.remaining_seconds,
                };
                (info.id, lease, info.keys)
            })
            .collect();
        agree(expected == answer, &expected, &answer)?;
        agree(&self.model.alarms == view.alarms(), &self.model.alarms, view.alarms())?;
        let compacted = view.compacted().map(|revision| revision.0);
        agree(self.model.compacted == compacted, &self.model.compacted, &compacted)?;
        let live = self.model.latest().len() as u64;
        agree(live == view.count(), &live, &view.count())
    }
}

fn overlap(txn: &Txn) -> Result<(), String> {
    let (expected, answer) = (accepted(txn), check_overlap(txn));
    let refused = answer == Err(Rejection::DuplicateKey);
    agree(expected == answer.is_ok() && expected != refused, &(expected, txn), &answer)
}

fn compare(applied: &Applied, told: &Told, revision: i64) -> Result<(), String> {
    let outcome = match (&told.outcome, &applied.outcome) {
        (Ok(answer), Ok(response)) => answer.explains(response),
        (Err(refusal), Err(rejection)) => refusal.contains(rejection),
        _ => false,
    };
    let facts = told.events == applied.events && told.leases == applied.leases;
    let agreed = outcome && facts && revision == applied.revision.0;
    agree(agreed, &(revision, told), applied)
}

fn range(view: &View, model: &Model, query: &RangeQuery) -> Result<(), String> {
    let expected = model.range(query);
    let answer = either(|access| view.range(query, access))?;
    let agreed = match (&expected, &answer) {
        (Ok(expected), Ok(answer)) => expected.explains(answer),
        (expected, answer) => expected.as_ref().err() == answer.as_ref().err(),
    };
    agree(agreed, &expected, &answer)
}

/// Events as a watcher from that revision on gets them, with what was there before (rules W12, W13, W19).
fn scan(view: &View, model: &Model, from: i64, to: i64) -> Result<(), String> {
    let mut seen = Vec::new();
    let answer = view.scan(Revision(from), Revision(to), Access::Disk, &mut |event| {
        seen.push(event);
        ControlFlow::Continue(())
    });
    let answer = answer.map_err(|error| error.to_string())?;
    let seen: Vec<_> = seen
        .into_iter()
        .map(|event| {
            let previous = either(|access| view.previous(&event, access).map(Ok))?;
            Ok((event, previous))
        })
        .collect::<Result<_, String>>()?;
    let compacted = model.compacted.unwrap_or(-1);
    if from < compacted {
        return agree(answer == Err(Rejection::Compacted), &"compacted", &answer);
    }
    let expected: Vec<_> = model
        .changes
        .iter()
        .filter(|event| (from..=to).contains(&event.change.main.0) && model.kept(event, compacted))
        .map(|event| {
            let readable = event.change.main.0 > compacted;
            let event = Event { prev: event.prev.filter(|_| readable), ..event.clone() };
            let previous = previous(model, &event);
            (event, Ok(previous))
        })
        .collect();
    agree(answer.is_ok() && expected == seen, &expected, &seen)
}

/// Rule W19.
fn previous(model: &Model, event: &Event) -> Option<KeyValue> {
    let created = event.kind == EventKind::Put && event.kv.version == 1;
    let before = model.at(event.change.main.0 - 1).ok().filter(|_| !created)?;
    before.get(&event.kv.key).map(|live| live.kv.clone())
}

/// Reads from memory alone, and from the store where that is not enough.
fn either<T>(
    read: impl Fn(Access) -> Result<Result<T, Rejection>, ReadError>,
) -> Result<Result<T, Rejection>, String> {
    let answer = match read(Access::Memory) {
        Err(ReadError::Miss) => read(Access::Disk),
        answer => answer,
    };
    answer.map_err(|error| error.to_string())
}

pub(crate) fn agree(
    agreed: bool,
    expected: &dyn std::fmt::Debug,
    answer: &dyn std::fmt::Debug,
) -> Result<(), String> {
    if agreed { Ok(()) } else { Err(format!("expected {expected:?}\ngot      {answer:?}")) }
}
