//! Responses of Watch as text.

use std::fmt::Write as _;

use kvd_proto::etcdserverpb as pb;
use kvd_proto::mvccpb::Event;
use kvd_proto::mvccpb::event::EventType;

use crate::script::print::{Printer, key_value};

/// Of a longer run of events only the first and the last are printed, and a digest of the others.
const EVENTS_MAX: usize = 20;

impl Printer {
    /// Responses just as they came, then what the checks found wrong.
    pub(super) fn watch(&mut self, responses: &[pb::WatchResponse], wrong: Vec<String>) -> String {
        let mut lines = Vec::new();
        for response in responses {
            lines.push(self.watch_head("watch", response));
            lines.extend(events(&response.events));
        }
        with_wrong(lines, wrong)
    }

    /// The events of watches that catch up. How many revisions a response holds, and which
    /// revision its header then names, is open (W16): only order and completeness are checked.
    pub(super) fn replay(&mut self, responses: &[pb::WatchResponse], wrong: Vec<String>) -> String {
        let mut watches: Vec<(i64, Vec<String>, Vec<String>)> = Vec::new();
        for of_watch in responses.chunk_by(|one, other| one.watch_id == other.watch_id) {
            let mut heads = Vec::new();
            for response in of_watch {
                let mut header = response.header;
                if let Some(header) = &mut header {
                    header.revision = 0;
                }
                let fragment = if response.fragment { " fragment" } else { "" };
                heads.push(format!("replay {}{fragment}", self.header(header)));
            }
            heads.dedup();
            let all: Vec<Event> = of_watch.iter().flat_map(|one| one.events.clone()).collect();
            watches.push((of_watch[0].watch_id, heads, events(&all)));
        }
        let mut lines = Vec::new();
        for same in watches.chunk_by(|one, other| (&one.1, &one.2) == (&other.1, &other.2)) {
            let (first, heads, events) = &same[0];
            let ids = match same {
                [_] => format!("id={first}"),
                [.., (last, ..)] => format!("{} ids, {first} to {last}", same.len()),
                [] => String::new(),
            };
            lines.extend(heads.iter().map(|head| format!("{head} {ids}")));
            lines.extend(events.iter().cloned());
        }
        with_wrong(lines, wrong)
    }

    /// One response that came in pieces. Where it is cut is open, how long a piece may be is not.
    pub(super) fn fragments(
        &mut self,
        responses: &[pb::WatchResponse],
        piece_bytes: usize,
        wrong: Vec<String>,
    ) -> String {
        let mut lines = Vec::new();
        let last = responses.len().saturating_sub(1);
        for (at, response) in responses.iter().enumerate() {
            if response.fragment != (at < last) {
                lines.push(format!("piece {at} of {last} has fragment={}", response.fragment));
            }
            if response.header != responses[0].header {
                lines.push(format!("piece {at} has another header: {:?}", response.header));
            }
            let bytes = response.events.iter().map(content_bytes).sum::<usize>();
            if bytes >= piece_bytes && response.events.len() > 1 {
                lines.push(format!("piece {at} has {bytes} bytes"));
            }
        }
        if let Some(first) = responses.first() {
            let whole = pb::WatchResponse { fragment: false, ..first.clone() };
            let pieces = if last > 0 { "pieces" } else { "one piece" };
            lines.push(format!("{} in {pieces}", self.watch_head("watch", &whole)));
        }
        let all: Vec<Event> = responses.iter().flat_map(|one| one.events.clone()).collect();
        lines.extend(events(&all));
        with_wrong(lines, wrong)
    }

    /// Events whose number is open, one in each revision from the first on, and the end.
    pub(super) fn until_canceled(
        &mut self,
        responses: &[pb::WatchResponse],
        wrong: Vec<String>,
    ) -> String {
        let mut lines = Vec::new();
        let all = responses.iter().flat_map(|one| &one.events);
        let revisions: Vec<i64> = all.map(revision_of).collect();
        if let Some(first) = revisions.first() {
            lines.push(format!("events from revision {first} on"));
        }
        for gap in revisions.windows(2).filter(|pair| pair[0] + 1 != pair[1]) {
            lines.push(format!("revision {} follows {}", gap[1], gap[0]));
        }
        for response in responses.iter().filter(|response| response.events.is_empty()) {
            lines.push(self.watch_head("watch", response));
        }
        with_wrong(lines, wrong)
    }

    /// Everything but the events, with what is not set left out.
    fn watch_head(&mut self, word: &str, response: &pb::WatchResponse) -> String {
        let mut text = format!("{word} {}", self.header(response.header));
        let _ = write!(text, " id={}", response.watch_id);
        for (set, name) in [
            (response.created, "created"),
            (response.canceled, "canceled"),
            (response.fragment, "fragment"),
        ] {
            if set {
                let _ = write!(text, " {name}");
            }
        }
        if response.compact_revision != 0 {
            let _ = write!(text, " compact_revision={}", response.compact_revision);
        }
        if !response.cancel_reason.is_empty() {
            let _ = write!(text, " reason={:?}", response.cancel_reason);
        }
        text
    }
}

