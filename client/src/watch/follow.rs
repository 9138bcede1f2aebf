//! What is known of one watch that goes on by itself, apart from any stream; pure.
//!
//! Promises that every revision is handed on once and in order, whichever streams it came from.

use kvd_proto::etcdserverpb::{WatchCreateRequest, WatchResponse};
use kvd_proto::mvccpb::Event;

/// One watch.
#[derive(Clone, Debug)]
pub(super) struct Follow {
    request: WatchCreateRequest,
    /// The first revision that was not told of; `None` until it is known where "from now on" begins.
    next: Option<i64>,
    /// The last revision whose events were handed on. Not moved by progress: old servers tell of it before the events
    /// (etcd before 3.4.25 and 3.5.8), which must not be dropped for that.
    handed: i64,
}

/// Something to hand on.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum News {
    Events { revision: i64, events: Vec<Event> },
    Progress { revision: i64 },
}

impl Follow {
    pub(super) fn new(request: WatchCreateRequest) -> Self {
        let next = (request.start_revision > 0).then_some(request.start_revision);
        // Progress moves the place from which a quiet watch goes on, so that compaction does not reach it.
        Self { request: WatchCreateRequest { progress_notify: true, ..request }, next, handed: 0 }
    }

    /// What asks for it where it stands.
    pub(super) fn request(&self) -> WatchCreateRequest {
        WatchCreateRequest {
            start_revision: self.next.unwrap_or(0),
            watch_id: 0,
            ..self.request.clone()
        }
    }

    /// A server created it, at its revision of then.
    pub(super) fn created(&mut self, revision: i64) {
        self.next.get_or_insert(revision.saturating_add(1));
    }

    /// What of an answer is news.
    pub(super) fn take(&mut self, response: WatchResponse) -> Option<News> {
        let revision = response.header.map_or(0, |header| header.revision);
        let mut events = response.events;
        if events.is_empty() {
            if revision < self.next.unwrap_or(0) {
                return None;
            }
            self.next = Some(revision.saturating_add(1));
            return Some(News::Progress { revision });
        }
        let revision_of = |event: &Event| event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
        events.retain(|event| revision_of(event) > self.handed);
        self.handed = revision_of(events.last()?);
        self.next = self.next.max(Some(self.handed.saturating_add(1)));
        Some(News::Events { revision: self.handed, events })
    }
}

#[cfg(test)]
mod tests {
    use kvd_proto::etcdserverpb::ResponseHeader;
    use kvd_proto::mvccpb::KeyValue;

    use super::*;

    fn header(revision: i64) -> Option<ResponseHeader> {
        Some(ResponseHeader { revision, ..Default::default() })
    }

    fn events(revisions: &[i64], at: i64) -> WatchResponse {
        let event = |mod_revision: &i64| Event {
            kv: Some(KeyValue { mod_revision: *mod_revision, ..Default::default() }),
            ..Default::default()
        };
        WatchResponse {
            header: header(at),
            events: revisions.iter().map(event).collect(),
            ..Default::default()
        }
    }

    fn told(news: Option<News>) -> Vec<i64> {
        match news {
            Some(News::Events { events, .. }) => {
                events.iter().filter_map(|event| Some(event.kv.as_ref()?.mod_revision)).collect()
            }
            Some(News::Progress { revision }) => vec![-revision],
            None => vec![],
        }
    }

    #[test]
    fn every_revision_once() {
        let mut follow = Follow::new(WatchCreateRequest::default());
        assert_eq!(follow.request().start_revision, 0);
        follow.created(7);
        assert_eq!(follow.request().start_revision, 8);
        assert_eq!(told(follow.take(events(&[8, 8, 9], 9))), [8, 8, 9]);
        assert_eq!(follow.request().start_revision, 10);
        // Another member, which is behind.
        follow.created(4);
        assert_eq!(told(follow.take(events(&[9, 10], 10))), [10]);
        assert_eq!(told(follow.take(events(&[9, 10], 10))), Vec::<i64>::new());
        assert_eq!(told(follow.take(events(&[], 10))), Vec::<i64>::new());
        assert_eq!(told(follow.take(events(&[], 15))), [-15]);
        assert_eq!(follow.request().start_revision, 16);
        assert!(follow.request().progress_notify);
    }
}
