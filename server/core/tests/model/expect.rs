//! Range by the rules, as an expectation: the spec leaves the order of equal elements open (rule KV-R11), so
//! an answer is held against it instead of compared with one right answer.

use bytes::Bytes;
use kvd_core::command::{RangeQuery, SortOrder, SortTarget};
use kvd_core::event::KeyValue;
use kvd_core::ids::Revision;
use kvd_core::outcome::{OpAnswer, RangeAnswer, Rejection, Response, TxnAnswer};

use super::store::{Answer, Keys, Model, within};

/// What a Range must answer.
#[derive(Clone, Debug)]
pub(crate) struct RangeExpect {
    count: usize,
    more: bool,
    /// Candidates in a right order, before the cut to the limit.
    candidates: Vec<KeyValue>,
    /// So many of them are answered.
    returned: usize,
    target: SortTarget,
    keys_only: bool,
}

/// What a transaction must answer.
#[derive(Clone, Debug)]
pub(crate) struct TxnExpect {
    pub(crate) succeeded: bool,
    pub(crate) responses: Vec<OpExpect>,
    pub(crate) revision: Revision,
}

/// What one operation must answer.
#[derive(Clone, Debug)]
pub(crate) enum OpExpect {
    Range(RangeExpect, Revision),
    Plain(OpAnswer),
    Txn(TxnExpect),
}

impl Model {
    /// A Range outside of transactions.
    pub(crate) fn range(&self, query: &RangeQuery) -> Result<RangeExpect, Rejection> {
        let keys = match query.revision {
            Some(revision) => self.at(revision.0)?,
            None => self.latest(),
        };
        Ok(RangeExpect::new(keys, query))
    }
}

impl RangeExpect {
    /// Rules KV-R4 to KV-R12.
    pub(crate) fn new(keys: &Keys, query: &RangeQuery) -> Self {
        let in_range =
            keys.values().map(|live| &live.kv).filter(|kv| within(&query.range, &kv.key));
        let mut candidates: Vec<KeyValue> = in_range.cloned().collect();
        let count = candidates.len();
        if query.count_only {
            candidates.clear();
        }
        let filter = query.filter;
        candidates.retain(|kv| {
            let (modified, created) = (kv.mod_revision.0, kv.create_revision.0);
            (filter.max_mod == 0 || modified <= filter.max_mod)
                && (filter.min_mod == 0 || modified >= filter.min_mod)
                && (filter.max_create == 0 || created <= filter.max_create)
                && (filter.min_create == 0 || created >= filter.min_create)
        });
        let limit = query.limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap());
        let filtered = filter != kvd_core::command::RevisionFilter::default();
        if query.sort_order == SortOrder::None && !filtered {
            // Rule KV-R10: the read stops behind the first key that tells there is more.
            candidates.truncate(limit.saturating_add(1));
        }
        candidates.sort_by(|a, b| {
            let order = sorted_by(query.sort_target, a).cmp(&sorted_by(query.sort_target, b));
            if query.sort_order == SortOrder::Descend { order.reverse() } else { order }
        });
        Self {
            count,
            more: candidates.len() > limit,
            returned: candidates.len().min(limit),
            candidates,
            target: query.sort_target,
            keys_only: query.keys_only,
        }
    }

    pub(crate) fn explains(&self, answer: &RangeAnswer) -> bool {
        let counts = i64::try_from(self.count) == Ok(answer.count)
            && self.more == answer.more
            && self.returned == answer.kvs.len();
        let mut unseen = self.candidates.clone();
        counts
            && answer.kvs.iter().zip(&self.candidates).all(|(kv, place)| {
                let Some(at) = unseen.iter().position(|candidate| candidate.key == kv.key) else {
                    return false;
                };
                let candidate = unseen.remove(at);
                let shown = if self.keys_only { Bytes::new() } else { candidate.value.clone() };
                sorted_by(self.target, &candidate) == sorted_by(self.target, place)
                    && *kv == KeyValue { value: shown, ..candidate }
            })
    }
}

impl TxnExpect {
    pub(crate) fn explains(&self, answer: &TxnAnswer) -> bool {
        self.succeeded == answer.succeeded
            && self.revision == answer.revision
            && self.responses.len() == answer.responses.len()
            && self.responses.iter().zip(&answer.responses).all(|(op, answer)| match (op, answer) {
                (OpExpect::Range(range, at), OpAnswer::Range(answer, stated)) => {
                    at == stated && range.explains(answer)
                }
                (OpExpect::Txn(txn), OpAnswer::Txn(answer)) => txn.explains(answer),
                (OpExpect::Plain(plain), answer) => plain == answer,
                _ => false,
            })
    }
}

impl Answer {
    pub(crate) fn explains(&self, response: &Response) -> bool {
        match (self, response) {
            (Self::Plain(plain), response) => plain == response,
            (Self::Txn(txn), Response::Txn(answer)) => txn.explains(answer),
            _ => false,
        }
    }
}

fn sorted_by(target: SortTarget, kv: &KeyValue) -> (i64, Bytes) {
    match target {
        SortTarget::Key => (0, kv.key.clone()),
        SortTarget::Version => (kv.version, Bytes::new()),
        SortTarget::Create => (kv.create_revision.0, Bytes::new()),
        SortTarget::Mod => (kv.mod_revision.0, Bytes::new()),
        SortTarget::Value => (0, kv.value.clone()),
    }
}
