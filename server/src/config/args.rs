//! The command line, read as Go's flag package reads it (rule F1). Knows the kinds of values, not their
//! meaning.

use std::collections::BTreeMap;

use super::ConfigError;
use super::flags::{self, Flag, Kind};

/// What a command line says.
#[derive(Debug)]
pub(crate) enum Read {
    /// It asks for help.
    Help,
    /// It gives flags.
    Given(Given),
}

/// The values given, by flag; each is a value of its flag's kind.
#[derive(Clone, Debug, Default)]
pub(crate) struct Given {
    values: BTreeMap<&'static str, String>,
}

impl Given {
    /// Notes a value; the last one counts.
    pub(crate) fn set(&mut self, flag: &'static Flag, value: String) {
        self.values.insert(flag.name, value);
    }

    /// Whether a flag was given.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// The value of a flag, or its default.
    pub(crate) fn text(&self, name: &str) -> &str {
        let default = || flags::find(name).map_or("", |flag| flag.default);
        self.values.get(name).map_or_else(default, String::as_str)
    }

    /// The value of a flag of kind bool.
    pub(crate) fn bool(&self, name: &str) -> bool {
        flags::parse_bool(self.text(name)).unwrap_or_default()
    }

    /// Everything given, by name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.values.iter().map(|(name, value)| (*name, value.as_str()))
    }
}

/// Reads a command line without the program's name.
pub(crate) fn read(args: &[String]) -> Result<Read, ConfigError> {
    let mut given = Given::default();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let Some(flag) = arg.strip_prefix('-').filter(|name| !name.is_empty()) else {
            return Err(stray(arg));
        };
        let flag = flag.strip_prefix('-').unwrap_or(flag);
        if flag.is_empty() {
            // What follows `--` is no flag any more.
            return args.next().map_or(Ok(Read::Given(given)), |arg| Err(stray(arg)));
        }
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        if name.is_empty() || name.starts_with('-') {
            return Err(ConfigError::Usage(format!("bad flag syntax: {arg}")));
        }
        let Some(flag) = flags::find(name) else {
            if name == "h" || name == "help" {
                return Ok(Read::Help);
            }
            return Err(ConfigError::Usage(format!("flag provided but not defined: -{name}")));
        };
        let value = match (value, flag.kind) {
            (Some(value), _) => value,
            (None, Kind::Bool) => "true".to_owned(),
            (None, _) => args
                .next()
                .cloned()
                .ok_or_else(|| ConfigError::Usage(format!("flag needs an argument: -{name}")))?,
        };
        if let Some(complaint) = flag.kind.complaint(&value) {
            let kind = if flag.kind == Kind::Bool { "boolean value" } else { "value" };
            return Err(ConfigError::Usage(format!(
                "invalid {kind} {value:?} for flag -{name}: {complaint}"
            )));
        }
        given.set(flag, value);
    }
    Ok(Read::Given(given))
}

fn stray(arg: &str) -> ConfigError {
    ConfigError::Invalid(format!("{arg:?} is not a valid flag"))
}
