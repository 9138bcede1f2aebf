//! Requests whose answers do not come, and a client that is cut off.

use std::time::Duration;

use anyhow::{Context, Result};
use kvd_client::concurrency::{Mutex, Session};
use kvd_client::{Client, Options};
use tokio::time::Instant;

use crate::proxy::Proxy;
use crate::{keys, on_each, until_keys};

/// A way to the client's server, and a client that takes it.
async fn through_proxy(client: &Client) -> Result<(Proxy, Client)> {
    let proxy = Proxy::start(client.endpoints().next().context("there is one")?).await?;
    let options =
        Options::new([proxy.address.to_string()]).request_timeout(Duration::from_secs(30));
    let client = Client::connect(options).await?;
    Ok((proxy, client))
}

#[tokio::test]
async fn a_lock_whose_answer_is_lost_is_had_once() -> Result<()> {
    on_each(async |direct| {
        let (proxy, client) = through_proxy(direct).await?;
        let session = Session::start(&client).await?;
        for _ in 0..3 {
            proxy.mute();
            let mutex = Mutex::new("lock");
            let locked = async {
                until_keys(direct, "lock/", 1).await?;
                // It is done, and nobody can tell.
                proxy.cut();
                anyhow::Ok(())
            };
            let (held, locked) = tokio::join!(mutex.lock(&session), locked);
            locked?;
            let held = held?;
            let key = direct.get(held.key().clone()).await?.context("it is there")?;
            assert_eq!(key.create_revision, held.token().number());

            proxy.mute();
            let unlocked = async {
                until_keys(direct, "lock/", 0).await?;
                proxy.cut();
                anyhow::Ok(())
            };
            let (unlock, unlocked) = tokio::join!(held.unlock(), unlocked);
            unlocked?;
            unlock?;
        }
        assert_eq!(keys(direct, "lock/").await?, Vec::<String>::new());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn who_is_cut_off_knows_it_before_the_others() -> Result<()> {
    on_each(async |direct| {
        let (proxy, client) = through_proxy(direct).await?;
        let session = Session::with_ttl(&client, Duration::from_secs(2)).await?;
        let held = Mutex::new("lock").lock(&session).await?;
        // Renewed at least once.
        let first = session.held_until();
        while session.held_until() == first {
            direct.get("something").await?;
        }
        proxy.kill();
        let gone = async {
            until_keys(direct, "lock/", 0).await?;
            anyhow::Ok(Instant::now())
        };
        let ((), (), gone) = tokio::join!(session.lost(), held.lost(), gone);
        assert!(session.held_until() <= gone?);
        assert!(!held.is_held() && !session.is_held());
        Ok(())
    })
    .await
}
