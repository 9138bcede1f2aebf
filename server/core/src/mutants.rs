//! Faults put in on purpose, one at a time, to see whether the tests find them. No release has them: they exist
//! only with the feature `mutants`, which nothing but the simulator asks for, and then only once one is selected.
//!
//! Each is a mistake that somebody could make, or has made: at its place in the product stands one condition,
//! [`active`], which without the feature is a constant. The simulator finds each within 200 seeds, but for those that its
//! test `mutants` lists with who finds them; the gate runs it. A simulator that does not find one is too weak, and
//! is mended before anything else.

/// Names each mutant once: the enum, the list of all and the names cannot disagree.
macro_rules! mutants {
    ($($(#[$doc:meta])* $mutant:ident = $name:literal,)*) => {
        /// A fault. The docs say what goes wrong, and which promise that breaks.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Mutant {
            $($(#[$doc])* $mutant,)*
        }

        #[cfg(feature = "mutants")]
        impl Mutant {
            /// All there are.
            pub const ALL: &[Self] = &[$(Self::$mutant),*];

            /// The name by which one is asked for.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$mutant => $name,)*
                }
            }
        }
    };
}

// What survives a power cut.
mutants! {
    /// A frame of the log is written and acknowledged, but not synced (etcd #14370).
    SkipFsync = "skip-fsync",
    /// Entries count as durable when they are queued: a follower's answer, and the leader's own vote for them,
    /// come before the disk has them (etcd #14370).
    AckEarly = "ack-early",
    /// A vote is given but never written: after a restart the member votes again in the same term.
    VoteForgotten = "vote-forgotten",
    /// The folder of the log is never synced: segments that were acknowledged have no name after a power cut.
    FolderUnsynced = "folder-unsynced",
    /// Entries that a new leader replaced are dropped in memory and not in the file: what is read back after a
    /// restart is another log (hazard A3).
    TruncationForgotten = "truncation-forgotten",
    /// A frame that the power cut tore, which nobody acknowledged, is taken for damage: the member does not start
    /// (hazard A3, first form).
    TornTailRefused = "torn-tail-refused",
    /// A last frame that has rotten is taken for a torn one and cut, although it was acknowledged (hazard A3,
    /// second form).
    RotCut = "rot-cut",
    /// The log is purged up to what is applied, whatever the last durable checkpoint holds (hazard A8).
    PurgeEarly = "purge-early",
    /// A checkpoint's rows take the place of the former ones before its meta is there, and opening trusts what it
    /// finds (hazard A1). Stores in memory stand in for sled, where a row cannot take the place of another.
    RowsBeforeMeta = "rows-before-meta",
    /// A checkpoint says that it ends one entry sooner than it does: after a restart that one is applied again
    /// (etcd #13766).
    ApplyTwice = "apply-twice",
    /// On opening, keys are not attached to their leases: a lease that ends after a restart leaves its keys on
    /// this member alone (rule M14).
    LeasesNotAttached = "leases-not-attached",

    // Consensus, and who may say what about it.

    /// A follower that did not answer in time counts as one that has the entries: the quorum is no longer one.
    SilenceIsConsent = "silence-is-consent",
    /// The data directory's mark is not looked at: a member that lost its disk votes and acknowledges under its
    /// old id (hazard A6).
    IncarnationUnchecked = "incarnation-unchecked",
    /// A proposal that openraft discarded is tried again, although it may still commit (hazard A7).
    DiscardedRetried = "discarded-retried",
    /// A forward without an answer is tried again, although the leader may have it (hazard A7).
    ForwardRetried = "forward-retried",

    // Reads and answers.

    /// Linearizable reads take this member's View as it is.
    NoReadBarrier = "no-read-barrier",
    /// A leader answers a read index without asking a majority whether it still leads.
    LeaderAssumed = "leader-assumed",
    /// A round that failed is answered with the index that was known before it (etcd #20418).
    ReadIndexReused = "read-index-reused",
    /// A reader who asks during a round is given that round's index, confirmed before it asked.
    RoundJoinedLate = "round-joined-late",
    /// A read has its index and does not wait until this member applied it.
    ApplyNotAwaited = "apply-not-awaited",
    /// A write is answered before the member that was asked can show it (invariant 8).
    AnswerBeforeVisible = "answer-before-visible",

    // The replicated state.

    /// Comparisons look at the View published last, not at what was applied since: two swaps of one slice both
    /// succeed, and members that cut their slices elsewhere differ.
    CompareStale = "compare-stale",
    /// Each operation of a transaction takes a revision of its own (invariant 5).
    TxnTornApart = "txn-torn-apart",
    /// Members that nobody waits on for the answer skip a put's checks with the answer (invariant 1).
    ChecksSkipped = "checks-skipped",
    /// Compaction drops also the change that is still to be read at the mark itself (rule M11).
    CompactionTooFar = "compaction-too-far",
    /// Only the member that proposed a compaction compacts.
    CompactionLocal = "compaction-local",

    // Leases.

    /// The end of a lease leaves one of several keys behind.
    LeaseLeavesKey = "lease-leaves-key",
    /// A key that is put without its lease, or with another, goes when the first one ends.
    LeaseNotDetached = "lease-not-detached",
    /// Leases are counted by a clock that others set: while it is brought forward by half, they end after two
    /// thirds of their time.
    LeaseByWallClock = "lease-by-wall-clock",
    /// A new leader ends leases by its own clock alone, without time for what the old one still renewed.
    LeaseWithoutSlack = "lease-without-slack",
    /// A leader renews without asking whether it still leads, and whether it has applied all: it renews what others
    /// have ended, and does not know what they granted.
    KeepAliveUnconfirmed = "keep-alive-unconfirmed",
    /// Leases of a state that was opened or received are not counted: where this member leads they never end.
    LeasesNotLoaded = "leases-not-loaded",

    // Watches.

    /// Watchers are told of a change before it can be read on their member (invariant 8).
    EventBeforeApply = "event-before-apply",
    /// Progress is told although some watcher of the stream is behind: the events it covers come later (hazard
    /// B6, third form).
    ProgressOvertakes = "progress-overtakes",
    /// A watch from a revision begins after it (etcd #18089 and others: what a resume loses).
    EventLostOnResume = "event-lost-on-resume",
    /// What happened while events were not at hand, as when a snapshot was installed, is not made up for (etcd
    /// #15271).
    GapIgnored = "gap-ignored",
    /// Events that history already delivered come again from the hub (hazard B6, second form).
    EventTwice = "event-twice",
    /// Who watches without previous values lends its encoding to who wants them, where both are behind.
    PrevKvForgotten = "prev-kv-forgotten",
    /// Filters hold for live watchers only.
    FilterForgotten = "filter-forgotten",
    /// A watch from below the compaction mark silently begins at the mark (rule W24).
    CompactedSkipped = "compacted-skipped",
}

/// Whether this fault is put in. Never, without the feature: what stands behind it is not even compiled in.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn active(_mutant: Mutant) -> bool {
    false
}

