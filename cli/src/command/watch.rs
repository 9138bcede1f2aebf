//! `watch`: prints what happens to keys, and runs a command for every event (etcdctl.md §3).
//!
//! Ends when the server ends the watch. With `-i`, watches are asked for on stdin, one a line; they
//! share one stream, as their progress does.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::io::{self, BufRead};
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStringExt;
use std::thread;

use bytes::Bytes;
use clap::error::{ContextKind, ErrorKind};
use clap::{Args, Command, FromArgMatches};
use kvd_client::proto::etcdserverpb::{WatchCreateRequest, WatchResponse};
use kvd_client::{Client, Error, WatchAnswer, WatchStream};
use tokio::sync::mpsc;

use super::execute::execute;
use super::get::range;
use super::words::words;
use super::{Outcome, bytes_of, number};
use crate::failure::Failure;
use crate::global::Global;
use crate::print::{self, MESSAGE_FORMATS, Reply};
use crate::switches;

const ARGUMENTS: &str = "bad number of arguments";
const CONFLICT: &str = "bad number of arguments (found conflicting environment key)";
const NO_COMMAND: &str = "bad number of arguments (found separator --, but no commands)";
const PREFIX_AND_END: &str = "`range_end` and `--prefix` are mutually exclusive";

/// As typed.
#[derive(Args)]
pub(crate) struct Watch {
    /// First key, and the key to stop before
    #[arg(value_name = "KEY [END]")]
    keys: Vec<OsString>,
    /// What to run for every event
    #[arg(last = true, value_name = "COMMAND [ARGUMENT]...")]
    command: Vec<OsString>,
    /// Read watches from stdin
    #[arg(long, short)]
    interactive: bool,
    /// All keys with the prefix
    #[arg(long)]
    prefix: bool,
    /// Begin at this revision; 0 is the next one
    #[arg(long, default_value = "0", hide_default_value = true, allow_negative_numbers = true)]
    rev: String,
    /// Print the pair that was there before, too
    #[arg(long)]
    prev_kv: bool,
    /// Print now and then how far the watch is
    #[arg(long)]
    progress_notify: bool,
}

/// The range that the environment names.
struct Environment {
    key: Option<OsString>,
    range_end: Option<OsString>,
}

/// A watch to be asked for, and what to run for its events.
struct Wanted {
    request: WatchCreateRequest,
    command: Vec<OsString>,
}

impl Watch {
    pub(super) async fn run(self, global: &Global) -> Result<Outcome, Failure> {
        let environment = Environment::read()?;
        if self.interactive {
            global.allow(&MESSAGE_FORMATS)?;
            return Session::new(global, environment)?.run().await;
        }
        let separator_last = std::env::args_os().next_back().is_some_and(|last| last == "--");
        let revision = self.revision()?;
        let wanted = self.wanted(&environment, revision, separator_last)?;
        global.allow(&MESSAGE_FORMATS)?;
        let wanted = wanted.map_err(Failure::bad_args)?;
        let mut stream = open(&global.client()?, wanted.request).await?;
        loop {
            let response = match stream.next().await {
                Ok(Some(WatchAnswer::Created(_))) => continue,
                Ok(Some(WatchAnswer::Events(response) | WatchAnswer::Progress(response))) => {
                    response
                }
                Ok(Some(WatchAnswer::Ended { reason, response })) => {
                    if let ControlFlow::Break(outcome) = end(global, &reason, response)? {
                        return Ok(outcome);
                    }
                    break;
                }
                Ok(None) => break,
                Err(error) => {
                    eprintln!("watch was canceled ({error})");
                    break;
                }
            };
            if let ControlFlow::Break(outcome) = show(global, response, &wanted.command).await? {
                return Ok(outcome);
            }
        }
        Err(Failure::interrupted("watch is canceled by the server"))
    }

    /// Refused only here, so that a line on stdin is refused in the same words.
    fn revision(&self) -> Result<i64, Failure> {
        number::decimal(&self.rev).map_err(|reason| {
            Failure::error(format!("invalid argument {:?} for \"--rev\" flag: {reason}", self.rev))
        })
    }

