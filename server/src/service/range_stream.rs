//! RangeStream: a range in pieces of growing size, all as of one revision (rules KV-R30 to KV-R35).

use std::pin::Pin;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{Stream, stream};
use kvd_core::command::{RangeQuery, RevisionFilter, SortOrder, SortTarget};
use kvd_core::ids::Revision;
use kvd_core::range::KeyRange;
use kvd_proto::etcdserverpb as pb;
use prost::Message;
use tonic::Status;

use super::convert::{header, kv as convert};
use super::kv::consistency;
use super::learner;
use super::status;
use crate::limits::{STREAM_KEYS_FIRST, STREAM_KEYS_MAX};
use crate::node::{Consistency, Node};

/// The pieces.
pub(crate) type RangeStream =
    Pin<Box<dyn Stream<Item = Result<pb::RangeStreamResponse, Status>> + Send>>;

/// Checks a request and answers it piece by piece.
pub(super) fn open(node: Arc<Node>, request: pb::RangeRequest) -> Result<RangeStream, Status> {
    let consistency = consistency(request.serializable);
    learner::may_read(&node, consistency)?;
    let query = convert::range_query(request).map_err(status::rejected)?;
    let in_key_order = query.sort_order == SortOrder::None
        || (query.sort_order == SortOrder::Ascend && query.sort_target == SortTarget::Key);
    if !in_key_order {
        return Err(Status::unimplemented("RangeStream does not support custom sort orders"));
    }
    if query.filter != RevisionFilter::default() {
        return Err(Status::unimplemented("RangeStream does not support revision filters"));
    }
    let first = Cursor {
        query: RangeQuery { sort_order: SortOrder::None, sort_target: SortTarget::Key, ..query },
        consistency,
        keys: STREAM_KEYS_FIRST,
        pinned: None,
    };
    let pieces = stream::try_unfold(Some(first), move |cursor| {
        let node = Arc::clone(&node);
        async move {
            match cursor {
                Some(cursor) => piece(&node, cursor).await.map(Some),
                None => Ok(None),
            }
        }
    });
    Ok(Box::pin(pieces))
}

/// Where the next piece begins.
struct Cursor {
    /// What is left to read; `limit` is what is left of the request's.
    query: RangeQuery,
    /// How fresh the next read must be: after the first, whatever this member has.
    consistency: Consistency,
    /// Keys of the next piece.
    keys: u64,
    /// Known after the first piece.
    pinned: Option<Pinned>,
}

/// What every piece but the first is held to.
#[derive(Clone, Copy)]
struct Pinned {
    /// The store's revision when the first piece was read: the last header's (rule H13).
    revision: Revision,
    /// Keys in the whole range.
    count: i64,
    /// Keys sent so far.
    sent: i64,
}

/// Reads one piece; with it comes where the next begins, if there is one.
async fn piece(
    node: &Node,
    cursor: Cursor,
) -> Result<(pb::RangeStreamResponse, Option<Cursor>), Status> {
    let Cursor { query, consistency, keys, pinned } = cursor;
    let limit = query.limit.map_or(keys, |left| left.min(keys));
    let asked = RangeQuery { limit: Some(limit), ..query.clone() };
    let read = node.read(consistency, move |view, access| {
        let answer = match pinned {
            None => view.range(&asked, access)?,
            Some(_) => view.range_uncounted(&asked, access)?,
        };
        Ok(answer.map(|answer| (answer, view.revision())))
    });
    let (answer, revision) = read.await.map_err(status::status)?;
    let before = pinned.unwrap_or(Pinned { revision, count: answer.count, sent: 0 });
    let read_keys = answer.kvs.len();
    let pinned = Pinned { sent: before.sent + i64::try_from(read_keys).unwrap_or(0), ..before };
    let left = query.limit.map(|left| left.saturating_sub(read_keys as u64));
    let next_key = answer.kvs.last().map(|kv| after(&kv.key));
    let ended = query.count_only || left == Some(0) || pinned.sent >= pinned.count;
    let response = convert::range_response(answer);
    match next_key {
        Some(key) if !ended => {
            let keys = next_keys(keys, response.encoded_len(), node.limits().request_bytes_max);
            let query = RangeQuery {
                range: rest(query.range, key),
                revision: query.revision.or(Some(pinned.revision)),
                limit: left,
                ..query
            };
            let consistency = Consistency::Serializable;
            let next = Cursor { query, consistency, keys, pinned: Some(pinned) };
            let response = pb::RangeResponse { more: false, count: 0, ..response };
            Ok((wrapped(response), Some(next)))
        }
        _ => {
            let header = header(node.header(), pinned.revision);
            let more = !query.count_only && pinned.sent < pinned.count;
            let response = pb::RangeResponse { header, more, count: pinned.count, ..response };
            Ok((wrapped(response), None))
        }
    }
}

fn wrapped(response: pb::RangeResponse) -> pb::RangeStreamResponse {
    pb::RangeStreamResponse { range_response: Some(response) }
}

/// Doubles while pieces are small, halves when they grow large (rule KV-R34).
fn next_keys(keys: u64, encoded_bytes: usize, request_bytes_max: usize) -> u64 {
    if encoded_bytes < request_bytes_max / 2 {
        (keys * 2).min(STREAM_KEYS_MAX)
    } else if encoded_bytes > request_bytes_max.saturating_mul(2) {
        (keys / 2).max(1)
    } else {
        keys
    }
}

/// The smallest key after this one.
fn after(key: &Bytes) -> Bytes {
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.put_u8(0);
    next.freeze()
}

/// The part of a range from a key on.
fn rest(range: KeyRange, from: Bytes) -> KeyRange {
    match range {
        // Nothing of one key follows it.
        KeyRange::Key(key) => KeyRange::Between { start: key.clone(), end: key },
        KeyRange::Between { end, .. } => KeyRange::Between { start: from, end },
        KeyRange::From(_) => KeyRange::From(from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rule KV-R34.
    #[test]
    fn pieces_grow_and_shrink() {
        assert_eq!(next_keys(10, 100, 1000), 20);
        assert_eq!(next_keys(10, 500, 1000), 10);
        assert_eq!(next_keys(10, 2000, 1000), 10);
        assert_eq!(next_keys(10, 2001, 1000), 5);
        assert_eq!(next_keys(1, 2001, 1000), 1);
        assert_eq!(next_keys(STREAM_KEYS_MAX, 0, 1000), STREAM_KEYS_MAX);
    }

    #[test]
    fn the_rest_begins_after_the_last_key() {
        let key = after(&Bytes::from_static(b"a"));
        assert_eq!(key.as_ref(), b"a\0");
        let range = KeyRange::new(Bytes::from_static(b"a"), Bytes::from_static(b"c"));
        let rest_of = rest(range, key);
        assert!(!rest_of.contains(b"a") && rest_of.contains(b"a\0") && !rest_of.contains(b"c"));
        assert!(rest(KeyRange::Key(Bytes::from_static(b"a")), Bytes::new()).is_empty());
    }
}
