//! Commands of Lease. Time runs only as far as a script waits for its effect.
//!
//! `chosen` in the place of an id is the last one that the server chose by itself.

use std::time::Duration;

use futures_util::stream;
use kvd_proto::etcdserverpb as pb;
use kvd_proto::etcdserverpb::lease_client::LeaseClient;
use tokio::sync::mpsc;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::print::{self, Printer, quoted};
use super::request::Arguments;
use super::{Output, Runner, patiently};

/// The commands of this file.
pub(super) const COMMANDS: [&str; 8] =
    ["grant", "revoke", "keepalive", "keepalive_end", "ttl", "leases", "until_gone", "until_ttl"];

/// How often to look.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Requests of one stream that may wait for the connection to take them.
const REQUESTS_MAX: usize = 16;

/// A stream of keepalives that stays open.
pub(super) struct KeepAlives {
    requests: mpsc::Sender<pb::LeaseKeepAliveRequest>,
    responses: Streaming<pb::LeaseKeepAliveResponse>,
}

impl Runner {
    /// Runs one of [`COMMANDS`].
    pub(super) fn lease_command(&mut self, name: &str, mut arguments: Arguments) -> Output {
        match name {
            "grant" => self.grant(arguments),
            "revoke" => self.revoke(arguments),
            "keepalive" => self.keepalive(arguments),
            "keepalive_end" => self.keepalive_end(&mut arguments),
            "ttl" => self.ttl(arguments),
            "leases" => self.leases(&arguments),
            "until_gone" => self.until_gone(arguments),
            "until_ttl" => self.until_ttl(arguments),
            _ => Err(format!("no command {name}").into()),
        }
    }

    fn lease(&self) -> LeaseClient<Channel> {
        LeaseClient::new(self.channel.clone())
    }

    fn lease_id(&self, arguments: &mut Arguments) -> Result<i64, String> {
        let text = arguments.positional_text("lease")?;
        if text == "chosen" {
            return self.printer.chosen_lease.ok_or("no lease was chosen".to_owned());
        }
        super::request::parse(text.as_bytes())
    }

    fn grant(&mut self, mut arguments: Arguments) -> Output {
        let ttl = arguments.keyed("ttl")?.ok_or("grant needs ttl=SECONDS")?;
        let id = self.lease_id(&mut arguments)?;
        arguments.finish()?;
        let request = pb::LeaseGrantRequest { ttl, id };
        let answer = self.runtime.block_on(self.lease().lease_grant(request));
        if let (0, Ok(answer)) = (id, &answer) {
            self.printer.chosen_lease = Some(answer.get_ref().id);
        }
        Ok(self.printer.answer(answer, Printer::grant))
    }

    fn revoke(&mut self, mut arguments: Arguments) -> Output {
        let id = self.lease_id(&mut arguments)?;
        arguments.finish()?;
        let request = pb::LeaseRevokeRequest { id };
        let answer = self.runtime.block_on(self.lease().lease_revoke(request));
        Ok(self.printer.answer(answer, Printer::revoke))
    }

    /// Requests on one stream, which ends after them or stays open under a name.
    fn keepalive(&mut self, mut arguments: Arguments) -> Output {
        let name: Option<String> = arguments.keyed("stream")?;
        let mut ids = Vec::new();
        while arguments.positional_count() > 0 {
            ids.push(self.lease_id(&mut arguments)?);
        }
        arguments.finish()?;
        let kept = name.as_ref().and_then(|name| self.keepalives.remove(name));
        let asking = async { Ok(keep_alive(kept, self.lease(), ids).await) };
        let (responses, open) = patiently(&self.runtime, "a keepalive", asking)?;
        let mut lines = Vec::new();
        for response in responses {
            lines.push(match response {
                Ok(response) => self.printer.keepalive(response),
                Err(status) => print::error(&status),
            });
        }
        match (name, open) {
            (Some(name), Some(open)) => drop(self.keepalives.insert(name, open)),
            (None, Some(open)) => lines.push(self.end_of(open)?),
            (_, None) => {}
        }
        Ok(lines.join("\n"))
    }

