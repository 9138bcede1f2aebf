//! How the end of a range is written (behaviour.md §2.1).

use bytes::Bytes;

/// As the end of a range: every key from the first one on.
pub const FROM_KEY: Bytes = Bytes::from_static(&[0]);

/// The end of the range of all keys that begin with `prefix`. The empty prefix is that of all keys;
/// their range begins at the key of one zero byte, for an empty key is refused.
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let Some(last) = prefix.iter().rposition(|&byte| byte < 0xff) else {
        return FROM_KEY;
    };
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    end.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn prefixes_without_an_upper_neighbour_have_no_end() {
        assert_eq!(prefix_end(b""), FROM_KEY);
        assert_eq!(prefix_end(&[0xff, 0xff]), FROM_KEY);
        assert_eq!(prefix_end(&[b'a', 0xff]), Bytes::from_static(b"b"));
    }

    proptest! {
        #[test]
        fn holds_exactly_the_keys_with_the_prefix(
            prefix in proptest::collection::vec(prop_oneof![Just(0), Just(0xfe), Just(0xff)], 1..4),
            key in proptest::collection::vec(prop_oneof![Just(0), Just(0xfe), Just(0xff)], 1..5),
        ) {
            let end = prefix_end(&prefix);
            let inside = key >= prefix && (end == FROM_KEY || key.as_slice() < &end[..]);
            prop_assert_eq!(inside, key.starts_with(&prefix));
        }
    }
}
