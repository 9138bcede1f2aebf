//! What kvctl tells the guard: lines on a pipe. Times are those of the machine's monotonic clock.

use std::io::{self, Write};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// One line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// When the group is asked to end, and when it is killed, unless it is told otherwise before.
    Until { asked: Duration, killed: Duration },
    /// A signal to hand on.
    Signal(i32),
}

impl Order {
    pub(super) fn write(self, pipe: &mut impl Write) -> io::Result<()> {
        let line = match self {
            Self::Until { asked, killed } => {
                format!("until {} {}\n", asked.as_millis(), killed.as_millis())
            }
            Self::Signal(number) => format!("signal {number}\n"),
        };
        // At once: shorter than what a pipe takes whole.
        pipe.write_all(line.as_bytes())
    }

    pub(super) fn parse(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let millis = |word: &str| word.parse().ok().map(Duration::from_millis);
        match words.as_slice() {
            ["until", asked, killed] => {
                Some(Self::Until { asked: millis(asked)?, killed: millis(killed)? })
            }
            ["signal", number] => number.parse().ok().map(Self::Signal),
            _ => None,
        }
    }
}

/// The machine's monotonic clock.
pub(super) fn now() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    let (seconds, nanos) = (u64::try_from(now.tv_sec), u32::try_from(now.tv_nsec));
    Duration::new(seconds.unwrap_or(0), nanos.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() -> io::Result<()> {
        let until = |asked, killed| Order::Until {
            asked: Duration::from_millis(asked),
            killed: Duration::from_millis(killed),
        };
        for order in [until(1, 2), until(u64::MAX, 0), Order::Signal(15)] {
            let mut line = Vec::new();
            order.write(&mut line)?;
            assert_eq!(Order::parse(&String::from_utf8_lossy(&line)), Some(order));
        }
        for line in ["", "until 1", "until a b", "signal", "signal x", "other 1"] {
            assert_eq!(Order::parse(line), None, "{line}");
        }
        Ok(())
    }
}
