//! `txn`: conditions and operations from stdin (etcdctl.md §3).
//!
//! Three paragraphs, each ended by an empty line: conditions, what to do when they all hold, what
//! to do otherwise. Conditions read `target("key") op "value"`; operations are command lines of
//! `get`, `put` and `del`.

use std::ffi::OsString;
use std::io::{self, BufRead, Write};
use std::os::unix::ffi::OsStringExt;

use clap::{Args, Command, FromArgMatches};
use kvd_client::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use kvd_client::proto::etcdserverpb::request_op::Request;
use kvd_client::proto::etcdserverpb::{Compare, RequestOp, TxnRequest};

use super::del::Del;
use super::get::Get;
use super::put::Put;
use super::words::{string, words};
use super::{Outcome, number};
use crate::failure::Failure;
use crate::global::Global;
use crate::print::{MESSAGE_FORMATS, Reply};
use crate::switches;

/// As typed.
#[derive(Args)]
pub(crate) struct Txn {
    /// Say what is expected next
    #[arg(long, short)]
    interactive: bool,
    #[arg(hide = true)]
    arguments: Vec<OsString>,
}

impl Txn {
    pub(super) async fn run(self, global: &Global) -> Result<Outcome, Failure> {
        if !self.arguments.is_empty() {
            return Err(Failure::bad_args("txn command does not accept argument"));
        }
        global.allow(&MESSAGE_FORMATS)?;
        let prompt = |text: &str| {
            if self.interactive {
                // Whoever cannot be asked can still answer.
                let _ = writeln!(io::stdout(), "{text}");
            }
        };
        let request = read(io::stdin().lock(), prompt)?;
        let response = global.client()?.txn(request).await?;
        Ok(Outcome::printed(Reply::Txn(response).print(global)))
    }
}

fn read(mut input: impl BufRead, prompt: impl Fn(&str)) -> Result<TxnRequest, Failure> {
    prompt("compares:");
    let compare = paragraph(&mut input, condition)?;
    prompt("success requests (get, put, del):");
    let success = paragraph(&mut input, operation)?;
    prompt("failure requests (get, put, del):");
    let failure = paragraph(&mut input, operation)?;
    Ok(TxnRequest { compare, success, failure })
}

/// Input that ends before the empty line may have lost its end; nothing is done then.
fn paragraph<T>(
    input: &mut impl BufRead,
    parse: impl Fn(&[u8]) -> Result<T, Failure>,
) -> Result<Vec<T>, Failure> {
    let mut parsed = Vec::new();
    loop {
        let mut line = Vec::new();
        let read = input.read_until(b'\n', &mut line);
        read.map_err(|error| Failure::invalid_input(error.to_string()))?;
        if line.pop() != Some(b'\n') {
            return Err(Failure::invalid_input("EOF"));
        }
        match line.trim_ascii() {
            [] => return Ok(parsed),
            line => parsed.push(parse(line)?),
        }
    }
}

fn condition(line: &[u8]) -> Result<Compare, Failure> {
    let shown = String::from_utf8_lossy(line);
    let malformed =
        |why: &str| Failure::invalid_input(format!("malformed comparison: {shown}{why}"));
    let Parts { target, key, operator, value } = Parts::of(line).ok_or_else(|| malformed(""))?;
    let result = match operator {
        b"=" => CompareResult::Equal,
        b"!=" => CompareResult::NotEqual,
        b">" => CompareResult::Greater,
        b"<" => CompareResult::Less,
        other => {
            let other = String::from_utf8_lossy(other);
            return Err(malformed(&format!(" (unknown operator {other})")));
        }
    };
    let number = |parse: fn(&str) -> Result<i64, String>| {
        let text = str::from_utf8(&value).unwrap_or_default();
        let invalid = format!("invalid txn compare request: {shown}");
        parse(text).map_err(|_| Failure::invalid_input(invalid))
    };
    let (target, union) = match target {
        b"ver" | b"version" => {
            (CompareTarget::Version, TargetUnion::Version(number(number::decimal)?))
        }
        b"c" | b"create" => {
            (CompareTarget::Create, TargetUnion::CreateRevision(number(number::decimal)?))
        }
        b"m" | b"mod" => (CompareTarget::Mod, TargetUnion::ModRevision(number(number::decimal)?)),
        b"lease" => (CompareTarget::Lease, TargetUnion::Lease(number(number::hexadecimal)?)),
        b"val" | b"value" => (CompareTarget::Value, TargetUnion::Value(value.into())),
        other => {
            let other = String::from_utf8_lossy(other);
            return Err(malformed(&format!(" (unknown target {other})")));
        }
    };
    Ok(Compare {
        result: result.into(),
        target: target.into(),
        key: key.into(),
        range_end: Default::default(),
        target_union: Some(union),
    })
}

