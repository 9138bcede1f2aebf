//! Commands of a script as requests of the API.
//!
//! Builds whatever the script says, also what a server must refuse: empty keys, enum numbers that
//! nobody defined.

use std::collections::VecDeque;
use std::fmt::Display;
use std::str::FromStr;

use bytes::Bytes;
use kvd_proto::etcdserverpb as pb;
use kvd_proto::etcdserverpb::range_request::{SortOrder, SortTarget};

/// Words that are never a key's end or a value.
const FLAGS: [&str; 15] = [
    "prefix",
    "prev_kv",
    "ignore_value",
    "ignore_lease",
    "serializable",
    "keys_only",
    "count_only",
    "physical",
    "hasleader",
    "noput",
    "nodelete",
    "progress_notify",
    "fragment",
    "keys",
    "learner",
];

/// What follows a command's name, not yet understood.
#[derive(Debug, Default)]
pub(super) struct Arguments {
    positional: VecDeque<Vec<u8>>,
    flags: Vec<String>,
    keyed: Vec<(String, Vec<u8>)>,
}

impl Arguments {
    /// Those of a goldenscript command, whose strings stand for bytes.
    pub(super) fn of(command: &goldenscript::Command) -> Self {
        let mut arguments = Self::default();
        for argument in &command.args {
            arguments.push(argument.key.as_deref(), bytes_of(&argument.value));
        }
        arguments
    }

    /// One more argument. The first is always positional, so that any key can be written.
    pub(super) fn push(&mut self, key: Option<&str>, value: Vec<u8>) {
        match (key, FLAGS.iter().find(|flag| flag.as_bytes() == value)) {
            (Some(key), _) => self.keyed.push((key.to_owned(), value)),
            (None, Some(flag)) if !self.positional.is_empty() => {
                self.flags.push((*flag).to_owned());
            }
            (None, _) => self.positional.push_back(value),
        }
    }

    /// Whether `name` was given.
    pub(super) fn flag(&mut self, name: &str) -> bool {
        let found = self.flags.iter().position(|flag| flag == name);
        found.map(|at| self.flags.swap_remove(at)).is_some()
    }

    /// The number given as `name=…`.
    pub(super) fn keyed<T: FromStr<Err: Display>>(
        &mut self,
        name: &str,
    ) -> Result<Option<T>, String> {
        let found = self.keyed.iter().position(|(key, _)| key == name);
        found.map(|at| parse(&self.keyed.swap_remove(at).1)).transpose()
    }

    /// The next positional argument, a number.
    pub(super) fn optional<T: FromStr<Err: Display>>(&mut self) -> Result<Option<T>, String> {
        self.positional.pop_front().map(|value| parse(&value)).transpose()
    }

    /// The next positional argument, a number that may not be left out.
    pub(super) fn required<T: FromStr<Err: Display>>(&mut self, what: &str) -> Result<T, String> {
        self.optional()?.ok_or_else(|| format!("no {what} given"))
    }

    /// The next positional argument as text.
    pub(super) fn positional_text(&mut self, what: &str) -> Result<String, String> {
        let value = self.positional.pop_front().ok_or_else(|| format!("no {what} given"))?;
        String::from_utf8(value).map_err(|error| error.to_string())
    }

    /// How many positional arguments are left.
    pub(super) fn positional_count(&self) -> usize {
        self.positional.len()
    }

    /// The key, repeated up to `key_size` bytes where that is given.
    pub(super) fn key(&mut self) -> Result<Bytes, String> {
        let key = self.positional.pop_front().ok_or("no key given")?;
        Ok(match self.keyed("key_size")? {
            Some(size) => key.into_iter().cycle().take(size).collect(),
            None => key.into(),
        })
    }

    /// The end of a range: the next positional argument, or that of the prefix.
    pub(super) fn range_end(&mut self, key: &[u8]) -> Bytes {
        if self.flag("prefix") {
            return prefix_end(key);
        }
        self.positional.pop_front().map(Bytes::from).unwrap_or_default()
    }

