//! Commands of Lock and Election. A call that waits is begun under a name, once its key can be read, and asked for
//! its answer later.

use std::time::Duration;

use bytes::Bytes;
use kvd_proto::v3electionpb as election;
use kvd_proto::v3electionpb::election_client::ElectionClient;
use kvd_proto::v3lockpb as lock;
use kvd_proto::v3lockpb::lock_client::LockClient;
use tokio::task::JoinHandle;
use tonic::{Request, Response, Status, Streaming};

use super::print::{self, Printer, key_value, quoted};
use super::request::Arguments;
use super::{Output, Runner, patiently};

/// The commands of this file.
pub(super) const COMMANDS: [&str; 12] = [
    "lock",
    "unlock",
    "campaign",
    "proclaim",
    "leader",
    "resign",
    "observe",
    "observed",
    "observe_close",
    "answer",
    "give_up",
    "until_there",
];

/// A call under way.
pub(super) enum Call {
    Lock(JoinHandle<Result<Response<lock::LockResponse>, Status>>),
    Campaign(JoinHandle<Result<Response<election::CampaignResponse>, Status>>),
}

type Opening = JoinHandle<Result<Response<Streaming<election::LeaderResponse>>, Status>>;

/// An election that is observed: the call until it is answered, then its stream.
pub(super) type Observing = (Option<Opening>, Option<Streaming<election::LeaderResponse>>);

impl Runner {
    /// Runs one of [`COMMANDS`].
    pub(super) fn recipe_command(&mut self, name: &str, arguments: Arguments) -> Output {
        match name {
            "lock" => self.lock(arguments),
            "unlock" => self.unlock(arguments),
            "campaign" => self.campaign(arguments),
            "proclaim" => self.proclaim(arguments),
            "leader" => self.leader(arguments),
            "resign" => self.resign(arguments),
            "observe" => self.observe(arguments),
            "observed" => self.observed(arguments),
            "observe_close" => self.observe_close(arguments),
            "answer" => self.answer(arguments),
            "give_up" => self.give_up(arguments),
            "until_there" => self.until_there(arguments),
            _ => Err(format!("no command {name}").into()),
        }
    }

    fn lock(&mut self, mut arguments: Arguments) -> Output {
        let (name, lease) = (arguments.key()?, arguments.keyed("lease")?.unwrap_or(0));
        let (call, limit) = (arguments.keyed("call")?, limit(&mut arguments)?);
        arguments.finish()?;
        let mut client = LockClient::new(self.channel.clone());
        let mut request = Request::new(lock::LockRequest { name, lease });
        limit.into_iter().for_each(|limit| request.set_timeout(limit));
        let asking = async move { client.lock(request).await };
        self.begin(call, Call::Lock(self.runtime.spawn(asking)))
    }

    fn campaign(&mut self, mut arguments: Arguments) -> Output {
        let (name, lease) = (arguments.key()?, arguments.keyed("lease")?.unwrap_or(0));
        let value = arguments.positional_text("value").unwrap_or_default().into();
        let (call, limit) = (arguments.keyed("call")?, limit(&mut arguments)?);
        arguments.finish()?;
        let mut client = ElectionClient::new(self.channel.clone());
        let mut request = Request::new(election::CampaignRequest { name, lease, value });
        limit.into_iter().for_each(|limit| request.set_timeout(limit));
        let asking = async move { client.campaign(request).await };
        self.begin(call, Call::Campaign(self.runtime.spawn(asking)))
    }

    fn begin(&mut self, name: Option<String>, call: Call) -> Output {
        match name {
            None => self.answer_of(call),
            Some(name) => {
                self.calls.insert(name, call);
                Ok("begun".to_owned())
            }
        }
    }

    fn answer(&mut self, mut arguments: Arguments) -> Output {
        let call = self.take_call(&mut arguments)?;
        self.answer_of(call)
    }

