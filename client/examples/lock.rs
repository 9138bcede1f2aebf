//! A lock whose holder cannot do harm after it has lost it: the storage it writes to checks the fencing token.
//!
//! Run it with the address of a server: `cargo run --example lock 127.0.0.1:2379`, in several terminals at once.

#![expect(clippy::print_stdout, reason = "it shows something")]

use anyhow::{Context, Result, bail};
use kvd_client::concurrency::{FencingToken, Mutex, Session};
use kvd_client::{Client, Op, Options, Txn};

/// Something outside the store that the lock protects: it remembers the greatest token that it was given.
#[derive(Default)]
struct Storage {
    greatest: Option<FencingToken>,
    lines: Vec<String>,
}

impl Storage {
    fn write(&mut self, token: FencingToken, line: &str) -> Result<()> {
        if self.greatest > Some(token) {
            bail!("the holder of token {token} has been replaced");
        }
        self.greatest = Some(token);
        self.lines.push(line.to_owned());
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let endpoint = std::env::args().nth(1).context("the address of a server is missing")?;
    run(&endpoint).await
}

/// What `main` does.
pub(crate) async fn run(endpoint: &str) -> Result<()> {
    let client = Client::connect(Options::new([endpoint])).await?;
    let session = Session::start(&client).await?;
    let mutex = Mutex::new("examples/lock");
    let mut storage = Storage::default();

    let held = mutex.lock(&session).await?;
    let old = held.token();
    println!("locked, token {old}");
    storage.write(old, "the first holder's")?;
    // What lies in the same store is guarded by the store itself.
    let write = held.guard(Txn::new().then(Op::put("examples/report", "42")));
    if !client.commit(write).await?.succeeded {
        bail!("the lock was lost before the report was written");
    }
    held.unlock().await?;

    let held = mutex.lock(&session).await?;
    println!("locked again, token {}", held.token());
    storage.write(held.token(), "the second holder's")?;
    // A holder that slept through all this still believes that the lock is its own.
    let late = storage.write(old, "too late");
    println!("the old token is refused: {}", late.is_err());
    if late.is_ok() {
        bail!("a holder that was replaced has written");
    }
    held.unlock().await?;
    session.end().await?;
    Ok(())
}
