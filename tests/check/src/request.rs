//! What can be asked of the store: etcd's requests, as far as they are checked.
//!
//! Field names and meanings are etcd's. What cannot be told apart in a history is left out: sort orders,
//! revision filters, `ignore_value`, `ignore_lease`.

use crate::bytes::Bytes;

/// The store's counter: 1 is the empty store, the first write makes 2. In requests, 0 means "the newest".
pub type Revision = i64;

/// Id of a lease; 0 means "none".
pub type LeaseId = i64;

/// A set of keys: etcd's `key` and `range_end`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyRange {
    /// The first key, or the only one.
    pub key: Bytes,
    /// Empty: just the key. One zero byte: every key from there on. Else the first key that is out of it.
    pub range_end: Bytes,
}

impl KeyRange {
    /// Just this key.
    pub fn one(key: impl Into<Bytes>) -> Self {
        Self { key: key.into(), range_end: Bytes::default() }
    }

    /// From a key up to another, which is out of it.
    pub fn between(key: impl Into<Bytes>, range_end: impl Into<Bytes>) -> Self {
        Self { key: key.into(), range_end: range_end.into() }
    }

    /// Every key.
    #[must_use]
    pub fn all() -> Self {
        Self { key: Bytes::from(&[0]), range_end: Bytes::from(&[0]) }
    }

    /// Every key that begins like this.
    #[must_use]
    pub fn prefix(prefix: &[u8]) -> Self {
        let mut end = prefix.to_vec();
        while end.pop_if(|last| *last == u8::MAX).is_some() {}
        match end.last_mut() {
            Some(last) => *last += 1,
            None => end.push(0),
        }
        let key = if prefix.is_empty() { Bytes::from(&[0]) } else { Bytes::from(prefix) };
        Self { key, range_end: Bytes::from(end) }
    }

    /// The key, if it can only be one.
    #[must_use]
    pub fn single(&self) -> Option<&Bytes> {
        self.range_end.is_empty().then_some(&self.key)
    }

    /// Whether it goes on to the last key.
    #[must_use]
    pub fn is_open(&self) -> bool {
        *self.range_end == [0]
    }

    /// Whether the key belongs to it.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        if self.range_end.is_empty() {
            return *self.key == *key;
        }
        *self.key <= *key && (self.is_open() || *key < *self.range_end)
    }
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Request {
    /// Reads keys.
    Range(RangeRequest),
    /// Writes a key.
    Put(PutRequest),
    /// Deletes keys.
    DeleteRange(DeleteRequest),
    /// Several of these at once, on a condition.
    Txn(TxnRequest),
    /// Forgets history before a revision.
    Compact {
        /// The first revision that can still be read.
        revision: Revision,
    },
    /// Makes a lease.
    LeaseGrant {
        /// Its id; the client chooses it, never 0.
        id: LeaseId,
        /// Seconds to live that were asked for.
        ttl_seconds: i64,
    },
    /// Ends a lease and deletes its keys.
    LeaseRevoke {
        /// Which.
        id: LeaseId,
    },
    /// Gives a lease its whole time again.
    LeaseKeepAlive {
        /// Which.
        id: LeaseId,
    },
}

/// Reads keys in key order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RangeRequest {
    /// Which.
    pub keys: KeyRange,
    /// As of when; 0 is now.
    pub revision: Revision,
    /// From the asked member as it is, maybe stale.
    pub serializable: bool,
    /// Keys answered at most; 0 is all.
    pub limit: i64,
    /// Without values.
    pub keys_only: bool,
    /// Only how many there are.
    pub count_only: bool,
}

impl RangeRequest {
    /// All of these keys, now, after a barrier.
    #[must_use]
    pub fn of(keys: KeyRange) -> Self {
        Self {
            keys,
            revision: 0,
            serializable: false,
            limit: 0,
            keys_only: false,
            count_only: false,
        }
    }
}

/// Writes a key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PutRequest {
    /// Which.
    pub key: Bytes,
    /// What; key and value together must be unique among unresolved writes.
    pub value: Bytes,
    /// The lease it hangs on, or 0.
    pub lease: LeaseId,
    /// Asks what was there before.
    pub prev_kv: bool,
}

impl PutRequest {
    /// A put without lease that asks nothing.
    pub fn of(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self { key: key.into(), value: value.into(), lease: 0, prev_kv: false }
    }
}

