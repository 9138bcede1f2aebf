//! The open loop: puts that are sent when they are due, whether or not those before them are
//! answered.
//!
//! Promises that a target that stalls does not slow the asking down: a put that waits is in the
//! figures with the whole of its wait. Every put is known by its sequence number, which stands at
//! the front of its value. Knows nothing about who reads the puts.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::{Bytes, BytesMut};
use hdrhistogram::Histogram;
use kvd_proto::etcdserverpb::PutRequest;
use kvd_proto::etcdserverpb::kv_client::KvClient;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tonic::Status;
use tonic::transport::Channel;

use crate::drive::{Window, histogram};
use crate::target::connect;
use crate::workload::value_pool;

/// Puts under way at once. A target that lets more pile up cannot keep up with the rate at all.
const IN_FLIGHT_MAX: usize = 50_000;

/// Bytes at the front of a value that hold the sequence number.
pub(crate) const SEQUENCE_BYTES: usize = 4;

/// The sequence number of the put that ends a run.
pub(crate) const LAST: u32 = u32::MAX;

/// What is written, and how often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Puts a second.
    pub(crate) per_second: f64,
    /// Where the keys begin.
    pub(crate) prefix: &'static str,
    /// Keys that are written in turns.
    pub(crate) keys: u32,
    /// Bytes of a value.
    pub(crate) value_bytes: usize,
}

/// One put that succeeded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Put {
    /// Its place among the puts of this run, from zero.
    pub(crate) sequence: u32,
    /// When it was due.
    pub(crate) due: Instant,
    /// When it was sent.
    pub(crate) sent: Instant,
    /// When its answer was there.
    pub(crate) answered: Instant,
    /// Its revision.
    pub(crate) revision: i64,
}

/// All puts of a run.
#[derive(Default)]
pub(crate) struct Written {
    /// Those that succeeded, in the order of their answers.
    pub(crate) puts: Vec<Put>,
    /// How many failed, and the words of one of them.
    pub(crate) errors: (u64, Option<String>),
}

impl Written {
    /// From sending to the answer, of the puts that were sent inside the window; microseconds.
    pub(crate) fn latencies(&self, window: Window) -> Result<Histogram<u64>> {
        spans(self.within(window).map(|put| (put.sent, put.answered)))
    }

    /// How long after they were due the puts of the window were sent: the load generator's own
    /// delay. Microseconds.
    pub(crate) fn delays(&self, window: Window) -> Result<Histogram<u64>> {
        spans(self.within(window).map(|put| (put.due, put.sent)))
    }

    fn within(&self, window: Window) -> impl Iterator<Item = &Put> {
        self.puts.iter().filter(move |put| put.sent >= window.from && put.sent < window.until)
    }
}

/// The lengths of these spans in microseconds; one that ends before it begins has none.
pub(crate) fn spans(spans: impl Iterator<Item = (Instant, Instant)>) -> Result<Histogram<u64>> {
    let mut lengths = histogram()?;
    for (begin, end) in spans {
        let micros = end.saturating_duration_since(begin).as_micros();
        lengths.saturating_record(u64::try_from(micros).unwrap_or(u64::MAX));
    }
    Ok(lengths)
}

/// Puts on a thread of their own, so that nothing else here delays them or their answers.
pub(crate) struct Writer {
    stop: oneshot::Sender<()>,
    done: oneshot::Receiver<Result<Written>>,
}

impl Writer {
    /// Writes to this member at this pace; the first put is due at `begin`.
    pub(crate) fn start(url: &str, pace: Pace, begin: Instant) -> Result<Self> {
        ensure!(pace.per_second > 0.0, "a rate must be more than nothing");
        let ((stop, stopped), (sender, done)) = (oneshot::channel(), oneshot::channel());
        let url = url.to_owned();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("writer".to_owned()).spawn(move || {
            // Nobody listens any more only if the command was interrupted.
            let _sent = sender.send(runtime.block_on(async {
                let kv = KvClient::new(connect(&url).await?);
                write(kv, pace, begin, stopped).await
            }));
        })?;
        Ok(Self { stop, done })
    }

    /// Lets it stop and waits for the answers that are missing.
    pub(crate) async fn finish(self) -> Result<Written> {
        drop(self.stop);
        self.done.await.context("the writer's thread vanished")?
    }
}

