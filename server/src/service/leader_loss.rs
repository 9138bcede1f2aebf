//! Streams that asked to be told when this member has no leader (rule W29).

use std::time::Duration;

use tonic::metadata::MetadataMap;

use crate::node::Node;

/// Looks that must find no leader, one after the other.
const LOOKS: u32 = 3;

/// Whether a caller wants its call to end where there is no leader.
pub(crate) fn is_wanted(metadata: &MetadataMap) -> bool {
    metadata.get("hasleader").is_some_and(|value| value.as_encoded_bytes() == b"true")
}

/// Returns when this member was without a leader at three looks in a row, an election timeout apart.
pub(crate) async fn leader_lost(node: &Node) {
    let pause = Duration::from_millis(node.limits().election_ms);
    let mut misses = Misses::default();
    loop {
        tokio::time::sleep(pause).await;
        if misses.look(node.leader().is_some()) {
            return;
        }
    }
}

/// Looks that found no leader since the last one that did.
#[derive(Default)]
struct Misses(u32);

impl Misses {
    /// Whether it is enough with this look.
    fn look(&mut self, has_leader: bool) -> bool {
        self.0 = if has_leader { 0 } else { self.0 + 1 };
        self.0 >= LOOKS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_looks_in_a_row_must_miss() {
        let mut misses = Misses::default();
        let told = [true, false, false, true, false, false, false].map(|leads| misses.look(leads));
        assert_eq!(told, [false, false, false, false, false, false, true]);
    }

    #[test]
    fn only_true_is_a_wish() {
        let mut metadata = MetadataMap::new();
        assert!(!is_wanted(&metadata));
        metadata.insert("hasleader", "false".parse().unwrap());
        assert!(!is_wanted(&metadata));
        metadata.insert("hasleader", "true".parse().unwrap());
        assert!(is_wanted(&metadata));
    }
}
