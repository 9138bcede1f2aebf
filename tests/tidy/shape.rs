//! Files say what they are and stay short, functions too; nothing is left to be done later.

use std::collections::BTreeMap;

use crate::source::{File, code_only, files, rust_files};

/// Lines of a file before its unit tests.
const FILE_LINES_MAX: usize = 400;
/// Lines of a function, from its name to its closing brace.
const FUNCTION_LINES_MAX: usize = 70;

/// Files that are longer today. Lower a number when the file shrinks; add none.
const LONG_FILES: &[(&str, usize)] = &[
    ("server/core/src/checkpoint/conformance.rs", 424),
    ("server/core/tests/script.rs", 401),
    ("server/storage/src/log/flusher.rs", 531),
];

/// Functions that are longer today, by file and name. Lower a number when one shrinks; add none.
const LONG_FUNCTIONS: &[(&str, &str, usize)] = &[("server/core/tests/script.rs", "run", 71)];

#[test]
fn every_file_opens_with_what_it_is() {
    let silent: Vec<String> = rust_files()
        .into_iter()
        .filter(|file| !file.text.trim_start().starts_with("//!"))
        .map(|file| file.path)
        .collect();
    assert!(silent.is_empty(), "these files do not open with `//!`: {silent:#?}");
}

#[test]
fn nothing_is_left_for_later() {
    let marks = ["TO", "FIX", "XX"].iter().zip(["DO", "ME", "X"]);
    let marks: Vec<String> = marks.map(|(one, two)| format!("{one}{two}")).collect();
    let marked = |file: &File| {
        let mut words = file.text.split(|c: char| !c.is_ascii_alphanumeric());
        words.any(|word| marks.iter().any(|mark| mark == word))
    };
    let found: Vec<String> =
        files().into_iter().filter(|file| marked(file)).map(|file| file.path).collect();
    assert!(found.is_empty(), "these files speak of work left over: {found:#?}");
}

#[test]
fn files_are_short() {
    let allowed: BTreeMap<&str, usize> = LONG_FILES.iter().copied().collect();
    let mut wrong = Vec::new();
    let files = rust_files();
    for file in &files {
        let lines = lines_before_tests(&file.text);
        let most = allowed.get(file.path.as_str()).copied();
        wrong.extend(judged(&file.path, lines, FILE_LINES_MAX, most));
    }
    let gone = |path: &&&str| !files.iter().any(|file| file.path == ***path);
    wrong.extend(allowed.keys().filter(gone).map(|path| format!("{path} is gone: drop its row")));
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn functions_are_short() {
    let mut wrong = Vec::new();
    for file in rust_files() {
        for (name, lines) in functions(&code_only(&file.text)) {
            let mut rows = LONG_FUNCTIONS.iter();
            let row = rows.find(|(path, function, _)| *path == file.path && *function == name);
            let what = format!("{}: {name}", file.path);
            wrong.extend(judged(&what, lines, FUNCTION_LINES_MAX, row.map(|(_, _, most)| *most)));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What is wrong with so many lines, where `most` is the exception that was granted.
fn judged(what: &str, lines: usize, limit: usize, most: Option<usize>) -> Option<String> {
    match most {
        None if lines > limit => Some(format!("{what} has {lines} lines, over {limit}: split it")),
        Some(most) if lines > most => Some(format!("{what} grew from {most} to {lines} lines")),
        Some(_) if lines <= limit => Some(format!("{what} is short now: drop its row")),
        _ => None,
    }
}

/// Unit tests stand at a file's end and may be as long as they need to be. Lines that name a mutant are in no
/// release.
fn lines_before_tests(text: &str) -> usize {
    let product = text.lines().take_while(|line| *line != "#[cfg(test)]");
    product.filter(|line| !line.contains("Mutant")).count()
}

/// Each function's name and lines, from `fn` to its closing brace; those without a body are left
/// out. A function within another counts for both.
fn functions(code: &str) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let in_word = code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let rest = &code[at + 3..];
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let body = rest.find(['{', ';']).filter(|at| rest[*at..].starts_with('{'));
        if let Some(body) = body
            && !in_word
            && end > 0
        {
            let length = closing_brace(&rest[body..]);
            let lines = rest[..body + length].matches('\n').count() + 1;
            found.push((rest[..end].to_owned(), lines));
        }
    }
    found
}

/// How far it is to the brace that closes the first one.
fn closing_brace(code: &str) -> usize {
    let mut depth = 0usize;
    for (at, c) in code.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    code.len()
}

#[test]
fn functions_are_measured() {
    let code = "trait T {\n fn a();\n fn b(&self) {\n }\n}\nfn c() -> fn(u8) {\n if x {\n }\n}";
    assert_eq!(functions(code), [("b".to_owned(), 2), ("c".to_owned(), 4)]);
    assert!(judged("x", 71, 70, None).is_some() && judged("x", 70, 70, None).is_none());
    assert!(judged("x", 90, 70, Some(80)).is_some() && judged("x", 60, 70, Some(80)).is_some());
    assert!(judged("x", 75, 70, Some(80)).is_none());
}