async fn write(
    kv: KvClient<Channel>,
    pace: Pace,
    begin: Instant,
    mut stop: oneshot::Receiver<()>,
) -> Result<Written> {
    let values = value_pool(pace.value_bytes);
    let (mut under_way, mut written) = (JoinSet::new(), Written::default());
    for sequence in 0..LAST {
        let due = begin + Duration::from_secs_f64(f64::from(sequence) / pace.per_second);
        tokio::select! {
            biased;
            // The other side says nothing; that it is gone is what it says.
            _gone = &mut stop => break,
            () = tokio::time::sleep_until(due.into()) => {}
        }
        ensure!(
            under_way.len() < IN_FLIGHT_MAX,
            "{IN_FLIGHT_MAX} puts wait for their answers: the target cannot keep up with {} puts/s",
            pace.per_second
        );
        under_way.spawn(one_put(kv.clone(), request(pace, &values, sequence), sequence, due));
        while let Some(done) = under_way.try_join_next() {
            written.note(done?);
        }
    }
    while let Some(done) = under_way.join_next().await {
        written.note(done?);
    }
    Ok(written)
}

/// The put that tells readers that none will follow. All others must be answered.
pub(crate) async fn write_last(url: &str, pace: Pace) -> Result<()> {
    let mut kv = KvClient::new(connect(url).await?);
    kv.put(request(pace, &value_pool(pace.value_bytes), LAST)).await?;
    Ok(())
}

/// A value that carries a sequence number.
pub(crate) fn value(pool: &Bytes, value_bytes: usize, sequence: u32) -> Bytes {
    let rest = value_bytes.saturating_sub(SEQUENCE_BYTES);
    let start = usize::try_from(sequence).unwrap_or(0) % (pool.len() - rest + 1);
    let mut value = BytesMut::with_capacity(SEQUENCE_BYTES + rest);
    value.extend_from_slice(&sequence.to_le_bytes());
    value.extend_from_slice(&pool[start..start + rest]);
    value.freeze()
}

/// The sequence number that a value carries; none if it is no value of ours.
pub(crate) fn sequence_of(value: &[u8]) -> Option<u32> {
    let front = value.get(..SEQUENCE_BYTES)?;
    Some(u32::from_le_bytes(front.try_into().ok()?))
}

fn request(pace: Pace, pool: &Bytes, sequence: u32) -> PutRequest {
    let key = format!("{}{:06}", pace.prefix, sequence % pace.keys.max(1));
    let value = value(pool, pace.value_bytes, sequence);
    PutRequest { key: key.into(), value, ..Default::default() }
}

async fn one_put(
    mut kv: KvClient<Channel>,
    request: PutRequest,
    sequence: u32,
    due: Instant,
) -> Result<Put, Status> {
    let sent = Instant::now();
    let response = kv.put(request).await?.into_inner();
    let answered = Instant::now();
    let revision = response.header.map_or(0, |header| header.revision);
    Ok(Put { sequence, due, sent, answered, revision })
}

impl Written {
    fn note(&mut self, done: Result<Put, Status>) {
        match done {
            Ok(put) => self.puts.push(put),
            Err(status) => {
                self.errors.0 += 1;
                self.errors.1.get_or_insert_with(|| status.to_string());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_has_its_length_and_its_sequence_number() {
        let pool = value_pool(256);
        for sequence in [0, 1, 77_777, LAST] {
            let value = value(&pool, 256, sequence);
            assert_eq!(value.len(), 256);
            assert_eq!(sequence_of(&value), Some(sequence));
        }
        assert_eq!(sequence_of(b"abc"), None);
    }

    #[test]
    fn only_the_puts_of_the_window_count_and_none_has_a_negative_length() {
        let from = Instant::now();
        let window = Window { from, until: from + Duration::from_secs(1) };
        let put = |sent: Instant| Put {
            sequence: 0,
            due: sent,
            sent,
            answered: sent + Duration::from_micros(300),
            revision: 2,
        };
        let mut written = Written::default();
        written.puts.extend([put(from), put(window.until)]);
        let latencies = written.latencies(window).unwrap();
        assert_eq!((latencies.len(), latencies.max()), (1, 300));
        let backwards = spans([(window.until, from)].into_iter()).unwrap();
        assert_eq!(backwards.max(), 0);
    }
}