    fn take_call(&mut self, arguments: &mut Arguments) -> Result<Call, String> {
        let name = arguments.positional_text("call")?;
        arguments.finish()?;
        self.calls.remove(&name).ok_or_else(|| format!("no call {name}"))
    }

    fn answer_of(&mut self, call: Call) -> Output {
        match call {
            Call::Lock(call) => {
                let answer = self.ended(call)?;
                Ok(self.printer.answer(answer, Printer::lock))
            }
            Call::Campaign(call) => {
                let answer = self.ended(call)?;
                Ok(self.printer.answer(answer, Printer::campaign))
            }
        }
    }

    fn ended<T>(
        &self,
        call: JoinHandle<Result<Response<T>, Status>>,
    ) -> Result<Result<Response<T>, Status>, String> {
        let ended = async { call.await.map_err(|error| error.to_string()) };
        patiently(&self.runtime, "a call to end", ended)
    }

    fn give_up(&mut self, mut arguments: Arguments) -> Output {
        match self.take_call(&mut arguments)? {
            Call::Lock(call) => call.abort(),
            Call::Campaign(call) => call.abort(),
        }
        Ok("given up".to_owned())
    }

    /// Looks until the key exists: whoever waits in line has its place then.
    fn until_there(&mut self, arguments: Arguments) -> Output {
        self.until_count(arguments, "the key to come", |count| count > 0)
    }

    fn unlock(&mut self, mut arguments: Arguments) -> Output {
        let key = self.own_key(arguments.key()?);
        arguments.finish()?;
        let mut client = LockClient::new(self.channel.clone());
        let answer = self.runtime.block_on(client.unlock(lock::UnlockRequest { key }));
        Ok(self.printer.answer(answer, Printer::unlock))
    }

    fn proclaim(&mut self, mut arguments: Arguments) -> Output {
        let leader = self.leader_key(&mut arguments)?;
        let value = arguments.positional_text("value")?.into();
        arguments.finish()?;
        let request = election::ProclaimRequest { leader, value };
        let mut client = ElectionClient::new(self.channel.clone());
        let answer = self.runtime.block_on(client.proclaim(request));
        Ok(self.printer.answer(answer, Printer::proclaim))
    }

    fn resign(&mut self, mut arguments: Arguments) -> Output {
        let leader = self.leader_key(&mut arguments)?;
        arguments.finish()?;
        let mut client = ElectionClient::new(self.channel.clone());
        let answer = self.runtime.block_on(client.resign(election::ResignRequest { leader }));
        Ok(self.printer.answer(answer, Printer::resign))
    }

    fn leader(&mut self, mut arguments: Arguments) -> Output {
        let name = arguments.key()?;
        arguments.finish()?;
        let mut client = ElectionClient::new(self.channel.clone());
        let answer = self.runtime.block_on(client.leader(election::LeaderRequest { name }));
        Ok(self.printer.answer(answer, Printer::leader))
    }

    fn observe(&mut self, mut arguments: Arguments) -> Output {
        let stream = arguments.positional_text("stream")?;
        let name = arguments.key()?;
        arguments.finish()?;
        let mut client = ElectionClient::new(self.channel.clone());
        let request = election::LeaderRequest { name };
        // etcd sends the head of its answer with the first leader only.
        let observed = self.runtime.spawn(async move { client.observe(request).await });
        self.observed.insert(stream, (Some(observed), None));
        Ok("observing".to_owned())
    }

    fn observed(&mut self, mut arguments: Arguments) -> Output {
        let name = arguments.positional_text("stream")?;
        arguments.finish()?;
        let (opening, stream) = self.observed.get_mut(&name).ok_or("no such stream")?;
        let reading = async {
            if let Some(opening) = opening.take() {
                match opening.await.map_err(|error| error.to_string())? {
                    Ok(opened) => *stream = Some(opened.into_inner()),
                    Err(status) => return Ok(Err(status)),
                }
            }
            let stream = stream.as_mut().ok_or("the stream has ended")?;
            match stream.message().await {
                Ok(Some(leader)) => Ok(Ok(leader)),
                Ok(None) => Err("the stream ended".to_owned()),
                Err(status) => Ok(Err(status)),
            }
        };
        match patiently(&self.runtime, "a leader", reading)? {
            Ok(leader) => Ok(self.printer.leader(leader)),
            Err(status) => Ok(print::error(&status)),
        }
    }