    fn keepalive_end(&mut self, arguments: &mut Arguments) -> Output {
        let name = arguments.positional_text("stream")?;
        arguments.finish()?;
        let open = self.keepalives.remove(&name).ok_or_else(|| format!("no stream {name}"))?;
        self.end_of(open)
    }

    /// Closes the client's side of the stream, and waits for the server to close its own.
    fn end_of(&mut self, open: KeepAlives) -> Output {
        let KeepAlives { requests, mut responses } = open;
        drop(requests);
        let ending = async { Ok(responses.message().await) };
        let end = patiently(&self.runtime, "the stream to end", ending)?;
        Ok(match end {
            Ok(None) => print::end(None),
            Ok(Some(response)) => format!("unasked: {}", self.printer.keepalive(response)),
            Err(status) => print::end(Some(&status)),
        })
    }

    fn ttl(&mut self, mut arguments: Arguments) -> Output {
        let above: Option<i64> = arguments.keyed("above")?;
        let request = self.ttl_request(&mut arguments)?;
        arguments.finish()?;
        let answer = self.runtime.block_on(self.lease().lease_time_to_live(request));
        Ok(self.printer.answer(answer, |printer, response| printer.ttl(response, above)))
    }

    fn ttl_request(&self, arguments: &mut Arguments) -> Result<pb::LeaseTimeToLiveRequest, String> {
        let id = self.lease_id(arguments)?;
        Ok(pb::LeaseTimeToLiveRequest { id, keys: arguments.flag("keys") })
    }

    fn leases(&mut self, arguments: &Arguments) -> Output {
        arguments.finish()?;
        let answer = self.runtime.block_on(self.lease().lease_leases(pb::LeaseLeasesRequest {}));
        Ok(self.printer.answer(answer, Printer::leases))
    }

    /// Looks until the key is deleted, and prints what is then there.
    fn until_gone(&mut self, arguments: Arguments) -> Output {
        self.until_count(arguments, "the key to go", |count| count == 0)
    }

    /// Looks until so many keys of this name are there, and prints what is then there.
    pub(super) fn until_count(
        &mut self,
        mut arguments: Arguments,
        what: &str,
        is_it: fn(i64) -> bool,
    ) -> Output {
        let key = arguments.key()?;
        arguments.finish()?;
        let request = pb::RangeRequest { key, ..pb::RangeRequest::default() };
        let mut kv = self.kv();
        let looking = async {
            let mut next = tokio::time::interval(LOOK_EVERY);
            loop {
                next.tick().await;
                let answer = kv.range(request.clone()).await;
                if answer.as_ref().map_or(true, |answer| is_it(answer.get_ref().count)) {
                    return Ok(answer);
                }
            }
        };
        let answer = patiently(&self.runtime, what, looking)?;
        Ok(self.printer.answer(answer, Printer::range))
    }

    /// Looks until no more than this many seconds remain of the lease.
    fn until_ttl(&mut self, mut arguments: Arguments) -> Output {
        let below: i64 = arguments.keyed("below")?.ok_or("until_ttl needs below=SECONDS")?;
        let request = self.ttl_request(&mut arguments)?;
        arguments.finish()?;
        let mut lease = self.lease();
        let looking = async {
            let mut next = tokio::time::interval(LOOK_EVERY);
            loop {
                next.tick().await;
                match lease.lease_time_to_live(request).await {
                    Ok(response) if response.get_ref().ttl < below => {
                        return Ok(format!("below {below}"));
                    }
                    Ok(_) => {}
                    Err(status) => return Ok(print::error(&status)),
                }
            }
        };
        Ok(patiently(&self.runtime, "time to pass", looking)?)
    }
}

