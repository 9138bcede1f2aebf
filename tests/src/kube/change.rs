//! One change of one key, as a watch tells it and as a ledger's line holds it.

use anyhow::{Context as _, ensure};
use kvd_proto::mvccpb;

/// A key's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// What it holds.
    pub value: String,
    /// The revision that created it.
    pub created: i64,
    /// The revision that changed it last.
    pub changed: i64,
    /// Its changes since it was created.
    pub version: i64,
    /// The lease that it ends with; 0 for none.
    pub lease: i64,
}

impl Held {
    /// What an answer holds.
    pub fn of(kv: &mvccpb::KeyValue) -> Self {
        Self {
            value: text(&kv.value),
            created: kv.create_revision,
            changed: kv.mod_revision,
            version: kv.version,
            lease: kv.lease,
        }
    }
}

/// A key is put or deleted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// When.
    pub revision: i64,
    /// Which.
    pub key: String,
    /// What it holds now; `None` when it was deleted.
    pub put: Option<Put>,
    /// The revision that changed it before, and its lease then; 0 and 0 if it is new.
    pub before: (i64, i64),
}

/// What a put leaves.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Put {
    /// The value.
    pub value: String,
    /// The revision that created the key.
    pub created: i64,
    /// Changes of the key since then.
    pub version: i64,
    /// Its lease; 0 for none.
    pub lease: i64,
}

impl Change {
    /// What the key holds after it.
    pub fn held(&self) -> Option<Held> {
        self.put.as_ref().map(|put| Held {
            value: put.value.clone(),
            created: put.created,
            changed: self.revision,
            version: put.version,
            lease: put.lease,
        })
    }

    /// The line of it; keys and values of these tests have no tabs.
    pub fn line(&self) -> String {
        let (before, lease_before) = self.before;
        let head = format!("{}\t{}\t{before}\t{lease_before}", self.revision, self.key);
        match &self.put {
            Some(Put { value, created, version, lease }) => {
                format!("{head}\tput\t{value}\t{created}\t{version}\t{lease}")
            }
            None => format!("{head}\tdelete"),
        }
    }

    /// Reads a line.
    pub fn parse(line: &str) -> anyhow::Result<Self> {
        let fields: Vec<&str> = line.split('\t').collect();
        ensure!(fields.len() >= 5, "too short: {line:?}");
        let number = |at: usize| -> anyhow::Result<i64> {
            fields.get(at).context("too short")?.parse().context("a number")
        };
        let put = match fields[4] {
            "put" => Some(Put {
                value: (*fields.get(5).context("a value")?).to_owned(),
                created: number(6)?,
                version: number(7)?,
                lease: number(8)?,
            }),
            _ => None,
        };
        Ok(Self {
            revision: number(0)?,
            key: fields[1].to_owned(),
            put,
            before: (number(2)?, number(3)?),
        })
    }
}

/// Bytes as text: these tests write nothing else.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
