//! The end: all members have the same hash, and the keys that the log leads to.

use crate::checker::FinalRead;
use crate::request::{KeyRange, Revision};
use crate::state::State;
use crate::violation::{Kind, Violation};

/// Holds what members have at the end against each other and against the log.
///
/// # Errors
/// The first difference.
pub fn check(state: &State, finals: &[FinalRead]) -> Result<(), Violation> {
    for two in finals.windows(2) {
        if two[0].revision == two[1].revision && two[0].hash != two[1].hash {
            let text = format!(
                "at revision {}, member {} has hash {:x} and member {} has {:x}",
                two[0].revision, two[0].member, two[0].hash, two[1].member, two[1].hash
            );
            return Err(Violation::new(Kind::HashesDiffer, text));
        }
    }
    finals.iter().try_for_each(|read| is_of_the_log(state, read))
}

fn is_of_the_log(state: &State, read: &FinalRead) -> Result<(), Violation> {
    let FinalRead { member, revision, .. } = read;
    let newest: Revision = state.revision();
    let wrong = |what: String| {
        Err(Violation::new(Kind::EndStateDiffers, format!("member {member}: {what}")))
    };
    if *revision != newest {
        return wrong(format!("it is at revision {revision}, the log at {newest}"));
    }
    let must = state.now().range(&KeyRange::all());
    if must.len() != read.kvs.len() {
        return wrong(format!("it has {} keys, the log leads to {}", read.kvs.len(), must.len()));
    }
    match must.into_iter().zip(&read.kvs).find(|(must, is)| must != is) {
        Some((must, is)) => wrong(format!("it has {is:?}, the log leads to {must:?}")),
        None => Ok(()),
    }
}
