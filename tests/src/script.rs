//! Transcripts of the etcd API: commands, and the whole answers that a server gave.
//!
//! A transcript is a goldenscript (`tests/api/scripts/**`). The same commands run against kvd and
//! against a real etcd, over gRPC. Answers are printed whole: only ids of members, terms, Raft
//! indexes, file sizes, remaining times and ids that a server chose are masked. The commands, with
//! `[…]` for what may be left out:
//!
//! ```text
//! put KEY [VALUE] [size=BYTES] [lease=ID] [prev_kv] [ignore_value] [ignore_lease]
//! puts COUNT …                as put, again and again, `#` counting in key and value;
//!                             prints the last answer
//! range KEY [END] [prefix] [rev=N] [limit=N] [target=VALUE] [order=DESCEND] [serializable]
//!       [keys_only] [count_only] [min_mod=N] [max_mod=N] [min_create=N] [max_create=N]
//! range_stream …               as range; prints every message
//! del KEY [END] [prefix] [prev_kv]
//! > txn [if {COMPARE; …}] [then {OP; …}] [else {OP; …}]
//! compact N [physical]         hashkv [N]        status
//! alarm ACTION TYPE            call PATH         an empty message to any method
//! member_list
//! member_add URLS [learner] | member_remove MEMBER | member_promote MEMBER | member_update MEMBER URLS
//!                                                  MEMBER is own, other, or a number; URLS has commas
//! restart                      the server is killed and started again on its data
//! ```
//!
//! Leases. `ID` may be `chosen`, the last one that the server chose.
//!
//! ```text
//! grant ID ttl=SECONDS         revoke ID         leases
//! ttl ID [keys] [above=N]      the remaining time is masked; `above` checks it
//! keepalive ID… [stream=NAME]  one stream, a request after the answer to the one before;
//! keepalive_end NAME           kept open under its name until here
//! until_ttl ID below=N         asks until less remains; -1 when the lease is gone
//! until_gone KEY               reads until the key is deleted, prints the last answer
//! ```
//!
//! Locks and elections. `call=C` begins a call that waits and goes on; its answer is asked for later. `KEY` may be
//! `NAME/chosen`, of the lease that the server chose.
//!
//! ```text
//! lock NAME [lease=ID] [call=C] [timeout_ms=N]           unlock KEY
//! campaign NAME VALUE [lease=ID] [call=C] [timeout_ms=N] leader NAME
//! proclaim KEY VALUE rev=N [lease=ID]                    resign KEY rev=N [lease=ID]
//! answer C         give_up C        until_there KEY      reads until the key exists
//! observe S NAME   observed S       observe_close S      the next leader that the stream tells
//! ```
//!
//! Watches. `S` names a stream, each with a connection of its own. Commands that read wait for
//! what they print and leave everything else for later ones. What nobody prints fails the script
//! when it ends, so whatever must not come is shown by reading something after it.
//!
//! ```text
//! watch_open S [hasleader]     watch_close S     half_close S
//! watch S KEY [END] [prefix] [rev=N] [id=N] [prev_kv] [noput] [nodelete] [filter=N]
//!       [progress_notify] [fragment]             creates a watch, prints the reply
//! watch_many S COUNT …         as watch; prints the last reply
//! cancel S ID                  cancels it, prints the reply
//! watch_send S …   cancel_send S ID   progress_send S   empty_send S      only send
//! created S        canceled S ID      a reply to what was only sent, or the server's own
//! progress S                   asks until it is answered, as clients do (W20)
//! notified S ID [rev=N]        a periodic progress response; how many came before is open (W21)
//! events S COUNT [id=ID]       responses with so many events, as they came; watches by id
//! replay S COUNT [id=ID]       the same where grouping is open (W16): the events of each watch
//! fragments S COUNT bytes=N [id=ID]              one response in pieces shorter than N
//! until_canceled S ID          an event in each revision, any number, until the server cancels
//! unread S                     what was read before something that is printed already
//! ```
//!
//! Every response is checked besides (`watch/check.rs`); what is wrong is printed as `WRONG …`.
//!
//! Any `KEY` may be repeated up to `key_size=BYTES`. `COMPARE` is `version(KEY) = 0`, with
//! `create`, `mod`, `value`, `lease`, a range as `(KEY END)`, and `!=`, `>`, `<`. `OP` is a put, range, del or txn as above, `unset` for an operation without
//! content, `repeat N {…}` with `#` counting in keys and values, or `nest N {…}` for N
//! transactions within each other. Bytes are written `"\xff"`.
//!
//! A command tagged `[kvd]` would harm a real etcd and is not sent to it.

mod lease;
mod members;
mod print;
mod recipe;
mod request;
pub mod transcript;
mod txn;
mod watch;
mod word;

use std::collections::BTreeMap;
use std::error::Error;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use kvd_proto::etcdserverpb as pb;
use kvd_proto::etcdserverpb::kv_client::KvClient;
use kvd_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};

use crate::cluster::process::{Cluster, Program};

