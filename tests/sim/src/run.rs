//! One run: everything follows from its seed. Faults, then health; then everything must be true.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};
use turmoil::{Builder, Sim};

use crate::audit::{Audit, AuditSlot, audit};
use crate::check::check;
use crate::client::{Wishes, work};
use crate::history::History;
use crate::machine::{Flags, Machine, NAMES};
use crate::nemesis::{CLIENTS, Coverage, Nemesis};

/// Simulated time in which things go wrong.
const FAULTS_MS: u64 = 8_000;

/// Simulated time after which a healthy cluster must have converged.
const CONVERGED_MS: u64 = 30_000;

/// Simulated time after which no abandoned call can still take effect: a proposal's time-out is 5 s and two
/// election timeouts.
const SETTLED: Duration = Duration::from_secs(8);

/// Simulated time of one step.
const TICK: Duration = Duration::from_millis(2);

/// What a run was like.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// What follows from the seed.
    pub digest: u64,
    /// Calls that clients made.
    pub calls: usize,
    /// Revisions that came of them.
    pub revisions: usize,
    /// What went wrong on the way.
    pub coverage: Coverage,
    /// Simulated time from health to answers of all members.
    pub converged_after: Duration,
}

/// Runs one seed; the error says what cannot be true.
pub fn run(seed: u64) -> Result<Report, String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let flags = draw_flags(&mut rng);
    let mut sim = network(&mut rng);
    let machines: Vec<Machine> =
        (0..NAMES.len()).map(|index| Machine::new(index, flags, rng.random())).collect();
    for (machine, name) in machines.iter().zip(NAMES) {
        let machine = machine.clone();
        sim.host(name, move || {
            let machine = machine.clone();
            async move {
                machine.run().await;
                Ok(())
            }
        });
    }
    let (history, stop) = (History::default(), Arc::new(AtomicBool::new(false)));
    let pause_ms = rng.random_range(30..120);
    for name in CLIENTS {
        let wishes = Wishes { history: history.clone(), stop: Arc::clone(&stop), pause_ms };
        let seeds: [u64; 2] = rng.random();
        sim.client(name, async move {
            tokio::join!(work(wishes.clone(), seeds[0]), work(wishes, seeds[1]));
            Ok(())
        });
    }
    let mut nemesis = Nemesis::new(rng.random(), machines.clone());
    let verdict = live(&mut sim, &mut nemesis, &machines, &stop);
    let calls = history.calls();
    let Audit { changes, converged_after } = verdict?;
    check(&calls, &changes)?;
    let mut coverage = nemesis.coverage;
    coverage.terms = history.terms();
    coverage.checkpoints =
        machines.iter().filter(|machine| machine.has_checkpoint()).map(|_| 1).sum();
    let (digest, calls, revisions) = (history.digest(), calls.len(), changes.len());
    Ok(Report { digest, calls, revisions, coverage, converged_after })
}

fn draw_flags(rng: &mut StdRng) -> Flags {
    let heartbeat_ms = rng.random_range(30..100);
    Flags {
        heartbeat_ms,
        election_ms: heartbeat_ms * rng.random_range(6..12),
        snapshot_count: rng.random_range(20..200),
        sync_ms: rng.random_range(0..12),
    }
}

fn network(rng: &mut StdRng) -> Sim<'static> {
    let slowest = rng.random_range(2..25);
    Builder::new()
        .rng_seed(rng.random())
        .enable_random_order()
        .tick_duration(TICK)
        .tcp_capacity(4096)
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(slowest))
        .simulation_duration(Duration::from_secs(3600))
        .build()
}

/// Lives through the faults, then through the audit.
fn live(
    sim: &mut Sim<'_>,
    nemesis: &mut Nemesis,
    machines: &[Machine],
    stop: &AtomicBool,
) -> Result<Audit, String> {
    let now_ms = |sim: &Sim<'_>| u64::try_from(sim.elapsed().as_millis()).unwrap_or(u64::MAX);
    while now_ms(sim) < FAULTS_MS {
        step(sim, machines)?;
        nemesis.tick(sim, now_ms(sim));
    }
    nemesis.heal(sim, now_ms(sim));
    // Clients go on for a moment: a healthy cluster serves.
    let stops = now_ms(sim) + 1000;
    let slot = AuditSlot::default();
    let left = Arc::clone(&slot);
    sim.client("auditor", async move {
        audit(left, SETTLED).await;
        Ok(())
    });
    let deadline = now_ms(sim) + CONVERGED_MS + 10_000;
    loop {
        let done = step(sim, machines)?;
        stop.fetch_or(now_ms(sim) >= stops, Ordering::Relaxed);
        if let Some(result) = slot.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let audit = result?;
            if audit.converged_after > Duration::from_millis(CONVERGED_MS) {
                return Err(format!("converged only after {:?}", audit.converged_after));
            }
            return Ok(audit);
        }
        if done || now_ms(sim) > deadline {
            return Err(format!("not converged {CONVERGED_MS} ms after everything was healed"));
        }
    }
}

/// One tick; a member that stops by itself fails the run.
fn step(sim: &mut Sim<'_>, machines: &[Machine]) -> Result<bool, String> {
    let done = sim.step().map_err(|error| format!("a host failed: {error}"))?;
    for (machine, name) in machines.iter().zip(NAMES) {
        if let Some(reason) = machine.failure() {
            return Err(format!("{name} stopped at {:?}: {reason}", sim.elapsed()));
        }
    }
    Ok(done)
}
