//! Runs the scripts of `tests/scripts`: each shows one behaviour of the state machine.
//!
//! After a change that is meant, `UPDATE_GOLDENFILES=1 cargo test -p kvd-core --test script` writes them anew.

use std::error::Error;
use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use goldenscript::{ArgumentConsumer, Runner};
use kvd_core::checkpoint::CheckpointStore;
use kvd_core::checkpoint::mem::MemStore;
use kvd_core::codec::encode_proposal;
use kvd_core::command::{
    AlarmChange, AlarmKind, Command, Compact, Compare, CompareOperator, CompareTarget, DeleteRange,
    Entry, LeaseExpire, LeaseGrant, LeaseRevoke, Proposal, Put, RangeQuery, SortOrder, SortTarget,
    Txn, TxnOp,
};
use kvd_core::event::{EventKind, KeyValue};
use kvd_core::ids::{Index, LeaseId, LogId, MemberId, Revision, Term};
use kvd_core::mvcc::txn::check_overlap;
use kvd_core::outcome::{OpAnswer, RangeAnswer, Response, TxnAnswer};
use kvd_core::range::KeyRange;
use kvd_core::state::{Options, State};
use kvd_core::view::{Access, View};

type Outcome<T> = Result<T, Box<dyn Error>>;

#[test]
fn scripts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut run = 0;
    for group in std::fs::read_dir(folder).unwrap() {
        for script in std::fs::read_dir(group.unwrap().path()).unwrap() {
            let path = script.unwrap().path();
            goldenscript::run(&mut Machine::new(), &path)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            run += 1;
        }
    }
    assert!(run >= 15, "only {run} scripts were found");
}

struct Machine {
    store: Arc<MemStore>,
    state: State,
    /// Kept by `hold`.
    held: Option<View>,
}

impl Machine {
    fn new() -> Self {
        let store = Arc::new(MemStore::new());
        let state = open(&store).expect("an empty store opens");
        Self { store, state, held: None }
    }

    /// Applies a command as the next entry and tells all that came of it.
    fn apply(&mut self, command: Command) -> Outcome<String> {
        let index = self.state.applied().index.next();
        let proposal = Some(encode_proposal(&Proposal::internal(command)));
        let log_id = LogId { term: Term(1), node: MemberId(1), index };
        let entry = Entry { log_id, proposal, membership: None };
        let applied = self.state.apply(&entry, true)?;
        self.state.publish();
        self.state.check()?;
        let mut text = format!("revision {}: ", applied.revision);
        match applied.outcome {
            Ok(response) => write_response(&mut text, &response)?,
            Err(rejection) => writeln!(text, "refused: {rejection}")?,
        }
        for event in applied.events {
            let what = match event.kind {
                EventKind::Put => "put",
                EventKind::Delete => "delete",
            };
            write!(text, "  {} {what} {}", event.change, kv(&event.kv))?;
            writeln!(text, "{}", event.prev.map_or(String::new(), |prev| format!(" was {prev}")))?;
        }
        Ok(text)
    }

    fn read(&mut self, name: &str, args: &mut ArgumentConsumer<'_>) -> Outcome<String> {
        let view = match &self.held {
            Some(held) if args.lookup_parse::<bool>("held")?.unwrap_or(false) => held.clone(),
            _ => self.state.view(),
        };
        let mut text = String::new();
        match name {
            "range" => match view.range(&query(args)?, Access::Disk)? {
                Ok(answer) => write_range(&mut text, &answer)?,
                Err(rejection) => writeln!(text, "refused: {rejection}")?,
            },
            "read-txn" => match view.txn(&txn(args)?, Access::Disk)? {
                Ok(answer) => write_txn(&mut text, &answer, 0)?,
                Err(rejection) => writeln!(text, "refused: {rejection}")?,
            },
            "hash" => {
                let revision = args.next_pos().map_or(Ok(0), |arg| arg.value.parse())?;
                writeln!(text, "{:?}", view.hash_kv(revision, Access::Disk)?)?;
            }
            "history" => {
                let from = Revision(args.next_pos().map_or(Ok(1), |arg| arg.value.parse())?);
                let seen = view.scan(from, view.revision(), Access::Disk, &mut |event| {
                    let sign = if event.kind == EventKind::Put { "put" } else { "delete" };
                    writeln!(text, "{} {sign} {}", event.change, kv(&event.kv))
                        .expect("a string takes all");
                    ControlFlow::Continue(())
                })?;
                if let Err(rejection) = seen {
                    writeln!(text, "refused: {rejection}")?;
                }
            }
            "lease" => writeln!(text, "{:?}", view.lease(lease(args)?))?,
            "size" => writeln!(text, "{} keys, {} bytes", view.count(), view.live_bytes())?,
            _ => return Err(format!("unknown command {name}").into()),
        }
        Ok(text)
    }
}