#[cfg(feature = "mutants")]
pub use chosen::{active, select};

#[cfg(feature = "mutants")]
mod chosen {
    use std::sync::OnceLock;

    use super::Mutant;

    static CHOSEN: OnceLock<Mutant> = OnceLock::new();

    impl Mutant {
        /// The mutant of that name.
        pub fn from_name(name: &str) -> Option<Self> {
            Self::ALL.iter().copied().find(|mutant| mutant.name() == name)
        }
    }

    /// Puts one fault in, for as long as the process lives. A second one would only hide the first.
    pub fn select(mutant: Mutant) {
        assert!(CHOSEN.set(mutant).is_ok(), "a process has one mutant, chosen once");
    }

    /// Whether this fault is put in.
    #[inline]
    pub fn active(mutant: Mutant) -> bool {
        CHOSEN.get() == Some(&mutant)
    }
}

#[cfg(all(test, feature = "mutants"))]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_has_a_name_of_its_own() {
        let names: BTreeSet<&str> = Mutant::ALL.iter().map(|mutant| mutant.name()).collect();
        assert_eq!(names.len(), Mutant::ALL.len());
        for mutant in Mutant::ALL {
            assert_eq!(Mutant::from_name(mutant.name()), Some(*mutant));
        }
        assert_eq!(Mutant::from_name("none"), None);
    }

    #[test]
    fn none_is_active_unless_selected() {
        assert!(!Mutant::ALL.iter().any(|mutant| active(*mutant)));
    }
}
