//! Commands of a script as requests of the API.
//!
//! Builds whatever the script says, also what a server must refuse: empty keys, enum numbers that
//! nobody defined, operations without content.

use std::collections::VecDeque;
use std::fmt::Display;
use std::str::FromStr;

use bytes::Bytes;
use kvd_proto::etcdserverpb as pb;
use kvd_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use kvd_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use kvd_proto::etcdserverpb::request_op::Request;

use super::word::{Token, tokens};

/// Words that are never a key's end or a value.
const FLAGS: [&str; 8] = [
    "prefix",
    "prev_kv",
    "ignore_value",
    "ignore_lease",
    "serializable",
    "keys_only",
    "count_only",
    "physical",
];

/// What follows a command's name, not yet understood.
#[derive(Debug, Default)]
pub(super) struct Arguments {
    positional: VecDeque<Vec<u8>>,
    flags: Vec<String>,
    keyed: Vec<(String, Vec<u8>)>,
}

impl Arguments {
    /// Those of a goldenscript command, whose strings stand for bytes.
    pub(super) fn of(command: &goldenscript::Command) -> Self {
        let mut arguments = Self::default();
        for argument in &command.args {
            arguments.push(argument.key.as_deref(), bytes_of(&argument.value));
        }
        arguments
    }

    /// The first is always positional, so that any key can be written.
    fn push(&mut self, key: Option<&str>, value: Vec<u8>) {
        match (key, FLAGS.iter().find(|flag| flag.as_bytes() == value)) {
            (Some(key), _) => self.keyed.push((key.to_owned(), value)),
            (None, Some(flag)) if !self.positional.is_empty() => {
                self.flags.push((*flag).to_owned());
            }
            (None, _) => self.positional.push_back(value),
        }
    }

    /// Whether `name` was given.
    pub(super) fn flag(&mut self, name: &str) -> bool {
        let found = self.flags.iter().position(|flag| flag == name);
        found.map(|at| self.flags.swap_remove(at)).is_some()
    }

    /// The number given as `name=…`.
    pub(super) fn keyed<T: FromStr<Err: Display>>(
        &mut self,
        name: &str,
    ) -> Result<Option<T>, String> {
        let found = self.keyed.iter().position(|(key, _)| key == name);
        found.map(|at| parse(&self.keyed.swap_remove(at).1)).transpose()
    }

    /// The next positional argument, a number.
    pub(super) fn optional<T: FromStr<Err: Display>>(&mut self) -> Result<Option<T>, String> {
        self.positional.pop_front().map(|value| parse(&value)).transpose()
    }

    /// The next positional argument, a number that may not be left out.
    pub(super) fn required<T: FromStr<Err: Display>>(&mut self, what: &str) -> Result<T, String> {
        self.optional()?.ok_or_else(|| format!("no {what} given"))
    }

    /// The next positional argument as text.
    pub(super) fn positional_text(&mut self, what: &str) -> Result<String, String> {
        let value = self.positional.pop_front().ok_or_else(|| format!("no {what} given"))?;
        String::from_utf8(value).map_err(|error| error.to_string())
    }

    /// The key, repeated up to `key_size` bytes where that is given.
    fn key(&mut self) -> Result<Bytes, String> {
        let key = self.positional.pop_front().ok_or("no key given")?;
        Ok(match self.keyed("key_size")? {
            Some(size) => key.into_iter().cycle().take(size).collect(),
            None => key.into(),
        })
    }

    /// The end of a range: the next positional argument, or that of the prefix.
    fn range_end(&mut self, key: &[u8]) -> Bytes {
        if self.flag("prefix") {
            return prefix_end(key);
        }
        self.positional.pop_front().map(Bytes::from).unwrap_or_default()
    }

    /// Refuses what no one asked for, so that a misspelt word is not overlooked.
    pub(super) fn finish(&self) -> Result<(), String> {
        let Self { positional, flags, keyed } = self;
        if positional.is_empty() && flags.is_empty() && keyed.is_empty() {
            return Ok(());
        }
        Err(format!("left over: {self:?}"))
    }
}

