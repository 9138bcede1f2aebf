//! One scan of history for many watchers that are behind (hazard B7).
//!
//! It holds its View for the length of the scan only: what compaction took meanwhile is told as such, never
//! skipped (rules W24, W26).

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use kvd_core::event::Event;
use kvd_core::ids::Revision;
use kvd_core::mutants::{Mutant, active};
use kvd_core::outcome::Fatal;
use kvd_core::view::{Access, ReadError, View};
use kvd_core::watch::{Matcher, encode_event};

use super::classes::ClassKey;
use super::hub::{Found, Wanted, WatcherKey};
use super::outbox::Batch;
use super::request::Interest;
use crate::limits::{CATCH_UP_BYTES, CATCH_UP_CHANGES, CATCH_UP_REVISIONS};

/// What all who want the same found.
struct Gathered {
    interest: Interest,
    watchers: Vec<(WatcherKey, Revision)>,
    events: Vec<(Revision, Bytes)>,
}

/// How a scan reads.
#[derive(Clone, Copy)]
pub(super) struct Manner {
    /// With the device it blocks: not for an async task.
    pub(super) access: Access,
    /// Bytes for each watcher, unless one revision has more.
    pub(super) offer_bytes: usize,
}

/// Reads history for these watchers, from where the first of them is.
pub(super) fn scan(
    view: &View,
    wanted: Vec<Wanted>,
    manner: Manner,
) -> Result<Vec<Found>, ReadError> {
    let mark = view.compacted();
    let is_gone = |next: Revision| mark.filter(|mark| next < *mark);
    let mut found = Vec::with_capacity(wanted.len());
    let mut classes: Vec<Gathered> = Vec::new();
    let mut by_class: HashMap<ClassKey, usize> = HashMap::new();
    let mut from = None;
    for mut one in wanted {
        if active(Mutant::CompactedSkipped) {
            one.next = one.next.max(mark.unwrap_or(one.next));
        }
        if let Some(mark) = is_gone(one.next) {
            found.push(Found { watcher: one.watcher, events: None, read: Err(mark) });
            continue;
        }
        from = Some(from.map_or(one.next, |from: Revision| from.min(one.next)));
        let at = *by_class.entry(one.class).or_insert_with(|| {
            let interest = one.interest.clone();
            classes.push(Gathered { interest, watchers: Vec::new(), events: Vec::new() });
            classes.len() - 1
        });
        classes[at].watchers.push((one.watcher, one.next));
    }
    let Some(from) = from else { return Ok(found) };
    let mut matcher: Matcher<Vec<usize>> = Matcher::default();
    for (at, class) in classes.iter().enumerate() {
        let mut same_range = matcher.remove(&class.interest.range).unwrap_or_default();
        same_range.push(at);
        matcher.insert(&class.interest.range, same_range);
    }
    let read = gather(view, from, &matcher, &mut classes, manner.access)?;
    for class in &classes {
        hand_out(class, read, manner.offer_bytes, &mut found);
    }
    Ok(found)
}

