//! One run: everything follows from its seed. Faults, then health; then everything must be true.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use kvd_check::Limits;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use turmoil::{Builder, Sim};

use crate::audit::{Audit, AuditSlot, audit};
use crate::client::{CLIENTS, Scene, kv, lease, member, operator, watch, witness};
use crate::fault::{self, Kind, Nemesis};
use crate::invariant::Invariants;
use crate::machine::{Flags, Gained, Machine, NAMES};
use crate::observe::Observer;
use crate::record::Record;
use crate::report::Report;

/// Simulated time in which things go wrong.
const FAULTS_MS: u64 = 8_000;

/// Simulated time for which clients go on after everything was healed.
pub const HEALTHY_MS: u64 = 1_000;

/// Simulated time after which a healthy cluster must have converged.
const CONVERGED_MS: u64 = 30_000;

/// Simulated time after a client's last call in which an abandoned one can still take effect: a proposal's
/// time-out is 5 s and two election timeouts.
const SETTLED: Duration = Duration::from_secs(8);

/// Simulated time of one step.
const TICK: Duration = Duration::from_millis(2);

/// Everything that a seed decides before time begins.
struct Plan {
    flags: Flags,
    kinds: Vec<Kind>,
    latency_max: Duration,
    pause_ms: u64,
    compaction: bool,
}

impl Plan {
    fn draw(rng: &mut StdRng, apart: &mut StdRng) -> Self {
        let heartbeat_ms = rng.random_range(30..100);
        let kinds = fault::draw(rng, apart);
        let mut plan = Self {
            flags: Flags {
                members: if rng.random_bool(0.8) { 3 } else { 5 },
                heartbeat_ms,
                election_ms: heartbeat_ms * rng.random_range(6..12),
                // Short logs, so that who was away for a second needs a snapshot.
                snapshot_count: if rng.random_bool(0.4) {
                    rng.random_range(8..40)
                } else {
                    rng.random_range(20..200)
                },
                sync_ms: rng.random_range(0..12),
                progress_ms: rng.random_range(300..3000),
                sample_entries: rng.random_range(8..64),
                compare_ms: rng.random_range(100..1000),
            },
            kinds,
            latency_max: Duration::from_millis(rng.random_range(2..25)),
            pause_ms: rng.random_range(20..120),
            compaction: rng.random_bool(0.6),
        };
        if plan.kinds.contains(&Kind::LeaderDeaf) {
            // Or the log that it would need is still there when it hears again.
            plan.flags.snapshot_count = apart.random_range(4..20);
        }
        plan
    }
}

/// Runs one seed; the error says what cannot be true.
///
/// # Errors
/// The first violation.
pub fn run(seed: u64) -> Result<Report, String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let plan = Plan::draw(&mut rng, &mut StdRng::seed_from_u64(!seed));
    let mut sim = network(&mut rng, plan.latency_max);
    let gained = Gained::default();
    let machines: Vec<Machine> = (0..plan.flags.members)
        .map(|index| Machine::new(index, plan.flags, gained.clone(), rng.random()))
        .collect();
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
    let scene = Scene {
        record: Record::new(limits(seed, &plan.flags), gained),
        members: &NAMES[..plan.flags.members],
        pause_ms: plan.pause_ms,
        stop: Arc::new(AtomicBool::new(false)),
        over: Arc::new(AtomicBool::new(false)),
    };
    clients(&mut sim, &scene, &plan, &mut rng);
    let nemesis = Nemesis::new(rng.random(), plan.kinds, machines.clone(), plan.latency_max);
    let mut world = World {
        sim,
        machines,
        nemesis,
        invariants: Invariants::new(),
        observer: Observer::default(),
    };
    let audit = world.live(&scene)?;
    report(&world, &scene, &plan.flags, &audit)
}

fn report(
    world: &World<'_>,
    scene: &Scene,
    flags: &Flags,
    audit: &Audit,
) -> Result<Report, String> {
    let seen = scene.record.seen();
    let summary = scene.record.finish(&audit.finals).map_err(|violation| violation.to_string())?;
    let mut coverage = world.nemesis.coverage.clone();
    coverage.join(&world.observer.coverage);
    coverage.add("compactions", seen.compactions);
    coverage.add("watches resumed", seen.watches_resumed);
    coverage.add("watches ended by compaction", seen.watches_compacted);
    coverage.add("witnesses ended by compaction", seen.witnesses_compacted);
    coverage.add("leases expired with keys", summary.lease_expiries);
    coverage.add("leases revoked with keys", summary.lease_ends - summary.lease_expiries);
    coverage.add("unknown outcomes", summary.unknown);
    coverage.add("unknown outcomes that happened", summary.unknown_happened);
    coverage.add("watch events", summary.watch_events);
    coverage.add("windows searched", summary.windows - summary.windows_given_up);
    coverage.add("windows given up", summary.windows_given_up);
    if summary.unjudged > 0 {
        return Err(format!("{} answers went too far back to be judged", summary.unjudged));
    }
    Ok(Report {
        members: flags.members,
        calls: summary.operations,
        revisions: u64::try_from(summary.revision).unwrap_or(0),
        looks: world.invariants.looks,
        simulated: world.sim.elapsed(),
        converged_after: audit.converged_after,
        coverage,
    })
}

/// Simulated time that a lease may outlive its time while all is well: an election that was still to come, and
/// what its client had given up on.
const LEASE_LATE: Duration = Duration::from_secs(3);

