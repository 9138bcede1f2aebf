//! `elect`: leads an election until interrupted, or while a command runs; or tells who leads (etcdctl.md §3).

use std::ffi::OsString;
use std::ops::ControlFlow;
use std::time::Duration;

use clap::Args;
use kvd_client::Client;
use kvd_client::concurrency::{Election, Session};
use kvd_client::proto::etcdserverpb::RangeResponse;
use kvd_client::proto::mvccpb::KeyValue;

use super::lock::hold;
use super::{Outcome, bytes_of};
use crate::failure::Failure;
use crate::global::Global;
use crate::held::{self, Signals};
use crate::print::{self, MESSAGE_FORMATS, Reply};

/// How long the leadership lasts when its leader is lost; etcdctl's.
const TTL: Duration = Duration::from_secs(60);

/// Lead an election until interrupted, or until a command has ended; or tell who leads.
///
/// The command and everything in its process group is ended before somebody else can lead. It finds the leader's key in
/// `KVD_ELECTION_KEY`, and in `KVD_FENCING_TOKEN` a number that is greater than those of all leaders before.
#[derive(Args)]
pub(crate) struct Elect {
    /// The election's name, and what to say as its leader
    #[arg(value_name = "NAME [PROPOSAL]")]
    arguments: Vec<OsString>,
    /// What to run while leading
    #[arg(last = true, value_name = "COMMAND [ARGUMENT]...")]
    command: Vec<OsString>,
    /// Tell who leads, and who leads after that
    #[arg(long, short)]
    listen: bool,
}

impl Elect {
    pub(super) async fn run(self, global: &Global) -> Result<Outcome, Failure> {
        let (name, proposal) = match self.arguments.as_slice() {
            [name] => (name, None),
            [name, proposal] => (name, Some(proposal)),
            _ => {
                let text =
                    "elect takes one election name argument and an optional proposal argument";
                return Err(Failure::bad_args(text));
            }
        };
        let election = Election::new(bytes_of(name));
        match proposal {
            _ if self.listen => listen(global, &global.client()?, &election).await,
            None => Err(Failure::bad_args("no proposal argument but -l not set")),
            Some(proposal) => lead(global, &election, proposal, &self.command).await,
        }
    }
}

async fn listen(global: &Global, client: &Client, election: &Election) -> Result<Outcome, Failure> {
    let mut signals = Signals::new()?;
    let mut leaders = election.observe(client);
    loop {
        let leader = tokio::select! {
            leader = leaders.next() => leader,
            _ = signals.next() => return Ok(Outcome::printed("")),
        };
        let Some(leader) = leader else { return Err(Failure::error("elect: observer lost")) };
        let leader = leader?;
        let kv = KeyValue {
            key: leader.key,
            value: leader.value,
            create_revision: leader.token.number(),
            mod_revision: leader.revision,
            ..Default::default()
        };
        let response = RangeResponse { kvs: vec![kv], count: 1, ..Default::default() };
        let reply = Reply::Get { response, values_only: false };
        if let ControlFlow::Break(outcome) = print::now(&reply.print(global))? {
            return Ok(outcome);
        }
    }
}

async fn lead(
    global: &Global,
    election: &Election,
    proposal: &OsString,
    command: &[OsString],
) -> Result<Outcome, Failure> {
    global.allow(&MESSAGE_FORMATS)?;
    let (client, mut signals) = (global.client()?, Signals::new()?);
    let session = Session::with_ttl(&client, TTL).await?;
    let leadership = tokio::select! {
        leadership = election.campaign(&session, bytes_of(proposal)) => {
            leadership.map_err(Failure::from)
        }
        _ = signals.next() => Err(Failure::error("context canceled")),
    };
    let leadership = match leadership {
        Ok(leadership) => leadership,
        // Nothing is left behind, as far as it can be reached.
        Err(failure) => {
            let _goes_by_itself = session.end().await;
            return Err(failure);
        }
    };
    let outcome = if command.is_empty() {
        hold(global, &client, leadership.key().clone(), &mut signals, leadership.lost()).await
    } else {
        let token = OsString::from(leadership.token().number().to_string());
        let key = String::from_utf8_lossy(leadership.key()).into_owned().into();
        let environment = [("KVD_ELECTION_KEY", key), (held::TOKEN, token)];
        held::run(&session, TTL, &mut signals, leadership.lost(), &environment, command).await
    };
    let resigned = leadership.resign().await;
    let ended = session.end().await;
    let outcome = outcome?;
    resigned?;
    ended?;
    Ok(outcome)
}
