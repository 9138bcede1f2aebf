//! One transcript: its file, its header lines, and what kvd is expected to answer.
//!
//! A file opens with comments: what it shows, then `# recorded from etcd <release>`, then, where
//! the server needs them, `# flags: --a=b --c=d`. Its outputs are etcd's. Where kvd must answer
//! otherwise, its answer stands above the command as comments, which recording keeps:
//!
//! ```text
//! # kvd differs (KV-R2): etcd 3.5 crashes.
//! # kvd: error InvalidArgument "etcdserver: invalid sort option"
//! [kvd] range a target=99
//! ---
//! not sent to etcd
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

use crate::cluster::process::Program;
use crate::tools::ETCD_VERSION;

use super::Runner;

/// A transcript as it stands in its file.
#[derive(Clone, Debug)]
pub struct Transcript {
    /// Where it is, below the folder of all.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// Its content.
    pub text: String,
    /// What the server is started with.
    flags: Vec<String>,
}

impl Transcript {
    /// All transcripts below `folder`, by name.
    pub fn all(folder: &Path) -> anyhow::Result<Vec<Self>> {
        let mut files = Vec::new();
        collect(folder, &mut files)?;
        files.sort();
        files.into_iter().map(|path| Self::read(folder, path)).collect()
    }

    fn read(folder: &Path, path: PathBuf) -> anyhow::Result<Self> {
        let name = path.strip_prefix(folder).unwrap_or(&path).display().to_string();
        let text = fs::read_to_string(&path).with_context(|| name.clone())?;
        let header: Vec<&str> = text.lines().take_while(|line| line.starts_with('#')).collect();
        let recorded = format!("# recorded from etcd {ETCD_VERSION}");
        ensure!(
            header.len() > 1 && header[1..].contains(&recorded.as_str()),
            "{name} does not open with what it shows and `{recorded}`"
        );
        let flags = header.iter().filter_map(|line| line.strip_prefix("# flags: "));
        let flags = flags.flat_map(str::split_whitespace).map(str::to_owned).collect();
        Ok(Self { name, path, text, flags })
    }

    /// What the file would hold if recorded from `program`.
    pub fn run(&self, program: &Program) -> anyhow::Result<String> {
        let mut runner = Runner::start(program, &self.flags)?;
        let text = goldenscript::generate(&mut runner, &self.text)?;
        let alarming = runner.unexpected_log_lines();
        ensure!(alarming.is_empty(), "unexpected in the log of {program:?}: {alarming:#?}");
        Ok(text)
    }

    /// What [`Self::run`] should give.
    pub fn expected(&self, program: &Program) -> String {
        match program {
            Program::Etcd(_) => self.text.clone(),
            Program::Kvd(_) => kvd_expectation(&self.text),
        }
    }
}

/// The text with the answers that the comments promise for kvd in the place of etcd's.
fn kvd_expectation(text: &str) -> String {
    let mut expected = String::with_capacity(text.len());
    let mut promised: Vec<&str> = Vec::new();
    let mut replacing = false;
    for line in text.split_inclusive('\n') {
        let content = line.trim_end_matches('\n');
        if replacing && !content.is_empty() {
            continue;
        }
        replacing = false;
        expected.push_str(line);
        if let Some(answer) = content.strip_prefix("# kvd: ") {
            promised.push(answer);
        }
        if content == "---" && !promised.is_empty() {
            for answer in promised.drain(..) {
                expected.push_str(answer);
                expected.push('\n');
            }
            replacing = true;
        }
    }
    expected
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promised_answers_replace_etcds_in_their_block_only() {
        let text = "# kvd: x\n# kvd:   y\none\n---\na\nb\n\n# plain\ntwo\n---\nc\n";
        let expected = "# kvd: x\n# kvd:   y\none\n---\nx\n  y\n\n# plain\ntwo\n---\nc\n";
        assert_eq!(kvd_expectation(text), expected);
        assert_eq!(kvd_expectation("one\n---\na\n"), "one\n---\na\n");
    }
}
