//! Changes of who belongs to the cluster: planned by the leader, one entry each (hazard B4, behaviour.md 5.2).

use std::sync::Arc;
use std::time::Duration;

use kvd_core::ids::MemberId;
use kvd_core::members::{MemberChange, Refused};
use kvd_core::outcome::Applied;
use kvd_core::tables::Members;
use kvd_proto::peer::change_members_request::Change;
use kvd_proto::peer::not_appended::Reason;
use kvd_proto::peer::propose_reply::Result as Reply;
use kvd_proto::peer::{AddMember, ChangeMembersRequest, ProposeReply, UpdateMember};
use tokio::time::Instant;
use tonic::Status;

use super::Node;
use super::propose::{Attempt, Proposer, Wanted, refusal};
use super::request::{RequestError, Unavailable};
use crate::shutdown::Shutdown;

/// A member that is to vote has caught up when it lacks no more entries than this: it gets them within milliseconds,
/// and until then it cannot vote against anybody.
const CAUGHT_UP: u64 = 1_000;

/// How often a leader looks whether somebody has caught up.
const LOOK: Duration = Duration::from_millis(100);

impl Node {
    /// Makes a change and answers who belongs to the cluster then.
    pub async fn change_members(&self, change: MemberChange) -> Result<Members, RequestError> {
        self.check_fence()?;
        let deadline = Instant::now() + self.proposer.timeout;
        let own = self.own.member_id;
        let leaves = change == MemberChange::Remove(own);
        let wanted = Wanted::Change(change);
        let applied = if leaves {
            // Nobody sends the entry to who is no member any more, so it need not become visible here.
            self.proposer.until_applied(&wanted, deadline).await?
        } else {
            self.proposer.until_visible(wanted, deadline).await?
        };
        self.check_fence()?;
        applied.outcome?;
        let mut members = self.view().members().clone();
        if leaves {
            members.present.remove(&own);
        }
        Ok(members)
    }
}

impl Proposer {
    /// As the leader: makes the change. A leader that is new has not heard everybody yet, so one that finds too few
    /// looks again for an election timeout.
    pub(super) async fn change_here(&self, change: &MemberChange) -> Attempt {
        let patience = Instant::now() + self.raft.round_timeout();
        loop {
            match self.change_once(change).await {
                Attempt::Refused(Unavailable::Unhealthy) if Instant::now() < patience => {
                    tokio::time::sleep(LOOK).await;
                }
                ended => return ended,
            }
        }
    }

    /// Plans the change from all changes before it, and proposes it.
    async fn change_once(&self, change: &MemberChange) -> Attempt {
        let Some(index) = self.raft.read_index().await else { return Attempt::NotAppended };
        let view = self.published.at_least(index).await;
        let membership = view.membership();
        let plan = change.plan(view.members(), &membership.1, self.rules, &self.raft.seen());
        let plan = match plan {
            Ok(plan) => plan,
            Err(Refused::Rejected(rejection)) => {
                return Attempt::Applied(Applied::refused(view.at(), view.revision(), rejection));
            }
            Err(Refused::Unhealthy) => return Attempt::Refused(Unavailable::Unhealthy),
        };
        if *change == MemberChange::Remove(self.raft.own_id()) {
            return self.leave_lead().await;
        }
        self.raft.change_membership(membership, plan).await.into()
    }

    /// A leader that is to go has another one see to it: so there is always somebody who leads.
    async fn leave_lead(&self) -> Attempt {
        let Some(target) = self.raft.transfer_targets().into_iter().next() else {
            return Attempt::Refused(Unavailable::Unhealthy);
        };
        if let Err(error) = self.raft.hand_over(target).await {
            tracing::warn!(%error, %target, "a leader that leaves did not hand over leadership");
        }
        Attempt::NotAppended
    }

    /// Answers a member that forwarded a change: only as leader, never forwarded again.
    pub(crate) async fn serve_change(
        &self,
        request: ChangeMembersRequest,
    ) -> Result<ProposeReply, Status> {
        let change = from_request(request).ok_or_else(|| Status::invalid_argument("no change"))?;
        let reply = match self.change_here(&change).await {
            Attempt::Applied(applied) => Reply::Outcome(kvd_core::codec::encode_outcome(&applied)),
            Attempt::NotAppended => return Ok(refusal(Reason::NotLeader)),
            Attempt::Refused(Unavailable::Unhealthy) => return Ok(refusal(Reason::Unhealthy)),
            // Who stops may have appended it before.
            Attempt::Refused(_) | Attempt::Unknown => Reply::Unknown(true),
        };
        Ok(ProposeReply { result: Some(reply) })
    }
}

/// As leader, gives members that were added as voters their vote once they have caught up.
pub(crate) async fn seat_members(node: Arc<Node>, shutdown: Shutdown) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = shutdown.begun() => return,
        }
        let Some(member) = node.caught_up() else { continue };
        match node.proposer.change_here(&MemberChange::Seat(member)).await {
            Attempt::Applied(applied) if applied.outcome.is_ok() => {
                tracing::info!(%member, "has caught up and votes");
            }
            // It is tried again, or somebody else did it.
            _ => tracing::debug!(%member, "does not vote yet"),
        }
    }
}

impl Node {
    /// A member that waits for its vote, and may have it.
    fn caught_up(&self) -> Option<MemberId> {
        self.raft.own_leadership()?;
        let view = self.view();
        let mut waiting = view.members().present.iter().filter(|(_, member)| {
            // Who never told its name might be gone again: it would cost the others their majority.
            member.seat_reserved && member.incarnation.is_some()
        });
        let connected = self.raft.seen().connected;
        let ready = waiting.find(|(id, _)| {
            connected.contains(id) && self.raft.lag(**id).is_some_and(|lag| lag <= CAUGHT_UP)
        });
        ready.map(|(id, _)| *id)
    }
}

pub(super) fn to_request(change: &MemberChange) -> ChangeMembersRequest {
    let change = match change.clone() {
        MemberChange::Add { member, peer_urls, is_learner } => {
            Some(Change::Add(AddMember { member_id: member.0, peer_urls, is_learner }))
        }
        MemberChange::Remove(member) => Some(Change::Remove(member.0)),
        MemberChange::Update { member, peer_urls } => {
            Some(Change::Update(UpdateMember { member_id: member.0, peer_urls }))
        }
        MemberChange::Promote(member) => Some(Change::Promote(member.0)),
        // The leader's own business.
        MemberChange::Seat(_) => None,
    };
    ChangeMembersRequest { change }
}

fn from_request(request: ChangeMembersRequest) -> Option<MemberChange> {
    Some(match request.change? {
        Change::Add(AddMember { member_id, peer_urls, is_learner }) => {
            MemberChange::Add { member: MemberId(member_id), peer_urls, is_learner }
        }
        Change::Remove(member) => MemberChange::Remove(MemberId(member)),
        Change::Update(UpdateMember { member_id, peer_urls }) => {
            MemberChange::Update { member: MemberId(member_id), peer_urls }
        }
        Change::Promote(member) => MemberChange::Promote(MemberId(member)),
    })
}
