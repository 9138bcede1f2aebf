//! Names of files and folders, and the changes of them that no sync of a folder has made durable.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Folder(u64),
    File(u64),
}

/// One change of a name.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Create(PathBuf, Node),
    Rename(PathBuf, PathBuf, Node),
    Remove(PathBuf, Node),
}

impl Node {
    pub(super) fn id(self) -> u64 {
        match self {
            Self::Folder(id) | Self::File(id) => id,
        }
    }
}

impl PartialOrd for Node {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Node {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.id().cmp(&other.id())
    }
}

impl Change {
    pub(super) fn node(&self) -> Node {
        match self {
            Self::Create(_, node) | Self::Rename(_, _, node) | Self::Remove(_, node) => *node,
        }
    }

    /// Whether syncing this folder makes the change durable.
    pub(super) fn is_in(&self, folder: &Path) -> bool {
        match self {
            Self::Create(path, _) | Self::Remove(path, _) | Self::Rename(_, path, _) => {
                path.parent() == Some(folder)
            }
        }
    }

    pub(super) fn apply(&self, names: &mut BTreeMap<PathBuf, Node>) {
        match self {
            Self::Create(path, node) => {
                names.insert(path.clone(), *node);
            }
            Self::Remove(path, _) => names.retain(|name, _| !name.starts_with(path)),
            Self::Rename(from, to, node) => {
                let moved: Vec<_> = names
                    .iter()
                    .filter_map(|(name, node)| Some((name.strip_prefix(from).ok()?, *node)))
                    .filter(|(rest, _)| !rest.as_os_str().is_empty())
                    .map(|(rest, node)| (to.join(rest), node))
                    .collect();
                names.retain(|name, _| !name.starts_with(from) && !name.starts_with(to));
                names.extend(moved);
                names.insert(to.clone(), *node);
            }
        }
    }
}

/// A name whose folder was lost cannot be reached.
pub(super) fn drop_orphans(names: &mut BTreeMap<PathBuf, Node>) {
    let mut folders: BTreeSet<PathBuf> = BTreeSet::from([PathBuf::new()]);
    names.retain(|name, node| {
        let reachable = name.parent().is_none_or(|parent| folders.contains(parent));
        if reachable && matches!(node, Node::Folder(_)) {
            folders.insert(name.clone());
        }
        reachable
    });
}
