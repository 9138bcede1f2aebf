//! The compaction protocol: every apiserver claims, one wins and compacts to the revision it knew
//! at the round before, and all follow the key that says how far (kube-apiserver.md §5).

use kvd_proto::mvccpb::event::EventType;

use super::change::text;
use super::identity::Identity;
use super::ledger::{Fate, Intent, Op};
use super::reflector::open;
use super::requests;
use super::store::{Store, Written};

/// What one apiserver knows of the rounds.
#[derive(Debug, Default)]
pub struct Compactor {
    /// The version of the key that it expects.
    version: i64,
    /// The revision of its last round.
    revision: i64,
    /// Rounds that it won and compacted.
    pub won: u64,
    /// Rounds that another won.
    pub lost: u64,
    /// Its claims, with their outcomes.
    pub claims: Vec<Op>,
}

impl Compactor {
    /// One round.
    pub async fn round(&mut self, store: &Store) {
        let written = store.txn(requests::claim(self.version, self.revision)).await;
        let fate = match &written {
            Written::Done(revision) => Fate::Acked(*revision),
            Written::Unknown => Fate::Unknown,
            Written::Conflict(..) | Written::Refused(_) => Fate::Failed,
        };
        let intent = Intent::Put(self.revision.to_string());
        self.claims.push(Op { key: requests::COMPACT_REV_KEY.to_owned(), intent, fate });
        match written {
            Written::Done(revision) => {
                let goal = std::mem::replace(&mut self.revision, revision);
                self.version += 1;
                self.won += 1;
                if goal != 0 {
                    self.compact(store, goal).await;
                }
            }
            Written::Conflict(Some(kv), revision) => {
                if kv.version == self.version {
                    store.accuse(format!("a claim at version {} lost to itself", kv.version));
                }
                self.version = kv.version;
                self.lost += 1;
                self.revision = revision;
            }
            Written::Conflict(None, _) => {
                store.accuse(format!("the key is gone at version {}", self.version));
            }
            Written::Refused(_) | Written::Unknown => {}
        }
    }

    async fn compact(&self, store: &Store, goal: i64) {
        match store.compact(goal).await {
            // An unknown outcome that did happen makes the next claim's compaction an old one.
            Ok(()) | Err(Identity::Compacted | Identity::Transport) => {}
            Err(identity) => store.accuse(format!("compacting to {goal} failed: {identity:?}")),
        }
    }
}

/// Follows the key until the stream ends; tells each goal to `tell`. Goals never go back.
pub async fn follow(store: &Store, mut tell: impl FnMut(i64)) {
    let Ok((kv, revision)) = store.get(requests::COMPACT_REV_KEY).await else { return };
    let mut goal = kv.map_or(0, |kv| text(&kv.value).parse().unwrap_or(-1));
    let watch = requests::follow(requests::COMPACT_REV_KEY, revision);
    let Ok((_requests, mut stream)) = open(store, watch).await else { return };
    while let Ok(Some(response)) = stream.message().await {
        if response.header.is_none() {
            store.accuse("a follower's response without a header".to_owned());
        }
        for event in response.events {
            let kv = event.kv.unwrap_or_default();
            let told: i64 = text(&kv.value).parse().unwrap_or(-1);
            if event.r#type != i32::from(EventType::Put)
                || event.prev_kv.is_some()
                || kv.key != requests::COMPACT_REV_KEY
                || kv.mod_revision < revision
                || told < goal
            {
                store.accuse(format!("a follower of {goal} is told {kv:?}"));
            }
            goal = told;
            tell(goal);
        }
    }
}
