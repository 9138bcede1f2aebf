//! The one table of flags: what exists, of which type, with which default, and whether kvd serves it. Help,
//! docs and environment names come from it, so none of them can disagree.
//!
//! Knows nothing of what the flags mean together; that is `resolve`.

use super::{table, unserved};

/// What kind of value a flag takes. The words are those of etcd's help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `true` or `false`; alone on the command line it means `true`.
    Bool,
    /// A number of at least zero.
    Uint,
    /// A number that fits 32 bits without sign.
    Uint32,
    /// A number that may be negative.
    Int,
    /// Any text.
    Text,
    /// URLs separated by commas.
    Urls,
    /// A Go duration: `1.5s`, `2h0m0s`.
    Duration,
}

/// What kvd does with a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It does what its help says.
    Served,
    /// etcd accepts it without effect, and so does kvd.
    Ignored,
    /// kvd does what it asks for whatever its value.
    Always,
    /// Only its default is accepted.
    Unserved,
}

/// One flag.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flag {
    /// Name without dashes; etcd's.
    pub(crate) name: &'static str,
    /// Kind of value.
    pub(crate) kind: Kind,
    /// etcd's default as text; `data-dir` and `initial-cluster` derive theirs.
    pub(crate) default: &'static str,
    /// What kvd does with it.
    pub(crate) role: Role,
    /// One sentence; empty unless served.
    pub(crate) help: &'static str,
}

impl Kind {
    /// The word in help and docs.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::Uint => "uint",
            Self::Uint32 => "uint32",
            Self::Int => "int",
            Self::Text => "string",
            Self::Urls => "url-list",
            Self::Duration => "duration",
        }
    }

    /// Why a text is no value of this kind, if it is none.
    pub(crate) fn complaint(self, text: &str) -> Option<String> {
        let parses = match self {
            Self::Bool => parse_bool(text).is_some(),
            Self::Uint => text.parse::<u64>().is_ok(),
            Self::Uint32 => text.parse::<u32>().is_ok(),
            Self::Int => text.parse::<i64>().is_ok(),
            Self::Text => true,
            Self::Duration => super::duration::parse(text).is_some(),
            Self::Urls => {
                return super::url::parse_list(text).err().map(|error| error.to_string());
            }
        };
        (!parses).then(|| "parse error".to_owned())
    }
}

/// Every flag: the served ones in the order of the help, then the others by name.
pub(crate) fn all() -> impl Iterator<Item = &'static Flag> {
    let others = [unserved::IGNORED, unserved::ALWAYS, unserved::UNSERVED];
    table::SERVED.iter().chain(others.into_iter().flatten())
}

/// The flag of that name.
pub(crate) fn find(name: &str) -> Option<&'static Flag> {
    all().find(|flag| flag.name == name)
}

/// The environment variable of a flag (rule F3).
pub(crate) fn env_name(flag: &Flag) -> String {
    format!("ETCD_{}", flag.name.to_ascii_uppercase().replace('-', "_"))
}

/// A boolean as Go's flag package reads it (rule F1).
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// What `--help` prints.
pub(crate) fn help() -> String {
    let mut text = String::from(
        "kvd is a replicated key-value store that speaks etcd's API.\n\n\
         Usage:\n\
         \x20 kvd [flags]\n\
         \x20     Start a member.\n\
         \x20 kvd dev\n\
         \x20     Start a local cluster of three members.\n\
         \x20 kvd demo\n\
         \x20     Show that acknowledged writes survive the death of the leader.\n\
         \x20 kvd --version\n\
         \x20     Show the version.\n\n\
         Every flag can also be set as ETCD_NAME_OF_THE_FLAG in the environment.\n\n\
         Flags:\n",
    );
    for flag in table::SERVED {
        text.push_str(&format!("  --{} {}{}\n", flag.name, flag.kind.word(), default_note(flag)));
        text.push_str(&format!("    \t{}\n", flag.help));
    }
    text.push_str(
        "\nEtcd's other flags are known, but only their default values are served yet; those that ask for \
         comparisons of the members' data are accepted with any value, as members always compare.\n",
    );
    text
}

/// What `server/docs/flags.md` holds; a test compares them.
#[cfg(test)]
pub(crate) fn markdown() -> String {
    let mut text = String::from(
        "# Flags\n\n\
         Written from the table in `server/src/config`: change it there.\n\
         Names, defaults and environment names are etcd's.\n\
         A flag is given as `--name=value`, `--name value` or with a single dash.\n\n\
         | flag | type | default | environment | |\n|---|---|---|---|---|\n",
    );
    for flag in table::SERVED {
        text.push_str(&format!(
            "| `--{}` | {} | {} | `{}` | {} |\n",
            flag.name,
            flag.kind.word(),
            if flag.default.is_empty() { String::new() } else { format!("`{}`", flag.default) },
            env_name(flag),
            flag.help.replace('|', "\\|"),
        ));
    }
    text.push_str("\n## Accepted without effect\n\n");
    text.push_str("As in etcd; a warning is logged.\n\n");
    for flag in unserved::IGNORED {
        text.push_str(&format!("- `--{}`\n", flag.name));
    }
    text.push_str("\n## Always done\n\n");
    text.push_str("Members compare their states all the time: any value is accepted.\n\n");
    for flag in unserved::ALWAYS {
        text.push_str(&format!("- `--{}`\n", flag.name));
    }
    text.push_str("\n## Not served yet\n\n");
    text.push_str("Known, but refused with any other value than the default.\n\n");
    text.push_str("| flag | type | default |\n|---|---|---|\n");
    for flag in unserved::UNSERVED {
        text.push_str(&format!(
            "| `--{}` | {} | {} |\n",
            flag.name,
            flag.kind.word(),
            if flag.default.is_empty() { String::new() } else { format!("`{}`", flag.default) },
        ));
    }
    text
}

fn default_note(flag: &Flag) -> String {
    if flag.default.is_empty() { String::new() } else { format!(" (default {})", flag.default) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_defaults_are_values() {
        let mut names = BTreeSet::new();
        for flag in all() {
            assert!(names.insert(flag.name), "{} stands twice", flag.name);
            let complaint = flag.kind.complaint(flag.default);
            let may_be_empty = flag.kind == Kind::Urls && flag.default.is_empty();
            assert!(complaint.is_none() || may_be_empty, "{}: {complaint:?}", flag.name);
            assert_eq!(flag.help.is_empty(), flag.role != Role::Served, "{}", flag.name);
        }
        assert_eq!(names.len(), 153, "etcd's flags of 3.5 to 3.8");
    }

    /// `UPDATE_DOCS=1 cargo test -p kvd flags` writes it anew.
    #[test]
    fn the_docs_are_not_stale() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/flags.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, markdown()).unwrap();
        }
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(written, markdown(), "stale; UPDATE_DOCS=1 cargo test -p kvd flags writes it");
    }

    #[test]
    fn help_names_every_served_flag() {
        let help = help();
        for flag in table::SERVED {
            assert!(help.contains(&format!("--{} ", flag.name)), "{}", flag.name);
        }
    }
}
