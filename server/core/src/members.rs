//! Changes of who belongs to the cluster: what a change makes of the membership, or why it is refused
//! (behaviour.md 5.2).
//!
//! The leader decides this before it proposes; applying never refuses (hazard B4). Each change is one entry with the
//! whole membership, in which the voters differ by one at most. A member that is to vote is added as a learner whose
//! seat is reserved, and gets it when it has caught up: until then it cannot cost the others their majority.

use std::collections::BTreeSet;

use thiserror::Error;

use crate::command::{Command, Membership};
use crate::ids::MemberId;
use crate::outcome::Rejection;
use crate::tables::{Member, Members};

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// A new member.
    Add {
        /// Its id.
        member: MemberId,
        /// Where peers will reach it.
        peer_urls: Vec<String>,
        /// It is not to vote.
        is_learner: bool,
    },
    /// A member leaves for good.
    Remove(MemberId),
    /// A member is reached elsewhere.
    Update {
        /// Which one.
        member: MemberId,
        /// Where.
        peer_urls: Vec<String>,
    },
    /// A learner is to vote.
    Promote(MemberId),
    /// A member that was added as a voter has caught up, and votes from now on.
    Seat(MemberId),
}

/// What the operator set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Refuse what would cost the majority; etcd's `--strict-reconfig-check`.
    pub strict: bool,
    /// Members without a vote at most; etcd's `--max-learners`.
    pub learners_max: usize,
}

/// What the leader sees of the members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Those that answer, itself among them.
    pub connected: BTreeSet<MemberId>,
    /// Those of them that have nine tenths of its log at least (rule C6).
    pub in_sync: BTreeSet<MemberId>,
}

/// What to propose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The membership after the change.
    pub membership: Membership,
    /// What the entry says beside it.
    pub command: Option<Command>,
}

/// Why a change is not made.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// It cannot be.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// Too few members answer to risk it (rule C8).
    #[error("unhealthy cluster")]
    Unhealthy,
}

/// Votes that decide among so many members.
fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

impl MemberChange {
    /// What it makes of the cluster, or why it must not be made.
    ///
    /// # Errors
    /// In etcd's order: what strictness forbids comes before what cannot be.
    pub fn plan(
        &self,
        members: &Members,
        membership: &Membership,
        rules: Rules,
        seen: &Seen,
    ) -> Result<Plan, Refused> {
        let table = Table { members, seen };
        let mut plan = Plan { membership: membership.clone(), command: None };
        let voters = plan.membership.voters.first_mut();
        let voters = voters.ok_or(Refused::Unhealthy)?;
        let nodes = &mut plan.membership.nodes;
        match self {
            Self::Add { member, peer_urls, is_learner } => {
                if rules.strict {
                    table.may_add(*is_learner)?;
                }
                table.can_add(*member, peer_urls, is_learner.then_some(rules.learners_max))?;
                nodes.insert(*member, peer_urls.clone());
                plan.command = (!is_learner).then_some(Command::ReserveSeat(*member));
            }
            Self::Remove(member) => {
                if rules.strict {
                    table.may_remove(*member)?;
                }
                table.find(*member)?;
                nodes.remove(member);
                let voted = voters.remove(member);
                let answer = voters.intersection(&seen.connected).count();
                // A seat that is reserved only counts for rule C8, and not for what the log needs to go on.
                if rules.strict && voted && answer < quorum(voters.len()) && !voters.is_empty() {
                    return Err(Refused::Unhealthy);
                }
                // Also where nobody is strict: without a voter there is no cluster to ask.
                if voters.is_empty() {
                    return Err(Rejection::NotEnoughStarted.into());
                }
            }
            Self::Update { member, peer_urls } => {
                table.find(*member)?;
                table.ensure_free(peer_urls, Some(*member))?;
                nodes.insert(*member, peer_urls.clone());
            }
            Self::Promote(member) => {
                let is_learner = table.find(*member)?.is_learner;
                if is_learner && !seen.in_sync.contains(member) {
                    return Err(Rejection::LearnerNotReady.into());
                }
                if rules.strict {
                    table.may_promote(*member)?;
                }
                if !is_learner {
                    return Err(Rejection::NotLearner.into());
                }
                voters.insert(*member);
            }
            Self::Seat(member) => {
                if !table.find(*member)?.seat_reserved {
                    return Err(Rejection::NotLearner.into());
                }
                if !seen.connected.contains(member) {
                    return Err(Rejection::LearnerNotReady.into());
                }
                voters.insert(*member);
            }
        }
        Ok(plan)
    }

