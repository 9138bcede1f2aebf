//! Hides what differs between two clusters that hold the same: ids, addresses, terms, times. In
//! `endpoint status`, which speaks of little else, all numbers and who leads.

use anyhow::Context as _;
use kvd_tests::cluster::process::Cluster;
use serde_json::Value;

/// What to hide of one cluster.
#[derive(Debug, Default)]
pub(crate) struct Mask {
    /// Text and what is shown instead.
    known: Vec<(String, String)>,
}

impl Mask {
    /// From what `etcdctl member list -w json` printed.
    pub(crate) fn of(members: &str, cluster: &Cluster) -> anyhow::Result<Self> {
        let members: Value = serde_json::from_str(members)?;
        let mut known = Vec::new();
        let mut hide = |id: &Value, name: &str| -> anyhow::Result<()> {
            let id = id.as_u64().context("an id in the member list")?;
            known.push((id.to_string(), name.to_owned()));
            known.push((format!("{id:x}"), name.to_owned()));
            Ok(())
        };
        hide(&members["header"]["cluster_id"], "<cluster>")?;
        for member in members["members"].as_array().context("members in the member list")? {
            // Which member answers and in what order ids come differs.
            hide(&member["ID"], "<member>")?;
        }
        for member in cluster.members() {
            let url = member.client_url().trim_end_matches(":2379");
            known.push((url.to_owned(), "<address>".to_owned()));
            let address = url.trim_start_matches("http://");
            known.push((address.to_owned(), "<address>".to_owned()));
        }
        Ok(Self { known })
    }

    /// The line as it may be compared.
    pub(crate) fn line(&self, command: &str, line: &str) -> String {
        let mut line = line.to_owned();
        for (text, shown) in &self.known {
            line = line.replace(text, shown);
        }
        line = number_after(&line, "\"raft_term\":");
        line = number_after(&line, "\"RaftTerm\" : ");
        if command.starts_with("endpoint status") {
            line = numbers(&line).replace("true", "false");
        }
        if command.starts_with("member list") {
            // Members come in the order of their ids.
            line = ["m0", "m1", "m2"].iter().fold(line, |line, name| line.replace(name, "<name>"));
        }
        if command.starts_with("endpoint health") {
            line = durations(&line);
        }
        squeezed(&line)
    }
}

/// Masks the digits that follow each `label`.
fn number_after(line: &str, label: &str) -> String {
    let mut parts = line.split(label);
    let mut masked = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        masked.push_str(label);
        masked.push('#');
        masked.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit()));
    }
    masked
}

/// Masks every number.
fn numbers(line: &str) -> String {
    let mut masked = String::new();
    for c in line.chars() {
        let shown = if c.is_ascii_digit() { '#' } else { c };
        if shown != '#' || !masked.ends_with('#') {
            masked.push(shown);
        }
    }
    masked
}

/// Masks Go's durations.
fn durations(line: &str) -> String {
    let numbers = numbers(line);
    ["#.#ms", "#.#µs", "#.#s", "#ms"]
        .iter()
        .fold(numbers, |line, duration| line.replace(duration, "<time>"))
}

/// Tables are as wide as what they hold, so blanks and rules are shown as one.
fn squeezed(line: &str) -> String {
    let mut squeezed = String::new();
    for c in line.chars() {
        if !((c == ' ' || c == '-') && squeezed.ends_with(c)) {
            squeezed.push(c);
        }
    }
    squeezed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_hidden() {
        let mask = Mask { known: vec![("777".to_owned(), "<member>".to_owned())] };
        let json = r#"{"member_id":777,"revision":3,"raft_term":12}"#;
        assert_eq!(
            mask.line("get a", json),
            r#"{"member_id":<member>,"revision":3,"raft_term":#}"#
        );
        assert_eq!(mask.line("endpoint status", "29 kB, true, 2,   5"), "# kB, false, #, #");
        assert_eq!(mask.line("endpoint health", "took = 12.1ms"), "took = <time>");
        assert_eq!(mask.line("endpoint hashkv", "+----+  a"), "+-+ a");
    }
}