/// Deletes keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DeleteRequest {
    /// Which.
    pub keys: KeyRange,
    /// Asks what was there before.
    pub prev_kv: bool,
}

/// Operations that happen at once: `success` if all compares hold, else `failure`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TxnRequest {
    /// What must hold.
    pub compares: Vec<Compare>,
    /// What is done if it does.
    pub success: Vec<TxnOp>,
    /// What is done if not.
    pub failure: Vec<TxnOp>,
}

/// One operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TxnOp {
    /// Reads.
    Range(RangeRequest),
    /// Writes.
    Put(PutRequest),
    /// Deletes.
    DeleteRange(DeleteRequest),
    /// A transaction within.
    Txn(TxnRequest),
}

/// A condition: what is stored stands in this relation to what is given, for every key meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Compare {
    /// Which keys.
    pub keys: KeyRange,
    /// What of them, and what it is compared with.
    pub target: Target,
    /// How: the stored one is on the left.
    pub result: Relation,
}

/// What a compare looks at, with what is given.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// The value.
    Value(Bytes),
    /// The version.
    Version(i64),
    /// The revision that created the key.
    Create(Revision),
    /// The revision that changed it last.
    Mod(Revision),
    /// Its lease.
    Lease(LeaseId),
}

/// How stored and given relate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Relation {
    /// The same.
    Equal,
    /// Not the same.
    NotEqual,
    /// The stored one is greater.
    Greater,
    /// The stored one is less.
    Less,
}

impl Request {
    /// Whether the answer may be of a stale state: it asked for no barrier (behaviour.md KV-R13, KV-T12).
    #[must_use]
    pub fn is_serializable(&self) -> bool {
        match self {
            Self::Range(range) => range.serializable,
            Self::Txn(txn) => txn
                .success
                .iter()
                .chain(&txn.failure)
                .all(|op| matches!(op, TxnOp::Range(range) if range.serializable)),
            _ => false,
        }
    }

    /// Whether it may change keys.
    #[must_use]
    pub fn may_write(&self) -> bool {
        match self {
            Self::Put(_) | Self::DeleteRange(_) | Self::LeaseRevoke { .. } => true,
            Self::Txn(txn) => txn.may_write(),
            _ => false,
        }
    }

    /// Whether it may hang a key on a lease.
    #[must_use]
    pub fn uses_lease(&self) -> bool {
        let mut uses = false;
        self.each_put(&mut |put| uses |= put.lease != 0);
        uses
    }

    /// All puts that it may do.
    #[must_use]
    pub fn puts(&self) -> Vec<&PutRequest> {
        let mut puts = Vec::new();
        self.each_put(&mut |put| puts.push(put));
        puts
    }

    /// Looks at all puts that it may do.
    pub fn each_put<'a>(&'a self, look: &mut dyn FnMut(&'a PutRequest)) {
        match self {
            Self::Put(put) => look(put),
            Self::Txn(txn) => txn.each_put(look),
            _ => {}
        }
    }
}

impl TxnRequest {
    fn may_write(&self) -> bool {
        self.success.iter().chain(&self.failure).any(|op| match op {
            TxnOp::Range(_) => false,
            TxnOp::Put(_) | TxnOp::DeleteRange(_) => true,
            TxnOp::Txn(txn) => txn.may_write(),
        })
    }

    fn each_put<'a>(&'a self, look: &mut dyn FnMut(&'a PutRequest)) {
        for op in self.success.iter().chain(&self.failure) {
            match op {
                TxnOp::Put(put) => look(put),
                TxnOp::Txn(txn) => txn.each_put(look),
                TxnOp::Range(_) | TxnOp::DeleteRange(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_follow_etcds_convention() {
        assert!(KeyRange::one("a").contains(b"a") && !KeyRange::one("a").contains(b"aa"));
        let between = KeyRange::between("a", "c");
        assert!(between.contains(b"bz") && !between.contains(b"c"));
        assert!(!KeyRange::between("c", "a").contains(b"b"));
        assert!(KeyRange::all().contains(b"\xff\xff"));
        assert!(
            KeyRange::prefix(b"a").contains(b"a\xff") && !KeyRange::prefix(b"a").contains(b"b")
        );
        assert!(KeyRange::prefix(b"\xff").contains(b"\xff\xff"));
        assert!(!KeyRange::prefix(b"\xff").contains(b"a"));
        assert!(KeyRange::prefix(b"").contains(b"a"));
    }
}
