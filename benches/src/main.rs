//! kvbench: the same load over plain etcd v3 gRPC against kvd, etcd and whatever else is started
//! from a path with etcd's flags.
//!
//! Promises that every number is measured beside its rivals in the same run, on the same machine
//! and disk. Knows nothing about the inside of a server. The method stands in `README.md`.

mod bulk;
mod drive;
mod fan_out;
mod floor;
mod idle_watches;
mod lease_expiry;
mod lease_memory;
mod leases;
mod machine;
mod pace;
mod process;
mod report;
mod restart;
mod run;
mod slow_watcher;
mod table;
mod target;
mod watchers;
mod workload;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::target::Target;

#[derive(Parser)]
#[command(name = "kvbench", about = "Measures etcd-compatible stores side by side")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Throughput and latency of workloads, the targets taking turns.
    Run(run::RunArguments),
    /// Time from kill -9 to the first answer, with a loaded store.
    Restart(restart::RestartArguments),
    /// Speed, memory and disk space of loading a store.
    Load(bulk::LoadArguments),
    /// Lag of events to many watchers, at a given rate.
    FanOut(fan_out::FanOutArguments),
    /// Throughput of puts with and without many watches on other keys.
    IdleWatches(idle_watches::IdleWatchesArguments),
    /// Lag of watchers with and without one beside them that never reads.
    SlowWatcher(slow_watcher::SlowWatcherArguments),
    /// Latency of puts while many leases end in the same second.
    LeaseExpiry(lease_expiry::LeaseExpiryArguments),
    /// Memory of each member with many leases.
    LeaseMemory(lease_memory::LeaseMemoryArguments),
    /// Answers every put at once; `run` starts it to measure the floor.
    #[command(hide = true)]
    FloorServer {
        /// Loopback address to listen on.
        #[arg(long)]
        listen: SocketAddr,
    },
}

/// What every measuring command needs to know.
#[derive(Args, Clone)]
struct Common {
    /// A server to measure, NAME=PATH; give it several times to compare. `run` without any measures
    /// the floors alone.
    #[arg(long = "target")]
    targets: Vec<Target>,
    /// Members of each cluster.
    #[arg(long, default_value_t = 3)]
    members: usize,
    /// A further flag for every server, as --server-flag=--snapshot-count=10000.
    #[arg(long = "server-flag", allow_hyphen_values = true)]
    server_flags: Vec<String>,
    /// Folder on a real disk for the data directories [default: the system's temporary folder].
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Folder for the JSON and the table.
    #[arg(long, default_value = "benches/results")]
    results: PathBuf,
    /// Allow data directories in memory, where a sync costs nothing.
    #[arg(long)]
    allow_tmpfs: bool,
}

impl Common {
    /// The folder for the data directories, refused where syncing means nothing.
    fn disk_folder(&self) -> Result<PathBuf> {
        let folder = self.folder.clone().unwrap_or_else(std::env::temp_dir);
        let in_memory = machine::is_in_memory(&folder)?;
        anyhow::ensure!(
            self.allow_tmpfs || !in_memory,
            "{} is in memory, where nothing is durable; give --folder on a disk",
            folder.display()
        );
        Ok(folder)
    }
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        // Dropping the command on a signal ends the servers that it started.
        tokio::select! {
            done = execute(cli.command) => done,
            _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
            _ = terminate.recv() => anyhow::bail!("terminated"),
        }
    })
}

async fn execute(command: Command) -> Result<()> {
    match command {
        Command::Run(arguments) => Box::pin(run::run(arguments)).await,
        Command::Restart(arguments) => Box::pin(restart::run(arguments)).await,
        Command::Load(arguments) => Box::pin(bulk::run(arguments)).await,
        Command::FanOut(arguments) => Box::pin(fan_out::run(arguments)).await,
        Command::IdleWatches(arguments) => Box::pin(idle_watches::run(arguments)).await,
        Command::SlowWatcher(arguments) => Box::pin(slow_watcher::run(arguments)).await,
        Command::LeaseExpiry(arguments) => Box::pin(lease_expiry::run(arguments)).await,
        Command::LeaseMemory(arguments) => Box::pin(lease_memory::run(arguments)).await,
        Command::FloorServer { listen } => floor::serve(listen).await.context("the floor server"),
    }
}
