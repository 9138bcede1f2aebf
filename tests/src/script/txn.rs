//! Transactions of a script as requests of the API, also those that a server must refuse.
//!
//! Knows their grammar, which `script.rs` describes; single operations are `request.rs`'s.

use bytes::Bytes;
use kvd_proto::etcdserverpb as pb;
use kvd_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use kvd_proto::etcdserverpb::request_op::Request;

use super::request::{Arguments, delete, number, parse, put, range};
use super::word::{Token, tokens};

/// A transaction, from all that follows the word `txn`.
pub(super) fn txn(text: &str) -> Result<pb::TxnRequest, String> {
    let mut parser = Parser { tokens: tokens(text)?, at: 0, counter: None };
    let txn = parser.txn()?;
    match parser.peek() {
        None => Ok(txn),
        Some(token) => Err(format!("unexpected {token:?}")),
    }
}

/// Where in the text we are.
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

#[cfg(test)]
mod tests {
    use super::*;

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
