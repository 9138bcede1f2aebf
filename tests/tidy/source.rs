//! The files of the tree, and Rust code with comments and strings blanked out.

use std::fs;
use std::path::{Path, PathBuf};

/// A file of the tree.
#[derive(Debug)]
pub(crate) struct File {
    /// From the root of the tree, with `/`.
    pub(crate) path: String,
    /// Empty if it is no text.
    pub(crate) text: String,
}

/// All files that a person wrote: nothing that cargo or git made.
pub(crate) fn files() -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lie in the tree");
    let mut found = Vec::new();
    collect(root, &mut found).expect("the tree is readable");
    let mut files: Vec<File> = found
        .into_iter()
        .map(|path| {
            let text = fs::read(&path).map(|bytes| String::from_utf8(bytes).unwrap_or_default());
            let path = path.strip_prefix(root).expect("below the root").display().to_string();
            File { path, text: text.expect("the file is readable") }
        })
        .collect();
    files.sort_by(|one, other| one.path.cmp(&other.path));
    assert!(files.len() > 100, "the tree was not found");
    files
}

/// The Rust files among them.
pub(crate) fn rust_files() -> Vec<File> {
    let mut files = files();
    files.retain(|file| Path::new(&file.path).extension().is_some_and(|ext| ext == "rs"));
    files
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type()?.is_dir() {
            if !["target", ".git"].iter().any(|made| name == *made) {
                collect(&entry.path(), found)?;
            }
        } else {
            found.push(entry.path());
        }
    }
    Ok(())
}

/// The code with every character of a comment, string or character literal turned into a blank;
/// lines stay where they are.
pub(crate) fn code_only(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = skipped_at(rest, code.chars().next_back());
        if skipped == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        }
        code.extend(rest[..skipped].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = &rest[skipped..];
    }
    code
}

/// The length of the comment or literal that starts here, or 0.
fn skipped_at(text: &str, before: Option<char>) -> usize {
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return text.find("*/").map_or(text.len(), |end| end + 2);
    }
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if !in_word && let Some(raw) = raw_string_at(text.strip_prefix('b').unwrap_or(text)) {
        return raw + usize::from(text.starts_with('b'));
    }
    if let Some(inside) = text.strip_prefix('"') {
        return 1 + quoted(inside, '"');
    }
    if let Some(inside) = text.strip_prefix('\'') {
        return character_at(inside).map_or(0, |length| 1 + length);
    }
    0
}

/// The length of a raw string, with as many signs as it opened with.
fn raw_string_at(text: &str) -> Option<usize> {
    let opened = text.strip_prefix('r')?;
    let inside = opened.trim_start_matches('#');
    let signs = opened.len() - inside.len();
    let inside = inside.strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(signs));
    let end = inside.find(&close).map_or(inside.len(), |at| at + close.len());
    Some(2 + signs + end)
}

/// The length up to and with the closing quote.
fn quoted(inside: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in inside.char_indices() {
        if c == quote && !escaped {
            return at + 1;
        }
        escaped = c == '\\' && !escaped;
    }
    inside.len()
}

/// The length of a character literal after its quote; a lifetime is none.
fn character_at(inside: &str) -> Option<usize> {
    let first = inside.chars().next()?;
    if first == '\\' {
        return Some(quoted(inside, '\''));
    }
    inside[first.len_utf8()..].starts_with('\'').then(|| first.len_utf8() + 1)
}

/// The words of code: identifiers and numbers.
pub(crate) fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

#[test]
fn comments_and_strings_are_no_code() {
    let text = "let a = \"fn \\\" {\"; // fn\n/* { */ let b: &'static str = r#\"}\"#; '{' b'}' x";
    let code = code_only(text);
    assert!(!code.contains(['{', '}', '"']), "{code}");
    assert_eq!(words(&code).filter(|word| *word == "fn").count(), 0);
    assert!(code.contains("'static") && code.ends_with(" x"), "{code}");
    assert_eq!(code.lines().count(), 2);
}