fn open(store: &Arc<MemStore>) -> Outcome<State> {
    let options = Options { cache_bytes: 0 };
    Ok(State::open(Arc::clone(store) as Arc<dyn CheckpointStore>, options)?)
}

impl Runner for Machine {
    fn run(&mut self, command: &goldenscript::Command) -> Outcome<String> {
        let mut args = command.consume_args();
        let text = match command.name.as_str() {
            "put" => {
                let put = put(&mut args)?;
                self.apply(Command::Put(put))?
            }
            "delete" => {
                let range = range(&mut args)?;
                let prev_kv = args.lookup_parse("prev")?.unwrap_or(false);
                self.apply(Command::DeleteRange(DeleteRange { range, prev_kv }))?
            }
            "txn" => {
                let txn = txn(&mut args)?;
                match check_overlap(&txn) {
                    Ok(()) => self.apply(Command::Txn(txn))?,
                    Err(rejection) => format!("not proposed: {rejection}\n"),
                }
            }
            "compact" => {
                let revision = args.next_pos().ok_or("revision missing")?.value.parse()?;
                self.apply(Command::Compact(Compact { revision }))?
            }
            "sweep" => format!("{:?}\n", self.state.compact_step(1000)?),
            "grant" => {
                let id = lease(&mut args)?;
                let ttl_seconds = args.next_pos().ok_or("ttl missing")?.value.parse()?;
                self.apply(Command::LeaseGrant(LeaseGrant { id, ttl_seconds }))?
            }
            "revoke" => {
                let id = lease(&mut args)?;
                self.apply(Command::LeaseRevoke(LeaseRevoke { id }))?
            }
            "expire" => {
                let id = lease(&mut args)?;
                let granted_at = Index(args.lookup_parse("granted_at")?.ok_or("granted_at")?);
                self.apply(Command::LeaseExpire(LeaseExpire { id, granted_at }))?
            }
            "alarm" => {
                let raise = args.next_pos().ok_or("raise or clear")?.value == "raise";
                let kind = match args.next_pos().ok_or("kind missing")?.value.as_str() {
                    "nospace" => AlarmKind::NoSpace,
                    _ => AlarmKind::Corrupt,
                };
                self.apply(Command::Alarm(AlarmChange { raise, member: MemberId(1), kind }))?
            }
            "checkpoint" => {
                let checkpoint = self.state.checkpoint();
                self.store.commit(&checkpoint)?;
                self.state.checkpointed(&checkpoint.meta);
                let (blocks, rows) = (checkpoint.blocks.len(), checkpoint.rows.len());
                format!("{blocks} blocks, {rows} rows, {} freed\n", checkpoint.freed.len())
            }
            "reopen" => {
                self.state = open(&self.store)?;
                self.state.check()?;
                format!("revision {}\n", self.state.view().revision())
            }
            "hold" => {
                self.held = Some(self.state.view());
                String::new()
            }
            "drop" => {
                self.held = None;
                String::new()
            }
            name => self.read(name, &mut args)?,
        };
        args.reject_rest()?;
        Ok(text)
    }
}

fn lease(args: &mut ArgumentConsumer<'_>) -> Outcome<LeaseId> {
    Ok(LeaseId(args.next_pos().ok_or("lease missing")?.value.parse()?))
}

fn range(args: &mut ArgumentConsumer<'_>) -> Outcome<KeyRange> {
    let key = args.next_pos().ok_or("key missing")?.value.clone();
    let end = args.lookup("end").map(|arg| arg.value.clone()).unwrap_or_default();
    Ok(KeyRange::new(Bytes::from(key), Bytes::from(end)))
}

