//! A leader is elected, says something, and hands over; an observer is told.
//!
//! Run it with the address of a server: `cargo run --example leader 127.0.0.1:2379`.

#![expect(clippy::print_stdout, reason = "it shows something")]

use anyhow::{Context, Result, ensure};
use kvd_client::concurrency::{Election, Session};
use kvd_client::{Client, Options};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let endpoint = std::env::args().nth(1).context("the address of a server is missing")?;
    run(&endpoint).await
}

/// What `main` does.
pub(crate) async fn run(endpoint: &str) -> Result<()> {
    let client = Client::connect(Options::new([endpoint])).await?;
    let election = Election::new("examples/leader");
    let mut observer = election.observe(&client);

    // Two candidates in one process; usually they are on two machines.
    let (anna, bert) = (Session::start(&client).await?, Session::start(&client).await?);
    let first = election.campaign(&anna, "anna").await?;
    let told = observer.next().await.context("observing goes on")??;
    println!("{:?} leads with token {}", told.value, told.token);

    // Bert waits until Anna resigns; work that heeds the loss of leadership is a `select!` away.
    let (resigned, second) = tokio::join!(
        async {
            tokio::select! {
                () = first.lost() => println!("anna does not lead any more"),
                () = work() => println!("anna is done"),
            }
            first.resign().await
        },
        election.campaign(&bert, "bert"),
    );
    resigned?;
    let second = second?;
    let told = observer.next().await.context("observing goes on")??;
    println!("{:?} leads with token {}", told.value, told.token);
    ensure!(told.token == second.token(), "the last leader is told");
    second.resign().await?;
    anna.end().await?;
    bert.end().await?;
    Ok(())
}

async fn work() {
    tokio::task::yield_now().await;
}
