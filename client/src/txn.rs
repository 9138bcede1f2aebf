//! Transactions, built step by step: *when* all of these comparisons hold, *then* do this, *otherwise* that.
//!
//! Promises only shape; what a transaction means is the server's affair (behaviour.md §2.5).

use bytes::Bytes;
use kvd_proto::etcdserverpb as pb;
use kvd_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use kvd_proto::etcdserverpb::request_op::Request;
use kvd_proto::etcdserverpb::response_op::Response;
use kvd_proto::mvccpb::KeyValue;

use crate::client::Client;
use crate::error::Error;
use crate::range_end::prefix_end;

/// One request that compares keys and then does one of two lists of operations, all at one revision: everybody sees
/// all of it or nothing.
///
/// ```no_run
/// # async fn example(client: kvd_client::Client) -> Result<(), kvd_client::Error> {
/// use kvd_client::{Compare, Op, Txn};
///
/// let txn = Txn::new()
///     .when(Compare::value("balance").equals("100"))
///     .then(Op::put("balance", "90"))
///     .otherwise(Op::get("balance"));
/// let outcome = client.commit(txn).await?;
/// if !outcome.succeeded {
///     println!("somebody else was here: {:?}", outcome.kvs(0));
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[must_use = "a transaction does nothing until it is committed"]
pub struct Txn {
    request: pb::TxnRequest,
}

/// A condition on a key. A key that does not exist has version, create revision, mod revision and lease 0; its value
/// equals nothing and differs from nothing: every comparison of it fails.
#[derive(Clone, Debug, PartialEq)]
pub struct Compare(pb::Compare);

/// A comparison that still lacks what the key's version, revision or lease is compared with.
#[derive(Clone, Debug)]
#[must_use = "say what it is compared with"]
pub struct CompareNumber {
    key: Bytes,
    target: CompareTarget,
    union: fn(i64) -> TargetUnion,
}

/// A comparison that still lacks what the key's value is compared with.
#[derive(Clone, Debug)]
#[must_use = "say what it is compared with"]
pub struct CompareValue {
    key: Bytes,
}

/// One operation of a transaction. The messages of single calls are operations too: `Op::from(PutRequest { .. })`.
#[derive(Clone, Debug, PartialEq)]
pub struct Op(pb::RequestOp);

/// What a transaction did.
#[derive(Clone, Debug, PartialEq)]
pub struct Committed {
    /// All comparisons held: the operations of [`Txn::then`] were done, else those of [`Txn::otherwise`].
    pub succeeded: bool,
    /// The revision of the store after it; of what it wrote, if it wrote.
    pub revision: i64,
    /// The operations' answers, in their order.
    pub responses: Vec<pb::ResponseOp>,
}

impl Txn {
    /// One without conditions and operations.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition; all must hold.
    pub fn when(mut self, compare: Compare) -> Self {
        self.request.compare.push(compare.0);
        self
    }

    /// Adds an operation for the case that all conditions hold.
    pub fn then(mut self, op: Op) -> Self {
        self.request.success.push(op.0);
        self
    }

    /// Adds an operation for the case that some condition does not hold.
    pub fn otherwise(mut self, op: Op) -> Self {
        self.request.failure.push(op.0);
        self
    }
}

impl From<Txn> for pb::TxnRequest {
    fn from(txn: Txn) -> Self {
        txn.request
    }
}

impl Compare {
    /// Its value.
    pub fn value(key: impl Into<Bytes>) -> CompareValue {
        CompareValue { key: key.into() }
    }

    /// How often it was written since it was created; 0 if there is no such key.
    pub fn version(key: impl Into<Bytes>) -> CompareNumber {
        let (target, union) = (CompareTarget::Version, TargetUnion::Version);
        CompareNumber { key: key.into(), target, union }
    }

    /// The revision at which it was created; 0 if there is no such key.
    pub fn create_revision(key: impl Into<Bytes>) -> CompareNumber {
        let (target, union) = (CompareTarget::Create, TargetUnion::CreateRevision);
        CompareNumber { key: key.into(), target, union }
    }

