//! Members compare their states all the time (decision D16, hazard B10): each asks each what its state was like
//! at the indexes that all sample, and judges for itself.
//!
//! Who finds itself alone against a majority of voters raises its fence, notes that its state is of no use,
//! hands leadership on and asks to be started again: that start fetches the state of one of the majority. Its
//! log and its vote are right and stay. The others name it. Where there is no majority nobody is rebuilt, and
//! the CORRUPT alarm stops all writes.

mod tell;
pub(crate) mod verdict;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kvd_core::command::{AlarmChange, AlarmKind, Command};
use kvd_core::ids::MemberId;
use kvd_storage::datadir::Divergence;
use tokio::time::Instant;

pub(crate) use self::tell::{ask, hear, reply};
use self::verdict::{Odd, Split, Told, Value, Verdict, is_unanimous, judge};
use super::Node;
use crate::limits::{STATE_REBUILDS_FORGOTTEN_AFTER, STATE_REBUILDS_MAX, STATE_UNDECIDED_MAX};
use crate::shutdown::Shutdown;
use crate::stores::Stores;

/// Compares until the member stops, or finds that it is the one that is wrong.
pub(crate) async fn compare(node: Arc<Node>, stores: Arc<dyn Stores>, shutdown: Shutdown) {
    let interval = node.limits.state_compare_interval;
    let mut comparison = Comparison::new(node, stores);
    loop {
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = shutdown.begun() => return,
        }
        let node = &comparison.node;
        let own = node.own.member_id;
        let members = node.view().membership().1.nodes.clone();
        let peers = &node.proposer.peers;
        let told = hear(peers, own, members, &node.applier, &node.fence, interval).await;
        let membership = node.view().membership().1.clone();
        let mut verdict = judge(&told, &membership.voters);
        if let Some(odd) = verdict.odd.remove(&own) {
            comparison.step_aside(&odd).await;
            return comparison.stay_aside(interval, &shutdown).await;
        }
        comparison.name_the_odd(&told, &verdict);
        comparison.consider_alarm(&verdict).await;
        if is_unanimous(&told, &membership.voters, &verdict) {
            // The majority was only late, or somebody repaired the rest: writes need not be stopped any more.
            comparison.set_alarm(false).await;
        }
        let compared = |told: &Told| told.samples.iter().any(|at| Some(at.index) == verdict.agreed);
        comparison.consider_forgetting(told.get(&own).is_some_and(compared)).await;
    }
}

/// One member's comparison with the others.
struct Comparison {
    node: Arc<Node>,
    stores: Arc<dyn Stores>,
    /// Since when a difference waits for a silent voter.
    undecided_since: Option<Instant>,
    /// The difference without a majority was told to the log.
    split_is_told: bool,
    /// Since when this member has agreed with a majority.
    agrees_since: Option<Instant>,
}

impl Comparison {
    fn new(node: Arc<Node>, stores: Arc<dyn Stores>) -> Self {
        let (undecided_since, agrees_since) = (None, None);
        Self { node, stores, undecided_since, split_is_told: false, agrees_since }
    }

    /// This member's state is not the majority's.
    async fn step_aside(&self, odd: &Odd) {
        let node = &self.node;
        tracing::error!(
            member = %node.own.member_id, index = %odd.index, own = text(&odd.own),
            majority = text(&odd.others), members = ids(&odd.majority),
            "the state of this member differs from the majority's: it is not served any more"
        );
        node.fence.raise();
        node.raft.stand_down();
        // A device that hangs must not keep leadership here: the others wait for it.
        let (noted, ()) = tokio::join!(self.note(odd.majority.clone()), node.drain());
        match noted {
            Ok(noted) if noted.rebuilds <= STATE_REBUILDS_MAX => {
                tracing::warn!(attempt = noted.rebuilds, "the state is fetched from the majority");
                // The samples go with the process: the others see first who is wrong, and name it.
                tokio::time::sleep(2 * node.limits.state_compare_interval).await;
                node.fence.ask_for_rebuild();
            }
            Ok(noted) => tracing::error!(
                rebuilds = noted.rebuilds - 1,
                "the state differs again and again: this member stays out of service; examine its \
                 memory and its device, or move it to another machine. A restart fetches the \
                 state once more"
            ),
            Err(reason) => tracing::error!(
                reason,
                "it could not be noted that the state is of no use: this member stays out of \
                 service; see to its device and restart it"
            ),
        }
    }

