//! Ranges of any size, read page by page at one revision.

use bytes::Bytes;
use kvd_proto::etcdserverpb::{RangeRequest, RangeResponse};
use kvd_proto::mvccpb::KeyValue;

use crate::client::Client;
use crate::error::Error;

/// A range that is read page by page. All pages show the store at one revision, however long reading takes and
/// whichever members answer.
#[derive(Debug)]
pub struct Pages {
    client: Client,
    next: Option<RangeRequest>,
    revision: i64,
}

impl Client {
    /// Reads a range in pages of at most `keys` keys, in the order of the keys. Of the request, the keys, the
    /// revision, and whether values are wanted count.
    #[must_use]
    pub fn pages(&self, request: RangeRequest, keys: u32) -> Pages {
        let next = RangeRequest {
            key: request.key,
            range_end: request.range_end,
            revision: request.revision,
            keys_only: request.keys_only,
            limit: i64::from(keys.max(1)),
            ..Default::default()
        };
        Pages { client: self.clone(), revision: request.revision, next: Some(next) }
    }
}

impl Pages {
    /// The next page; `None` after the last. [`Compacted`](crate::EtcdError::Compacted) means that the revision is
    /// gone meanwhile: begin again. After any other error, the same page is read again.
    pub async fn next(&mut self) -> Result<Option<Vec<KeyValue>>, Error> {
        let Some(request) = self.next.clone() else { return Ok(None) };
        let RangeResponse { header, kvs, more, .. } = self.client.range(request.clone()).await?;
        if self.revision == 0 {
            self.revision = header.map_or(0, |header| header.revision);
        }
        self.next = kvs.last().filter(|_| more).map(|last| RangeRequest {
            key: after(&last.key),
            revision: self.revision,
            ..request
        });
        Ok(Some(kvs).filter(|kvs| !kvs.is_empty()))
    }

    /// All that is left, in one piece.
    pub async fn collect(mut self) -> Result<(Vec<KeyValue>, i64), Error> {
        let mut all = Vec::new();
        while let Some(page) = self.next().await? {
            all.extend(page);
        }
        Ok((all, self.revision))
    }

    /// The revision that is read; 0 before the first page unless one was asked for.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.revision
    }
}

/// The least key behind another.
fn after(key: &Bytes) -> Bytes {
    let mut after = Vec::with_capacity(key.len() + 1);
    after.extend_from_slice(key);
    after.push(0);
    after.into()
}
