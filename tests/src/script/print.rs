//! Answers as text: every field, in the order of the message.
//!
//! Masks what differs from run to run, and checks while masking: the ids in headers must be the
//! same in all answers of one server, and terms never fall.

use std::fmt::Write as _;

use kvd_proto::etcdserverpb as pb;
use kvd_proto::etcdserverpb::response_op::Response as Op;
use kvd_proto::mvccpb::KeyValue;
use tonic::{Response, Status};

/// Bytes longer than this are shortened when they are all the same.
const UNIFORM_BYTES_MAX: usize = 64;

/// Prints the answers of one server.
#[derive(Debug, Default)]
pub(super) struct Printer {
    cluster_id: Option<u64>,
    member_id: Option<u64>,
    term: u64,
    /// The last lease id that a server chose.
    pub(super) chosen_lease: Option<i64>,
}

impl Printer {
    /// What `print` makes of the answer, or the error.
    pub(super) fn answer<T>(
        &mut self,
        answer: Result<Response<T>, Status>,
        print: impl Fn(&mut Self, T) -> String,
    ) -> String {
        match answer {
            Ok(response) => print(self, response.into_inner()),
            Err(status) => error(&status),
        }
    }

    /// The messages of a stream as the one answer that they are pieces of, and how it ended: sizes
    /// of pieces are no promise, but only the last one may carry more than keys (KV-R31, KV-R34).
    pub(super) fn stream(
        &mut self,
        messages: Vec<pb::RangeStreamResponse>,
        end: Option<Status>,
    ) -> String {
        let mut whole = pb::RangeResponse::default();
        let mut lines = Vec::new();
        for message in messages {
            let pb::RangeResponse { header, mut kvs, more, count } =
                message.range_response.unwrap_or_default();
            if whole.header.is_some() || whole.more || whole.count != 0 {
                lines.push("a piece follows the last one".to_owned());
            }
            whole.kvs.append(&mut kvs);
            whole = pb::RangeResponse { header, kvs: whole.kvs, more, count };
        }
        if end.is_none() || !whole.kvs.is_empty() {
            lines.push(self.range(whole));
        }
        lines.extend(end.as_ref().map(error));
        lines.join("\n")
    }

    pub(super) fn put(&mut self, response: pb::PutResponse) -> String {
        let mut text = format!("put {}", self.header(response.header));
        if let Some(kv) = &response.prev_kv {
            let _ = write!(text, "\n  prev {}", key_value(kv));
        }
        text
    }

    pub(super) fn range(&mut self, response: pb::RangeResponse) -> String {
        let pb::RangeResponse { header, kvs, more, count } = response;
        let mut text = format!("range {} count={count} more={more}", self.header(header));
        for kv in &kvs {
            let _ = write!(text, "\n  {}", key_value(kv));
        }
        text
    }

    pub(super) fn delete(&mut self, response: pb::DeleteRangeResponse) -> String {
        let pb::DeleteRangeResponse { header, deleted, prev_kvs } = response;
        let mut text = format!("del {} deleted={deleted}", self.header(header));
        for kv in &prev_kvs {
            let _ = write!(text, "\n  prev {}", key_value(kv));
        }
        text
    }

    pub(super) fn txn(&mut self, response: pb::TxnResponse) -> String {
        let pb::TxnResponse { header, succeeded, responses } = response;
        let mut text = format!("txn {} succeeded={succeeded}", self.header(header));
        let answers: Vec<String> = responses.into_iter().map(|op| self.op(op)).collect();
        for same in answers.chunk_by(|one, other| one == other) {
            let _ = write!(text, "\n  {}", same[0].replace('\n', "\n  "));
            if same.len() > 1 {
                let _ = write!(text, " ({} times)", same.len());
            }
        }
        text
    }

    fn op(&mut self, op: pb::ResponseOp) -> String {
        match op.response {
            Some(Op::ResponseRange(response)) => self.range(response),
            Some(Op::ResponsePut(response)) => self.put(response),
            Some(Op::ResponseDeleteRange(response)) => self.delete(response),
            Some(Op::ResponseTxn(response)) => self.txn(response),
            None => "unset".to_owned(),
        }
    }

    pub(super) fn compact(&mut self, response: pb::CompactionResponse) -> String {
        format!("compact {}", self.header(response.header))
    }

    pub(super) fn hash_kv(&mut self, response: pb::HashKvResponse) -> String {
        let pb::HashKvResponse { header, hash, compact_revision, hash_revision } = response;
        let header = self.header(header);
        format!(
            "hashkv {header} hash={hash:#010x} compact_revision={compact_revision} \
             hash_revision={hash_revision}"
        )
    }

    pub(super) fn status(&mut self, response: pb::StatusResponse) -> String {
        let mut text = format!("status {}", self.header(response.header));
        let leader = match response.leader {
            0 => "none",
            leader if Some(leader) == self.member_id => "<member>",
            _ => "<another>",
        };
        let in_use = response.db_size_in_use;
        let sizes = if response.db_size >= in_use && in_use > 0 { "<size>" } else { "<wrong>" };
        let applied = response.raft_applied_index;
        let indexes = if response.raft_index >= applied && applied > 0 { "<index>" } else { "0" };
        let _ = write!(
            text,
            "\n  version={:?} storage_version={:?} db_size={sizes} db_size_in_use={sizes} \
             db_size_quota={}\n  leader={leader} raft_index={indexes} raft_applied_index={indexes} \
             raft_term={} is_learner={}\n  errors={:?} downgrade_info={:?}",
            response.version,
            response.storage_version,
            response.db_size_quota,
            self.mask_term(response.raft_term),
            response.is_learner,
            response.errors.iter().map(|error| self.mask_id(error)).collect::<Vec<_>>(),
            response.downgrade_info.map(|info| (info.enabled, info.target_version)),
        );
        text
    }