    /// The revision at which it was written last; 0 if there is no such key.
    pub fn mod_revision(key: impl Into<Bytes>) -> CompareNumber {
        let (target, union) = (CompareTarget::Mod, TargetUnion::ModRevision);
        CompareNumber { key: key.into(), target, union }
    }

    /// The lease that holds it; 0 if there is none or no such key.
    pub fn lease(key: impl Into<Bytes>) -> CompareNumber {
        let (target, union) = (CompareTarget::Lease, TargetUnion::Lease);
        CompareNumber { key: key.into(), target, union }
    }

    /// The key exists.
    #[must_use]
    pub fn exists(key: impl Into<Bytes>) -> Self {
        Self::create_revision(key).is_greater_than(0)
    }

    /// The key does not exist.
    #[must_use]
    pub fn absent(key: impl Into<Bytes>) -> Self {
        Self::create_revision(key).equals(0)
    }

    /// The same of every key that begins with this one. Where there are none, it is compared as one key that does not
    /// exist: `Compare::absent(prefix).for_prefix()` says that no key begins so.
    #[must_use]
    pub fn for_prefix(mut self) -> Self {
        self.0.range_end = prefix_end(&self.0.key);
        self
    }
}

impl CompareNumber {
    /// Is this number.
    #[must_use]
    pub fn equals(self, number: i64) -> Compare {
        self.compare(CompareResult::Equal, number)
    }

    /// Is another number.
    #[must_use]
    pub fn differs_from(self, number: i64) -> Compare {
        self.compare(CompareResult::NotEqual, number)
    }

    /// Is less.
    #[must_use]
    pub fn is_less_than(self, number: i64) -> Compare {
        self.compare(CompareResult::Less, number)
    }

    /// Is greater.
    #[must_use]
    pub fn is_greater_than(self, number: i64) -> Compare {
        self.compare(CompareResult::Greater, number)
    }

    fn compare(self, result: CompareResult, number: i64) -> Compare {
        compare(self.key, self.target, result, (self.union)(number))
    }
}

impl CompareValue {
    /// Is this value.
    #[must_use]
    pub fn equals(self, value: impl Into<Bytes>) -> Compare {
        self.compare(CompareResult::Equal, value.into())
    }

    /// Is another value.
    #[must_use]
    pub fn differs_from(self, value: impl Into<Bytes>) -> Compare {
        self.compare(CompareResult::NotEqual, value.into())
    }

    /// Comes before this value, byte by byte.
    #[must_use]
    pub fn is_less_than(self, value: impl Into<Bytes>) -> Compare {
        self.compare(CompareResult::Less, value.into())
    }

    /// Comes after this value, byte by byte.
    #[must_use]
    pub fn is_greater_than(self, value: impl Into<Bytes>) -> Compare {
        self.compare(CompareResult::Greater, value.into())
    }

    fn compare(self, result: CompareResult, value: Bytes) -> Compare {
        compare(self.key, CompareTarget::Value, result, TargetUnion::Value(value))
    }
}

fn compare(key: Bytes, target: CompareTarget, result: CompareResult, with: TargetUnion) -> Compare {
    Compare(pb::Compare {
        result: result.into(),
        target: target.into(),
        key,
        target_union: Some(with),
        range_end: Bytes::new(),
    })
}

impl Op {
    /// Writes a key.
    #[must_use]
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self::put_with_lease(key, value, 0)
    }

    /// Writes a key that goes when the lease does.
    #[must_use]
    pub fn put_with_lease(key: impl Into<Bytes>, value: impl Into<Bytes>, lease: i64) -> Self {
        let (key, value) = (key.into(), value.into());
        Self::from(pb::PutRequest { key, value, lease, ..Default::default() })
    }

    /// Reads a key.
    #[must_use]
    pub fn get(key: impl Into<Bytes>) -> Self {
        Self::from(pb::RangeRequest { key: key.into(), ..Default::default() })
    }

    /// Deletes a key.
    #[must_use]
    pub fn delete(key: impl Into<Bytes>) -> Self {
        Self::from(pb::DeleteRangeRequest { key: key.into(), ..Default::default() })
    }
}