    /// Leads no more, however long it takes that another can: a fenced leader refuses the whole cluster's writes.
    async fn stay_aside(&self, interval: Duration, shutdown: &Shutdown) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(interval) => self.node.drain().await,
                () = shutdown.begun() => return,
            }
        }
    }

    /// Notes durably that the state is of no use, and who has a better one.
    async fn note(&self, majority: Vec<MemberId>) -> Result<Divergence, String> {
        let stores = Arc::clone(&self.stores);
        let note = move || {
            let before = stores.divergence().map_err(|error| error.to_string())?;
            let rebuilds = before.rebuilds.saturating_add(1);
            let noted = Divergence { fetch_from: majority, rebuilds };
            stores.note_divergence(&noted).map_err(|error| error.to_string())?;
            Ok(noted)
        };
        self.node.readers.run(note).await.ok_or("the readers have stopped")?
    }

    /// Tells the log once of each member that is wrong, and once that it is not any more.
    fn name_the_odd(&self, told: &BTreeMap<MemberId, Told>, verdict: &Verdict) {
        let mut known = self.node.odd_members();
        for (id, odd) in verdict.odd.iter().filter(|(id, _)| !known.contains(id)) {
            tracing::error!(
                member = %id, index = %odd.index, own = text(&odd.own),
                majority = text(&odd.others), members = ids(&odd.majority),
                "the state of another member differs from the majority's"
            );
        }
        let is_odd = |id: &MemberId| {
            verdict.odd.contains_key(id) || told.get(id).is_some_and(|told| told.fenced)
        };
        // Who is silent is as it was.
        let still: BTreeSet<MemberId> =
            known.iter().filter(|id| !told.contains_key(id) || is_odd(id)).copied().collect();
        for id in known.difference(&still) {
            tracing::info!(member = %id, "the other member's state is the majority's again");
        }
        *known = still;
        known.extend(told.keys().filter(|id| is_odd(id)));
    }

    /// Without a majority nobody knows who is right: as leader, stops all writes.
    async fn consider_alarm(&mut self, verdict: &Verdict) {
        let now = Instant::now();
        let since = match verdict.undecided {
            Some(_) => Some(*self.undecided_since.get_or_insert(now)),
            None => None,
        };
        self.undecided_since = since;
        let waited = since.is_some_and(|since| now - since >= STATE_UNDECIDED_MAX);
        let overdue = verdict.undecided.as_ref().filter(|_| waited);
        let Some(split) = verdict.split.as_ref().or(overdue) else {
            self.split_is_told = false;
            return;
        };
        if !std::mem::replace(&mut self.split_is_told, true) {
            tracing::error!(
                index = %split.index, sides = sides(split),
                "the states of the members differ and no majority says which one is right: alarm \
                 CORRUPT; find out which member is right, stop the others, move CURRENT out of \
                 their member folders and start them"
            );
        }
        self.set_alarm(true).await;
    }

    /// Raises or takes back the alarm that names no member. Only the leader does.
    async fn set_alarm(&self, raise: bool) {
        let node = &self.node;
        let is_raised = node.view().alarms().contains(&(MemberId(0), AlarmKind::Corrupt));
        if is_raised == raise || node.leader() != Some(node.own.member_id) {
            return;
        }
        let alarm = AlarmChange { raise, member: MemberId(0), kind: AlarmKind::Corrupt };
        match node.propose(Command::Alarm(alarm)).await {
            Ok(_) => tracing::warn!(raise, "alarm CORRUPT"),
            Err(error) => tracing::warn!(%error, raise, "the alarm is not changed yet"),
        }
    }

    /// A rebuilt member that agrees for long may be rebuilt as often again.
    async fn consider_forgetting(&mut self, agrees: bool) {
        if !agrees {
            self.agrees_since = None;
            return;
        }
        let now = Instant::now();
        let since = *self.agrees_since.get_or_insert(now);
        if now - since < STATE_REBUILDS_FORGOTTEN_AFTER {
            return;
        }
        self.agrees_since = Some(now);
        let stores = Arc::clone(&self.stores);
        let forget = move || match stores.divergence() {
            Ok(noted) if noted.rebuilds > 0 => stores.note_divergence(&Divergence::default()),
            other => other.map(|_nothing_noted| ()),
        };
        if let Some(Err(error)) = self.node.readers.run(forget).await {
            tracing::warn!(%error, "that the state is good could not be noted");
        }
    }
}

fn text((hash, revision, compacted): &Value) -> String {
    let compacted = compacted.map_or(-1, |compacted| compacted.0);
    let (live, history) = (hash.live, hash.history);
    format!("live {live:016x}, history {history:016x}, revision {revision}, compacted {compacted}")
}

fn ids(members: &[MemberId]) -> String {
    let ids: Vec<String> = members.iter().map(ToString::to_string).collect();
    ids.join(", ")
}

fn sides(split: &Split) -> String {
    let sides: Vec<String> = split
        .sides
        .iter()
        .map(|(value, members)| format!("{}: {}", ids(members), text(value)))
        .collect();
    sides.join("; ")
}