/// Events, a line each; long runs shortened.
fn events(events: &[Event]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut rest = events;
    while let Some(first) = rest.first() {
        let step = rest.get(1).map_or(0, |second| revision_of(second) - revision_of(first));
        let goes_on = |pair: &&[Event]| {
            pair[0].r#type == pair[1].r#type
                && revision_of(&pair[0]) + step == revision_of(&pair[1])
        };
        let length = 1 + rest.windows(2).take_while(goes_on).count();
        let (run, others) = rest.split_at(length);
        rest = others;
        match run {
            [first, between @ .., last] if run.len() > EVENTS_MAX => {
                let (count, digest) = (between.len(), digest(between));
                lines.push(event(first));
                lines.push(format!("  … {count} more, +{step} each, digest={digest:016x}"));
                lines.push(event(last));
            }
            _ => lines.extend(run.iter().map(event)),
        }
    }
    lines
}

/// FNV-1a of what would have been printed: short, and the same on every machine.
fn digest(events: &[Event]) -> u64 {
    let text: String = events.iter().map(event).collect();
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, mix)
}

fn event(event: &Event) -> String {
    let kind = match EventType::try_from(event.r#type) {
        Ok(EventType::Put) => "put".to_owned(),
        Ok(EventType::Delete) => "delete".to_owned(),
        Err(_) => format!("type={}", event.r#type),
    };
    let kv = event.kv.as_ref().map_or("no kv".to_owned(), key_value);
    let mut text = format!("  {kind} {kv}");
    if let Some(prev_kv) = &event.prev_kv {
        let _ = write!(text, "\n    prev {}", key_value(prev_kv));
    }
    text
}

fn revision_of(event: &Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}

/// Bytes of keys and values, which are a little less than the event's encoding.
fn content_bytes(event: &Event) -> usize {
    let both = event.kv.iter().chain(&event.prev_kv);
    both.map(|kv| kv.key.len() + kv.value.len()).sum()
}

fn with_wrong(mut lines: Vec<String>, wrong: Vec<String>) -> String {
    lines.extend(wrong.into_iter().map(|wrong| format!("WRONG {wrong}")));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use kvd_proto::mvccpb::KeyValue;

    use super::*;

    fn put(revision: i64, value: &str) -> Event {
        let value = value.to_owned().into();
        let kv = KeyValue { value, mod_revision: revision, ..KeyValue::default() };
        Event { kv: Some(kv), ..Event::default() }
    }

    fn response(header: i64, events: &[Event]) -> pb::WatchResponse {
        let header = pb::ResponseHeader { revision: header, ..pb::ResponseHeader::default() };
        let events = events.to_vec();
        pb::WatchResponse { header: Some(header), events, ..pb::WatchResponse::default() }
    }

    #[test]
    fn a_replay_reads_the_same_however_it_was_grouped() {
        let puts = [put(2, "a"), put(3, "b"), put(4, "c")];
        let one = [response(9, &puts)];
        let two = [response(3, &puts[..2]), response(4, &puts[2..])];
        let mut printer = Printer::default();
        assert_eq!(printer.replay(&one, Vec::new()), printer.replay(&two, Vec::new()));
        assert_ne!(printer.replay(&two[1..], Vec::new()), printer.replay(&two, Vec::new()));
    }

    #[test]
    fn a_change_within_a_long_run_shows() {
        let mut puts: Vec<Event> = (2..60).map(|revision| put(revision, "a")).collect();
        let before = events(&puts);
        assert_eq!(before.len(), 3);
        puts[30] = put(32, "b");
        assert_ne!(events(&puts), before);
        puts.remove(30);
        assert!(events(&puts).len() > 3, "a gap ends the run");
    }

    #[test]
    fn wrong_pieces_show() {
        let piece = |more, header| {
            let two = [put(2, "aaaa"), put(2, "bbbb")];
            pb::WatchResponse { fragment: more, ..response(header, &two) }
        };
        let lines = |pieces: &[pb::WatchResponse], bytes| {
            Printer::default().fragments(pieces, bytes, Vec::new()).lines().count()
        };
        let right = lines(&[piece(true, 2), piece(false, 2)], 9);
        assert_eq!(lines(&[piece(false, 2), piece(false, 2)], 9), right + 1);
        assert_eq!(lines(&[piece(true, 2), piece(true, 2)], 9), right + 1);
        assert_eq!(lines(&[piece(true, 2), piece(false, 3)], 9), right + 1);
        assert_eq!(lines(&[piece(true, 2), piece(false, 2)], 8), right + 2);
    }

    #[test]
    fn a_gap_before_the_end_shows() {
        let canceled = pb::WatchResponse { canceled: true, ..response(0, &[]) };
        let text = |puts: &[Event]| {
            let responses = [response(4, puts), canceled.clone()];
            Printer::default().until_canceled(&responses, Vec::new())
        };
        assert_eq!(
            text(&[put(2, "a"), put(3, "b")]),
            "events from revision 2 on\nwatch header() id=0 canceled"
        );
        assert!(text(&[put(2, "a"), put(4, "b")]).contains("revision 4 follows 2"));
    }
}