/// Visits history from a revision on, as far as one scan may go; answers the last revision that it visited.
fn gather(
    view: &View,
    from: Revision,
    matcher: &Matcher<Vec<usize>>,
    classes: &mut [Gathered],
    access: Access,
) -> Result<Revision, ReadError> {
    let (mut bytes, mut changes, mut revisions) = (0, 0, 0);
    let mut last = None;
    let mut read = view.revision();
    let mut failed = None;
    let visited = view.scan(from, view.revision(), access, &mut |event| {
        let main = event.change.main;
        if last.is_some_and(|last| last != main) {
            revisions += 1;
            let is_full = revisions >= CATCH_UP_REVISIONS
                || changes >= CATCH_UP_CHANGES
                || bytes >= CATCH_UP_BYTES;
            if is_full {
                read = last.unwrap_or(main);
                return ControlFlow::Break(());
            }
        }
        last = Some(main);
        changes += 1;
        match take(view, &event, matcher, classes, access) {
            Ok(taken) => bytes += taken,
            Err(error) => {
                failed = Some(error);
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    });
    match (failed, visited) {
        (Some(error), _) | (None, Err(error)) => Err(error),
        // The View that was asked is the one that is read: what it has not compacted is there.
        (None, Ok(Err(rejection))) => {
            Err(Fatal::Invariant(format!("a scan from {from}: {rejection}")).into())
        }
        (None, Ok(Ok(()))) => Ok(read),
    }
}

/// Gives an event to the classes that want it; answers the bytes of that.
fn take(
    view: &View,
    event: &Event,
    matcher: &Matcher<Vec<usize>>,
    classes: &mut [Gathered],
    access: Access,
) -> Result<usize, ReadError> {
    let main = event.change.main;
    let mut takers: Vec<usize> = Vec::new();
    matcher.visit(&event.kv.key, &mut |same_range| takers.extend(same_range));
    takers.retain(|at| active(Mutant::FilterForgotten) || classes[*at].interest.wants(event.kind));
    let (mut plain, mut with_prev): (Option<Bytes>, Option<Bytes>) = (None, None);
    let mut bytes = 0;
    for at in takers {
        let class = &mut classes[at];
        let encoded = match (&with_prev, &plain) {
            (Some(encoded), _) if class.interest.prev_kv => encoded.clone(),
            (_, Some(encoded)) if active(Mutant::PrevKvForgotten) => encoded.clone(),
            (_, Some(encoded)) if !class.interest.prev_kv => encoded.clone(),
            _ if class.interest.prev_kv => {
                let prev = view.previous(event, access)?;
                with_prev.insert(encode_event(event, prev.as_ref())).clone()
            }
            _ => plain.insert(encode_event(event, None)).clone(),
        };
        bytes += encoded.len();
        class.events.push((main, encoded));
    }
    Ok(bytes)
}

/// Gives each watcher of a class the events from where it is; those that begin at the same one share them.
fn hand_out(class: &Gathered, read: Revision, bytes_max: usize, found: &mut Vec<Found>) {
    let mut known: HashMap<usize, (Option<Arc<Batch>>, Revision)> = HashMap::new();
    for (watcher, next) in &class.watchers {
        let start = class.events.partition_point(|(revision, _)| revision < next);
        let cut = || {
            let (end, read) = cut(&class.events[start..], read, bytes_max);
            let events = class.events[start..start + end].iter().map(|(_, event)| event.clone());
            ((end > 0).then(|| Batch::new(events.collect())), read)
        };
        let (events, read) = known.entry(start).or_insert_with(cut).clone();
        // One that begins behind what was read learned nothing.
        let read = read.max(Revision(next.0 - 1));
        found.push(Found { watcher: *watcher, events, read: Ok(read) });
    }
}

/// How many of the events are offered at once, whole revisions, and how far that is.
fn cut(events: &[(Revision, Bytes)], read: Revision, bytes_max: usize) -> (usize, Revision) {
    let mut bytes = 0;
    let mut before: Option<Revision> = None;
    for (at, (revision, event)) in events.iter().enumerate() {
        if let Some(last) = before.filter(|last| last != revision && bytes >= bytes_max) {
            return (at, last);
        }
        bytes += event.len();
        before = Some(*revision);
    }
    (events.len(), read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_offered_at_once_ends_with_a_revision() {
        let of = |sizes: &[(i64, usize)]| -> Vec<(Revision, Bytes)> {
            sizes.iter().map(|(at, size)| (Revision(*at), Bytes::from(vec![0; *size]))).collect()
        };
        let events = of(&[(2, 60), (2, 60), (3, 1), (5, 1)]);
        assert_eq!(cut(&events, Revision(9), 1000), (4, Revision(9)));
        assert_eq!(cut(&events, Revision(9), 100), (2, Revision(2)), "never within one");
        assert_eq!(cut(&events, Revision(9), 121), (3, Revision(3)));
        assert_eq!(cut(&[], Revision(9), 1), (0, Revision(9)));
    }
}
