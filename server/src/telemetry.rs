//! Logs in etcd's form (behaviour.md 12.1): one JSON object a line with `level`, `ts`, `caller`, `msg` and
//! then the event's own fields, or a line for people.
//!
//! Installs the process's one subscriber; nothing else here is global. The only file that reads the wall
//! clock.

use std::fmt::{self, Write as _};
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use thiserror::Error;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{LogConfig, LogFormat, LogLevel, LogOutput};

/// Libraries that tell each step of theirs: they are heard from this severity on, whatever ours is.
/// openraft writes a line for each 64 entries that it replays (hazard B9).
const QUIETED: [&str; 6] = ["openraft", "h2", "hyper", "tonic", "tower", "sled"];

/// Parts of theirs that say many times a second that a member does not answer. `node/contact.rs` says it once.
const REPEATING: [&str; 3] = [
    "openraft::core::heartbeat",
    "openraft::engine::handler::replication_handler",
    "openraft::replication",
];

/// The process has a subscriber already.
#[derive(Debug, Error)]
#[error("logging is set up already: {0}")]
pub struct Installed(String);

/// Installs the subscriber of this process. Only `main` may.
pub fn install(config: &LogConfig) -> Result<(), Installed> {
    let lines = tracing_subscriber::fmt::layer().event_format(Lines { format: config.format });
    let filter = filter(config.level);
    let installed = match config.output {
        LogOutput::Stderr => {
            let lines = lines.with_writer(io::stderr);
            tracing_subscriber::registry().with(filter).with(lines).try_init()
        }
        LogOutput::Stdout => {
            let lines = lines.with_writer(io::stdout);
            tracing_subscriber::registry().with(filter).with(lines).try_init()
        }
    };
    installed.map_err(|error| Installed(error.to_string()))
}

fn filter(level: LogLevel) -> Targets {
    let (ours, theirs) = match level {
        LogLevel::Debug => (LevelFilter::DEBUG, LevelFilter::INFO),
        LogLevel::Info => (LevelFilter::INFO, LevelFilter::WARN),
        LogLevel::Warn => (LevelFilter::WARN, LevelFilter::WARN),
        LogLevel::Error => (LevelFilter::ERROR, LevelFilter::ERROR),
    };
    let repeated = if level == LogLevel::Debug { LevelFilter::INFO } else { LevelFilter::ERROR };
    let quieted = QUIETED.iter().map(|library| (*library, theirs));
    let repeating = REPEATING.iter().map(|part| (*part, repeated));
    Targets::new().with_default(ours).with_targets(quieted.chain(repeating))
}

/// Writes events as lines.
struct Lines {
    format: LogFormat,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let line = match self.format {
            LogFormat::Json => json_line(event.metadata(), now(), &fields),
            LogFormat::Console => console_line(event.metadata(), now(), &fields),
        };
        writeln!(writer, "{line}")
    }
}

/// An event's message and fields; the values are JSON.
#[derive(Debug, Default)]
struct Fields {
    message: String,
    fields: Vec<(&'static str, String)>,
}

impl Fields {
    fn add(&mut self, field: &Field, json: String) {
        self.fields.push((field.name(), json));
    }

    fn add_text(&mut self, field: &Field, text: String) {
        if field.name() == "message" {
            self.message = text;
        } else {
            self.add(field, quoted(&text));
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add_text(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add_text(field, value.to_owned());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value.to_string());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value.to_string());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value.to_string());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON knows no infinities.
        let number = if value.is_finite() { value.to_string() } else { quoted(&value.to_string()) };
        self.add(field, number);
    }
}

fn json_line(metadata: &Metadata<'_>, at: Duration, fields: &Fields) -> String {
    let mut line = format!(
        "{{\"level\":\"{}\",\"ts\":\"{}\",\"caller\":{},\"msg\":{}",
        level(metadata.level()),
        timestamp(at),
        quoted(&caller(metadata)),
        quoted(&fields.message),
    );
    for (name, json) in &fields.fields {
        // Writing to a String cannot fail.
        let _always = write!(line, ",{}:{json}", quoted(name));
    }
    line.push('}');
    line
}

