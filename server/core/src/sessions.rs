//! What was answered to requests with an id, so that a repetition is answered and not applied again.
//!
//! A client opens a session by asking for an index that a majority confirmed, `opened`, and numbers its
//! requests from 1. Of each session stands here up to which number its client will repeat nothing any more
//! (`settled`), and what each successful request after that was answered. Numbers at or below `settled`, and
//! those more than a window above it, are refused. Refusals are not remembered: they changed nothing, so a
//! repetition is decided anew.
//!
//! Memory is bounded: the sessions used longest ago are forgotten, answers and all, and `floor` keeps the index
//! of the last use of any of them. A session that is not known is begun only if `floor < opened`, and only by
//! an entry behind `opened`.
//!
//! **A request is never applied twice.** Say it was applied by the entry at A. Its session was there, so
//! `opened < A`, and its answer is remembered. A repetition behind A finds that answer, or
//! - its client settled the number: `settled` only grows, so it is outside the window as long as the session
//!   lives; or
//! - the session was forgotten: its last use was at A or later, so `opened < A <= floor` from then on. `floor`
//!   only grows, so a session with this `opened` is never begun again; one that the same client opened later
//!   has another, which the id states: it is not the session meant, and the request is refused.
//!
//! Who opens a session after another was forgotten is confirmed an index at or behind the entry that did it,
//! which lies behind `floor`: so a fresh session is let in, unless thousands of others are used before it is.
//!
//! Knows nothing of commands and answers: the caller says what is to be remembered.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::checkpoint::Table;
use crate::codec::{
    DecodeError, decode_answer, decode_answer_key, decode_index, decode_session, encode_answer,
    encode_answer_key, encode_index, encode_session,
};
use crate::ids::{Index, RequestId, Revision};
use crate::limits::{
    REQUEST_ANSWER_BYTES_MAX, REQUEST_ANSWERS_MAX, REQUEST_SESSIONS_MAX, REQUEST_WINDOW,
};
use crate::outcome::Rejection;
use crate::tables::{Rows, id_row, row_id};

/// Id of the floor in [`Table::Cluster`].
pub(crate) const FLOOR: &[u8] = b"request-floor";

/// How many of everything; see [`crate::limits`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) window: u64,
    pub(crate) sessions_max: usize,
    pub(crate) answers_max: usize,
    pub(crate) answer_bytes_max: usize,
}

impl Limits {
    /// What all members have.
    const REPLICATED: Self = Self {
        window: REQUEST_WINDOW as u64,
        sessions_max: REQUEST_SESSIONS_MAX,
        answers_max: REQUEST_ANSWERS_MAX,
        answer_bytes_max: REQUEST_ANSWER_BYTES_MAX,
    };
}

/// How much is remembered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestCounts {
    /// Sessions.
    pub sessions: usize,
    /// Answers, of all sessions together.
    pub answers: usize,
}

/// What is remembered of one request that was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// All of it, encoded.
    Kept(Bytes),
    /// It was too large: the revision after it.
    NotKept(Revision),
}

/// What is stored of a session beside its answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SessionTerms {
    /// The index that was confirmed to its client; names the session together with the client's id.
    pub(crate) opened: Index,
    /// Its client repeats nothing up to this number; only grows.
    pub(crate) settled: u64,
    /// The last entry with a request of this session.
    pub(crate) used: Index,
}

#[derive(Debug)]
struct Session {
    terms: SessionTerms,
    answers: BTreeMap<u64, Answer>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Sessions {
    limits: Limits,
    sessions: BTreeMap<u64, Session>,
    /// Clients by the last use of their session. An entry uses one session at most.
    by_use: BTreeMap<Index, u64>,
    /// The greatest last use of a session that was forgotten.
    floor: Index,
    answers: usize,
}

impl Default for Sessions {
    fn default() -> Self {
        Self::new(Limits::REPLICATED)
    }
}

impl Sessions {
    pub(crate) fn new(limits: Limits) -> Self {
        let one_fits = limits.sessions_max > 0 && limits.answers_max as u64 >= limits.window;
        assert!(one_fits, "the session in use is never the one to forget");
        Self {
            limits,
            sessions: BTreeMap::new(),
            by_use: BTreeMap::new(),
            floor: Index(0),
            answers: 0,
        }
    }

