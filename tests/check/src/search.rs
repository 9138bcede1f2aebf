//! The second opinion: is there any order of the operations that explains their answers, were no revision told?
//!
//! A search after Wing and Gong, and Lowe: take operations one by one, each no later than its return, as long as
//! the answers fit; where none fits, go back; remember what was tried. It shares with the certificate only the
//! types of requests and answers, so it finds what a wrong certificate lets pass, and the other way round.
//!
//! Revisions in answers are hidden; a compare with a revision names the write that made it. Operations on keys
//! that have nothing to do with each other are searched apart. The search may take forever, so it has a limit
//! and looks at windows of a history only.

mod model;
mod order;
mod partition;
mod windows;

use crate::history::{Nanos, OpId};
use crate::reply::{KeyValue, Reply};
use crate::request::Request;

pub use windows::Windows;

/// What is known of an operation's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It happened before it ended, and was answered this. Revisions in it are not looked at.
    Answered {
        /// The answer.
        reply: Reply,
        /// When.
        ended: Nanos,
    },
    /// It happened, maybe at any later time, and the answer is not known.
    Happened,
    /// It happened before this moment, and the answer is not known.
    HappenedBefore(Nanos),
    /// It may have happened, or not.
    Open,
}

/// One operation of a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its name, to show it; none if no client asked for it.
    pub id: Option<OpId>,
    /// When it was sent.
    pub begun: Nanos,
    /// What was asked: reads of now, puts, deletes and transactions of these.
    pub request: Request,
    /// What became of it.
    pub fate: Fate,
}

/// Part of a history: what was there before it, and what happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// All keys at its beginning.
    pub initial: Vec<KeyValue>,
    /// What happened, in any order.
    pub steps: Vec<Step>,
    /// The puts that made revisions, with key, value and `mod_revision`: what a compare with a revision
    /// means. Their order is not looked at.
    pub puts: Vec<KeyValue>,
}

/// What the search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order.
    Linearizable,
    /// There is none.
    NotLinearizable(Counterexample),
    /// The limit was reached.
    GaveUp,
}

/// How far an order could be found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counterexample {
    /// Operations in the longest order that explains their answers, its end only.
    pub order: Vec<OpId>,
    /// Operations of which none can come next, though one must.
    pub stuck: Vec<OpId>,
}

/// Searches for an order, with this many steps at most.
#[must_use]
pub fn search(window: &Window, steps_max: u64) -> Verdict {
    let mut steps = steps_max;
    let mut verdict = Verdict::Linearizable;
    for part in partition::parts(window) {
        match order::search(&part, &mut steps) {
            Verdict::Linearizable => {}
            Verdict::GaveUp => verdict = Verdict::GaveUp,
            found @ Verdict::NotLinearizable(_) => return found,
        }
    }
    verdict
}
