//! The ports of a local cluster: free ones, remembered where the data is kept.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};

use super::folder::Folder;
use super::{LocalClusterError, io_error};

/// In a given data directory: the addresses of the members, which must be the same at every start,
/// because the members remember each other's.
const ADDRESSES_FILE: &str = "addresses";

/// Ports of one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ports {
    /// For clients.
    pub(super) client: u16,
    /// For the other members.
    pub(super) peer: u16,
}

/// The members' ports: those that a lasting folder remembers, else free ones.
pub(super) fn addresses(folder: &Folder, count: usize) -> Result<Vec<Ports>, LocalClusterError> {
    let path = folder.path().join(ADDRESSES_FILE);
    match fs::read_to_string(&path) {
        Ok(text) => {
            let known = parse_ports(&text).filter(|ports| ports.len() == count);
            let path = path.display().to_string();
            return known.ok_or(LocalClusterError::OtherCluster { path, count });
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io_error(path.display().to_string())(error)),
    }
    let ports = free_ports(count).map_err(io_error("looking for free ports"))?;
    let text: String =
        ports.iter().map(|ports| format!("{} {}\n", ports.client, ports.peer)).collect();
    fs::write(&path, text).map_err(io_error(path.display().to_string()))?;
    Ok(ports)
}

fn parse_ports(text: &str) -> Option<Vec<Ports>> {
    let parse_line = |line: &str| {
        let (client, peer) = line.split_once(' ')?;
        Some(Ports { client: client.parse().ok()?, peer: peer.parse().ok()? })
    };
    text.lines().map(parse_line).collect()
}

/// Ports that nobody listens on now. They are taken together, so they differ.
fn free_ports(count: usize) -> io::Result<Vec<Ports>> {
    let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let pairs = (0..count).map(|_| Ok((listen()?, listen()?))).collect::<io::Result<Vec<_>>>()?;
    let ports = |(client, peer): &(TcpListener, TcpListener)| {
        Ok(Ports { client: client.local_addr()?.port(), peer: peer.local_addr()?.port() })
    };
    pairs.iter().map(ports).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_remembers_its_addresses_and_its_size() {
        let folder = Folder::temporary("ports-test").unwrap();
        let first = addresses(&folder, 3).unwrap();
        assert_eq!(addresses(&folder, 3).unwrap(), first);
        assert!(matches!(addresses(&folder, 5), Err(LocalClusterError::OtherCluster { .. })));
        fs::write(folder.path().join(ADDRESSES_FILE), "1 2\n3 x\n").unwrap();
        assert!(matches!(addresses(&folder, 2), Err(LocalClusterError::OtherCluster { .. })));
    }
}