    pub(crate) fn counts(&self) -> RequestCounts {
        RequestCounts { sessions: self.sessions.len(), answers: self.answers }
    }

    /// Takes in the entry at `at`, a request with this id: what it was answered when it was applied, or
    /// nothing if it is to be applied now.
    pub(crate) fn begin(
        &mut self,
        id: RequestId,
        at: Index,
        rows: &mut Rows,
    ) -> Result<Option<Answer>, Rejection> {
        let (known, before) = match self.sessions.get(&id.client) {
            Some(session) => (session.terms.opened == id.opened, Some(session.terms)),
            None => (self.floor < id.opened && id.opened < at, None),
        };
        if !known {
            return Err(Rejection::SessionUnknown);
        }
        let fresh = SessionTerms { opened: id.opened, settled: 0, used: at };
        let mut terms = before.unwrap_or(fresh);
        if before.is_some() {
            self.by_use.remove(&terms.used);
        }
        terms.used = at;
        terms.settled = terms.settled.max(id.settled);
        let (old, new) = (before.map(encode_session), encode_session(terms));
        rows.replace(Table::Session, id_row(id.client), old, Some(new));
        self.by_use.insert(at, id.client);
        self.set(id.client, terms, rows);
        self.forget_oldest(rows);
        self.look_up(id)
    }

    /// Remembers what a request was answered that [`Sessions::begin`] let pass.
    pub(crate) fn remember(
        &mut self,
        id: RequestId,
        answer: Bytes,
        revision: Revision,
        rows: &mut Rows,
    ) {
        let answer = match answer.len() <= self.limits.answer_bytes_max {
            // Exactly as long as it is: it stays for long.
            true => Answer::Kept(Bytes::copy_from_slice(&answer)),
            false => Answer::NotKept(revision),
        };
        let row = encode_answer(&answer);
        rows.replace(Table::Answer, encode_answer_key(id.client, id.sequence), None, Some(row));
        let session = self.sessions.get_mut(&id.client).expect("begin made it and none came since");
        let before = session.answers.insert(id.sequence, answer);
        assert!(before.is_none(), "a request was applied twice");
        self.answers += 1;
        self.forget_oldest(rows);
    }

    /// Sets a session's terms, and drops the answers that are settled by them.
    fn set(&mut self, client: u64, terms: SessionTerms, rows: &mut Rows) {
        let fresh = Session { terms, answers: BTreeMap::new() };
        let session = self.sessions.entry(client).or_insert(fresh);
        session.terms = terms;
        while let Some(first) = session.answers.first_entry()
            && *first.key() <= terms.settled
        {
            let (sequence, answer) = first.remove_entry();
            drop_row(client, sequence, &answer, rows);
            self.answers -= 1;
        }
    }

    fn look_up(&self, id: RequestId) -> Result<Option<Answer>, Rejection> {
        let session = &self.sessions[&id.client];
        let settled = session.terms.settled;
        let last = settled.saturating_add(self.limits.window);
        if id.sequence <= settled || id.sequence > last {
            return Err(Rejection::RequestOutsideWindow);
        }
        Ok(session.answers.get(&id.sequence).cloned())
    }

    /// Forgets sessions until all is within its limits. The one in use is the newest, and fits by itself.
    fn forget_oldest(&mut self, rows: &mut Rows) {
        while self.sessions.len() > self.limits.sessions_max
            || self.answers > self.limits.answers_max
        {
            let (used, client) = self.by_use.pop_first().expect("every session was used");
            let session = self.sessions.remove(&client).expect("a use is a session's");
            for (sequence, answer) in &session.answers {
                drop_row(client, *sequence, answer, rows);
            }
            self.answers -= session.answers.len();
            let old = encode_session(session.terms);
            rows.replace(Table::Session, id_row(client), Some(old), None);
            let old = self.floor_row();
            self.floor = used;
            rows.replace(Table::Cluster, Bytes::from_static(FLOOR), old, self.floor_row());
        }
    }

