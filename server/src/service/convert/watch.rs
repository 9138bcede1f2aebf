//! The Watch service's messages (behaviour.md 3).

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use kvd_core::ids::Revision;
use kvd_core::range::KeyRange;
use kvd_proto::etcdserverpb as pb;
use pb::watch_create_request::FilterType;
use prost::Message as _;

use super::header;
use crate::node::Header;
use crate::node::watch::{Batch, Create, Interest, Message, WatchId};
use crate::service::watch_codec::Outgoing;

/// A watch to create, or why it is refused (rules W2, W3).
pub(crate) fn create(request: pb::WatchCreateRequest) -> Result<Create, &'static str> {
    if request.start_revision < 0 {
        return Err("etcdserver: mvcc: required revision has been compacted");
    }
    let key = if request.key.is_empty() { Bytes::from_static(b"\0") } else { request.key };
    let leaves_out = |filter: FilterType| request.filters.contains(&filter.into());
    Ok(Create {
        interest: Interest {
            range: KeyRange::new(key, request.range_end),
            no_put: leaves_out(FilterType::Noput),
            no_delete: leaves_out(FilterType::Nodelete),
            prev_kv: request.prev_kv,
        },
        start: (request.start_revision > 0).then_some(Revision(request.start_revision)),
        id: (request.watch_id != 0).then_some(WatchId(request.watch_id)),
        progress_notify: request.progress_notify,
        may_fragment: request.fragment,
    })
}

/// A watch's number.
pub(crate) fn watch_id(id: i64) -> WatchId {
    WatchId(id)
}

/// A message as responses: one, or several where it is large and the client takes it in parts.
pub(crate) fn responses(
    from: Header,
    message: Message,
    fragment_bytes: usize,
) -> VecDeque<Outgoing> {
    let base = |id: WatchId, revision: Revision| pb::WatchResponse {
        header: header(from, revision),
        watch_id: id.0,
        ..pb::WatchResponse::default()
    };
    let head = match message {
        Message::Created { id, revision } => {
            pb::WatchResponse { created: true, ..base(id, revision) }
        }
        Message::Refused { revision, reason } => pb::WatchResponse {
            created: true,
            canceled: true,
            cancel_reason: reason.to_owned(),
            ..base(WatchId::ALL, revision)
        },
        Message::Canceled { id, revision } => {
            pb::WatchResponse { canceled: true, ..base(id, revision) }
        }
        Message::Compacted { id, mark } => {
            pb::WatchResponse { canceled: true, compact_revision: mark.0, ..base(id, Revision(0)) }
        }
        Message::Progress { id, revision } => base(id, revision),
        Message::Events { id, revision, batch, may_fragment } => {
            let head = base(id, revision);
            return if may_fragment && head.encoded_len() + batch.bytes >= fragment_bytes {
                fragments(&head, &batch, fragment_bytes)
            } else {
                let all = 0..batch.events.len();
                VecDeque::from([Outgoing { head, events: Some((batch, all)) }])
            };
        }
    };
    VecDeque::from([Outgoing { head, events: None }])
}

/// Cuts between events: each part is below the limit or has one event, and all but the last say that there is
/// more.
fn fragments(head: &pb::WatchResponse, batch: &Arc<Batch>, bytes_max: usize) -> VecDeque<Outgoing> {
    let events = &batch.events;
    // The mark that there is more takes two bytes.
    let head_bytes = head.encoded_len() + 2;
    let mut parts = VecDeque::new();
    let mut push = |part: Range<usize>| {
        let head = pb::WatchResponse { fragment: part.end < events.len(), ..head.clone() };
        parts.push_back(Outgoing { head, events: Some((Arc::clone(batch), part)) });
    };
    let (mut start, mut bytes) = (0, head_bytes);
    for (at, event) in events.iter().enumerate() {
        if at > start && bytes + event.len() >= bytes_max {
            push(start..at);
            (start, bytes) = (at, head_bytes);
        }
        bytes += event.len();
    }
    push(start..events.len());
    parts
}

#[cfg(test)]
mod tests {
    use kvd_core::ids::{ClusterId, MemberId, Term};

    use super::*;

    fn from() -> Header {
        Header { cluster_id: ClusterId(1), member_id: MemberId(2), term: Term(3) }
    }

    fn parts(sizes: &[usize], bytes_max: usize) -> Vec<(Range<usize>, bool)> {
        let events = sizes.iter().map(|size| Bytes::from(vec![0; *size])).collect();
        let (id, revision, batch) = (WatchId(0), Revision(5), Batch::new(events));
        let message = Message::Events { id, revision, batch, may_fragment: true };
        let parts = responses(from(), message, bytes_max);
        parts.into_iter().map(|part| (part.events.unwrap().1, part.head.fragment)).collect()
    }

    #[test]
    fn large_responses_are_cut_between_events() {
        assert_eq!(parts(&[10, 10], 1000), [(0..2, false)]);
        assert_eq!(parts(&[400, 400, 400], 1000), [(0..2, true), (2..3, false)]);
        assert_eq!(parts(&[2000], 1000), [(0..1, false)], "one event cannot be cut");
        assert_eq!(parts(&[2000, 10, 10], 1000), [(0..1, true), (1..3, false)]);
    }

    #[test]
    fn a_negative_start_is_refused() {
        let request = pb::WatchCreateRequest { start_revision: -1, ..Default::default() };
        assert_eq!(create(request), Err("etcdserver: mvcc: required revision has been compacted"));
    }

    #[test]
    fn no_key_is_the_smallest_one() {
        let created = create(pb::WatchCreateRequest::default()).unwrap();
        assert_eq!(created.interest.range, KeyRange::Key(Bytes::from_static(b"\0")));
    }
}