/// A put.
pub(super) fn put(mut arguments: Arguments) -> Result<pb::PutRequest, String> {
    let key = arguments.key()?;
    let size: Option<usize> = arguments.keyed("size")?;
    let value = match size {
        Some(size) => Bytes::from(vec![b'x'; size]),
        None => arguments.positional.pop_front().map(Bytes::from).unwrap_or_default(),
    };
    let request = pb::PutRequest {
        key,
        value,
        lease: arguments.keyed("lease")?.unwrap_or(0),
        prev_kv: arguments.flag("prev_kv"),
        ignore_value: arguments.flag("ignore_value"),
        ignore_lease: arguments.flag("ignore_lease"),
    };
    arguments.finish()?;
    Ok(request)
}

/// A range.
pub(super) fn range(mut arguments: Arguments) -> Result<pb::RangeRequest, String> {
    let key = arguments.key()?;
    let range_end = arguments.range_end(&key);
    let target = arguments.keyed("target")?;
    let order = arguments.keyed("order")?;
    let request = pb::RangeRequest {
        key,
        range_end,
        limit: arguments.keyed("limit")?.unwrap_or(0),
        revision: arguments.keyed("rev")?.unwrap_or(0),
        sort_order: number(order, |name| SortOrder::from_str_name(name).map(Into::into))?,
        sort_target: number(target, |name| SortTarget::from_str_name(name).map(Into::into))?,
        serializable: arguments.flag("serializable"),
        keys_only: arguments.flag("keys_only"),
        count_only: arguments.flag("count_only"),
        min_mod_revision: arguments.keyed("min_mod")?.unwrap_or(0),
        max_mod_revision: arguments.keyed("max_mod")?.unwrap_or(0),
        min_create_revision: arguments.keyed("min_create")?.unwrap_or(0),
        max_create_revision: arguments.keyed("max_create")?.unwrap_or(0),
    };
    arguments.finish()?;
    Ok(request)
}

/// A delete.
pub(super) fn delete(mut arguments: Arguments) -> Result<pb::DeleteRangeRequest, String> {
    let key = arguments.key()?;
    let range_end = arguments.range_end(&key);
    let prev_kv = arguments.flag("prev_kv");
    arguments.finish()?;
    Ok(pb::DeleteRangeRequest { key, range_end, prev_kv })
}

/// A transaction, from all that follows the word `txn`.
pub(super) fn txn(text: &str) -> Result<pb::TxnRequest, String> {
    let mut parser = Parser { tokens: tokens(text)?, at: 0, counter: None };
    let txn = parser.txn()?;
    match parser.peek() {
        None => Ok(txn),
        Some(token) => Err(format!("unexpected {token:?}")),
    }
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    /// What `#` stands for, within a `repeat`.
    counter: Option<usize>,
}

impl Parser {
    fn txn(&mut self) -> Result<pb::TxnRequest, String> {
        let mut txn = pb::TxnRequest::default();
        if self.take_word("if") {
            txn.compare = self.block(&mut Self::compares)?;
        }
        if self.take_word("then") {
            txn.success = self.block(&mut Self::ops)?;
        }
        if self.take_word("else") {
            txn.failure = self.block(&mut Self::ops)?;
        }
        Ok(txn)
    }

    /// `{ item; item; … }`, where an item may stand for several.
    fn block<T>(
        &mut self,
        items: &mut dyn FnMut(&mut Self) -> Result<Vec<T>, String>,
    ) -> Result<Vec<T>, String> {
        self.sign("{")?;
        let mut all = Vec::new();
        while !self.take_sign("}") {
            all.extend(items(self)?);
            if !self.take_sign(";") && self.peek() != Some(&Token::Sign("}")) {
                return Err(format!("expected ; or }} before {:?}", self.peek()));
            }
        }
        Ok(all)
    }

