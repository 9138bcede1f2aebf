//! What must hold for every response of a watch stream, whatever a script prints of it.
//!
//! Order, completeness of revisions and bookmarks do not show in a single response, and grouping
//! is open where a watch catches up (W16), so they are followed over the whole stream.

use std::collections::{BTreeMap, VecDeque};

use kvd_proto::etcdserverpb as pb;
use kvd_proto::etcdserverpb::watch_request::RequestUnion;

/// The id of a response to a progress request, and of a create that was refused.
pub(super) const MANUAL_PROGRESS_ID: i64 = -1;

/// Follows the watches of one stream.
#[derive(Debug, Default)]
pub(super) struct Checker {
    /// Creates without a reply yet, in order.
    asked: VecDeque<pb::WatchCreateRequest>,
    watches: BTreeMap<i64, Seen>,
    wrong: Vec<String>,
}

/// What was seen of one watch.
#[derive(Debug, Default)]
struct Seen {
    /// What the client asked for.
    asked: pb::WatchCreateRequest,
    /// The revision of the last event.
    last: i64,
    /// The last response said that the rest of its events follows.
    more_fragments: bool,
    /// Events up to here were promised to have come already (W22).
    bookmark: i64,
    /// The server has said that nothing more comes.
    ended: bool,
}

impl Checker {
    /// Notes what was asked for.
    pub(super) fn sent(&mut self, request: &pb::WatchRequest) {
        if let Some(RequestUnion::CreateRequest(create)) = &request.request_union {
            self.asked.push_back(create.clone());
        }
    }

    /// Checks the next response of the stream.
    pub(super) fn received(&mut self, response: &pb::WatchResponse) {
        if response.created {
            self.created(response);
        } else if response.canceled {
            self.canceled(response);
        } else if response.events.is_empty() {
            self.progress(response);
        } else {
            self.events(response);
        }
    }

    /// What was found wrong since this was last asked.
    pub(super) fn take_wrong(&mut self) -> Vec<String> {
        std::mem::take(&mut self.wrong)
    }

    fn created(&mut self, response: &pb::WatchResponse) {
        let id = response.watch_id;
        let Some(asked) = self.asked.pop_front() else {
            return self.wrong.push(format!("created watch {id}, which nobody asked for"));
        };
        if response.canceled {
            return;
        }
        let seen = Seen { asked, ..Seen::default() };
        if self.watches.insert(id, seen).is_some_and(|old| !old.ended) {
            self.wrong.push(format!("created watch {id} while it was in use"));
        }
    }

    fn canceled(&mut self, response: &pb::WatchResponse) {
        let id = response.watch_id;
        match self.watches.get_mut(&id) {
            // After a compaction the id is in use until the client cancels it too (W25).
            Some(seen) => seen.ended = true,
            None => self.wrong.push(format!("canceled watch {id} before it was created")),
        }
    }

    fn progress(&mut self, response: &pb::WatchResponse) {
        let revision = revision_of(response);
        let id = response.watch_id;
        if id != MANUAL_PROGRESS_ID && !self.watches.contains_key(&id) {
            return self.wrong.push(format!("progress of watch {id} before it was created"));
        }
        let of = |at: &i64| id == MANUAL_PROGRESS_ID || *at == id;
        for (id, seen) in self.watches.iter_mut().filter(|(at, _)| of(at)) {
            if response.watch_id == *id && !seen.asked.progress_notify {
                self.wrong.push(format!("progress of watch {id}, which did not ask for it"));
            }
            if seen.last > revision {
                let last = seen.last;
                self.wrong.push(format!("progress {revision} of watch {id} after event {last}"));
            }
            seen.bookmark = seen.bookmark.max(revision);
        }
    }

    fn events(&mut self, response: &pb::WatchResponse) {
        let id = response.watch_id;
        let header = revision_of(response);
        let wrong = &mut self.wrong;
        let Some(seen) = self.watches.get_mut(&id).filter(|seen| !seen.ended) else {
            return wrong.push(format!("events of watch {id}, which is not there"));
        };
        let continued = std::mem::replace(&mut seen.more_fragments, response.fragment);
        for (at, event) in response.events.iter().enumerate() {
            let revision = event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
            let same_response = at > 0 || continued;
            if revision < seen.last || (revision == seen.last && !same_response) {
                let last = seen.last;
                wrong.push(format!("watch {id}: revision {revision} after {last}"));
            }
            if revision > header {
                wrong.push(format!("watch {id}: revision {revision} under header {header}"));
            }
            let (start, bookmark) = (seen.asked.start_revision, seen.bookmark);
            if revision < start || revision <= bookmark {
                wrong.push(format!(
                    "watch {id}: revision {revision}, from {start}, after progress {bookmark}"
                ));
            }
            if response.events[..at].contains(event) {
                wrong.push(format!("watch {id}: an event of revision {revision} twice"));
            }
            seen.last = revision;
        }
    }
}

