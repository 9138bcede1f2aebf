//! What differs from run to run, hidden in what was printed.

use crate::Answer;

/// Hides what differs from run to run, however it is run.
pub(crate) fn mask(answer: &mut Answer) {
    const MARKS: [&str; 13] = [
        "\"TTL\" : ",
        "lease ",
        "\"id\":",
        "\"ttl\":",
        "remaining(",
        "\"ID\":",
        "\"ID\" : ",
        "took = ",
        "\"took\":\"",
        "\"Took\" : ",
        "\"dbSize\":",
        "\"dbSizeInUse\":",
        "\"DBSize\" : ",
    ];
    for mark in MARKS {
        let mut masked = String::new();
        let mut rest = answer.stdout.as_str();
        while let Some(start) = rest.find(mark) {
            let end = start + mark.len();
            let value = after(&rest[start..], mark).unwrap_or_default();
            masked.push_str(&rest[..end]);
            masked.push_str(if value.is_empty() { "" } else { "MASKED" });
            rest = &rest[end + value.len()..];
        }
        answer.stdout = masked + rest;
    }
    // Leases in a list.
    let is_lease = |line: &str| line.len() == 16 && line.bytes().all(|c| c.is_ascii_hexdigit());
    let lines = answer.stdout.split('\n');
    let lines: Vec<&str> = lines.map(|line| if is_lease(line) { "MASKED" } else { line }).collect();
    answer.stdout = lines.join("\n");
    for size in ["16 kB", "20 kB", "25 kB", "29 kB", "33 kB"] {
        answer.stdout = answer.stdout.replace(size, "?? kB");
    }
}

/// The word that follows a mark.
pub(crate) fn after<'a>(text: &'a str, mark: &str) -> Option<&'a str> {
    let start = text.find(mark)? + mark.len();
    let rest = &text[start..];
    let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '.')).unwrap_or(rest.len());
    (end > 0).then_some(&rest[..end])
}