fn console_line(metadata: &Metadata<'_>, at: Duration, fields: &Fields) -> String {
    let mut line = format!(
        "{}\t{}\t{}\t{}",
        timestamp(at),
        level(metadata.level()),
        caller(metadata),
        fields.message,
    );
    let pairs: Vec<String> =
        fields.fields.iter().map(|(name, json)| format!("{}: {json}", quoted(name))).collect();
    if !pairs.is_empty() {
        let _always = write!(line, "\t{{{}}}", pairs.join(", "));
    }
    line
}

/// A text as JSON string.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn level(level: &Level) -> &'static str {
    match *level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG | Level::TRACE => "debug",
    }
}

/// `folder/file.rs:line`.
fn caller(metadata: &Metadata<'_>) -> String {
    let path = metadata.file().unwrap_or("unknown");
    let from = path.rmatch_indices('/').nth(1).map_or(0, |(slash, _)| slash + 1);
    format!("{}:{}", path.get(from..).unwrap_or(path), metadata.line().unwrap_or(0))
}

/// `2006-01-02T15:04:05.000000Z`, from the time since 1970.
fn timestamp(at: Duration) -> String {
    let seconds = at.as_secs();
    let (year, month, day) = civil_date(seconds / 86_400);
    let of_day = seconds % 86_400;
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:06}Z",
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60,
        at.subsec_micros(),
    )
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar.
fn civil_date(days: u64) -> (u64, u64, u64) {
    // Counted from 0000-03-01: leap days then come last in their year, and 400 years have 146,097 days.
    let days = days + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (400 * era + year_of_era + u64::from(month <= 2), month, day)
}

#[expect(clippy::disallowed_methods, reason = "log lines state the wall clock")]
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn days_have_dates() {
        assert_eq!(civil_date(0), (1970, 1, 1));
        assert_eq!(civil_date(11_016), (2000, 2, 29));
        assert_eq!(civil_date(11_017), (2000, 3, 1));
        assert_eq!(civil_date(20_453), (2025, 12, 31));
        assert_eq!(civil_date(20_454), (2026, 1, 1));
        let at = Duration::new(1_700_000_000, 1_234_000);
        assert_eq!(timestamp(at), "2023-11-14T22:13:20.001234Z");
    }

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, level: LogLevel) -> String {
        let written = Written::default();
        let sink = written.clone();
        let lines = tracing_subscriber::fmt::layer()
            .event_format(Lines { format })
            .with_writer(move || sink.clone());
        let subscriber = tracing_subscriber::registry().with(filter(level)).with(lines);
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(term = 7_u64, name = "a\"b", ready = true, "ready \"now\"");
            tracing::info!(target: "openraft::engine", "replayed");
            tracing::debug!("detail");
        });
        let bytes = written.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    /// Behaviour.md 12.1: every line is JSON, its keys in etcd's order.
    #[test]
    fn lines_are_etcds_json() {
        let written = logged(LogFormat::Json, LogLevel::Info);
        assert_eq!(written.lines().count(), 1, "{written}");
        let line: serde_json::Value = serde_json::from_str(&written).unwrap();
        assert_eq!(line["level"], "info");
        assert_eq!(line["msg"], "ready \"now\"");
        assert_eq!((&line["term"], &line["ready"]), (&7.into(), &true.into()));
        assert_eq!(line["name"], "a\"b");
        assert!(line["caller"].as_str().unwrap().starts_with("src/telemetry.rs:"));
        let places: Vec<_> = ["level", "ts", "caller", "msg", "term", "name", "ready"]
            .iter()
            .map(|key| written.find(&format!("\"{key}\":")).unwrap())
            .collect();
        assert!(places.is_sorted(), "{written}");
    }

    #[test]
    fn lines_for_people_and_levels() {
        let written = logged(LogFormat::Console, LogLevel::Debug);
        assert_eq!(written.lines().count(), 3, "{written}");
        assert!(written.contains("\tinfo\t") && written.contains("{\"term\": 7, "), "{written}");
        assert_eq!(logged(LogFormat::Json, LogLevel::Warn), "");
    }
}
