//! Commands of Watch: streams with names, each with a connection of its own.
//!
//! Nothing here depends on timing. A command waits until what it prints has come. What must not
//! come is shown by a fence: something later on the same stream is read, and a response that no
//! command has printed when its stream is closed, or the script ends, fails the script.

mod check;
mod print;
mod stream;

use std::error::Error;
use std::time::Duration;

use kvd_proto::etcdserverpb as pb;
use kvd_proto::etcdserverpb::watch_create_request::FilterType;
use kvd_proto::etcdserverpb::watch_request::RequestUnion;

use super::request::Arguments;
use super::{Output, Runner, connect_for_watch, patiently};

use self::check::MANUAL_PROGRESS_ID;
pub(super) use self::stream::Stream;

/// After what time a progress request without an answer is sent again, as clients do.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// The commands of this file.
pub(super) const COMMANDS: [&str; 19] = [
    "watch_open",
    "watch",
    "watch_many",
    "watch_send",
    "created",
    "cancel",
    "cancel_send",
    "canceled",
    "progress",
    "progress_send",
    "notified",
    "empty_send",
    "half_close",
    "events",
    "replay",
    "fragments",
    "until_canceled",
    "unread",
    "watch_close",
];

impl Runner {
    /// Runs one of [`COMMANDS`].
    pub(super) fn watch_command(&mut self, name: &str, mut arguments: Arguments) -> Output {
        let stream = arguments.positional_text("stream")?;
        match name {
            "watch_open" => self.watch_open(stream, arguments),
            "watch" => {
                self.send(&stream, create(arguments)?)?;
                self.print_created(&stream)
            }
            "watch_many" => self.watch_many(&stream, arguments),
            "watch_send" => self.send(&stream, create(arguments)?),
            "created" => {
                arguments.finish()?;
                self.print_created(&stream)
            }
            "cancel" => {
                let watch_id = only_id(arguments)?;
                self.send(&stream, cancel(watch_id))?;
                self.print_canceled(&stream, watch_id)
            }
            "cancel_send" => self.send(&stream, cancel(only_id(arguments)?)),
            "canceled" => self.print_canceled(&stream, only_id(arguments)?),
            "until_canceled" => self.until_canceled(&stream, only_id(arguments)?),
            "notified" => self.notified(&stream, arguments),
            "events" => self.events(&stream, arguments),
            "replay" => self.replay(&stream, arguments),
            "fragments" => self.fragments(&stream, arguments),
            name => {
                arguments.finish()?;
                self.plain_command(name, &stream)
            }
        }
    }

    /// Runs a command that takes nothing but the stream.
    fn plain_command(&mut self, name: &str, stream: &str) -> Output {
        match name {
            "progress" => self.progress(stream),
            "progress_send" => self.send(stream, progress_request()),
            // A request that asks for nothing (W9).
            "empty_send" => self.send(stream, pb::WatchRequest { request_union: None }),
            "half_close" => {
                self.stream(stream)?.1.half_close();
                Ok(String::new())
            }
            "unread" => self.unread(stream),
            "watch_close" => self.watch_close(stream),
            _ => Err(format!("no command {name}").into()),
        }
    }

    fn watch_open(&mut self, name: String, mut arguments: Arguments) -> Output {
        let has_leader = arguments.flag("hasleader");
        arguments.finish()?;
        if self.streams.contains_key(&name) {
            return Err(format!("the stream {name} is open already").into());
        }
        let channel = connect_for_watch(&self.runtime, &self.cluster)?;
        let stream = Stream::open(&self.runtime, channel, has_leader);
        self.streams.insert(name, stream);
        Ok(String::new())
    }

    /// The same watch again and again. Prints the last reply.
    fn watch_many(&mut self, name: &str, mut arguments: Arguments) -> Output {
        let count: usize = arguments.required("count")?;
        let request = create(arguments)?;
        let mut printed = String::new();
        for _ in 0..count {
            self.send(name, request.clone())?;
            printed = self.print_created(name)?;
        }
        Ok(printed)
    }

