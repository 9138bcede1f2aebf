//! The lines of a transaction, cut into words and quoted strings.

use crate::quote::unquote;

/// Cuts a line at blanks. `"…"` is one word with escapes, `'…'` one without. `None` if a quote does
/// not end or an escape does not exist.
pub(super) fn words(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut words = Vec::new();
    let mut rest = line.trim_ascii_start();
    while let Some(&first) = rest.first() {
        let (word, after) = match first {
            b'"' => string(rest)?,
            b'\'' => {
                let length = rest[1..].iter().position(|&byte| byte == b'\'')?;
                (rest[1..=length].to_vec(), &rest[length + 2..])
            }
            _ => {
                let end = rest.iter().position(u8::is_ascii_whitespace).unwrap_or(rest.len());
                (rest[..end].to_vec(), &rest[end..])
            }
        };
        words.push(word);
        rest = after.trim_ascii_start();
    }
    Some(words)
}

/// The string in double quotes that the text begins with, and what follows it.
pub(super) fn string(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let inside = text.strip_prefix(b"\"")?;
    let mut end = 0;
    loop {
        match inside.get(end)? {
            b'"' => break,
            b'\\' => end += 2,
            _ => end += 1,
        }
    }
    Some((unquote(&inside[..end])?, &inside[end + 1..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(line: &str) -> Option<Vec<String>> {
        let text = |word| String::from_utf8(word).unwrap();
        Some(words(line.as_bytes())?.into_iter().map(text).collect())
    }

    #[test]
    fn cuts_at_blanks_and_quotes() {
        assert_eq!(
            cut(r#" put  a "b \"c\" \n" 'd "e" \n' f"#).unwrap(),
            ["put", "a", "b \"c\" \n", r#"d "e" \n"#, "f"]
        );
        assert_eq!(cut("''").unwrap(), [""]);
        assert_eq!(cut("").unwrap(), Vec::<String>::new());
        for unfinished in [r#"put a "b"#, "put 'a", r#"put "\"#, r#"put "\q""#] {
            assert_eq!(cut(unfinished), None, "{unfinished}");
        }
    }

    proptest! {
        #[test]
        fn no_line_is_too_strange(line in "[ab\"'\\\\ ]{0,12}") {
            let _ = words(line.as_bytes());
            let _ = string(line.as_bytes());
        }
    }
}
