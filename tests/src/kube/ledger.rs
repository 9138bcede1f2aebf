//! What one process did and saw, as a file: each write with its outcome, each watch's history,
//! and every breach it met by itself.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail};

use super::cache::Segment;
use super::change::Change;

/// What a write wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Intent {
    /// To put this value, which nobody else writes.
    Put(String),
    /// To delete what was last changed at this revision.
    Delete(i64),
}

/// How a write ended for who made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Done, at this revision.
    Acked(i64),
    /// Certainly not done.
    Failed,
    /// Nobody knows.
    Unknown,
}

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// The key it writes.
    pub key: String,
    /// What it wanted.
    pub intent: Intent,
    /// What became of it.
    pub fate: Fate,
}

/// What one watch told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watched {
    /// What it watched.
    pub prefix: String,
    /// Its history, with a gap at each list.
    pub segments: Vec<Segment>,
}

/// All of one process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Its writes.
    pub ops: Vec<Op>,
    /// Its watches.
    pub watches: Vec<Watched>,
    /// Breaches that it saw by itself.
    pub wrong: Vec<String>,
    /// What it counted, for the report.
    pub counts: Vec<(String, u64)>,
}

impl Ledger {
    /// Writes it to a file.
    pub fn save(&self, path: &Path) -> anyhow::Result<()> {
        let mut out = String::new();
        for op in &self.ops {
            let (intent, what) = match &op.intent {
                Intent::Put(value) => ("put", value.clone()),
                Intent::Delete(since) => ("delete", since.to_string()),
            };
            let (fate, revision) = match op.fate {
                Fate::Acked(revision) => ("acked", revision),
                Fate::Failed => ("failed", 0),
                Fate::Unknown => ("unknown", 0),
            };
            writeln!(out, "op\t{}\t{intent}\t{what}\t{fate}\t{revision}", op.key)?;
        }
        for watched in &self.watches {
            writeln!(out, "watch\t{}", watched.prefix)?;
            for segment in &watched.segments {
                writeln!(out, "segment\t{}\t{}", segment.from, segment.to)?;
                for change in &segment.changes {
                    writeln!(out, "change\t{}", change.line())?;
                }
            }
        }
        for wrong in &self.wrong {
            writeln!(out, "wrong\t{}", wrong.replace('\n', " "))?;
        }
        for (name, count) in &self.counts {
            writeln!(out, "count\t{name}\t{count}")?;
        }
        out.push_str("end\n");
        fs::write(path, out).with_context(|| format!("writing {}", path.display()))
    }

    /// Reads a file that was written to its end.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text =
            fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let whole = text.strip_suffix("end\n").context("the process died while writing it")?;
        let mut ledger = Self::default();
        for line in whole.lines() {
            ledger.parse(line).with_context(|| format!("line {line:?}"))?;
        }
        Ok(ledger)
    }

    fn parse(&mut self, line: &str) -> anyhow::Result<()> {
        let (kind, rest) = line.split_once('\t').context("a kind")?;
        let fields: Vec<&str> = rest.split('\t').collect();
        match (kind, fields.as_slice()) {
            ("op", [key, intent, what, fate, revision]) => {
                let intent = match *intent {
                    "put" => Intent::Put((*what).to_owned()),
                    _ => Intent::Delete(what.parse()?),
                };
                let fate = match *fate {
                    "acked" => Fate::Acked(revision.parse()?),
                    "failed" => Fate::Failed,
                    _ => Fate::Unknown,
                };
                self.ops.push(Op { key: (*key).to_owned(), intent, fate });
            }
            ("watch", [prefix]) => {
                let prefix = (*prefix).to_owned();
                self.watches.push(Watched { prefix, segments: Vec::new() });
            }
            ("segment", [from, to]) => {
                let segment = Segment { from: from.parse()?, to: to.parse()?, changes: Vec::new() };
                self.watches.last_mut().context("a watch before")?.segments.push(segment);
            }
            ("change", _) => {
                let watch = self.watches.last_mut().context("a watch before")?;
                let segment = watch.segments.last_mut().context("a segment before")?;
                segment.changes.push(Change::parse(rest)?);
            }
            ("wrong", _) => self.wrong.push(rest.to_owned()),
            ("count", [name, count]) => self.counts.push(((*name).to_owned(), count.parse()?)),
            _ => bail!("unknown"),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::change::Put;

    #[test]
    fn a_file_holds_all_of_it() {
        let put = Put { value: "1 a-2".to_owned(), created: 3, version: 2, lease: 9 };
        let put = Change { revision: 5, key: "/k".to_owned(), put: Some(put), before: (3, 0) };
        let deleted = Change { revision: 6, key: "/k".to_owned(), put: None, before: (5, 9) };
        let op = |intent, fate| Op { key: "/k".to_owned(), intent, fate };
        let ledger = Ledger {
            ops: vec![
                op(Intent::Put("1 a-2".to_owned()), Fate::Acked(5)),
                op(Intent::Delete(5), Fate::Unknown),
                op(Intent::Delete(4), Fate::Failed),
            ],
            watches: vec![Watched {
                prefix: "/".to_owned(),
                segments: vec![Segment { from: 2, to: 7, changes: vec![put, deleted] }],
            }],
            wrong: vec!["that".to_owned()],
            counts: vec![("creates".to_owned(), 3)],
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        ledger.save(&path).unwrap();
        assert_eq!(Ledger::load(&path).unwrap(), ledger);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, &text[..text.len() / 2]).unwrap();
        assert!(Ledger::load(&path).is_err());
    }
}