    fn print_created(&mut self, name: &str) -> Output {
        self.print_next(name, |response| response.created)
    }

    fn print_canceled(&mut self, name: &str, watch_id: i64) -> Output {
        let wanted = |response: &pb::WatchResponse| {
            response.canceled && !response.created && response.watch_id == watch_id
        };
        self.print_next(name, wanted)
    }

    /// Asks until it is answered: a server drops the request while a watch is catching up (W20).
    fn progress(&mut self, name: &str) -> Output {
        let (runtime, stream) = self.stream(name)?;
        let asked = async {
            let mut requests = 0;
            loop {
                stream.send(progress_request()).await?;
                requests += 1;
                let answer = stream.until(|inbox| inbox.iter().any(is_manual_progress));
                if tokio::time::timeout(ASK_AGAIN, answer).await.is_ok() {
                    return Ok(requests);
                }
            }
        };
        let requests: usize = patiently(runtime, "a progress response", asked)?;
        stream.expect_surplus(requests - 1);
        self.print_next(name, is_manual_progress)
    }

    /// A periodic progress response, once one says `rev`. How many come is a matter of time.
    fn notified(&mut self, name: &str, mut arguments: Arguments) -> Output {
        let watch_id: i64 = arguments.required("watch id")?;
        let revision: i64 = arguments.keyed("rev")?.unwrap_or(0);
        arguments.finish()?;
        let (runtime, stream) = self.stream(name)?;
        let waiting = stream.notified(watch_id, revision);
        let response = patiently(runtime, "a periodic progress response", waiting)?;
        let wrong = stream.take_wrong();
        Ok(self.printer.watch(&[response], wrong))
    }

    fn events(&mut self, name: &str, arguments: Arguments) -> Output {
        let (responses, wrong) = self.take_events(name, arguments)?;
        Ok(self.printer.watch(&responses, wrong))
    }

    fn replay(&mut self, name: &str, arguments: Arguments) -> Output {
        let (responses, wrong) = self.take_events(name, arguments)?;
        Ok(self.printer.replay(&responses, wrong))
    }

    fn fragments(&mut self, name: &str, mut arguments: Arguments) -> Output {
        let piece_bytes = arguments.keyed("bytes")?.ok_or("fragments needs bytes=LIMIT")?;
        let (responses, wrong) = self.take_events(name, arguments)?;
        Ok(self.printer.fragments(&responses, piece_bytes, wrong))
    }

    /// Responses with events, until there are as many events as the script says; of each watch
    /// in the order in which they came, watches by id.
    fn take_events(
        &mut self,
        name: &str,
        mut arguments: Arguments,
    ) -> Result<(Vec<pb::WatchResponse>, Vec<String>), Box<dyn Error>> {
        let count: usize = arguments.required("count of events")?;
        let watch_id: Option<i64> = arguments.keyed("id")?;
        arguments.finish()?;
        let (runtime, stream) = self.stream(name)?;
        let wanted = |response: &pb::WatchResponse| {
            !response.events.is_empty() && watch_id.is_none_or(|id| id == response.watch_id)
        };
        let waiting = stream.until(|inbox| {
            let found = inbox.iter().filter(|response| wanted(response));
            found.map(|response| response.events.len()).sum::<usize>() >= count
        });
        patiently(runtime, &format!("{count} events"), waiting)?;
        let mut responses = stream.take_all(wanted);
        responses.sort_by_key(|response| response.watch_id);
        Ok((responses, stream.take_wrong()))
    }

    /// Events in any number, until the server cancels the watch.
    fn until_canceled(&mut self, name: &str, watch_id: i64) -> Output {
        let (runtime, stream) = self.stream(name)?;
        let of_watch = |response: &pb::WatchResponse| response.watch_id == watch_id;
        let waiting = stream
            .until(|inbox| inbox.iter().any(|response| of_watch(response) && response.canceled));
        patiently(runtime, "the watch to be canceled", waiting)?;
        let responses = stream.take_all(of_watch);
        let wrong = stream.take_wrong();
        Ok(self.printer.until_canceled(&responses, wrong))
    }

