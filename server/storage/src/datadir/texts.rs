//! What stands in FORMAT and CURRENT: short texts that end in a checksum, whatever their version.

use crc32c::crc32c;
use kvd_core::ids::{ClusterId, Incarnation, MemberId};

use super::{FORMAT_VERSION, Identity};

/// The hash function of the state hashes (hazard F22).
const HASH: &str = "xxh3-64";

/// What is wrong with a text file.
pub(super) enum Flaw {
    Newer(u32),
    Damaged(String),
}

pub(super) fn with_crc(body: String) -> String {
    let crc = crc32c(body.as_bytes());
    format!("{body}crc {crc:08x}\n")
}

/// The text before a right checksum; every version of a file ends in one.
pub(super) fn without_crc(text: &str) -> Option<&str> {
    let at = text.rfind("crc ")?;
    let body = text.get(..at)?;
    (with_crc(body.to_owned()) == text).then_some(body)
}

pub(super) fn format_text(identity: &Identity) -> String {
    let Identity { cluster, member, incarnation } = identity;
    with_crc(format!(
        "kvd data directory\nformat {FORMAT_VERSION}\ncluster {cluster}\nmember {member}\n\
         incarnation {incarnation}\nhash {HASH}\n"
    ))
}

pub(super) fn parse_format(text: &str) -> Result<Identity, Flaw> {
    let damaged = |what: &str| Flaw::Damaged(format!("FORMAT {what}"));
    let body = without_crc(text).ok_or_else(|| damaged("has a wrong checksum"))?;
    let mut lines = body.lines();
    if lines.next() != Some("kvd data directory") {
        return Err(damaged("is not that of a kvd data directory"));
    }
    let mut field = |name: &str| {
        let line = lines.next().and_then(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.ok_or_else(|| damaged(&format!("lacks {name}")))
    };
    let version = field("format")?.parse().map_err(|_| damaged("has no version"))?;
    if version > FORMAT_VERSION {
        return Err(Flaw::Newer(version));
    }
    let hex = |text: &str| u64::from_str_radix(text, 16).map_err(|_| damaged("has a bad id"));
    let identity = Identity {
        cluster: ClusterId(hex(field("cluster")?)?),
        member: MemberId(hex(field("member")?)?),
        incarnation: Incarnation(hex(field("incarnation")?)?),
    };
    if field("hash")? != HASH {
        return Err(damaged("names an unknown hash function"));
    }
    Ok(identity)
}

pub(super) fn current_text(number: u64) -> String {
    with_crc(format!("state-{number}\n"))
}

pub(super) fn parse_current(text: &str) -> Option<u64> {
    without_crc(text)?.strip_prefix("state-")?.strip_suffix('\n')?.parse().ok()
}
