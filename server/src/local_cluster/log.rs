//! The logs of the members: read to their end, their last lines kept, printed if wanted.
//!
//! Promises that a member is never held up by what it says, and that what is kept has a bound.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

/// Lines of a member's log that are kept, and bytes of a line; the rest of a line is dropped.
const TAIL_LINES: usize = 20;
const LINE_BYTES_MAX: u64 = 4096;

/// Says a line to whoever watches. A watcher that has gone away is no reason to stop.
pub(crate) fn say(line: &str) {
    let _written = writeln!(io::stdout().lock(), "{line}");
}

/// The last lines of a log, shared with the threads that read it.
pub(super) type Tail = Arc<Mutex<VecDeque<String>>>;

/// Reads a log on a thread of its own until its writer ends.
pub(super) fn read_log(
    log: impl Read + Send + 'static,
    prefix: Option<String>,
    tail: Tail,
) -> io::Result<()> {
    std::thread::Builder::new().name("member-log".to_owned()).spawn(move || {
        let mut log = BufReader::new(log);
        while let Ok(Some(line)) = next_line(&mut log) {
            if let Some(prefix) = &prefix {
                say(&format!("{prefix}{line}"));
            }
            let mut lines = tail.lock().unwrap_or_else(PoisonError::into_inner);
            if lines.len() == TAIL_LINES {
                lines.pop_front();
            }
            lines.push_back(line);
        }
    })?;
    Ok(())
}

/// The next line without its end; what is too long of it is read and dropped.
fn next_line(log: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut bytes = Vec::new();
    if log.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes)? == 0 {
        return Ok(None);
    }
    if bytes.last() != Some(&b'\n') {
        log.skip_until(b'\n')?;
    }
    Ok(Some(String::from_utf8_lossy(&bytes).trim_end().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_too_long_is_cut_and_the_next_one_is_whole() {
        let text = format!("{}\nshort\nopen", "x".repeat(10_000));
        let mut log = io::Cursor::new(text.into_bytes());
        let lines = std::iter::from_fn(|| next_line(&mut log).unwrap()).collect::<Vec<_>>();
        assert_eq!(lines[0].len(), 4096);
        assert_eq!(lines[1..], ["short", "open"]);
    }
}
