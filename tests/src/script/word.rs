//! The text of a transaction, cut into words, strings and signs.
//!
//! Knows nothing about what they mean.

/// One piece of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// A bare word or a quoted string, as bytes.
    Word(Vec<u8>),
    /// One of the signs in [`SIGNS`]; `!=` is one sign.
    Sign(&'static str),
}

/// The signs, longer ones first.
const SIGNS: [&str; 9] = ["!=", "{", "}", "(", ")", ";", "=", ">", "<"];

/// Cuts `text` into tokens.
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let token;
        (token, rest) = token_at(rest)?;
        tokens.push(token);
        rest = rest.trim_start();
    }
    Ok(tokens)
}

fn token_at(text: &str) -> Result<(Token, &str), String> {
    if let Some(sign) = SIGNS.into_iter().find(|sign| text.starts_with(sign)) {
        return Ok((Token::Sign(sign), &text[sign.len()..]));
    }
    if let Some(quoted) = text.strip_prefix('"') {
        return string_at(quoted);
    }
    let ends = |c: char| c.is_whitespace() || c == '"' || "{}();=><!".contains(c);
    let end = text.find(ends).unwrap_or(text.len());
    if end == 0 {
        return Err(format!("cannot read {text:?}"));
    }
    Ok((Token::Word(text.as_bytes()[..end].to_vec()), &text[end..]))
}

/// A string whose opening quote is taken already. Its escapes are those of goldenscript.
fn string_at(text: &str) -> Result<(Token, &str), String> {
    let mut bytes = Vec::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((Token::Word(bytes), &text[at + 1..])),
            '\\' => bytes.push(escape(&mut chars)?),
            c => bytes.extend(c.encode_utf8(&mut [0; 4]).bytes()),
        }
    }
    Err(format!("the string {text:?} does not end"))
}

fn escape(chars: &mut std::str::CharIndices<'_>) -> Result<u8, String> {
    let mut next = || chars.next().map(|(_, c)| c).ok_or("an escape is cut short");
    match next()? {
        '0' => Ok(0),
        'n' => Ok(b'\n'),
        '"' => Ok(b'"'),
        '\\' => Ok(b'\\'),
        'x' => {
            let digits: String = [next()?, next()?].into_iter().collect();
            u8::from_str_radix(&digits, 16).map_err(|_| format!("no byte: \\x{digits}"))
        }
        c => Err(format!("no escape: \\{c}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_strings_and_signs() {
        let word = |text: &str| Token::Word(text.as_bytes().to_vec());
        assert_eq!(
            tokens(r#"{mod(a)!=-5; "\xff\0 \""}"#),
            Ok(vec![
                Token::Sign("{"),
                word("mod"),
                Token::Sign("("),
                word("a"),
                Token::Sign(")"),
                Token::Sign("!="),
                word("-5"),
                Token::Sign(";"),
                Token::Word(b"\xff\0 \"".to_vec()),
                Token::Sign("}"),
            ])
        );
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for text in ["\"open", r#""\xzz""#, r#""\q""#, "a ! b"] {
            assert!(tokens(text).is_err(), "{text}");
        }
    }
}