impl From<pb::PutRequest> for Op {
    fn from(put: pb::PutRequest) -> Self {
        Request::RequestPut(put).into()
    }
}

impl From<pb::RangeRequest> for Op {
    fn from(range: pb::RangeRequest) -> Self {
        Request::RequestRange(range).into()
    }
}

impl From<pb::DeleteRangeRequest> for Op {
    fn from(delete: pb::DeleteRangeRequest) -> Self {
        Request::RequestDeleteRange(delete).into()
    }
}

impl From<Txn> for Op {
    fn from(txn: Txn) -> Self {
        Request::RequestTxn(txn.into()).into()
    }
}

impl From<Request> for Op {
    fn from(request: Request) -> Self {
        Self(pb::RequestOp { request: Some(request) })
    }
}

impl Committed {
    /// The keys that the operation at this place found; none if it was no read.
    #[must_use]
    pub fn kvs(&self, at: usize) -> &[KeyValue] {
        match self.responses.get(at).and_then(|answer| answer.response.as_ref()) {
            Some(Response::ResponseRange(range)) => &range.kvs,
            _ => &[],
        }
    }
}

impl From<pb::TxnResponse> for Committed {
    fn from(answer: pb::TxnResponse) -> Self {
        let revision = answer.header.map_or(0, |header| header.revision);
        Self { succeeded: answer.succeeded, revision, responses: answer.responses }
    }
}

impl Client {
    /// Carries out a transaction; never sent twice unless it is certain that the first time nothing happened.
    pub async fn commit(&self, txn: Txn) -> Result<Committed, Error> {
        self.txn(txn.into()).await.map(Committed::from)
    }

    /// Carries out a transaction that is sent again when it is not known whether it happened. For those of which the
    /// second finds what the first has done, and leaves it so.
    pub(crate) async fn commit_repeatable(&self, txn: Txn) -> Result<Committed, Error> {
        self.txn_repeatable(txn.into()).await.map(Committed::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_is_the_message_it_reads_like() {
        let txn = Txn::new()
            .when(Compare::value("k").equals("v"))
            .when(Compare::absent("p/").for_prefix())
            .then(Op::put_with_lease("k", "w", 7))
            .otherwise(Op::get("k"))
            .otherwise(Op::delete("k"));
        let request = pb::TxnRequest::from(txn);
        let value = &request.compare[0];
        assert_eq!((value.result(), value.target()), (CompareResult::Equal, CompareTarget::Value));
        assert_eq!(value.target_union, Some(TargetUnion::Value("v".into())));
        let absent = &request.compare[1];
        let target = (absent.result(), absent.target());
        assert_eq!(target, (CompareResult::Equal, CompareTarget::Create));
        assert_eq!((&absent.key[..], &absent.range_end[..]), (&b"p/"[..], &b"p0"[..]));
        assert_eq!(absent.target_union, Some(TargetUnion::CreateRevision(0)));
        let put =
            pb::PutRequest { key: "k".into(), value: "w".into(), lease: 7, ..Default::default() };
        assert_eq!(request.success, [Op::from(put).0]);
        assert_eq!(request.failure.len(), 2);
    }

    #[test]
    fn each_number_is_compared_as_what_it_is() {
        let numbers = [
            (Compare::version("k"), CompareTarget::Version, TargetUnion::Version(3)),
            (Compare::create_revision("k"), CompareTarget::Create, TargetUnion::CreateRevision(3)),
            (Compare::mod_revision("k"), CompareTarget::Mod, TargetUnion::ModRevision(3)),
            (Compare::lease("k"), CompareTarget::Lease, TargetUnion::Lease(3)),
        ];
        for (number, target, union) in numbers {
            let less = number.clone().is_less_than(3).0;
            assert_eq!((less.result(), less.target()), (CompareResult::Less, target));
            assert_eq!(less.target_union, Some(union));
            assert_eq!(number.differs_from(3).0.result(), CompareResult::NotEqual);
        }
    }
}
