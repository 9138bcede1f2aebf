//! The environment: `ETCD_` and the flag's name in capitals (rule F3).

use std::collections::BTreeMap;

use super::args::Given;
use super::flags::{self, Flag};
use super::{ConfigError, Warning};

const PREFIX: &str = "ETCD_";

/// Adds what the environment gives. A flag given both ways is refused, an unknown name only noted.
pub(crate) fn read(
    environment: impl IntoIterator<Item = (String, String)>,
    given: &mut Given,
) -> Result<Vec<Warning>, ConfigError> {
    let flags: BTreeMap<String, &'static Flag> =
        flags::all().map(|flag| (flags::env_name(flag), flag)).collect();
    let mut warnings = Vec::new();
    for (name, value) in environment {
        let Some(flag) = flags.get(&name) else {
            if name.starts_with(PREFIX) {
                let message = "unrecognized environment variable";
                warnings.push(Warning { message, subject: format!("{name}={value}") });
            }
            continue;
        };
        if value.is_empty() {
            continue;
        }
        if given.has(flag.name) {
            return Err(ConfigError::Invalid(format!(
                "conflicting environment variable {name:?} is shadowed by corresponding command-line \
                 flag (either unset environment variable or disable flag)"
            )));
        }
        if let Some(complaint) = flag.kind.complaint(&value) {
            return Err(ConfigError::Invalid(format!(
                "invalid value {value:?} for {name}: {complaint}"
            )));
        }
        given.set(flag, value);
    }
    Ok(warnings)
}
