//! Who speaks to whom: metadata on every call between members.
//!
//! A peer of another cluster, one that means somebody else, or one whose data directory is not the one its id
//! was published with (hazard A6) is refused before its request is read. The last holds both ways: a caller
//! says which data directory it means, so that a member that lost its own neither votes nor acknowledges.

use kvd_core::ids::{ClusterId, Incarnation, MemberId};
use kvd_core::mutants::{Mutant, active};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Request, Status};

/// Version of the protocol between members; another major is refused, a newer minor accepted (hazard F27).
pub(crate) const PROTOCOL: (u32, u32) = (1, 0);

const CLUSTER: &str = "kvd-cluster";
const FROM: &str = "kvd-from";
const INCARNATION: &str = "kvd-incarnation";
const TO: &str = "kvd-to";
const TO_INCARNATION: &str = "kvd-to-incarnation";

/// This member's own names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The cluster it belongs to.
    pub(crate) cluster_id: ClusterId,
    /// Its id.
    pub(crate) member_id: MemberId,
    /// Its data directory's random mark.
    pub(crate) incarnation: Incarnation,
}

/// Who a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) member_id: MemberId,
    pub(crate) incarnation: Incarnation,
}

/// Signs a request to a member, known under this incarnation.
pub(crate) fn sign<T>(
    request: &mut Request<T>,
    own: &Identity,
    to: MemberId,
    known: Option<Incarnation>,
) {
    let metadata = request.metadata_mut();
    if let Some(known) = known {
        metadata.insert(TO_INCARNATION, MetadataValue::from(known.0));
    }
    for (name, value) in [
        (CLUSTER, own.cluster_id.0),
        (FROM, own.member_id.0),
        (INCARNATION, own.incarnation.0),
        (TO, to.0),
    ] {
        metadata.insert(name, MetadataValue::from(value));
    }
}

/// Reads and checks a request's signature; `known` tells under which incarnation an id was published.
pub(crate) fn check(
    metadata: &MetadataMap,
    own: &Identity,
    known: impl Fn(MemberId) -> Option<Incarnation>,
) -> Result<Caller, Status> {
    let cluster = number(metadata, CLUSTER)?;
    if ClusterId(cluster) != own.cluster_id {
        return Err(refused(format!(
            "cluster ID mismatch: this member belongs to cluster {}, the caller to {cluster:x}",
            own.cluster_id
        )));
    }
    let to = MemberId(number(metadata, TO)?);
    if to != own.member_id {
        return Err(refused(format!("this is member {}, the request is for {to}", own.member_id)));
    }
    if !means_this_directory(metadata, own) {
        return Err(refused(format!(
            "member {to} has already been bootstrapped with another data directory than this one"
        )));
    }
    let caller = Caller {
        member_id: MemberId(number(metadata, FROM)?),
        incarnation: Incarnation(number(metadata, INCARNATION)?),
    };
    match known(caller.member_id) {
        Some(known) if known != caller.incarnation => Err(refused(format!(
            "member {} has already been bootstrapped with another data directory; \
             remove it from the cluster and add it anew",
            caller.member_id
        ))),
        _ => Ok(caller),
    }
}

/// Whether the caller knows this member by its data directory, or not at all yet.
pub(crate) fn means_this_directory(metadata: &MetadataMap, own: &Identity) -> bool {
    active(Mutant::IncarnationUnchecked)
        || !metadata.contains_key(TO_INCARNATION)
        || number(metadata, TO_INCARNATION).is_ok_and(|meant| Incarnation(meant) == own.incarnation)
}

/// A refusal that does not pass by trying again.
fn refused(reason: String) -> Status {
    Status::new(Code::FailedPrecondition, reason)
}

fn number(metadata: &MetadataMap, name: &'static str) -> Result<u64, Status> {
    metadata
        .get(name)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse().ok())
        .ok_or_else(|| Status::new(Code::InvalidArgument, format!("metadata {name} is missing")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(cluster: u64, member: u64, incarnation: u64) -> Identity {
        Identity {
            cluster_id: ClusterId(cluster),
            member_id: MemberId(member),
            incarnation: Incarnation(incarnation),
        }
    }

    fn call(from: Identity, to: u64) -> MetadataMap {
        call_known(from, to, None)
    }

    fn call_known(from: Identity, to: u64, known: Option<u64>) -> MetadataMap {
        let mut request = Request::new(());
        sign(&mut request, &from, MemberId(to), known.map(Incarnation));
        request.metadata().clone()
    }

    #[test]
    fn only_the_right_peer_is_heard() {
        let own = identity(1, 2, 20);
        let nobody = |_| None;
        assert!(check(&call(identity(1, 3, 30), 2), &own, nobody).is_ok());
        assert!(check(&call(identity(9, 3, 30), 2), &own, nobody).is_err(), "another cluster");
        assert!(check(&call(identity(1, 3, 30), 4), &own, nobody).is_err(), "meant for another");
        let known = |id| (id == MemberId(3)).then_some(Incarnation(31));
        assert!(check(&call(identity(1, 3, 30), 2), &own, known).is_err(), "an emptied disk");
        assert!(check(&MetadataMap::new(), &own, nobody).is_err(), "unsigned");
    }

    #[test]
    fn who_lost_its_directory_answers_nobody_who_knew_it() {
        let (own, nobody) = (identity(1, 2, 20), |_| None);
        assert!(check(&call_known(identity(1, 3, 30), 2, Some(20)), &own, nobody).is_ok());
        assert!(check(&call_known(identity(1, 3, 30), 2, Some(19)), &own, nobody).is_err());
    }
}