/// A condition as written.
struct Parts<'a> {
    target: &'a [u8],
    key: Vec<u8>,
    operator: &'a [u8],
    value: Vec<u8>,
}

impl<'a> Parts<'a> {
    fn of(line: &'a [u8]) -> Option<Self> {
        let open = line.iter().position(|&byte| byte == b'(')?;
        let (key, rest) = string(line[open + 1..].trim_ascii_start())?;
        let rest = rest.trim_ascii_start().strip_prefix(b")")?;
        let quote = rest.iter().position(|&byte| byte == b'"')?;
        let (value, end) = string(&rest[quote..])?;
        let target = line[..open].trim_ascii();
        let operator = rest[..quote].trim_ascii();
        end.is_empty().then_some(Self { target, key, operator, value })
    }
}

fn operation(line: &[u8]) -> Result<RequestOp, Failure> {
    let shown = String::from_utf8_lossy(line);
    let invalid = || Failure::invalid_input(format!("invalid txn request: {shown}"));
    let words = words(line).ok_or_else(invalid)?;
    let (name, arguments) = words.split_first().ok_or_else(invalid)?;
    let arguments = arguments.iter().map(|word| OsString::from_vec(word.clone()));
    let request = match name.as_slice() {
        b"get" => command::<Get>(arguments).map(|get| get.request().map(Request::RequestRange)),
        b"put" => {
            command::<Put>(arguments).map(|put| put.request(|| None).map(Request::RequestPut))
        }
        b"del" => {
            command::<Del>(arguments).map(|del| del.request().map(Request::RequestDeleteRange))
        }
        _ => None,
    };
    let request = request.ok_or_else(invalid)?;
    let request = request.map_err(|failure| {
        Failure::invalid_input(format!("invalid txn request: {shown} ({})", failure.text))
    })?;
    Ok(RequestOp { request: Some(request) })
}

fn command<T: Args + FromArgMatches>(arguments: impl Iterator<Item = OsString>) -> Option<T> {
    let syntax = T::augment_args(Command::new("operation").no_binary_name(true));
    let syntax = switches::take_values(syntax);
    let matches = syntax.try_get_matches_from(arguments).ok()?;
    T::from_arg_matches(&matches).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<TxnRequest, Failure> {
        read(text.as_bytes(), |_| {})
    }

    #[test]
    fn reads_three_paragraphs() {
        let text =
            "ver(\"a\") > \"0\"\nlease ( \"b\" )=\"1f\" \n\nput a \"x y\"\nget a --prefix\n\n\n";
        let request = parse(text).unwrap();
        assert_eq!(request.compare.len(), 2);
        assert_eq!(request.compare[1].key, "b");
        assert_eq!(request.compare[1].target_union, Some(TargetUnion::Lease(0x1f)));
        assert_eq!(request.success.len(), 2);
        let Some(Request::RequestPut(put)) = &request.success[0].request else { unreachable!() };
        assert_eq!(put.value, "x y");
        assert!(request.failure.is_empty());
    }

    #[test]
    fn what_is_not_a_transaction_is_invalid_input() {
        for text in [
            "",
            "\n\n",
            "\nput a b\n\nput a c\n",
            "foo\n\n\n\n",
            "foo(\"a\") = \"b\"\n\n\n\n",
            "val(\"a\") ~ \"b\"\n\n\n\n",
            "val(\"a\") = b\n\n\n\n",
            "val(a) = \"b\"\n\n\n\n",
            "val(\"a\") = \"b\" c\n\n\n\n",
            "ver(\"a\") = \"b\"\n\n\n\n",
            "\nput\n\n\n",
            "\nput a\n\n\n",
            "\nput a \"b\n\n\n",
            "\nget a --bogus\n\n\n",
            "\ntxn a\n\n\n",
        ] {
            assert_eq!(parse(text).expect_err(text).code, 3, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_input_is_too_strange(text in "[av(\")=<!\\\\ \n]{0,30}") {
            let _ = parse(&text);
        }
    }
}