/// Sends each request when the one before it is answered. The stream is gone after an error.
async fn keep_alive(
    kept: Option<KeepAlives>,
    mut client: LeaseClient<Channel>,
    ids: Vec<i64>,
) -> (Vec<Result<pb::LeaseKeepAliveResponse, Status>>, Option<KeepAlives>) {
    let mut responses = Vec::new();
    let mut stream = kept;
    for id in ids {
        let response = match &mut stream {
            None => open(&mut client, id).await.map(|(opened, response)| {
                stream = Some(opened);
                response
            }),
            Some(open) => {
                // A stream that ended takes nothing, and then says why.
                let _ = open.requests.send(pb::LeaseKeepAliveRequest { id }).await;
                next(&mut open.responses).await
            }
        };
        let failed = response.is_err();
        responses.push(response);
        if failed {
            return (responses, None);
        }
    }
    (responses, stream)
}

/// Opens a stream with its first request: etcd answers the call only with its first response.
async fn open(
    client: &mut LeaseClient<Channel>,
    id: i64,
) -> Result<(KeepAlives, pb::LeaseKeepAliveResponse), Status> {
    let (requests, waiting) = mpsc::channel(REQUESTS_MAX);
    requests
        .try_send(pb::LeaseKeepAliveRequest { id })
        .map_err(|error| Status::internal(error.to_string()))?;
    let waiting = stream::unfold(waiting, async |mut waiting| {
        let request = waiting.recv().await?;
        Some((request, waiting))
    });
    let mut responses = client.lease_keep_alive(waiting).await?.into_inner();
    let first = next(&mut responses).await?;
    Ok((KeepAlives { requests, responses }, first))
}

async fn next(
    responses: &mut Streaming<pb::LeaseKeepAliveResponse>,
) -> Result<pb::LeaseKeepAliveResponse, Status> {
    let ended = || Status::internal("the stream ended without an answer");
    responses.message().await?.ok_or_else(ended)
}

impl Printer {
    fn grant(&mut self, response: pb::LeaseGrantResponse) -> String {
        let pb::LeaseGrantResponse { header, id, ttl, error } = response;
        let id = self.lease_name(id);
        format!("grant {} id={id} ttl={ttl} error={error:?}", self.header(header))
    }

    fn revoke(&mut self, response: pb::LeaseRevokeResponse) -> String {
        format!("revoke {}", self.header(response.header))
    }

    fn keepalive(&mut self, response: pb::LeaseKeepAliveResponse) -> String {
        let pb::LeaseKeepAliveResponse { header, id, ttl } = response;
        let id = self.lease_name(id);
        format!("keepalive {} id={id} ttl={ttl}", self.header(header))
    }

    /// Keys are sorted, for their order is open (L11). The remaining time is not printed, only
    /// whether it can be right.
    fn ttl(&mut self, response: pb::LeaseTimeToLiveResponse, above: Option<i64>) -> String {
        let pb::LeaseTimeToLiveResponse { header, id, ttl, granted_ttl, mut keys } = response;
        keys.sort();
        let keys: Vec<String> = keys.iter().map(|key| quoted(key)).collect();
        let remaining = match above {
            Some(above) if ttl > above && ttl <= granted_ttl => format!("<above {above}>"),
            None if (0..=granted_ttl).contains(&ttl) => "<remaining>".to_owned(),
            _ => ttl.to_string(),
        };
        let id = self.lease_name(id);
        format!(
            "ttl {} id={id} ttl={remaining} granted={granted_ttl} keys=[{}]",
            self.header(header),
            keys.join(" ")
        )
    }

    fn leases(&mut self, response: pb::LeaseLeasesResponse) -> String {
        let ids: Vec<String> =
            response.leases.iter().map(|lease| self.lease_name(lease.id)).collect();
        format!("leases {} ids=[{}]", self.header(response.header), ids.join(" "))
    }

    /// An id, masked where the server chose it: it must then be positive (L1).
    fn lease_name(&self, id: i64) -> String {
        if Some(id) == self.chosen_lease && id > 0 { "<chosen>".to_owned() } else { id.to_string() }
    }
}