    /// What is meant. The inner error is one that a line on stdin survives.
    fn wanted(
        self,
        environment: &Environment,
        start_revision: i64,
        separator_last: bool,
    ) -> Result<Result<Wanted, &'static str>, Failure> {
        if self.command.is_empty() && separator_last {
            return Err(Failure::bad_args(NO_COMMAND));
        }
        let keys = match &environment.key {
            Some(_) if !self.keys.is_empty() => return Err(Failure::bad_args(CONFLICT)),
            Some(key) => [key].into_iter().chain(&environment.range_end).cloned().collect(),
            None => self.keys,
        };
        let (key, range_end) = match keys.as_slice() {
            [] => return Err(Failure::bad_args(ARGUMENTS)),
            [_, _] if self.prefix => return Ok(Err(PREFIX_AND_END)),
            [key, range_end] => (bytes_of(key), bytes_of(range_end)),
            // Of three and more keys only the first counts, as for etcdctl.
            [key, ..] if self.prefix => range(std::slice::from_ref(key), true, false, ARGUMENTS)?,
            [key, ..] => (bytes_of(key), Bytes::new()),
        };
        let request = WatchCreateRequest {
            key,
            range_end,
            start_revision,
            progress_notify: self.progress_notify,
            prev_kv: self.prev_kv,
            filters: Vec::new(),
            watch_id: 0,
            fragment: false,
        };
        Ok(Ok(Wanted { request, command: self.command }))
    }
}

impl Environment {
    fn read() -> Result<Self, Failure> {
        let set = |name: &str| {
            let value = |tool: &str| std::env::var_os(format!("{tool}_{name}"));
            value("KVCTL").or_else(|| value("ETCDCTL")).filter(|value| !value.is_empty())
        };
        let (key, range_end) = (set("WATCH_KEY"), set("WATCH_RANGE_END"));
        match (&key, &range_end) {
            (None, Some(end)) => {
                let end = crate::quote::quote(&bytes_of(end));
                let text =
                    format!("ETCDCTL_WATCH_KEY is empty but got ETCDCTL_WATCH_RANGE_END={end}");
                Err(Failure::bad_args(text))
            }
            _ => Ok(Self { key, range_end }),
        }
    }
}

/// Watches that are asked for on stdin.
struct Session<'a> {
    global: &'a Global,
    client: Client,
    environment: Environment,
    stream: Option<WatchStream>,
    /// What to run for the watches that were asked for and not answered yet, oldest first.
    asked: VecDeque<Vec<OsString>>,
    /// What to run for the watches there are, by their numbers.
    watches: BTreeMap<i64, Vec<OsString>>,
}

impl<'a> Session<'a> {
    fn new(global: &'a Global, environment: Environment) -> Result<Self, Failure> {
        let client = global.client()?;
        let (asked, watches) = (VecDeque::new(), BTreeMap::new());
        Ok(Self { global, client, environment, stream: None, asked, watches })
    }

    async fn run(mut self) -> Result<Outcome, Failure> {
        let mut lines = stdin_lines();
        loop {
            tokio::select! {
                line = lines.recv() => match line {
                    Some(Ok(line)) => self.obey(&line).await?,
                    Some(Err(reason)) => return Err(Failure::invalid_input(reason)),
                    None => return Err(Failure::invalid_input("stdin could not be read")),
                },
                answer = next(&mut self.stream) => {
                    if let ControlFlow::Break(outcome) = self.tell(answer).await? {
                        return Ok(outcome);
                    }
                }
            }
        }
    }

    async fn obey(&mut self, line: &[u8]) -> Result<(), Failure> {
        let shown = String::from_utf8_lossy(line);
        let words = words(line).unwrap_or_default();
        match words.first().map(Vec::as_slice) {
            None => eprintln!("Invalid command: {shown} (watch and progress supported)"),
            Some(b"watch") if words.len() == 1 && self.environment.key.is_none() => {
                eprintln!("Invalid command {shown} (command type or key is not provided)");
            }
            Some(b"watch") => {
                let watch = parse(&words[1..])?;
                let separator_last = words.last().is_some_and(|word| word == b"--");
                let revision = watch.revision().map_err(|failure| failure.into_bad_args())?;
                match watch.wanted(&self.environment, revision, separator_last)? {
                    Ok(wanted) => self.ask(wanted).await?,
                    Err(reason) => eprintln!("Invalid command {shown} ({reason})"),
                }
            }
            // Without watches there is no progress.
            Some(b"progress") => {
                if let Some(stream) = &self.stream {
                    stream.request_progress().await?;
                }
            }
            Some(_) => eprintln!("Invalid command {shown} (only support watch)"),
        }
        Ok(())
    }

    async fn ask(&mut self, wanted: Wanted) -> Result<(), Failure> {
        match &self.stream {
            Some(stream) => stream.create(wanted.request).await?,
            None => self.stream = Some(open(&self.client, wanted.request).await?),
        }
        self.asked.push_back(wanted.command);
        Ok(())
    }