    /// `repeat N { … }`: reads the block N times, each time counting `#` one further.
    fn repeat<T>(
        &mut self,
        items: &mut dyn FnMut(&mut Self) -> Result<Vec<T>, String>,
    ) -> Result<Vec<T>, String> {
        let times: usize = parse(&self.word()?)?;
        let (start, outer) = (self.at, self.counter);
        let mut all = Vec::new();
        for count in 0..times {
            self.at = start;
            self.counter = Some(count);
            all.extend(self.block(items)?);
        }
        self.counter = outer;
        Ok(all)
    }

    fn compares(&mut self) -> Result<Vec<pb::Compare>, String> {
        if self.take_word("repeat") {
            return self.repeat(&mut Self::compares);
        }
        let name = String::from_utf8(self.word()?).map_err(|error| error.to_string())?;
        self.sign("(")?;
        let key = Bytes::from(self.word()?);
        let range_end =
            if self.take_sign(")") { Bytes::new() } else { self.range_end_in_parentheses()? };
        let result = self.operator()?;
        let given = self.word()?;
        let target = number(Some(name.to_uppercase()), |name| {
            CompareTarget::from_str_name(name).map(Into::into)
        })?;
        let target_union = union(&name, given)?;
        Ok(vec![pb::Compare { result, target, key, range_end, target_union }])
    }

    fn range_end_in_parentheses(&mut self) -> Result<Bytes, String> {
        let end = self.word()?;
        self.sign(")")?;
        Ok(end.into())
    }

    /// `=`, `>`, `<`, `!=`, or the number of an operator.
    fn operator(&mut self) -> Result<i32, String> {
        let operator = match self.next()? {
            Token::Sign("=") => CompareResult::Equal.into(),
            Token::Sign(">") => CompareResult::Greater.into(),
            Token::Sign("<") => CompareResult::Less.into(),
            Token::Sign("!=") => CompareResult::NotEqual.into(),
            Token::Word(number) => parse(&number)?,
            token @ Token::Sign(_) => return Err(format!("no operator: {token:?}")),
        };
        Ok(operator)
    }

    fn ops(&mut self) -> Result<Vec<pb::RequestOp>, String> {
        let name = self.word()?;
        let request = match name.as_slice() {
            b"repeat" => return self.repeat(&mut Self::ops),
            b"nest" => return self.nest(),
            b"unset" => None,
            b"put" => Some(Request::RequestPut(put(self.arguments()?)?)),
            b"range" => Some(Request::RequestRange(range(self.arguments()?)?)),
            b"del" => Some(Request::RequestDeleteRange(delete(self.arguments()?)?)),
            b"txn" => Some(Request::RequestTxn(self.txn()?)),
            _ => return Err(format!("no operation {}", String::from_utf8_lossy(&name))),
        };
        Ok(vec![pb::RequestOp { request }])
    }

    /// `nest N { … }`: the operations within N transactions, each in the success branch of the
    /// next.
    fn nest(&mut self) -> Result<Vec<pb::RequestOp>, String> {
        let depth: usize = parse(&self.word()?)?;
        let mut ops = self.block(&mut Self::ops)?;
        for _ in 0..depth {
            let txn = pb::TxnRequest { success: ops, ..pb::TxnRequest::default() };
            ops = vec![pb::RequestOp { request: Some(Request::RequestTxn(txn)) }];
        }
        Ok(ops)
    }