    /// Refuses what no one asked for, so that a misspelt word is not overlooked.
    pub(super) fn finish(&self) -> Result<(), String> {
        let Self { positional, flags, keyed } = self;
        if positional.is_empty() && flags.is_empty() && keyed.is_empty() {
            return Ok(());
        }
        Err(format!("left over: {self:?}"))
    }
}

/// A put.
pub(super) fn put(mut arguments: Arguments) -> Result<pb::PutRequest, String> {
    let key = arguments.key()?;
    let size: Option<usize> = arguments.keyed("size")?;
    let value = match size {
        Some(size) => Bytes::from(vec![b'x'; size]),
        None => arguments.positional.pop_front().map(Bytes::from).unwrap_or_default(),
    };
    let request = pb::PutRequest {
        key,
        value,
        lease: arguments.keyed("lease")?.unwrap_or(0),
        prev_kv: arguments.flag("prev_kv"),
        ignore_value: arguments.flag("ignore_value"),
        ignore_lease: arguments.flag("ignore_lease"),
    };
    arguments.finish()?;
    Ok(request)
}

/// Bytes with `#` replaced by a number.
pub(super) fn counted(bytes: &[u8], count: usize) -> Bytes {
    let count = count.to_string().into_bytes();
    let digits = |b: &u8| if *b == b'#' { count.clone() } else { vec![*b] };
    bytes.iter().flat_map(digits).collect()
}

/// A range.
pub(super) fn range(mut arguments: Arguments) -> Result<pb::RangeRequest, String> {
    let key = arguments.key()?;
    let range_end = arguments.range_end(&key);
    let target = arguments.keyed("target")?;
    let order = arguments.keyed("order")?;
    let request = pb::RangeRequest {
        key,
        range_end,
        limit: arguments.keyed("limit")?.unwrap_or(0),
        revision: arguments.keyed("rev")?.unwrap_or(0),
        sort_order: number(order, |name| SortOrder::from_str_name(name).map(Into::into))?,
        sort_target: number(target, |name| SortTarget::from_str_name(name).map(Into::into))?,
        serializable: arguments.flag("serializable"),
        keys_only: arguments.flag("keys_only"),
        count_only: arguments.flag("count_only"),
        min_mod_revision: arguments.keyed("min_mod")?.unwrap_or(0),
        max_mod_revision: arguments.keyed("max_mod")?.unwrap_or(0),
        min_create_revision: arguments.keyed("min_create")?.unwrap_or(0),
        max_create_revision: arguments.keyed("max_create")?.unwrap_or(0),
    };
    arguments.finish()?;
    Ok(request)
}

/// A delete.
pub(super) fn delete(mut arguments: Arguments) -> Result<pb::DeleteRangeRequest, String> {
    let key = arguments.key()?;
    let range_end = arguments.range_end(&key);
    let prev_kv = arguments.flag("prev_kv");
    arguments.finish()?;
    Ok(pb::DeleteRangeRequest { key, range_end, prev_kv })
}

/// An enum's number, from its name or from a number that nobody needs to have defined.
pub(super) fn number(
    given: Option<String>,
    named: impl Fn(&str) -> Option<i32>,
) -> Result<i32, String> {
    let Some(given) = given else { return Ok(0) };
    named(&given).map_or_else(|| parse(given.as_bytes()), Ok)
}

/// A number or whatever else is written as text.
pub(super) fn parse<T: FromStr<Err: Display>>(value: &[u8]) -> Result<T, String> {
    let text = String::from_utf8_lossy(value);
    text.parse().map_err(|error| format!("{text:?}: {error}"))
}

/// A goldenscript string writes bytes as characters up to U+00FF.
fn bytes_of(text: &str) -> Vec<u8> {
    let latin: Result<Vec<u8>, _> = text.chars().map(u8::try_from).collect();
    latin.unwrap_or_else(|_| text.as_bytes().to_vec())
}

/// The end of the range of all keys with this prefix, as clients compute it (behaviour.md 2.1).
fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end.into();
        }
    }
    Bytes::from_static(b"\0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_after_its_last_key() {
        assert_eq!(prefix_end(b"ab"), "ac");
        assert_eq!(prefix_end(b"a\xff"), "b");
        assert_eq!(prefix_end(b"\xff\xff"), "\0");
        assert_eq!(prefix_end(b""), "\0");
    }
}
