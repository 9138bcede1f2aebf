//! A client of any pace, and what each of its watches must be told.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use kvd_proto::etcdserverpb::WatchResponse;
use kvd_proto::mvccpb;
use prost::Message as _;

use super::super::*;
use super::scene::{Model, Scene};

/// What a watch was told so far.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) asked: Create,
    pub(super) created_at: i64,
    pub(super) responses: Vec<Vec<mvccpb::Event>>,
    pub(super) compacted: Option<i64>,
    pub(super) canceled: bool,
    /// How far it was told to be.
    pub(super) progress: i64,
}

/// A client.
pub(super) struct Client {
    pub(super) stream: WatchStream,
    pub(super) messages: WatchMessages,
    pub(super) asked: Vec<Create>,
    pub(super) seen: BTreeMap<i64, Seen>,
    pub(super) progress: i64,
    pub(super) waits_for_cancel: Vec<i64>,
}

impl Client {
    pub(super) fn new(scene: &Scene) -> Self {
        let (stream, messages) = WatchStream::open(&scene.watches);
        let (asked, seen, waits_for_cancel) = (Vec::new(), BTreeMap::new(), Vec::new());
        Self { stream, messages, asked, seen, progress: 0, waits_for_cancel }
    }

    pub(super) async fn create(&mut self, create: Create) {
        self.asked.push(create.clone());
        self.stream.create(create).await;
    }

    /// Takes a message, if there is one.
    pub(super) fn take(&mut self) -> bool {
        let Some(message) = self.messages.next().now_or_never() else { return false };
        match message.unwrap().unwrap() {
            Message::Created { id, revision } => {
                let asked = self.asked.remove(0);
                let (created_at, responses) = (revision.0, Vec::new());
                let (compacted, canceled, progress) = (None, false, 0);
                let seen = Seen { asked, created_at, responses, compacted, canceled, progress };
                assert!(self.seen.insert(id.0, seen).is_none(), "numbers are not used again");
            }
            Message::Events { id, revision, batch, .. } => {
                let bytes: Vec<u8> = batch.events.iter().flatten().copied().collect();
                let events = WatchResponse::decode(bytes.as_slice()).unwrap().events;
                let seen = self.seen.get_mut(&id.0).expect("created before events");
                assert!(!events.is_empty() && seen.compacted.is_none() && !seen.canceled);
                for event in &events {
                    let at = event.kv.as_ref().unwrap().mod_revision;
                    assert!(at > seen.progress, "{at} after progress {}", seen.progress);
                    assert!(at <= revision.0, "the header is behind its events");
                }
                seen.responses.push(events);
            }
            Message::Compacted { id, mark } => {
                self.seen.get_mut(&id.0).unwrap().compacted = Some(mark.0);
            }
            Message::Canceled { id, .. } => {
                self.seen.get_mut(&id.0).unwrap().canceled = true;
            }
            Message::Progress { id, revision } => {
                assert_eq!(id, WatchId::ALL);
                self.progress = self.progress.max(revision.0);
                for seen in self.seen.values_mut() {
                    seen.progress = revision.0;
                }
            }
            Message::Refused { reason, .. } => panic!("{reason}"),
        }
        true
    }

    /// Cancels a watch.
    pub(super) async fn cancel(&mut self, id: i64) {
        self.waits_for_cancel.push(id);
        self.stream.cancel(WatchId(id)).await;
    }

    /// Takes everything up to this revision; those that were compacted are cancelled, as clients do.
    pub(super) async fn take_all(&mut self, revision: i64) {
        loop {
            while self.take() {}
            let gone = self.seen.iter().filter(|(_, seen)| seen.compacted.is_some());
            let gone: Vec<i64> = gone.map(|(id, _)| *id).collect();
            for id in gone {
                if !self.waits_for_cancel.contains(&id) {
                    self.cancel(id).await;
                }
            }
            let is_open = |seen: &Seen| !seen.canceled;
            let is_future =
                |seen: &Seen| is_open(seen) && seen.asked.start > Some(Revision(revision));
            let all_gone = !self.seen.values().any(is_open);
            let all_there = self
                .seen
                .values()
                .filter(|seen| is_open(seen))
                .all(|seen| seen.progress >= revision);
            if self.asked.is_empty() && (all_gone || all_there) {
                return;
            }
            // Those that begin later have seen all there is, and hide how far the others are.
            let future = self.seen.iter().filter(|(_, seen)| is_future(seen));
            let future: Vec<i64> = future.map(|(id, _)| *id).collect();
            for id in future {
                self.cancel(id).await;
            }
            self.stream.progress().await;
            tokio::task::yield_now().await;
        }
    }

    /// Everything that each watch must have been told, and nothing else.
    pub(super) fn check(&self, model: &Model, revision: i64) {
        for (id, seen) in &self.seen {
            let wanted = &seen.asked.interest;
            let from = seen.asked.start.map_or(seen.created_at + 1, |start| start.0);
            let expected = model.events.iter().filter(|(at, key, value, _)| {
                let filtered = if value.is_some() { wanted.no_put } else { wanted.no_delete };
                *at >= from && wanted.range.contains(key) && !filtered
            });
            let expected: Vec<_> = expected.collect();
            let found: Vec<_> = seen.responses.iter().flatten().collect();
            assert!(found.len() <= expected.len(), "watch {id} was told too much");
            for (found, expected) in found.iter().zip(&expected) {
                check_event(found, expected, wanted.prev_kv, model.mark);
            }
            let mut last = 0;
            for response in &seen.responses {
                let at = |event: &mvccpb::Event| event.kv.as_ref().unwrap().mod_revision;
                assert!(at(&response[0]) > last, "a revision came in two parts");
                last = at(&response[response.len() - 1]);
            }
            let missed = expected.get(found.len());
            match (missed, seen.compacted) {
                (None, _) => {}
                // What it needed next was gone, or it had everything up to the mark.
                (Some(missed), Some(mark)) => assert!(last < mark, "{missed:?} after {last}"),
                (Some(_), None) if seen.canceled => {}
                (Some(missed), None) => panic!("watch {id} missed {missed:?} at {revision}"),
            }
        }
    }
}

pub(super) fn check_event(
    found: &mvccpb::Event,
    (at, key, value, prev): &(i64, Bytes, Option<Bytes>, Option<Bytes>),
    prev_kv: bool,
    mark: i64,
) {
    let kv = found.kv.as_ref().unwrap();
    assert_eq!((kv.mod_revision, &kv.key), (*at, key));
    let is_delete = found.r#type() == mvccpb::event::EventType::Delete;
    assert_eq!((!is_delete).then_some(&kv.value), value.as_ref());
    match found.prev_kv.as_ref().map(|kv| &kv.value) {
        // It may have been compacted before the watch came by.
        None => assert!(!prev_kv || prev.is_none() || *at <= mark, "no prev_kv at {at}"),
        Some(found) => assert_eq!(Some(found), prev.as_ref().filter(|_| prev_kv)),
    }
}