fn put(args: &mut ArgumentConsumer<'_>) -> Outcome<Put> {
    let key = args.next_pos().ok_or("key missing")?.value.clone();
    let value = args.next_pos().map(|arg| arg.value.clone()).unwrap_or_default();
    Ok(Put {
        key: Bytes::from(key),
        value: Bytes::from(value),
        lease: LeaseId(args.lookup_parse("lease")?.unwrap_or(0)),
        prev_kv: args.lookup_parse("prev")?.unwrap_or(false),
        ignore_value: args.lookup_parse("ignore_value")?.unwrap_or(false),
        ignore_lease: args.lookup_parse("ignore_lease")?.unwrap_or(false),
    })
}

fn query(args: &mut ArgumentConsumer<'_>) -> Outcome<RangeQuery> {
    let mut query = RangeQuery::latest(range(args)?);
    query.revision = args.lookup_parse("revision")?.map(Revision);
    query.limit = args.lookup_parse("limit")?;
    query.keys_only = args.lookup_parse("keys_only")?.unwrap_or(false);
    query.count_only = args.lookup_parse("count_only")?.unwrap_or(false);
    query.filter.min_mod = args.lookup_parse("min_mod")?.unwrap_or(0);
    query.filter.max_mod = args.lookup_parse("max_mod")?.unwrap_or(0);
    query.filter.min_create = args.lookup_parse("min_create")?.unwrap_or(0);
    query.filter.max_create = args.lookup_parse("max_create")?.unwrap_or(0);
    query.sort_target = match args.lookup("by").map(|arg| arg.value.as_str()) {
        Some("version") => SortTarget::Version,
        Some("create") => SortTarget::Create,
        Some("mod") => SortTarget::Mod,
        Some("value") => SortTarget::Value,
        _ => SortTarget::Key,
    };
    query.sort_order = match args.lookup("order").map(|arg| arg.value.as_str()) {
        Some("ascend") => SortOrder::Ascend,
        Some("descend") => SortOrder::Descend,
        _ => SortOrder::None,
    };
    Ok(query)
}

/// `if <target> <key> <operator> <given> [and ..] then <op> [; ..] else <op> [; ..]`; an operation is
/// `put k v`, `get k [end] [@revision]`, `delete k [end]` or `{ txn }`; an end of `*` is open.
fn txn(args: &mut ArgumentConsumer<'_>) -> Outcome<Txn> {
    let text = &args.next_pos().ok_or("transaction missing")?.value;
    let tokens: Vec<&str> = text.split_whitespace().collect();
    let mut at = 0;
    let txn = parse_txn(&tokens, &mut at)?;
    if at < tokens.len() { Err(format!("what is {}?", tokens[at]).into()) } else { Ok(txn) }
}

fn parse_txn(tokens: &[&str], at: &mut usize) -> Outcome<Txn> {
    let mut txn = Txn::default();
    while let Some(word) = tokens.get(*at) {
        match *word {
            "if" | "and" => {
                let words = tokens.get(*at + 1..*at + 5).ok_or("comparison too short")?;
                txn.compares.push(parse_compare(words)?);
                *at += 5;
            }
            "then" => parse_branch(tokens, at, &mut txn.success)?,
            "else" => parse_branch(tokens, at, &mut txn.failure)?,
            _ => break,
        }
    }
    Ok(txn)
}

fn parse_branch(tokens: &[&str], at: &mut usize, branch: &mut Vec<TxnOp>) -> Outcome<()> {
    loop {
        *at += 1;
        if tokens.get(*at) == Some(&"{") {
            *at += 1;
            branch.push(TxnOp::Txn(parse_txn(tokens, at)?));
            *at += 1;
        } else {
            let rest = &tokens[*at..];
            let stops = |token: &&str| [";", "}", "else", "then"].contains(token);
            let words = rest.iter().position(stops).unwrap_or(rest.len());
            if words == 0 {
                return Ok(());
            }
            branch.push(parse_op(&rest[..words])?);
            *at += words;
        }
        if tokens.get(*at) != Some(&";") {
            return Ok(());
        }
    }
}