    /// The member that it is about.
    pub fn member(&self) -> MemberId {
        match self {
            Self::Add { member, .. }
            | Self::Remove(member)
            | Self::Update { member, .. }
            | Self::Promote(member)
            | Self::Seat(member) => *member,
        }
    }
}

struct Table<'a> {
    members: &'a Members,
    seen: &'a Seen,
}

impl Table<'_> {
    fn find(&self, member: MemberId) -> Result<&Member, Rejection> {
        self.members.present.get(&member).ok_or(Rejection::MemberNotFound)
    }

    /// Those that vote, or will when they have caught up: what an operator takes for voters.
    fn voters(&self) -> impl Iterator<Item = (MemberId, &Member)> {
        let voters = self.members.present.iter().filter(|(_, member)| !member.is_learner);
        voters.map(|(id, member)| (*id, member))
    }

    /// Started members among voters but one, and their number.
    fn started_without(&self, left_out: Option<MemberId>) -> (usize, usize) {
        let others = || self.voters().filter(|(id, _)| Some(*id) != left_out);
        let started = others().filter(|(_, member)| !member.name.is_empty()).count();
        (started, others().count())
    }

    fn connected_voters(&self) -> usize {
        self.voters().filter(|(id, _)| self.seen.connected.contains(id)).count()
    }

    /// Rules C7 and C8 for a new member.
    fn may_add(&self, is_learner: bool) -> Result<(), Refused> {
        let (started, voters) = self.started_without(None);
        let becomes_two = started == 1 && voters == 1;
        if !is_learner && !becomes_two && started < quorum(voters + 1) {
            return Err(Rejection::NotEnoughStarted.into());
        }
        if voters > 1 && self.connected_voters() < quorum(voters + 1) {
            return Err(Refused::Unhealthy);
        }
        Ok(())
    }

    /// Rules C7 and C8 for a member that leaves.
    fn may_remove(&self, member: MemberId) -> Result<(), Refused> {
        if self.members.present.get(&member).is_some_and(|member| member.is_learner) {
            return Ok(());
        }
        let (started, voters) = self.started_without(Some(member));
        if started < quorum(voters) {
            return Err(Rejection::NotEnoughStarted.into());
        }
        // Who is down is no part of the majority at work.
        if !self.seen.connected.contains(&member) {
            return Ok(());
        }
        if self.connected_voters() - 1 < 1 + voters / 2 {
            return Err(Refused::Unhealthy);
        }
        Ok(())
    }

    /// Rule C7 for a learner.
    fn may_promote(&self, member: MemberId) -> Result<(), Refused> {
        let (started, voters) = self.started_without(Some(member));
        if started + 1 < quorum(voters + 1) {
            return Err(Rejection::NotEnoughStarted.into());
        }
        Ok(())
    }

    fn can_add(
        &self,
        member: MemberId,
        peer_urls: &[String],
        learners_max: Option<usize>,
    ) -> Result<(), Rejection> {
        if self.members.removed.contains(&member) {
            return Err(Rejection::MemberNotFound);
        }
        if self.members.present.contains_key(&member) {
            return Err(Rejection::MemberExists);
        }
        self.ensure_free(peer_urls, None)?;
        let learners = self.members.present.values().filter(|member| member.is_learner).count();
        if learners_max.is_some_and(|most| learners >= most) {
            return Err(Rejection::TooManyLearners);
        }
        Ok(())
    }

    /// No member but one has any of these URLs.
    fn ensure_free(&self, peer_urls: &[String], but: Option<MemberId>) -> Result<(), Rejection> {
        let others = self.members.present.iter().filter(|(id, _)| Some(**id) != but);
        let mut taken = others.flat_map(|(_, member)| &member.peer_urls);
        match taken.any(|url| peer_urls.contains(url)) {
            true => Err(Rejection::PeerUrlsExist),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
