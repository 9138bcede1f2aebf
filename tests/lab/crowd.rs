//! A crowd of clients, each with connections of its own, and what became of every call.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use kvd_client::proto::etcdserverpb::{RangeRequest, ResponseHeader};
use kvd_client::{Client, Error, Options};
use tokio::runtime::Builder;
use tokio::task::JoinSet;

use crate::network::Network;

/// Between two calls of one client.
const PAUSE: Duration = Duration::from_millis(100);

/// What a client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A linearizable read.
    Read,
    /// A serializable one.
    Look,
    /// A put.
    Put,
    /// A put with a request id.
    Once,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Success,
    Unknown,
    Failure,
}

/// One call.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) client: usize,
    pub(crate) kind: Kind,
    pub(crate) begun: Instant,
    pub(crate) ended: Option<(Instant, End)>,
    /// Who answered.
    pub(crate) member: u64,
    /// What a failure said.
    pub(crate) said: String,
}

/// See the module; calls until dropped or told to stop.
pub(crate) struct Crowd {
    calls: Arc<Mutex<Vec<Call>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Crowd {
    /// So many clients of these endpoints, in the network's namespace of clients.
    pub(crate) fn start(network: &Network, endpoints: Vec<String>, clients: usize) -> Result<Self> {
        let (calls, stop) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let crowd = (Arc::clone(&calls), Arc::clone(&stop));
        let thread = network.spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async move {
                let mut tasks = JoinSet::new();
                for client in 0..clients {
                    let options = Options::new(endpoints.clone());
                    tasks.spawn(call(client, Client::lazy(options)?, crowd.clone()));
                }
                while let Some(ended) = tasks.join_next().await {
                    ended?;
                }
                Ok(())
            })
        })?;
        Ok(Self { calls, stop, thread: Some(thread) })
    }

    /// All calls that were under way at some time since then.
    pub(crate) fn since(&self, since: Instant) -> Vec<Call> {
        let calls = self.lock();
        let late = calls.iter().filter(|call| call.ended.is_none_or(|(ended, _)| ended >= since));
        late.cloned().collect()
    }

    /// Of the clients, how many each member served last; by the last serializable read of each that began since then.
    pub(crate) fn served_by(&self, since: Instant) -> BTreeMap<u64, usize> {
        let mut last = BTreeMap::new();
        for call in self.lock().iter() {
            let has_answer = matches!(call.ended, Some((_, End::Success)));
            if call.kind == Kind::Look && call.begun >= since && has_answer {
                last.insert(call.client, call.member);
            }
        }
        let mut served = BTreeMap::new();
        for member in last.into_values() {
            *served.entry(member).or_insert(0) += 1;
        }
        served
    }

    /// Lets every client end its call.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("it was not stopped before")?;
        thread.join().map_err(|_| anyhow!("the crowd panicked"))?
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Call>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

type Shared = (Arc<Mutex<Vec<Call>>>, Arc<AtomicBool>);

async fn call(number: usize, client: Client, (calls, stop): Shared) {
    let kinds = [Kind::Look, Kind::Read, Kind::Put, Kind::Once];
    // It is asked for at the beginning, when all is well; without it such a call would end as unknown.
    let with_ids = client.exactly_once().await.unwrap_or_else(|_| client.clone());
    for turn in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let kind = kinds[turn % kinds.len()];
        let at = begin(&calls, number, kind);
        let client = if kind == Kind::Once { &with_ids } else { &client };
        let answer = ask(kind, number, turn, client).await;
        end(&calls, at, answer);
        tokio::time::sleep(PAUSE).await;
    }
}

fn begin(calls: &Mutex<Vec<Call>>, client: usize, kind: Kind) -> usize {
    let mut calls = calls.lock().unwrap_or_else(PoisonError::into_inner);
    let (begun, said) = (Instant::now(), String::new());
    calls.push(Call { client, kind, begun, ended: None, member: 0, said });
    calls.len() - 1
}

fn end(calls: &Mutex<Vec<Call>>, at: usize, answer: Result<ResponseHeader, Error>) {
    let mut calls = calls.lock().unwrap_or_else(PoisonError::into_inner);
    let call = &mut calls[at];
    let end = match answer {
        Ok(header) => {
            call.member = header.member_id;
            End::Success
        }
        Err(error) => {
            call.said = error.to_string();
            if error.outcome_is_unknown() { End::Unknown } else { End::Failure }
        }
    };
    call.ended = Some((Instant::now(), end));
}

async fn ask(
    kind: Kind,
    number: usize,
    turn: usize,
    client: &Client,
) -> Result<ResponseHeader, Error> {
    let key = format!("crowd/{number}");
    let header = match kind {
        Kind::Put | Kind::Once => client.put(key, turn.to_string()).await?.header,
        Kind::Read | Kind::Look => {
            let serializable = kind == Kind::Look;
            let range = RangeRequest { key: key.into(), serializable, ..Default::default() };
            client.range(range).await?.header
        }
    };
    Ok(header.unwrap_or_default())
}

/// Nobody waited longer than this for a read or a put with an id, nor for another put to end as done or unknown; and
/// who was told that a put's outcome is unknown had success with the next one. Answers the longest waits of each kind.
pub(crate) fn judge(calls: &[Call], limit: Duration) -> Result<BTreeMap<Kind, Duration>> {
    let now = Instant::now();
    let mut longest = BTreeMap::new();
    let mut late = Vec::new();
    let mut unknown: BTreeMap<usize, bool> = BTreeMap::new();
    for call in calls {
        let took = call.ended.map_or(now, |(ended, _)| ended).duration_since(call.begun);
        let most: &mut Duration = longest.entry(call.kind).or_default();
        *most = took.max(*most);
        if took > limit {
            late.push(format!("{took:?}, {call:?}"));
        }
        match (call.kind, call.ended) {
            (_, None | Some((_, End::Success))) => {}
            (Kind::Put, Some((_, End::Unknown))) => {
                let twice = unknown.insert(call.client, true).unwrap_or(false);
                ensure!(!twice, "unknown again: {call:?}");
                continue;
            }
            (_, Some(_)) => return Err(anyhow!("{call:?}")),
        }
        if call.kind == Kind::Put && call.ended.is_some() {
            unknown.insert(call.client, false);
        }
    }
    ensure!(late.is_empty(), "longer than {limit:?}, {} calls:\n{}", late.len(), late.join("\n"));
    Ok(longest)
}