    fn observe_close(&mut self, mut arguments: Arguments) -> Output {
        let name = arguments.positional_text("stream")?;
        arguments.finish()?;
        self.observed.remove(&name).ok_or("no such stream")?;
        Ok("closed".to_owned())
    }

    /// `none`, or the key with `rev=` and `lease=`; whose name does not matter.
    fn leader_key(&self, arguments: &mut Arguments) -> Result<Option<election::LeaderKey>, String> {
        let key = arguments.key()?;
        if key == "none" {
            return Ok(None);
        }
        let name = key.iter().take_while(|byte| **byte != b'/').copied().collect();
        let rev = arguments.keyed("rev")?.unwrap_or(0);
        let lease = match arguments.keyed("lease")?.unwrap_or(0) {
            0 => self.printer.chosen_lease.unwrap_or(0),
            lease => lease,
        };
        Ok(Some(election::LeaderKey { name, key: self.own_key(key), rev, lease }))
    }

    /// `NAME/chosen` is the key of the lease that the server chose last.
    fn own_key(&self, key: Bytes) -> Bytes {
        match (key.strip_suffix(b"/chosen"), self.printer.chosen_lease) {
            (Some(name), Some(lease)) => [name, format!("/{lease:x}").as_bytes()].concat().into(),
            _ => key,
        }
    }
}

/// The time that a call gets, in milliseconds.
fn limit(arguments: &mut Arguments) -> Result<Option<Duration>, String> {
    Ok(arguments.keyed("timeout_ms")?.map(Duration::from_millis))
}

impl Printer {
    fn lock(&mut self, response: lock::LockResponse) -> String {
        let header = self.header(response.header);
        format!("lock {header} key={}", self.own_key(&response.key))
    }

    fn unlock(&mut self, response: lock::UnlockResponse) -> String {
        format!("unlock {}", self.header(response.header))
    }

    fn campaign(&mut self, response: election::CampaignResponse) -> String {
        let header = self.header(response.header);
        let Some(leader) = response.leader else { return format!("campaign {header} no leader") };
        let key = self.own_key(&leader.key);
        let lease = if Some(leader.lease) == self.chosen_lease {
            "<chosen>".to_owned()
        } else {
            leader.lease.to_string()
        };
        let (name, rev) = (quoted(&leader.name), leader.rev);
        format!("campaign {header} name={name} key={key} rev={rev} lease={lease}")
    }

    fn proclaim(&mut self, response: election::ProclaimResponse) -> String {
        format!("proclaim {}", self.header(response.header))
    }

    fn resign(&mut self, response: election::ResignResponse) -> String {
        format!("resign {}", self.header(response.header))
    }

    fn leader(&mut self, response: election::LeaderResponse) -> String {
        let header = self.header(response.header);
        let kv = response.kv.map_or("none".to_owned(), |kv| key_value(&kv));
        format!("leader {header}\n  {kv}")
    }

    /// A key, whose lease is masked where the server chose it: ids that scripts give are short.
    fn own_key(&mut self, key: &[u8]) -> String {
        let text = String::from_utf8_lossy(key);
        match text
            .rsplit_once('/')
            .map(|(name, lease)| (name, lease, i64::from_str_radix(lease, 16)))
        {
            Some((name, lease, Ok(id))) if lease.len() > 6 => {
                self.chosen_lease = Some(id);
                format!("\"{name}/<chosen>\"")
            }
            _ => quoted(key),
        }
    }
}