use self::print::Printer;
use self::request::Arguments;
use self::watch::Stream;

/// What kvd's log may warn of: openraft hears of its own first, empty vote after the next one.
const HARMLESS: [&str; 2] = [
    "A message will be ignored because Leader vote changed",
    // Scripts add members that nobody starts.
    "this member does not answer",
];

/// How long what a script waits for may take. Only a failing script waits so long.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs one script against one server of its own.
pub struct Runner {
    program: Program,
    runtime: Runtime,
    cluster: Cluster,
    channel: Channel,
    printer: Printer,
    streams: BTreeMap<String, Stream>,
    keepalives: BTreeMap<String, lease::KeepAlives>,
    /// Calls that wait in line.
    calls: BTreeMap<String, recipe::Call>,
    observed: BTreeMap<String, recipe::Observing>,
}

type Output = Result<String, Box<dyn Error>>;

impl Runner {
    /// Starts a server with one member for a script that asks for `flags`.
    pub fn start(program: &Program, flags: &[String]) -> anyhow::Result<Self> {
        // Elections within a tenth of a second: a script waits for no timing.
        let mut all: Vec<String> =
            ["--heartbeat-interval=10", "--election-timeout=100"].map(str::to_owned).into();
        if matches!(program, Program::Etcd(_)) {
            // What its disk holds after a power cut is not what scripts show.
            all.push("--unsafe-no-fsync".to_owned());
        }
        all.retain(|flag| !flags.iter().any(|given| name_of(given) == name_of(flag)));
        all.extend_from_slice(flags);
        let cluster = Cluster::start(program, 1, &all)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let channel = connect(&runtime, &cluster)?;
        let printer = Printer::default();
        Ok(Self {
            program: program.clone(),
            runtime,
            cluster,
            channel,
            printer,
            streams: BTreeMap::new(),
            keepalives: BTreeMap::new(),
            calls: BTreeMap::new(),
            observed: BTreeMap::new(),
        })
    }

    /// What kvd logged at warning level or above. A real etcd may say what it likes.
    pub fn unexpected_log_lines(&self) -> Vec<String> {
        match self.program {
            Program::Kvd(_) => self.cluster.unexpected_log_lines(&HARMLESS),
            Program::Etcd(_) => Vec::new(),
        }
    }

    fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    fn maintenance(&self) -> MaintenanceClient<Channel> {
        MaintenanceClient::new(self.channel.clone())
    }

    fn put(&mut self, arguments: Arguments) -> Output {
        let request = request::put(arguments)?;
        let answer = self.runtime.block_on(self.kv().put(request));
        Ok(self.printer.answer(answer, Printer::put))
    }

    /// The same put again and again, with `#` counting in key and value. Prints the last answer.
    fn puts(&mut self, mut arguments: Arguments) -> Output {
        let count: usize = arguments.required("count")?;
        let request = request::put(arguments)?;
        let mut printed = String::new();
        for at in 0..count {
            let mut request = request.clone();
            request.key = request::counted(&request.key, at);
            request.value = request::counted(&request.value, at);
            let answer = self.runtime.block_on(self.kv().put(request));
            printed = self.printer.answer(answer, Printer::put);
        }
        Ok(printed)
    }

    fn range(&mut self, arguments: Arguments) -> Output {
        let request = request::range(arguments)?;
        let answer = self.runtime.block_on(self.kv().range(request));
        Ok(self.printer.answer(answer, Printer::range))
    }

    fn range_stream(&mut self, arguments: Arguments) -> Output {
        let request = request::range(arguments)?;
        let mut kv = self.kv();
        let (messages, end) = self.runtime.block_on(async move {
            let mut messages = Vec::new();
            let mut stream = match kv.range_stream(request).await {
                Ok(response) => response.into_inner(),
                Err(status) => return (messages, Some(status)),
            };
            loop {
                match stream.message().await {
                    Ok(Some(message)) => messages.push(message),
                    Ok(None) => return (messages, None),
                    Err(status) => return (messages, Some(status)),
                }
            }
        });
        Ok(self.printer.stream(messages, end))
    }

    fn delete(&mut self, arguments: Arguments) -> Output {
        let request = request::delete(arguments)?;
        let answer = self.runtime.block_on(self.kv().delete_range(request));
        Ok(self.printer.answer(answer, Printer::delete))
    }

    fn txn(&mut self, text: &str) -> Output {
        let request = txn::txn(text)?;
        let answer = self.runtime.block_on(self.kv().txn(request));
        Ok(self.printer.answer(answer, Printer::txn))
    }

    fn compact(&mut self, mut arguments: Arguments) -> Output {
        let physical = arguments.flag("physical");
        let revision = arguments.required("revision")?;
        arguments.finish()?;
        let request = pb::CompactionRequest { revision, physical };
        let answer = self.runtime.block_on(self.kv().compact(request));
        Ok(self.printer.answer(answer, Printer::compact))
    }

