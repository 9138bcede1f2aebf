//! Where members run: an address of their own on this machine, and a folder.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// Where a member runs.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its data directory is in there.
    pub folder: PathBuf,
    /// Its address.
    pub address: Ipv4Addr,
    /// The network namespace that has this address, if it is not the one that the test runs in.
    pub network: Option<String>,
}

impl Place {
    /// Where a member there listens to its peers.
    pub fn peer_url(&self) -> String {
        format!("http://{}:2380", self.address)
    }
}

/// An address nobody else uses: two bytes of it tell test processes apart, the last the members
/// of one test process.
pub(super) fn loopback_address() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // .0 and .255 stay free, as in any network; so many live members no test has.
    let host = NEXT.fetch_add(1, Ordering::Relaxed) % 254 + 1;
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let [.., host] = host.to_be_bytes();
    // 127.0 is everybody's.
    Ipv4Addr::new(127, high.max(1), low, host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_loopback_and_differ() {
        let (first, second) = (loopback_address(), loopback_address());
        assert!(first.is_loopback() && second.is_loopback());
        assert_ne!(first, second);
    }
}