    fn floor_row(&self) -> Option<Bytes> {
        (self.floor > Index(0)).then(|| encode_index(self.floor))
    }
}

fn drop_row(client: u64, sequence: u64, answer: &Answer, rows: &mut Rows) {
    let key = encode_answer_key(client, sequence);
    rows.replace(Table::Answer, key, Some(encode_answer(answer)), None);
}

/// Rows.
impl Sessions {
    /// Whether a row of the last checkpoint is kept here.
    pub(crate) fn owns(table: Table, id: &[u8]) -> bool {
        matches!(table, Table::Session | Table::Answer) || (table == Table::Cluster && id == FLOOR)
    }

    /// Takes in a row of the last checkpoint; a session's comes before those of its answers.
    pub(crate) fn recover(
        &mut self,
        table: Table,
        id: &Bytes,
        row: Bytes,
    ) -> Result<(), DecodeError> {
        match table {
            Table::Session => {
                let (client, terms) = (row_id(id)?, decode_session(row)?);
                if self.by_use.insert(terms.used, client).is_some() {
                    return Err(DecodeError::Contradiction("two sessions used by one entry"));
                }
                self.sessions.insert(client, Session { terms, answers: BTreeMap::new() });
            }
            Table::Answer => {
                let (client, sequence) = decode_answer_key(id.clone())?;
                let session = self.sessions.get_mut(&client);
                let session =
                    session.ok_or(DecodeError::Contradiction("an answer without its session"))?;
                session.answers.insert(sequence, decode_answer(row)?);
                self.answers += 1;
            }
            _ => self.floor = decode_index(row)?,
        }
        Ok(())
    }

    /// All rows, in order of table and id.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (Table, Bytes, Bytes)> {
        let floor = self.floor_row().map(|row| (Table::Cluster, Bytes::from_static(FLOOR), row));
        let sessions = self.sessions.iter().map(|(client, session)| {
            (Table::Session, id_row(*client), encode_session(session.terms))
        });
        let answers = self.sessions.iter().flat_map(|(client, session)| {
            session.answers.iter().map(|(sequence, answer)| {
                (Table::Answer, encode_answer_key(*client, *sequence), encode_answer(answer))
            })
        });
        floor.into_iter().chain(sessions).chain(answers)
    }

    /// What does not hold of the invariants, if anything; `applied` is the last entry of the state.
    pub(crate) fn broken(&self, applied: Index) -> Option<&'static str> {
        let (limits, mut answers) = (&self.limits, 0);
        for (client, session) in &self.sessions {
            let SessionTerms { opened, settled, used } = session.terms;
            if self.by_use.get(&used) != Some(client) {
                return Some("a session is not found by its last use");
            }
            if !(opened < used && used <= applied) {
                return Some("a session was used before it was opened, or later than now");
            }
            if used <= self.floor {
                return Some("a session was forgotten that was used later than one that is known");
            }
            let window = settled.saturating_add(1)..=settled.saturating_add(limits.window);
            if session.answers.keys().any(|sequence| !window.contains(sequence)) {
                return Some("an answer is remembered outside its session's window");
            }
            if session.answers.values().any(|answer| matches!(answer, Answer::Kept(bytes) if bytes.len() > limits.answer_bytes_max)) {
                return Some("a remembered answer is larger than may be");
            }
            answers += session.answers.len();
        }
        if self.by_use.len() != self.sessions.len() || answers != self.answers {
            return Some("sessions or answers are counted wrongly");
        }
        if self.sessions.len() > limits.sessions_max || answers > limits.answers_max {
            return Some("more sessions or answers are remembered than may be");
        }
        None
    }
}

#[cfg(test)]
mod tests;
