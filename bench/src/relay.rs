//! A TCP relay that makes the way longer: what comes goes on after a fixed time, in each direction. Not every kernel has netem.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

const READ: usize = 16 * 1024;
/// Reads that are on their way in one direction of a connection: 4 MiB at most, then the sender waits.
const UNDER_WAY: usize = 256;

/// How long bytes take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delay {
    /// From the client to the target.
    pub there: Duration,
    /// From the target to the client.
    pub back: Duration,
}

/// A relay that runs until it is dropped.
#[derive(Debug)]
pub struct Relay {
    /// Where it listens: 127.0.0.1 and a free port.
    pub address: SocketAddr,
    _accepting: JoinSet<()>,
}

impl Relay {
    /// Begins to accept for `target`.
    pub async fn start(target: SocketAddr, delay: Delay) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, target, delay));
        Ok(Self {
            address,
            _accepting: accepting,
        })
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, delay: Delay) {
    // Dropped with the relay, and the connections with it.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    connections.spawn(relay(client, target, delay));
                }
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            },
            Some(ended) = connections.join_next() => {
                if let Ok(Err(error)) = ended {
                    tracing::debug!(%error, "a relayed connection ended");
                }
            }
        }
    }
}

async fn relay(client: TcpStream, target: SocketAddr, delay: Delay) -> std::io::Result<()> {
    let server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::try_join!(
        one_way(from_client, to_server, delay.there),
        one_way(from_server, to_client, delay.back),
    )?;
    Ok(())
}

/// Bytes, and at last the end, each `delay` after it came.
async fn one_way(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    delay: Duration,
) -> std::io::Result<()> {
    let (sender, mut under_way) = mpsc::channel::<(Instant, Bytes)>(UNDER_WAY);
    let read = async move {
        loop {
            let mut buffer = Vec::with_capacity(READ);
            let length = from.read_buf(&mut buffer).await?;
            let arrives = Instant::now() + delay;
            let gone = sender.send((arrives, buffer.into())).await.is_err();
            if length == 0 || gone {
                return Ok(());
            }
        }
    };
    let write = async move {
        while let Some((arrives, bytes)) = under_way.recv().await {
            sleep_until(arrives).await;
            if bytes.is_empty() {
                return to.shutdown().await;
            }
            to.write_all(&bytes).await?;
        }
        Ok(())
    };
    tokio::try_join!(read, write).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_take_their_time_each_way_and_the_end_follows_them() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap();
        let delay = Delay {
            there: Duration::from_millis(30),
            back: Duration::from_millis(60),
        };
        let relay = Relay::start(target, delay).await.unwrap();
        let start = Instant::now();
        let mut client = TcpStream::connect(relay.address).await.unwrap();
        client.write_all(b"ping").await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        let mut text = [0; 4];
        server.read_exact(&mut text).await.unwrap();
        assert!(start.elapsed() >= delay.there);
        server.write_all(b"pong").await.unwrap();
        drop(server);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"pong");
        assert!(start.elapsed() >= delay.there + delay.back);
    }
}
