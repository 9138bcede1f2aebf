//! Bytes as Go's programs write and read them: `%q`, `%x` and base64.

use std::fmt::Write;

/// In double quotes, with escapes for what cannot be shown.
pub(crate) fn quote(bytes: &[u8]) -> String {
    let mut quoted = String::from("\"");
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            push_quoted(&mut quoted, character);
        }
        for byte in chunk.invalid() {
            push_hex(&mut quoted, *byte);
        }
    }
    quoted.push('"');
    quoted
}

/// Every byte as `\xNN`: etcdctl's `--hex`.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut hex = String::with_capacity(4 * bytes.len());
    for byte in bytes {
        push_hex(&mut hex, *byte);
    }
    hex
}

/// Base64 with padding, as JSON carries bytes.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let shown = digit <= group.len();
            let value = (bits >> (18 - 6 * digit) & 0x3f) as usize;
            text.push(if shown { char::from(DIGITS[value]) } else { '=' });
        }
    }
    text
}

/// What stands between double quotes, with its escapes resolved. `None` if one does not exist.
pub(crate) fn unquote(quoted: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(quoted.len());
    let mut rest = quoted;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        let (&escape, after) = rest.split_first()?;
        rest = after;
        let simple = match escape {
            b'a' => 0x07,
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'v' => 0x0b,
            b'\\' | b'"' => escape,
            _ => {
                rest = unquote_number(escape, rest, &mut bytes)?;
                continue;
            }
        };
        bytes.push(simple);
    }
    Some(bytes)
}

/// `\xNN` and `\NNN` are bytes, `\uNNNN` and `\UNNNNNNNN` characters.
fn unquote_number<'a>(escape: u8, rest: &'a [u8], bytes: &mut Vec<u8>) -> Option<&'a [u8]> {
    let number = |digits: &[u8], radix| {
        let digits = str::from_utf8(digits).ok()?;
        let plain = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        plain.then(|| u32::from_str_radix(digits, radix).ok()).flatten()
    };
    let (digits, after) = match escape {
        b'x' => rest.split_at_checked(2)?,
        b'u' => rest.split_at_checked(4)?,
        b'U' => rest.split_at_checked(8)?,
        b'0'..=b'7' => {
            let (digits, after) = rest.split_at_checked(2)?;
            let value = 64 * u32::from(escape - b'0') + number(digits, 8)?;
            bytes.push(u8::try_from(value).ok()?);
            return Some(after);
        }
        _ => return None,
    };
    let value = number(digits, 16)?;
    if escape == b'x' {
        bytes.push(u8::try_from(value).ok()?);
    } else {
        let character = char::from_u32(value)?;
        bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
    }
    Some(after)
}

fn push_quoted(quoted: &mut String, character: char) {
    match character {
        '"' => quoted.push_str("\\\""),
        '\\' => quoted.push_str("\\\\"),
        '\u{7}' => quoted.push_str("\\a"),
        '\u{8}' => quoted.push_str("\\b"),
        '\u{c}' => quoted.push_str("\\f"),
        '\n' => quoted.push_str("\\n"),
        '\r' => quoted.push_str("\\r"),
        '\t' => quoted.push_str("\\t"),
        '\u{b}' => quoted.push_str("\\v"),
        _ if is_printable(character) => quoted.push(character),
        _ => {
            let value = u32::from(character);
            let written = match value {
                0..0x80 => write!(quoted, "\\x{value:02x}"),
                0x80..0x10000 => write!(quoted, "\\u{value:04x}"),
                _ => write!(quoted, "\\U{value:08x}"),
            };
            written.expect("writing to a string does not fail");
        }
    }
}

/// The standard library's idea of a character that can be shown agrees with Go's but for
/// combining marks, which it escapes only where they begin a string.
fn is_printable(character: char) -> bool {
    let after_another = format!("a{character}");
    after_another.escape_debug().count() == 2 || character == '\''
}

fn push_hex(text: &mut String, byte: u8) {
    write!(text, "\\x{byte:02x}").expect("writing to a string does not fail");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quotes_as_go_does() {
        assert_eq!(quote(b"\x80\x01\"\\x'\n"), r#""\x80\x01\"\\x'\n""#);
        assert_eq!(
            quote("é\u{301}\u{a0}\u{200b}\u{7f}世".as_bytes()),
            "\"é\u{301}\\u00a0\\u200b\\x7f世\""
        );
        assert_eq!(hex(b"a "), r"\x61\x20");
    }

    #[test]
    fn encodes_base64() {
        let pairs =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")];
        for (plain, encoded) in pairs {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
        assert_eq!(base64(&[0x80, 1, 0x22, 0x5c, 0x78]), "gAEiXHg=");
    }

    #[test]
    fn unquotes_every_escape() {
        let all = br#"a\a\b\f\n\r\t\v\\\"\x41\101\u00e9\U0001F600"#;
        let expected = [b"a\x07\x08\x0c\n\r\t\x0b\\\"AA".as_slice(), "é😀".as_bytes()].concat();
        assert_eq!(unquote(all), Some(expected));
        for wrong in [r"\", r"\q", r"\x4", r"\x+1", r"\777", r"\ud800", r"\U00110000"] {
            assert_eq!(unquote(wrong.as_bytes()), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn what_is_quoted_can_be_unquoted(bytes: Vec<u8>) {
            let quoted = quote(&bytes);
            prop_assert_eq!(unquote(&quoted.as_bytes()[1..quoted.len() - 1]), Some(bytes));
        }
    }
}