/// What the checkers hold a run to. A few short windows of each are searched: what certificates miss shows in many
/// short ones, too. Where they begin is drawn apart: what is looked at must not change what happens.
fn limits(seed: u64, flags: &Flags) -> Limits {
    Limits {
        serializable_monotone: true,
        window_operations: 60,
        window_every_revisions: StdRng::seed_from_u64(seed).random_range(80..240),
        search_steps: 20_000,
        lease_late: u64::try_from(LEASE_LATE.as_nanos()).ok(),
        // The election timeout is a multiple of the heartbeat here: 1.5 of it, in whole seconds.
        lease_ttl_least: i64::try_from((3 * flags.election_ms).div_ceil(2_000)).ok(),
        lease_fresh: flags.election_ms * 1_000_000,
        ..Limits::usual()
    }
}

fn network(rng: &mut StdRng, latency_max: Duration) -> Sim<'static> {
    Builder::new()
        .rng_seed(rng.random())
        .enable_random_order()
        .tick_duration(TICK)
        .tcp_capacity(4096)
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(latency_max)
        .simulation_duration(Duration::from_secs(3600))
        .build()
}

/// Clients on three hosts: keys, leases, watches and compaction beside a witness of each member.
fn clients(sim: &mut Sim<'_>, scene: &Scene, plan: &Plan, rng: &mut StdRng) {
    for (host, name) in CLIENTS.into_iter().enumerate() {
        let number = 10 * (host as u64 + 1);
        let seeds: [u64; 6] = rng.random();
        let witnessed: Vec<usize> =
            (0..scene.members.len()).filter(|member| member % CLIENTS.len() == host).collect();
        let compacts = plan.compaction && host == 0;
        let scene = scene.clone();
        sim.client(name, async move {
            let mut tasks = tokio::task::JoinSet::new();
            tasks.spawn(kv::work(scene.clone(), number, seeds[0]));
            tasks.spawn(kv::work(scene.clone(), number + 1, seeds[1]));
            tasks.spawn(watch::work(scene.clone(), seeds[2]));
            tasks.spawn(lease::work(scene.clone(), number + 3, seeds[3]));
            if compacts {
                tasks.spawn(operator::work(scene.clone(), number + 4, seeds[4]));
            }
            for member in witnessed {
                tasks.spawn(witness::work(scene.clone(), member));
            }
            while let Some(ended) = tasks.join_next().await {
                ended?;
            }
            Ok(())
        });
    }
}

/// Everything that time passes for.
struct World<'a> {
    sim: Sim<'a>,
    machines: Vec<Machine>,
    nemesis: Nemesis,
    invariants: Invariants,
    observer: Observer,
}

impl World<'_> {
    /// Lives through the faults, then through the audit.
    fn live(&mut self, scene: &Scene) -> Result<Audit, String> {
        while self.now_ms() < FAULTS_MS {
            self.step(scene)?;
            let now_ms = self.now_ms();
            self.nemesis.strike(&mut self.sim, now_ms);
        }
        let healed_ms = self.now_ms();
        self.nemesis.heal(&mut self.sim, healed_ms);
        let slot = AuditSlot::default();
        let (left, audited) = (Arc::clone(&slot), scene.clone());
        let members = self.nemesis.whole();
        let doubtful = self.nemesis.doubtful().map(|at| (at, self.machines[at].clone()));
        self.sim.client("auditor", async move {
            audit(audited, members, doubtful, left, SETTLED).await;
            Ok(())
        });
        let deadline = healed_ms + CONVERGED_MS + 40_000;
        loop {
            self.step(scene)?;
            let now_ms = self.now_ms();
            // Clients go on for a moment: a healthy cluster serves.
            scene.stop.fetch_or(now_ms >= healed_ms + HEALTHY_MS, Ordering::Relaxed);
            if let Some(result) = slot.lock().unwrap_or_else(PoisonError::into_inner).take() {
                let audit = result?;
                if audit.converged_after > Duration::from_millis(CONVERGED_MS) {
                    return Err(format!("converged only after {:?}", audit.converged_after));
                }
                let healthy = Duration::from_millis(healed_ms + HEALTHY_MS) + audit.converged_after;
                scene.record.healthy_since(healthy);
                scene.over.store(true, Ordering::Relaxed);
                self.nemesis.finish()?;
                return Ok(audit);
            }
            if now_ms > deadline {
                return Err(format!("not converged {CONVERGED_MS} ms after all was healed"));
            }
        }
    }

    /// One tick; whatever is wrong after it ends the run.
    fn step(&mut self, scene: &Scene) -> Result<(), String> {
        for (at, machine) in self.machines.iter().enumerate() {
            if machine.take_ended() {
                scene.record.restarted(member(at));
            }
        }
        self.sim.step().map_err(|error| format!("a host failed: {error}"))?;
        let now_ms = self.now_ms();
        self.nemesis.tick(&mut self.sim, now_ms).map_err(|what| self.at(&what))?;
        let wiped = self.nemesis.wiped();
        let glances = self.machines.iter().filter_map(Machine::glance);
        let glances: Vec<_> = glances.filter(|glance| Some(glance.member) != wiped).collect();
        self.observer.look(&glances);
        self.invariants.look(&glances).map_err(|what| self.at(&what))?;
        match scene.record.violation() {
            Some(violation) => Err(self.at(&violation)),
            None => Ok(()),
        }
    }

    fn at(&self, what: &str) -> String {
        format!("after {} ms: {what}", self.now_ms())
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.sim.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