fn revision_of(response: &pb::WatchResponse) -> i64 {
    response.header.as_ref().map_or(0, |header| header.revision)
}

#[cfg(test)]
mod tests {
    use kvd_proto::mvccpb::{Event, KeyValue};

    use super::*;

    fn response(header: i64, revisions: &[i64]) -> pb::WatchResponse {
        let event = |(at, revision): (usize, &i64)| {
            let key = format!("k{at}").into();
            let kv = KeyValue { key, mod_revision: *revision, ..KeyValue::default() };
            Event { kv: Some(kv), ..Event::default() }
        };
        let header = pb::ResponseHeader { revision: header, ..pb::ResponseHeader::default() };
        let events = revisions.iter().enumerate().map(event).collect();
        pb::WatchResponse { header: Some(header), events, ..pb::WatchResponse::default() }
    }

    /// What is wrong when a watch from `start` gets these responses.
    fn wrong(start: i64, responses: &[pb::WatchResponse]) -> Vec<String> {
        let mut checker = Checker::default();
        let asked = pb::WatchCreateRequest {
            start_revision: start,
            progress_notify: true,
            ..pb::WatchCreateRequest::default()
        };
        checker.asked.push_back(asked);
        checker.received(&pb::WatchResponse { created: true, ..response(1, &[]) });
        for response in responses {
            checker.received(response);
        }
        checker.take_wrong()
    }

    #[test]
    fn what_comes_in_order_is_right() {
        let right = [response(4, &[2, 2, 4]), response(5, &[5]), response(5, &[])];
        assert!(wrong(2, &right).is_empty());
        let pieces = [pb::WatchResponse { fragment: true, ..response(2, &[2]) }, response(2, &[2])];
        assert!(wrong(2, &pieces).is_empty());
    }

    #[test]
    fn every_rule_is_checked() {
        let twice = {
            let mut response = response(2, &[2]);
            response.events.push(response.events[0].clone());
            response
        };
        let cases: [(&str, i64, Vec<pb::WatchResponse>); 8] = [
            ("a revision in two responses", 0, vec![response(2, &[2]), response(2, &[2])]),
            ("back", 0, vec![response(3, &[3]), response(3, &[2])]),
            ("back within one", 0, vec![response(3, &[3, 2])]),
            ("above the header", 0, vec![response(2, &[3])]),
            ("below the start", 3, vec![response(3, &[2, 3])]),
            ("after its progress", 0, vec![response(3, &[]), response(4, &[3])]),
            ("progress below an event", 0, vec![response(3, &[3]), response(2, &[])]),
            ("an event twice", 0, vec![twice]),
        ];
        for (name, start, responses) in cases {
            assert!(!wrong(start, &responses).is_empty(), "{name}");
        }
    }

    #[test]
    fn progress_comes_to_who_asked() {
        let mut checker = Checker::default();
        checker.asked.push_back(pb::WatchCreateRequest::default());
        checker.received(&pb::WatchResponse { created: true, ..response(1, &[]) });
        let of_stream = pb::WatchResponse { watch_id: MANUAL_PROGRESS_ID, ..response(1, &[]) };
        checker.received(&of_stream);
        assert!(checker.take_wrong().is_empty());
        checker.received(&response(1, &[]));
        assert!(!checker.take_wrong().is_empty());
    }

    #[test]
    fn a_watch_speaks_between_its_creation_and_its_end() {
        let canceled = pb::WatchResponse { canceled: true, ..response(2, &[]) };
        assert!(!wrong(0, &[canceled, response(3, &[3])]).is_empty());
        let created = pb::WatchResponse { created: true, ..response(2, &[]) };
        assert!(!wrong(0, &[created]).is_empty());
        let other = pb::WatchResponse { watch_id: 7, ..response(3, &[3]) };
        assert!(!wrong(0, &[other]).is_empty());
    }
}
