//! Transcripts of the etcd API: commands, and the whole answers that a server gave.
//!
//! A transcript is a goldenscript (`tests/api/scripts/**`). The same commands run against kvd and
//! against a real etcd, over gRPC. Answers are printed whole: only ids, terms, Raft indexes and
//! file sizes are masked. The commands, with `[…]` for what may be left out:
//!
//! ```text
//! put KEY [VALUE] [size=BYTES] [lease=ID] [prev_kv] [ignore_value] [ignore_lease]
//! range KEY [END] [prefix] [rev=N] [limit=N] [target=VALUE] [order=DESCEND] [serializable]
//!       [keys_only] [count_only] [min_mod=N] [max_mod=N] [min_create=N] [max_create=N]
//! range_stream …               as range; prints every message
//! del KEY [END] [prefix] [prev_kv]
//! > txn [if {COMPARE; …}] [then {OP; …}] [else {OP; …}]
//! compact N [physical]         hashkv [N]        status
//! grant ID ttl=SECONDS         revoke ID         member_list
//! alarm ACTION TYPE            call PATH         an empty message to any method
//! restart                      the server is killed and started again on its data
//! ```
//!
//! Any `KEY` may be repeated up to `key_size=BYTES`. `COMPARE` is `version(KEY) = 0`, with `create`, `mod`, `value`, `lease`, a range as `(KEY END)`,
//! and `!=`, `>`, `<`. `OP` is a put, range, del or txn as above, `unset` for an operation without
//! content, `repeat N {…}` with `#` counting in keys and values, or `nest N {…}` for N
//! transactions within each other. Bytes are written `"\xff"`.
//!
//! A command tagged `[kvd]` would harm a real etcd and is not sent to it.

mod print;
mod request;
pub mod transcript;
mod txn;
mod word;

use std::error::Error;

use bytes::Bytes;
use kvd_proto::etcdserverpb as pb;
use kvd_proto::etcdserverpb::cluster_client::ClusterClient;
use kvd_proto::etcdserverpb::kv_client::KvClient;
use kvd_proto::etcdserverpb::lease_client::LeaseClient;
use kvd_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};

use crate::cluster::process::{Cluster, Program};

use self::print::Printer;
use self::request::Arguments;

/// What kvd's log may warn of: openraft hears of its own first, empty vote after the next one.
const HARMLESS: [&str; 1] = ["A message will be ignored because Leader vote changed"];

/// Runs one script against one server of its own.
pub struct Runner {
    program: Program,
    runtime: Runtime,
    cluster: Cluster,
    channel: Channel,
    printer: Printer,
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
        Ok(Self { program: program.clone(), runtime, cluster, channel, printer })
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

    fn lease(&self) -> LeaseClient<Channel> {
        LeaseClient::new(self.channel.clone())
    }

    fn maintenance(&self) -> MaintenanceClient<Channel> {
        MaintenanceClient::new(self.channel.clone())
    }

    fn put(&mut self, arguments: Arguments) -> Output {
        let request = request::put(arguments)?;
        let answer = self.runtime.block_on(self.kv().put(request));
        Ok(self.printer.answer(answer, Printer::put))
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

    fn grant(&mut self, mut arguments: Arguments) -> Output {
        let ttl = arguments.keyed("ttl")?.ok_or("grant needs ttl=SECONDS")?;
        let id = arguments.required("lease")?;
        arguments.finish()?;
        let request = pb::LeaseGrantRequest { ttl, id };
        let answer = self.runtime.block_on(self.lease().lease_grant(request));
        Ok(self.printer.answer(answer, Printer::grant))
    }

    fn revoke(&mut self, mut arguments: Arguments) -> Output {
        let id = arguments.required("lease")?;
        arguments.finish()?;
        let answer =
            self.runtime.block_on(self.lease().lease_revoke(pb::LeaseRevokeRequest { id }));
        Ok(self.printer.answer(answer, Printer::revoke))
    }

    fn member_list(&mut self, arguments: &Arguments) -> Output {
        arguments.finish()?;
        let mut client = ClusterClient::new(self.channel.clone());
        let request = pb::MemberListRequest { linearizable: true };
        let answer = self.runtime.block_on(client.member_list(request));
        Ok(self.printer.answer(answer, Printer::member_list))
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
        match command.name.as_str() {
            "put" => self.put(arguments),
            "range" => self.range(arguments),
            "range_stream" => self.range_stream(arguments),
            "del" => self.delete(arguments),
            "txn" => self.txn(""),
            "compact" => self.compact(arguments),
            "hashkv" => self.hash_kv(arguments),
            "status" => self.status(&arguments),
            "alarm" => self.alarm(arguments),
            "grant" => self.grant(arguments),
            "revoke" => self.revoke(arguments),
            "member_list" => self.member_list(&arguments),
            "call" => self.call(arguments),
            "restart" => self.restart(),
            name => Err(format!("no command {name}").into()),
        }
    }
}

fn connect(runtime: &Runtime, cluster: &Cluster) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(Bytes::from(cluster.endpoints().concat()))?;
    // The window must not be what limits a request that is too large.
    let endpoint = endpoint.initial_stream_window_size(1 << 22);
    Ok(runtime.block_on(endpoint.connect())?)
}

/// What stands before the `=` of a flag.
fn name_of(flag: &str) -> &str {
    flag.split('=').next().unwrap_or(flag)
}