    /// What came before something that the script has printed, but was not asked for.
    fn unread(&mut self, name: &str) -> Output {
        let stream = self.stream(name)?.1;
        let responses = stream.take_all(|_| true);
        let wrong = stream.take_wrong();
        if responses.is_empty() && wrong.is_empty() {
            return Ok("nothing".to_owned());
        }
        Ok(self.printer.watch(&responses, wrong))
    }

    fn watch_close(&mut self, name: &str) -> Output {
        self.stream(name)?.1.finish()?;
        self.streams.remove(name);
        Ok(String::new())
    }

    /// Checks that no stream holds what the script has not printed.
    pub(super) fn finish_streams(&mut self) -> Result<(), String> {
        for (name, stream) in &mut self.streams {
            stream.finish().map_err(|error| format!("{name}: {error}"))?;
        }
        Ok(())
    }

    fn stream(&mut self, name: &str) -> Result<(&tokio::runtime::Runtime, &mut Stream), String> {
        let stream = self.streams.get_mut(name).ok_or_else(|| format!("no stream {name}"))?;
        Ok((&self.runtime, stream))
    }

    fn send(&mut self, name: &str, request: pb::WatchRequest) -> Output {
        let (runtime, stream) = self.stream(name)?;
        runtime.block_on(stream.send(request))?;
        Ok(String::new())
    }

    /// Waits for the first response that is `wanted`, or for the stream's end, and prints it.
    fn print_next(&mut self, name: &str, wanted: impl Fn(&pb::WatchResponse) -> bool) -> Output {
        let (runtime, stream) = self.stream(name)?;
        let waiting = stream.until(|inbox| inbox.iter().any(&wanted));
        patiently(runtime, "a response", waiting)?;
        let response = stream.take_first(wanted).ok_or("it was there")?;
        let wrong = stream.take_wrong();
        Ok(self.printer.watch(&[response], wrong))
    }
}

/// A watch's id, where nothing else follows.
fn only_id(mut arguments: Arguments) -> Result<i64, String> {
    let watch_id = arguments.required("watch id")?;
    arguments.finish()?;
    Ok(watch_id)
}

fn is_manual_progress(response: &pb::WatchResponse) -> bool {
    response.watch_id == MANUAL_PROGRESS_ID && !response.created && !response.canceled
}

/// A create request, from all that follows the stream's name.
fn create(mut arguments: Arguments) -> Result<pb::WatchRequest, String> {
    let key = arguments.key()?;
    let range_end = arguments.range_end(&key);
    let mut filters: Vec<i32> = Vec::new();
    for (flag, filter) in [("noput", FilterType::Noput), ("nodelete", FilterType::Nodelete)] {
        if arguments.flag(flag) {
            filters.push(filter.into());
        }
    }
    filters.extend(arguments.keyed::<i32>("filter")?);
    let request = pb::WatchCreateRequest {
        key,
        range_end,
        start_revision: arguments.keyed("rev")?.unwrap_or(0),
        progress_notify: arguments.flag("progress_notify"),
        filters,
        prev_kv: arguments.flag("prev_kv"),
        watch_id: arguments.keyed("id")?.unwrap_or(0),
        fragment: arguments.flag("fragment"),
    };
    arguments.finish()?;
    Ok(asking(RequestUnion::CreateRequest(request)))
}

fn cancel(watch_id: i64) -> pb::WatchRequest {
    asking(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id }))
}

fn progress_request() -> pb::WatchRequest {
    asking(RequestUnion::ProgressRequest(pb::WatchProgressRequest {}))
}

fn asking(request: RequestUnion) -> pb::WatchRequest {
    pb::WatchRequest { request_union: Some(request) }
}