fn parse_op(words: &[&str]) -> Outcome<TxnOp> {
    let bytes = |text: &str| Bytes::from(text.to_owned());
    let end = |word: Option<&&str>| match word.copied() {
        None => Bytes::new(),
        Some("*") => Bytes::from_static(b"\0"),
        Some(end) => bytes(end),
    };
    let (words, revision) = match words {
        [words @ .., last] if last.starts_with('@') => (words, Some(Revision(last[1..].parse()?))),
        words => (words, None),
    };
    match words {
        ["put", key, rest @ ..] => Ok(TxnOp::Put(Put {
            key: bytes(key),
            value: rest.first().map(|value| bytes(value)).unwrap_or_default(),
            lease: LeaseId(rest.get(1).map_or(Ok(0), |lease| lease.parse())?),
            prev_kv: false,
            ignore_value: rest.is_empty(),
            ignore_lease: false,
        })),
        ["get", key, rest @ ..] => {
            let range = KeyRange::new(bytes(key), end(rest.first()));
            Ok(TxnOp::Range(RangeQuery { revision, ..RangeQuery::latest(range) }))
        }
        ["delete", key, rest @ ..] => {
            let range = KeyRange::new(bytes(key), end(rest.first()));
            Ok(TxnOp::DeleteRange(DeleteRange { range, prev_kv: false }))
        }
        _ => Err(format!("what is {words:?}?").into()),
    }
}

fn parse_compare(words: &[&str]) -> Outcome<Compare> {
    let (key, end) = words[1].split_once("..").unwrap_or((words[1], ""));
    let end = if end == "*" { "\0" } else { end };
    let range = KeyRange::new(Bytes::from(key.to_owned()), Bytes::from(end.to_owned()));
    let operator = match words[2] {
        "=" => CompareOperator::Equal,
        "!=" => CompareOperator::NotEqual,
        ">" => CompareOperator::Greater,
        "<" => CompareOperator::Less,
        _ => CompareOperator::Unknown,
    };
    let number = || words[3].parse::<i64>();
    let target = match words[0] {
        "version" => CompareTarget::Version(number()?),
        "create" => CompareTarget::Create(number()?),
        "mod" => CompareTarget::Mod(number()?),
        "lease" => CompareTarget::Lease(number()?),
        "value" => CompareTarget::Value(Bytes::from(words[3].to_owned())),
        _ => CompareTarget::Unknown,
    };
    Ok(Compare { range, operator, target })
}

fn kv(kv: &KeyValue) -> String {
    let (key, value) = (String::from_utf8_lossy(&kv.key), String::from_utf8_lossy(&kv.value));
    let lease =
        if kv.lease == LeaseId(0) { String::new() } else { format!(" lease={}", kv.lease.0) };
    let (create, modified, version) = (kv.create_revision, kv.mod_revision, kv.version);
    format!("{key}={value:?} create={create} mod={modified} version={version}{lease}")
}

fn write_range(text: &mut String, answer: &RangeAnswer) -> std::fmt::Result {
    writeln!(text, "count {}{}", answer.count, if answer.more { ", more" } else { "" })?;
    answer.kvs.iter().try_for_each(|found| writeln!(text, "  {}", kv(found)))
}

fn write_response(text: &mut String, response: &Response) -> std::fmt::Result {
    match response {
        Response::Put(answer) => {
            writeln!(text, "put")?;
            answer.prev_kv.iter().try_for_each(|prev| writeln!(text, "  before: {}", kv(prev)))
        }
        Response::DeleteRange(answer) => {
            writeln!(text, "deleted {}", answer.deleted)?;
            answer.prev_kvs.iter().try_for_each(|prev| writeln!(text, "  before: {}", kv(prev)))
        }
        Response::Txn(answer) => write_txn(text, answer, 0),
        other => writeln!(text, "{other:?}"),
    }
}

fn write_txn(text: &mut String, answer: &TxnAnswer, depth: usize) -> std::fmt::Result {
    let branch = if answer.succeeded { "then" } else { "else" };
    writeln!(text, "{:depth$}{branch} at {}", "", answer.revision)?;
    for response in &answer.responses {
        match response {
            OpAnswer::Range(answer, revision) => {
                write!(text, "{:depth$}  range at {revision}: ", "")?;
                write_range(text, answer)?;
            }
            OpAnswer::Put(_, revision) => writeln!(text, "{:depth$}  put at {revision}", "")?,
            OpAnswer::DeleteRange(answer, revision) => {
                writeln!(text, "{:depth$}  deleted {} at {revision}", "", answer.deleted)?;
            }
            OpAnswer::Txn(answer) => write_txn(text, answer, depth + 2)?,
        }
    }
    Ok(())
}
