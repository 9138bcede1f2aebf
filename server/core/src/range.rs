//! Which keys a request means: etcd's end-of-range convention (behaviour.md 2.1), parsed once at the edge.

use bytes::Bytes;

/// A set of keys in byte order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KeyRange {
    /// Exactly one key.
    Key(Bytes),
    /// `start <= key < end`; empty when `end <= start`.
    Between {
        /// First key that belongs to it.
        start: Bytes,
        /// First key that no longer does.
        end: Bytes,
    },
    /// Every key from this one on.
    From(Bytes),
}

impl KeyRange {
    /// Reads etcd's pair: no end means one key, an end of one zero byte means "and all that follow".
    pub fn new(key: Bytes, range_end: Bytes) -> Self {
        match range_end.as_ref() {
            [] => Self::Key(key),
            [0] => Self::From(key),
            _ => Self::Between { start: key, end: range_end },
        }
    }

    /// Every key.
    pub fn all() -> Self {
        Self::From(Bytes::new())
    }

    /// The first key that may belong to it.
    pub fn start(&self) -> &Bytes {
        match self {
            Self::Key(key) | Self::From(key) => key,
            Self::Between { start, .. } => start,
        }
    }

    /// Whether the key belongs to it.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::Key(only) => only.as_ref() == key,
            Self::Between { start, end } => start.as_ref() <= key && key < end.as_ref(),
            Self::From(start) => start.as_ref() <= key,
        }
    }

    /// Whether no key can belong to it.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Between { start, end } if end <= start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(key: &'static str, end: &'static str) -> KeyRange {
        KeyRange::new(Bytes::from_static(key.as_bytes()), Bytes::from_static(end.as_bytes()))
    }

    #[test]
    fn ends_follow_etcds_convention() {
        assert!(range("a", "").contains(b"a") && !range("a", "").contains(b"aa"));
        assert!(range("a", "c").contains(b"bz") && !range("a", "c").contains(b"c"));
        assert!(range("b", "\0").contains(b"\xff\xff") && !range("b", "\0").contains(b"a"));
        assert!(range("b", "a").is_empty() && !range("b", "a").contains(b"b"));
        assert!(KeyRange::all().contains(b"\0"));
    }
}