    /// The arguments of one operation.
    fn arguments(&mut self) -> Result<Arguments, String> {
        let mut arguments = Arguments::default();
        while matches!(self.peek(), Some(Token::Word(_))) {
            let word = self.word()?;
            if self.take_sign("=") {
                let key = String::from_utf8(word).map_err(|error| error.to_string())?;
                let value = self.word()?;
                arguments.push(Some(&key), value);
            } else {
                arguments.push(None, word);
            }
        }
        Ok(arguments)
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn next(&mut self) -> Result<Token, String> {
        let token = self.peek().cloned().ok_or("the transaction is cut short")?;
        self.at += 1;
        Ok(token)
    }

    /// A word, with `#` replaced by the count.
    fn word(&mut self) -> Result<Vec<u8>, String> {
        match (self.next()?, self.counter) {
            (Token::Word(word), None) => Ok(word),
            (Token::Word(word), Some(count)) => Ok(word
                .into_iter()
                .flat_map(|b| if b == b'#' { count.to_string().into_bytes() } else { vec![b] })
                .collect()),
            (token, _) => Err(format!("expected a word instead of {token:?}")),
        }
    }

    fn sign(&mut self, sign: &'static str) -> Result<(), String> {
        if self.take_sign(sign) {
            return Ok(());
        }
        Err(format!("expected {sign} instead of {:?}", self.peek()))
    }

    fn take_sign(&mut self, sign: &'static str) -> bool {
        self.take(&Token::Sign(sign))
    }

    fn take_word(&mut self, word: &str) -> bool {
        self.take(&Token::Word(word.as_bytes().to_vec()))
    }

    fn take(&mut self, token: &Token) -> bool {
        let found = self.peek() == Some(token);
        self.at += usize::from(found);
        found
    }
}

/// The right side of a compare; the word `unset` leaves it out.
fn union(target: &str, given: Vec<u8>) -> Result<Option<TargetUnion>, String> {
    if given == b"unset" {
        return Ok(None);
    }
    let union = match target {
        "version" => TargetUnion::Version(parse(&given)?),
        "create" => TargetUnion::CreateRevision(parse(&given)?),
        "mod" => TargetUnion::ModRevision(parse(&given)?),
        "lease" => TargetUnion::Lease(parse(&given)?),
        _ => TargetUnion::Value(given.into()),
    };
    Ok(Some(union))
}

/// An enum's number, from its name or from a number that nobody needs to have defined.
fn number(given: Option<String>, named: impl Fn(&str) -> Option<i32>) -> Result<i32, String> {
    let Some(given) = given else { return Ok(0) };
    named(&given).map_or_else(|| parse(given.as_bytes()), Ok)
}

fn parse<T: FromStr<Err: Display>>(value: &[u8]) -> Result<T, String> {
    let text = String::from_utf8_lossy(value);
    text.parse().map_err(|error| format!("{text:?}: {error}"))
}

/// A goldenscript string writes bytes as characters up to U+00FF.
fn bytes_of(text: &str) -> Vec<u8> {
    let latin: Result<Vec<u8>, _> = text.chars().map(u8::try_from).collect();
    latin.unwrap_or_else(|_| text.as_bytes().to_vec())
}

/// The end of the range of all keys with this prefix, as clients compute it (behaviour.md 2.1).
fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end.into();
        }
    }
    Bytes::from_static(b"\0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_after_its_last_key() {
        assert_eq!(prefix_end(b"ab"), "ac");
        assert_eq!(prefix_end(b"a\xff"), "b");
        assert_eq!(prefix_end(b"\xff\xff"), "\0");
        assert_eq!(prefix_end(b""), "\0");
    }

    #[test]
    fn a_transaction_is_read() {
        let txn = txn("if {mod(a z) != 3} then {repeat 2 {put k# v}; nest 2 {del a}} else {unset}");
        let txn = txn.unwrap();
        assert_eq!(txn.compare[0].result, 3);
        assert_eq!(txn.compare[0].range_end, "z");
        assert_eq!(txn.success.len(), 3);
        let Some(Request::RequestPut(put)) = &txn.success[1].request else { panic!("{txn:?}") };
        assert_eq!(put.key, "k1");
        let Some(Request::RequestTxn(outer)) = &txn.success[2].request else { panic!("{txn:?}") };
        assert!(matches!(outer.success[0].request, Some(Request::RequestTxn(_))));
        assert_eq!(txn.failure[0].request, None);
    }

    #[test]
    fn misspelt_transactions_are_refused() {
        for text in ["then {puts a}", "then {put a b c}", "when {}", "then {put a", "if {x(a)=0}"] {
            assert!(txn(text).is_err(), "{text}");
        }
    }
}