    fn hash_kv(&mut self, mut arguments: Arguments) -> Output {
        let revision = arguments.optional()?.unwrap_or(0);
        arguments.finish()?;
        let request = pb::HashKvRequest { revision };
        let answer = self.runtime.block_on(self.maintenance().hash_kv(request));
        Ok(self.printer.answer(answer, Printer::hash_kv))
    }

    fn status(&mut self, arguments: &Arguments) -> Output {
        arguments.finish()?;
        let answer = self.runtime.block_on(self.maintenance().status(pb::StatusRequest {}));
        Ok(self.printer.answer(answer, Printer::status))
    }

    fn alarm(&mut self, mut arguments: Arguments) -> Output {
        let action = arguments.positional_text("action")?;
        let alarm = arguments.positional_text("alarm")?;
        arguments.finish()?;
        let action = pb::alarm_request::AlarmAction::from_str_name(&action);
        let alarm = pb::AlarmType::from_str_name(&alarm);
        let request = pb::AlarmRequest {
            action: action.ok_or("no such action")?.into(),
            member_id: 0,
            alarm: alarm.ok_or("no such alarm")?.into(),
        };
        let answer = self.runtime.block_on(self.maintenance().alarm(request));
        Ok(self.printer.answer(answer, Printer::alarm))
    }

    /// Sends an empty message to any method, also to one that does not exist.
    fn call(&mut self, mut arguments: Arguments) -> Output {
        let path = arguments.positional_text("path")?;
        arguments.finish()?;
        let path = path.parse::<http::uri::PathAndQuery>()?;
        let mut client = tonic::client::Grpc::new(self.channel.clone());
        let answer = self.runtime.block_on(async move {
            client.ready().await.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
            let request = tonic::Request::new(pb::StatusRequest {});
            let codec = tonic_prost::ProstCodec::<pb::StatusRequest, pb::StatusRequest>::default();
            client.unary(request, path, codec).await
        });
        Ok(self.printer.answer(answer, |_, _| "answered".to_owned()))
    }

    fn restart(&mut self) -> Output {
        let member = self.cluster.member(0);
        member.kill()?;
        member.restart()?;
        self.channel = connect(&self.runtime, &self.cluster)?;
        Ok("restarted".to_owned())
    }
}

impl goldenscript::Runner for Runner {
    fn run(&mut self, command: &goldenscript::Command) -> Output {
        if command.tags.contains("kvd") && matches!(self.program, Program::Etcd(_)) {
            return Ok("not sent to etcd".to_owned());
        }
        if let Some(text) = command.name.strip_prefix("txn ") {
            return self.txn(text);
        }
        let arguments = Arguments::of(command);
        let name = command.name.as_str();
        if lease::COMMANDS.contains(&name) {
            return self.lease_command(name, arguments);
        }
        if members::COMMANDS.contains(&name) {
            return self.member_command(name, arguments);
        }
        if recipe::COMMANDS.contains(&name) {
            return self.recipe_command(name, arguments);
        }
        if watch::COMMANDS.contains(&name) {
            return self.watch_command(name, arguments);
        }
        match name {
            "put" => self.put(arguments),
            "puts" => self.puts(arguments),
            "range" => self.range(arguments),
            "range_stream" => self.range_stream(arguments),
            "del" => self.delete(arguments),
            "txn" => self.txn(""),
            "compact" => self.compact(arguments),
            "hashkv" => self.hash_kv(arguments),
            "status" => self.status(&arguments),
            "alarm" => self.alarm(arguments),
            "call" => self.call(arguments),
            "restart" => self.restart(),
            _ => Err(format!("no command {name}").into()),
        }
    }

    fn end_script(&mut self) -> Result<(), Box<dyn Error>> {
        Ok(self.finish_streams()?)
    }
}

fn connect(runtime: &Runtime, cluster: &Cluster) -> anyhow::Result<Channel> {
    // The window must not be what limits a request that is too large.
    connect_with_window(runtime, cluster, 1 << 22)
}

/// A connection for one stream. Its window is small, so that a server soon has to wait for a
/// client that does not read.
fn connect_for_watch(runtime: &Runtime, cluster: &Cluster) -> anyhow::Result<Channel> {
    connect_with_window(runtime, cluster, 1 << 16)
}

fn connect_with_window(
    runtime: &Runtime,
    cluster: &Cluster,
    bytes: u32,
) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(Bytes::from(cluster.endpoints().concat()))?;
    let endpoint = endpoint.initial_stream_window_size(bytes);
    Ok(runtime.block_on(endpoint.connect())?)
}

/// Runs `waiting`, and fails the script when it takes too long.
fn patiently<T>(
    runtime: &Runtime,
    what: &str,
    waiting: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    let waited = runtime.block_on(async { tokio::time::timeout(PATIENCE, waiting).await });
    waited.unwrap_or_else(|_| Err(format!("waited too long for {what}")))
}

/// What stands before the `=` of a flag.
fn name_of(flag: &str) -> &str {
    flag.split('=').next().unwrap_or(flag)
}