    async fn tell(
        &mut self,
        answer: Result<Option<WatchAnswer>, Error>,
    ) -> Result<ControlFlow<Outcome>, Failure> {
        match answer {
            Ok(Some(WatchAnswer::Created(response))) => {
                let command = self.asked.pop_front().unwrap_or_default();
                self.watches.insert(response.watch_id, command);
            }
            Ok(Some(WatchAnswer::Ended { reason, response })) => {
                if response.created {
                    self.asked.pop_front();
                }
                self.watches.remove(&response.watch_id);
                return end(self.global, &reason, response);
            }
            Ok(Some(WatchAnswer::Events(response))) => {
                let command = self.watches.get(&response.watch_id).cloned().unwrap_or_default();
                return show(self.global, response, &command).await;
            }
            Ok(Some(WatchAnswer::Progress(response))) => {
                // The progress of all is told to each.
                let concerned = if response.watch_id == -1 { self.watches.len() } else { 1 };
                for _ in 0..concerned {
                    let shown = show(self.global, response.clone(), &[]).await?;
                    if shown.is_break() {
                        return Ok(shown);
                    }
                }
            }
            Ok(None) => self.lose("the server closed the stream"),
            Err(error) => self.lose(&error.to_string()),
        }
        Ok(ControlFlow::Continue(()))
    }

    /// All watches end with their stream; the next one opens another.
    fn lose(&mut self, reason: &str) {
        for _ in 0..self.watches.len() + self.asked.len() {
            eprintln!("watch was canceled ({reason})");
        }
        self.watches.clear();
        self.asked.clear();
        self.stream = None;
    }
}

/// Never, while there is no stream.
async fn next(stream: &mut Option<WatchStream>) -> Result<Option<WatchAnswer>, Error> {
    match stream {
        Some(stream) => stream.next().await,
        None => std::future::pending().await,
    }
}

async fn open(client: &Client, request: WatchCreateRequest) -> Result<WatchStream, Failure> {
    client.watch_stream(request).await.map_err(|error| Failure::from(error).into_bad_connection())
}

/// Prints what happened, then runs the command for each event, one after the other.
async fn show(
    global: &Global,
    response: WatchResponse,
    command: &[OsString],
) -> Result<ControlFlow<Outcome>, Failure> {
    let mut printed = Vec::new();
    if response.events.is_empty() {
        let revision = response.header.unwrap_or_default().revision;
        printed.extend_from_slice(format!("progress notify: {revision}\n").as_bytes());
    }
    let reply = Reply::Watch(response);
    printed.extend_from_slice(&reply.print(global));
    if let ControlFlow::Break(outcome) = print::now(&printed)? {
        return Ok(ControlFlow::Break(outcome));
    }
    let Reply::Watch(response) = reply else { return Ok(ControlFlow::Continue(())) };
    if let Some((program, arguments)) = command.split_first() {
        let revision = response.header.unwrap_or_default().revision;
        for event in &response.events {
            if let Err(line) = execute(program, arguments, revision, event).await {
                let stderr = vec![line];
                return Ok(ControlFlow::Break(Outcome { stdout: Vec::new(), stderr, code: 1 }));
            }
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// Says why a watch ended. The message of a watch that never was says nothing to etcdctl.
fn end(
    global: &Global,
    reason: &kvd_client::WatchEnd,
    response: WatchResponse,
) -> Result<ControlFlow<Outcome>, Failure> {
    eprintln!("watch was canceled ({reason})");
    let never_was = WatchResponse { canceled: true, ..Default::default() };
    let response = if response.created { never_was } else { response };
    print::now(&Reply::Watch(response).print(global))
}

/// A line on stdin, without its first word. One that does not parse ends the command.
fn parse(arguments: &[Vec<u8>]) -> Result<Watch, Failure> {
    let syntax = Watch::augment_args(Command::new("watch").no_binary_name(true));
    let syntax = switches::take_values(syntax);
    let arguments = arguments.iter().map(|word| OsString::from_vec(word.clone()));
    let matches = syntax.try_get_matches_from(arguments);
    matches.and_then(|matches| Watch::from_arg_matches(&matches)).map_err(|error| {
        match (error.kind(), error.get(ContextKind::InvalidArg)) {
            (ErrorKind::UnknownArgument, Some(flag)) => {
                Failure::bad_args(format!("unknown flag: {flag}"))
            }
            _ => Failure::from_syntax(&error).into_bad_args(),
        }
    })
}

/// Reads stdin on a thread of its own, for reading it blocks. The thread ends with the process. At
/// most one line waits.
fn stdin_lines() -> mpsc::Receiver<Result<Vec<u8>, String>> {
    let (lines, queue) = mpsc::channel(1);
    thread::spawn(move || {
        let mut input = io::stdin().lock();
        loop {
            let mut line = Vec::new();
            let read = input.read_until(b'\n', &mut line);
            // Input that ends within a line may have lost its end.
            let line = match read {
                Ok(_) if line.pop() == Some(b'\n') => Ok(line),
                Ok(_) => Err("error reading watch request line: EOF".to_owned()),
                Err(error) => Err(format!("error reading watch request line: {error}")),
            };
            let last = line.is_err();
            if lines.blocking_send(line).is_err() || last {
                return;
            }
        }
    });
    queue
}
