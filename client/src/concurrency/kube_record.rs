//! The record of a leader election in Kubernetes' style; pure.
//!
//! Knows how it is written, and who may write what when; not who asks.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::error::Error;

/// What the key of such an election says. Times are for people to read: no machine compares them with its own clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubeRecord {
    /// Who leads; empty if the last one has gone in order.
    pub holder_identity: String,
    /// Whoever has seen this record unchanged for so long may take over.
    pub lease_duration_seconds: u64,
    /// When the holder began to lead, by its clock.
    pub acquire_time: String,
    /// When the holder wrote this, by its clock.
    pub renew_time: String,
    /// How often the leader has changed.
    pub leader_transitions: u64,
}

/// A record as it was seen.
#[derive(Clone, Debug)]
pub(super) struct Observed {
    pub(super) record: KubeRecord,
    /// The revision at which it was written.
    pub(super) revision: i64,
    /// When this process saw it first.
    pub(super) since: Instant,
}

impl KubeRecord {
    /// Reads it from a key's value.
    pub fn parse(value: &[u8]) -> Result<Self, Error> {
        let record: Value = serde_json::from_slice(value)
            .map_err(|error| Error::InvalidRecord(error.to_string()))?;
        if !record.is_object() {
            return Err(Error::InvalidRecord("it is no object".to_owned()));
        }
        // What is missing is what it is before anybody led, as where Kubernetes reads it.
        let text = |field: &str| record[field].as_str().unwrap_or_default().to_owned();
        Ok(Self {
            holder_identity: text("holderIdentity"),
            lease_duration_seconds: record["leaseDurationSeconds"].as_u64().unwrap_or(0),
            acquire_time: text("acquireTime"),
            renew_time: text("renewTime"),
            leader_transitions: record["leaderTransitions"].as_u64().unwrap_or(0),
        })
    }

    /// As a key's value.
    #[must_use]
    pub fn to_value(&self) -> Bytes {
        let record = json!({
            "holderIdentity": self.holder_identity,
            "leaseDurationSeconds": self.lease_duration_seconds,
            "acquireTime": self.acquire_time,
            "renewTime": self.renew_time,
            "leaderTransitions": self.leader_transitions,
        });
        record.to_string().into()
    }

    /// What somebody writes who leaves in order.
    pub(super) fn released(&self, stamp: String) -> Self {
        Self {
            holder_identity: String::new(),
            lease_duration_seconds: 1,
            acquire_time: stamp.clone(),
            renew_time: stamp,
            leader_transitions: self.leader_transitions,
        }
    }
}

/// What `identity` may write over what it sees; `None` while somebody else leads.
pub(super) fn next_record(
    observed: Option<&Observed>,
    identity: &str,
    lease_duration: Duration,
    now: Instant,
    stamp: String,
) -> Option<KubeRecord> {
    let record = KubeRecord {
        holder_identity: identity.to_owned(),
        // Rounded up: whoever waits for longer does no harm.
        lease_duration_seconds: u64::try_from(lease_duration.as_millis().div_ceil(1000)).ok()?,
        acquire_time: stamp.clone(),
        renew_time: stamp,
        leader_transitions: 0,
    };
    let Some(Observed { record: old, since, .. }) = observed else { return Some(record) };
    if old.holder_identity == identity {
        let (acquire_time, leader_transitions) = (old.acquire_time.clone(), old.leader_transitions);
        return Some(KubeRecord { acquire_time, leader_transitions, ..record });
    }
    let lives = since.checked_add(Duration::from_secs(old.lease_duration_seconds));
    // Beyond what clocks can count is for ever.
    if !old.holder_identity.is_empty() && lives.is_none_or(|end| now < end) {
        return None;
    }
    let leader_transitions = old.leader_transitions.saturating_add(1);
    Some(KubeRecord { leader_transitions, ..record })
}

/// The time of day for people: "2026-11-21T20:15:00Z".
pub(super) fn stamp_now() -> String {
    #[expect(clippy::disallowed_methods, reason = "people read it; nothing is decided by it")]
    let now = SystemTime::now();
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    stamp(since.as_secs())
}

/// Seconds since 1970 in the calendar.
fn stamp(seconds: u64) -> String {
    let (mut days, second) = (seconds / 86_400, seconds % 86_400);
    let is_leap = |year: u64| year.is_multiple_of(if year.is_multiple_of(100) { 400 } else { 4 });
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z", days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_millis(14_500);

    fn next(observed: Option<&Observed>, now: Instant) -> Option<KubeRecord> {
        next_record(observed, "me", LEASE, now, "now".to_owned())
    }

    fn observed(holder: &str, since: Instant) -> Observed {
        let record = KubeRecord {
            holder_identity: holder.to_owned(),
            lease_duration_seconds: 15,
            acquire_time: "then".to_owned(),
            renew_time: "later".to_owned(),
            leader_transitions: 3,
        };
        Observed { record, revision: 7, since }
    }

    #[test]
    fn the_record_is_the_one_of_kubernetes() {
        let record = observed("me", Instant::now()).record;
        let value = record.to_value();
        let text = std::str::from_utf8(&value).unwrap();
        assert!(text.contains(r#""holderIdentity":"me""#), "{text}");
        assert!(text.contains(r#""leaseDurationSeconds":15"#), "{text}");
        assert!(text.contains(r#""acquireTime":"then""#), "{text}");
        assert!(text.contains(r#""renewTime":"later""#), "{text}");
        assert!(text.contains(r#""leaderTransitions":3"#), "{text}");
        assert_eq!(KubeRecord::parse(&value).unwrap(), record);
        assert_eq!(KubeRecord::parse(b"{}").unwrap().holder_identity, "");
        assert!(KubeRecord::parse(b"").is_err() && KubeRecord::parse(b"[]").is_err());
    }

    #[test]
    fn nobody_takes_over_from_the_living() {
        let start = Instant::now();
        let first = next(None, start).unwrap();
        assert_eq!((first.lease_duration_seconds, first.leader_transitions), (15, 0));
        let other = observed("other", start);
        let second = Duration::from_secs(1);
        assert_eq!(next(Some(&other), start + 15 * second - second / 1000), None);
        let taken = next(Some(&other), start + 15 * second).unwrap();
        assert_eq!((taken.leader_transitions, &taken.acquire_time[..]), (4, "now"));
        let own = next(Some(&observed("me", start)), start).unwrap();
        let renewed = (own.leader_transitions, &own.acquire_time[..], &own.renew_time[..]);
        assert_eq!(renewed, (3, "then", "now"));
        let mut left = observed("other", start);
        left.record = left.record.released("bye".to_owned());
        assert_eq!(next(Some(&left), start).unwrap().leader_transitions, 4);
        let mut ages = observed("other", start);
        ages.record.lease_duration_seconds = u64::MAX;
        assert_eq!(next(Some(&ages), start + 60 * second), None);
    }

    #[test]
    fn the_calendar_is_right() {
        assert_eq!(stamp(0), "1970-01-01T00:00:00Z");
        assert_eq!(stamp(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(stamp(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(stamp(951_868_800), "2000-03-01T00:00:00Z");
        assert_eq!(stamp(1_000_000_000), "2001-09-09T01:46:40Z");
        assert_eq!(stamp(1_798_761_599), "2026-12-31T23:59:59Z");
    }
}
