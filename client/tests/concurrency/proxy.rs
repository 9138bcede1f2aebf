//! A way to a server on which answers can be held back, and connections cut.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Forwards connections until dropped.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    state: watch::Sender<State>,
    _tasks: JoinSet<()>,
}

#[derive(Clone, Copy, Default)]
struct State {
    /// Nothing comes back from the server.
    is_mute: bool,
    /// Nothing gets to the server.
    is_dead: bool,
    /// How often all connections were cut.
    cuts: u32,
}

impl Proxy {
    pub(crate) async fn start(server: String) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (state, watched) = watch::channel(State::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (server, watched) = (server.clone(), watched.clone());
                connections.spawn(async move {
                    // A connection that fails is the client's affair.
                    let _ended = forward(client, &server, watched).await;
                });
            }
        });
        Ok(Self { address, state, _tasks: tasks })
    }

    /// Requests go on arriving, but no answers.
    pub(crate) fn mute(&self) {
        self.state.send_modify(|state| state.is_mute = true);
    }

    /// Nothing arrives anywhere, and nobody is told.
    pub(crate) fn kill(&self) {
        self.state.send_modify(|state| (state.is_mute, state.is_dead) = (true, true));
    }

    /// Cuts all connections; new ones work.
    pub(crate) fn cut(&self) {
        self.state.send_modify(|state| *state = State { cuts: state.cuts + 1, ..State::default() });
    }
}

async fn forward(
    mut client: TcpStream,
    server: &str,
    mut watched: watch::Receiver<State>,
) -> Result<()> {
    let mut server = TcpStream::connect(server).await?;
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let cuts = watched.borrow().cuts;
    tokio::select! {
        there = pass(&mut from_client, &mut to_server, watched.clone(), |state| !state.is_dead) => there?,
        back = pass(&mut from_server, &mut to_client, watched.clone(), |state| !state.is_mute) => back?,
        cut = watched.wait_for(|state| state.cuts > cuts) => drop(cut?),
    }
    Ok(())
}

/// Passes on what comes, when it may.
async fn pass(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    mut watched: watch::Receiver<State>,
    may: fn(&State) -> bool,
) -> Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let length = from.read(&mut buffer).await?;
        watched.wait_for(may).await?;
        if length == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..length]).await?;
    }
}
