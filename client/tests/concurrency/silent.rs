//! A session whose member falls silent, where others are there.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvd_client::concurrency::Session;
use kvd_client::{Client, Options};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::sleep;

use crate::etcd::Cluster;
use crate::{PATIENCE, connect, servers};

/// Short: nobody waits for a silent member for long while it lasts.
const TTL: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_short_session_outlives_a_member_that_stands_still() -> Result<()> {
    for server in servers() {
        let cluster = Cluster::start(&server, 3)?;
        connect(&cluster).await?;
        let client = Client::lazy(Options::new(cluster.endpoints()))?.with_timeout(PATIENCE);
        let session = Session::with_ttl(&client, TTL).await?;
        let used = client.put("k", "1").await?.header.context("a header")?.member_id;
        let mut stopped = None;
        for member in &cluster.members {
            let status = client.status(&member.endpoint).await?;
            if status.header.context("a header")?.member_id == used {
                stopped = Pid::from_raw(i32::try_from(member.pid())?);
            }
        }
        let stopped = stopped.context("one of them answered")?;
        kill_process(stopped, Signal::STOP)?;
        // Far beyond what a renewal before the stop could give.
        let until = session.held_until() + 2 * TTL;
        while session.held_until() < until {
            ensure!(session.is_held(), "lost with {}", server.display());
            sleep(Duration::from_millis(20)).await;
        }
        kill_process(stopped, Signal::CONT)?;
        session.end().await?;
    }
    Ok(())
}
