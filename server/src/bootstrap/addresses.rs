//! Where members are reached, as the state says.

use kvd_core::ids::MemberId;

use crate::apply::Applier;
use crate::node::reads::Addresses;
use crate::peer::pool::Directory;

/// Peer URLs from the newest View.
pub(super) struct KnownAddresses(pub(super) Applier);

impl Addresses for KnownAddresses {
    fn peer_urls(&self, member: MemberId) -> Vec<String> {
        let view = self.0.published().view();
        view.membership().1.nodes.get(&member).cloned().unwrap_or_default()
    }
}

/// What the newest View says of the members.
pub(super) fn directory(applier: &Applier) -> Directory {
    let (members, membership) = (applier.published().clone(), applier.published().clone());
    Directory {
        incarnation: Box::new(move |id| members.view().members().present.get(&id)?.incarnation),
        peer_urls: Box::new(move |id| membership.view().membership().1.nodes.get(&id).cloned()),
    }
}