    pub(super) fn alarm(&mut self, response: pb::AlarmResponse) -> String {
        let mut text = format!("alarm {}", self.header(response.header));
        for alarm in &response.alarms {
            let member = match alarm.member_id {
                0 => "0",
                id if Some(id) == self.member_id => "<member>",
                _ => "<another>",
            };
            let _ = write!(text, "\n  member={member} {:?}", alarm.alarm());
        }
        text
    }

    /// The member that answers first, then the others: their ids, and so their order, change from run to run.
    pub(super) fn members(
        &mut self,
        what: &str,
        header: Option<pb::ResponseHeader>,
        added: Option<pb::Member>,
        mut members: Vec<pb::Member>,
    ) -> String {
        let mut text = format!("{what} {}", self.header(header));
        if let Some(added) = added {
            let _ = write!(text, "\n  added {}", self.member(&added));
        }
        members.sort_by_key(|member| !self.is_own(member.id));
        for member in &members {
            let _ = write!(text, "\n  {}", self.member(member));
        }
        text
    }

    /// Whether the server that answers is that member.
    pub(super) fn is_own(&self, member: u64) -> bool {
        Some(member) == self.member_id
    }

    fn member(&self, member: &pb::Member) -> String {
        format!(
            "{} name={:?} peer_urls={} client_urls={} is_learner={}",
            if self.is_own(member.id) { "<member>" } else { "<another>" },
            member.name,
            urls(&member.peer_ur_ls),
            urls(&member.client_ur_ls),
            member.is_learner
        )
    }

    /// A header with what is 0 left out.
    pub(super) fn header(&mut self, header: Option<pb::ResponseHeader>) -> String {
        let Some(header) = header else { return "no header".to_owned() };
        let mut fields = Vec::new();
        if header.cluster_id != 0 {
            let known = *self.cluster_id.get_or_insert(header.cluster_id);
            fields.push(if known == header.cluster_id { "<cluster>" } else { "<another>" });
        }
        if header.member_id != 0 {
            let known = *self.member_id.get_or_insert(header.member_id);
            fields.push(if known == header.member_id { "<member>" } else { "<another>" });
        }
        let revision = format!("revision={}", header.revision);
        if header.revision != 0 {
            fields.push(&revision);
        }
        if header.raft_term != 0 {
            fields.push(self.mask_term(header.raft_term));
        }
        format!("header({})", fields.join(" "))
    }

    fn mask_term(&mut self, term: u64) -> &'static str {
        let fell = term < self.term;
        self.term = self.term.max(term);
        if fell { "<fallen term>" } else { "<term>" }
    }

    /// An alarm's text names the member by its id.
    fn mask_id(&self, text: &str) -> String {
        self.member_id.map_or(text.to_owned(), |id| text.replace(&id.to_string(), "<member>"))
    }
}

/// How a stream ended.
pub(super) fn end(status: Option<&Status>) -> String {
    status.map_or("end".to_owned(), error)
}

pub(super) fn error(status: &Status) -> String {
    // Whose clock is first, the library's or the server's, is nobody's behaviour.
    if status.message() == "Timeout expired" {
        return error(&Status::deadline_exceeded("context deadline exceeded"));
    }
    format!("error {:?} {:?}", status.code(), status.message())
}

pub(super) fn key_value(kv: &KeyValue) -> String {
    format!(
        "{}={} create={} mod={} version={} lease={}",
        quoted(&kv.key),
        quoted(&kv.value),
        kv.create_revision,
        kv.mod_revision,
        kv.version,
        kv.lease
    )
}

/// Bytes in quotes, as a script would write them.
pub(super) fn quoted(bytes: &[u8]) -> String {
    if let Some(first) = bytes.first()
        && bytes.len() > UNIFORM_BYTES_MAX
        && bytes.iter().all(|b| b == first)
    {
        return format!("\"{}\"*{}", first.escape_ascii(), bytes.len());
    }
    format!("\"{}\"", bytes.escape_ascii())
}

/// URLs with the address masked.
fn urls(urls: &[String]) -> String {
    let masked = urls.iter().map(|url| match url.rsplit_once(':') {
        Some((_, port)) => format!("http://<address>:{port}"),
        None => url.clone(),
    });
    masked.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_printed_as_a_script_writes_them() {
        assert_eq!(quoted(b"a\xff\0\""), r#""a\xff\x00\"""#);
        assert_eq!(quoted(&[b'x'; 65]), r#""x"*65"#);
        assert_eq!(quoted(b""), r#""""#);
    }

    #[test]
    fn a_header_shows_foreign_ids_and_falling_terms() {
        let mut printer = Printer::default();
        let header = pb::ResponseHeader { cluster_id: 7, member_id: 8, revision: 2, raft_term: 3 };
        assert_eq!(printer.header(Some(header)), "header(<cluster> <member> revision=2 <term>)");
        let other = pb::ResponseHeader { cluster_id: 9, raft_term: 2, ..header };
        assert_eq!(
            printer.header(Some(other)),
            "header(<another> <member> revision=2 <fallen term>)"
        );
        assert_eq!(printer.header(Some(pb::ResponseHeader::default())), "header()");
        assert_eq!(printer.header(None), "no header");
    }
}
