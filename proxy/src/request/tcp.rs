//! The story of one opaque connection: pick, connect (another task if one refuses), then bytes both ways until both ends are done.

use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use outrigger_xds::model::RetryPolicy;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::worker::Worker;
use super::{access, attempts};
use crate::deadline::Deadline;
use crate::error::{Kind, ProxyError};
use crate::http1::buffers::{Buffers, Large, MEDIUM};
use crate::policy::endpoint::{Endpoint, Lease};
use crate::policy::limits::Share;
use crate::policy::outlier::Outcome;
use crate::policy::retry::{Attempts, Ended};
use crate::routing::snapshot::ListenerPolicy;
use crate::tls::dial::Inside;
use crate::tls::peer::Peer;
use crate::tls::stream::REFUSED;
use crate::tls::transport::Transport;
use crate::upstream::cluster::Cluster;
use crate::upstream::connect;

/// Serves one connection of opaque bytes, of `peer` where it came by TLS. The upstream is dialled before any client byte is read:
/// some protocols speak first. Whether either end broke off, so that the other is not to take what it has for all there was.
pub(crate) async fn serve(
    worker: &Rc<Worker>,
    listener: &Arc<ListenerPolicy>,
    peer: Option<&Peer>,
    client: impl AsyncRead + AsyncWrite + Unpin,
) -> bool {
    let shard = listener.metrics.shard(worker.id);
    shard.requests.add(1);
    let result = match (access::connection(worker, listener, peer), &listener.tcp) {
        (Err(refused), _) => Err(refused),
        (Ok(()), Some(cluster)) => relay(worker, listener, cluster, client).await,
        (Ok(()), None) => Err(Kind::NoRoute.into()),
    };
    shard.finished.add(1);
    let Err(error) = result else { return false };
    shard.error(error.kind);
    tracing::debug!(listener = listener.name, %error, "tcp connection failed");
    is_broken(&error)
}

const fn is_broken(error: &ProxyError) -> bool {
    matches!(
        error.kind,
        Kind::ConnectionTermination | Kind::DownstreamTermination
    )
}

async fn relay(
    worker: &Rc<Worker>,
    listener: &Arc<ListenerPolicy>,
    cluster: &Arc<Cluster>,
    mut client: impl AsyncRead + AsyncWrite + Unpin,
) -> Result<(), ProxyError> {
    let _live: Share = cluster.enter().ok_or(Kind::Overflow)?;
    let Dialled {
        lease,
        stream: mut task,
        _open,
    } = dial(worker, cluster).await?;
    let idle = worker.sweep.deadline();
    let idle_timeout = listener.tcp_idle_timeout;
    let buffers = &worker.buffers;
    let (moved, end) = copy(&mut client, &mut task, &idle, idle_timeout, buffers).await;
    listener.metrics.shard(worker.id).bytes.add(moved);
    let counts = cluster.metrics.shard(worker.id);
    counts.moved(moved, lease.endpoint().is_cross_zone());
    if end.as_ref().is_err_and(is_broken) {
        task.abort();
    }
    // Told when our side of the handshake is over, and the client's first bytes may be gone: no other task is tried.
    if end
        .as_ref()
        .is_err_and(|error| error.kind == Kind::TlsFailed)
    {
        counts.tls_errors.add(1);
        cluster.report(lease.endpoint(), Outcome::LocalOrigin);
    }
    end
}

/// A connection to a task.
struct Dialled {
    lease: Lease,
    stream: Transport,
    _open: Share,
}

/// Makes a connection to a task; connect failures are *undelivered* and go to another one.
async fn dial(worker: &Rc<Worker>, cluster: &Arc<Cluster>) -> Result<Dialled, ProxyError> {
    let waiting = worker.sweep.deadline();
    waiting.set_after(cluster.connect_timeout());
    let arrived = pin!(cluster.arrived());
    waiting
        .bound(arrived)
        .await
        .flatten()
        .ok_or(Kind::NoHealthyEndpoint)?;
    let policy = RetryPolicy::default();
    let mut attempts = Attempts::new(&policy, &http::Method::GET);
    let mut _budget: Option<Share> = None;
    loop {
        let lease = cluster
            .pick(&mut *worker.rng.borrow_mut(), b"", attempts.tried())
            .ok_or(Kind::NoHealthyEndpoint)?;
        attempts.begin(lease.endpoint().id);
        let open = cluster.try_open(false).ok_or(Kind::Overflow)?;
        let connected = {
            let _pending = cluster.try_connect().ok_or(Kind::Overflow)?;
            connect(worker, cluster, lease.endpoint()).await
        };
        match connected {
            Ok(stream) => {
                cluster.metrics.shard(worker.id).connects.add(1);
                cluster.report(lease.endpoint(), Outcome::Success);
                return Ok(Dialled {
                    lease,
                    stream,
                    _open: open,
                });
            }
            Err(error) => {
                cluster.report(lease.endpoint(), Outcome::LocalOrigin);
                let ended = Ended::Failed(error.kind.retriable());
                _budget = None;
                let Some((wait, budget)) = attempts::again(worker, cluster, &attempts, ended)
                else {
                    return Err(error);
                };
                _budget = Some(budget);
                attempts::back_off(worker, wait).await;
            }
        }
    }
}

/// With those who take TLS, opaque bytes are told from HTTP by their name for it.
async fn connect(
    worker: &Worker,
    cluster: &Cluster,
    endpoint: &Endpoint,
) -> Result<Transport, ProxyError> {
    if endpoint.takes_tls() {
        return connect::tls(cluster, endpoint, Inside::Tcp, worker.id).await;
    }
    let stream = connect::tcp(endpoint.address, cluster.connect_timeout()).await?;
    Ok(stream.into())
}

/// Copies both ways until both ends have closed, or neither has sent a byte for `idle_timeout`. A half-close is passed on.
pub(crate) async fn copy(
    client: &mut (impl AsyncRead + AsyncWrite + Unpin),
    task: &mut (impl AsyncRead + AsyncWrite + Unpin),
    idle: &Deadline,
    idle_timeout: Duration,
    buffers: &Buffers,
) -> (u64, Result<(), ProxyError>) {
    let (mut up, mut down) = (Half::default(), Half::default());
    idle.set_after(idle_timeout);
    let end = std::future::poll_fn(|cx| {
        let before = up.moved + down.moved;
        let scratch = &mut *buffers.scratch();
        let up_done = up
            .poll(cx, client, task, scratch, buffers)
            .map_err(|ended| ended.blame(Kind::DownstreamTermination, Kind::ConnectionTermination));
        let down_done = down
            .poll(cx, task, client, scratch, buffers)
            .map_err(|ended| ended.blame(Kind::ConnectionTermination, Kind::DownstreamTermination));
        if up.moved + down.moved != before {
            idle.set_after(idle_timeout);
        }
        match (up_done, down_done) {
            (Poll::Ready(Err(error)), _) | (_, Poll::Ready(Err(error))) => Poll::Ready(Err(error)),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Ok(())),
            _ => idle
                .poll_expired(cx)
                .map(|()| Err(Kind::IdleTimeout.into())),
        }
    })
    .await;
    (up.moved + down.moved, end)
}

/// Which end of a direction broke it off.
enum Broken {
    From(std::io::Error),
    To(std::io::Error),
}

impl Broken {
    fn blame(self, from: Kind, to: Kind) -> ProxyError {
        match self {
            Self::From(error) | Self::To(error) if error.kind() == REFUSED => {
                ProxyError::caused(Kind::TlsFailed, error)
            }
            Self::From(error) => ProxyError::caused(from, error),
            Self::To(error) => ProxyError::caused(to, error),
        }
    }
}

/// One direction.
#[derive(Default)]
struct Half {
    /// What the writer has not taken yet; a direction that flows holds nothing.
    rest: Vec<u8>,
    /// The right to hold that much, where it is much.
    large: Option<Arc<Large>>,
    written: usize,
    moved: u64,
    read_ended: bool,
    done: bool,
}

impl Half {
    /// `scratch` is the worker's: the same memory for all connections stays in the processor's cache.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        scratch: &mut [u8],
        buffers: &Buffers,
    ) -> Poll<Result<(), Broken>> {
        if self.done {
            return Poll::Ready(Ok(()));
        }
        loop {
            while self.written < self.rest.len() {
                let written = ready!(poll_write(cx, to, &self.rest[self.written..]));
                self.written += written.map_err(Broken::To)?;
            }
            (self.rest, self.large, self.written) = (Vec::new(), None, 0);
            if self.read_ended {
                ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(Broken::To)?;
                ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(Broken::To)?;
                self.done = true;
                return Poll::Ready(Ok(()));
            }
            let most = if buffers.has_large() {
                scratch.len()
            } else {
                MEDIUM
            };
            let mut space = ReadBuf::new(&mut scratch[..most]);
            let polled = Pin::new(&mut *from).poll_read(cx, &mut space);
            if polled.map_err(Broken::From)?.is_pending() {
                ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(Broken::To)?;
                return Poll::Pending;
            }
            let read = space.filled();
            self.moved += read.len() as u64;
            self.read_ended = read.is_empty();
            let mut written = 0;
            while written < read.len() {
                match poll_write(cx, to, &read[written..]).map_err(Broken::To)? {
                    Poll::Ready(more) => written += more,
                    Poll::Pending => {
                        self.rest = read[written..].to_vec();
                        self.large = (self.rest.len() > MEDIUM)
                            .then(|| buffers.large())
                            .flatten();
                        return Poll::Pending;
                    }
                }
            }
        }
    }
}

fn poll_write(
    cx: &mut Context<'_>,
    to: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
) -> Poll<std::io::Result<usize>> {
    match ready!(Pin::new(to).poll_write(cx, bytes))? {
        0 => Poll::Ready(Err(std::io::ErrorKind::WriteZero.into())),
        written => Poll::Ready(Ok(written)),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::deadline::Sweep;

    #[tokio::test]
    async fn a_half_close_is_passed_on_and_the_other_way_stays_open() {
        let (mut app, mut client) = tokio::io::duplex(64);
        let (mut server, mut task) = tokio::io::duplex(64);
        let sweep = Sweep::new();
        let idle = sweep.deadline();
        let buffers = Buffers::default();
        let relay = copy(&mut client, &mut task, &idle, Duration::ZERO, &buffers);
        let talk = async {
            app.write_all(b"ping").await?;
            app.shutdown().await?;
            let mut seen = Vec::new();
            server.read_to_end(&mut seen).await?;
            server.write_all(b"pong and more").await?;
            drop(server);
            let mut answer = Vec::new();
            app.read_to_end(&mut answer).await?;
            Ok::<_, std::io::Error>((seen, answer))
        };
        let ((moved, end), talked) = tokio::join!(relay, talk);
        end.expect("both ends closed in order");
        assert_eq!(
            talked.expect("the duplex pipes work"),
            (b"ping".to_vec(), b"pong and more".to_vec())
        );
        assert_eq!(moved, 17);
    }

    #[tokio::test]
    async fn a_slow_reader_gets_every_byte_in_order() {
        let (mut app, mut client) = tokio::io::duplex(1 << 20);
        let (mut server, mut task) = tokio::io::duplex(10);
        let (sweep, buffers) = (Sweep::new(), Buffers::default());
        let idle = sweep.deadline();
        let relay = copy(&mut client, &mut task, &idle, Duration::ZERO, &buffers);
        let sent: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
        let talk = async {
            app.write_all(&sent).await?;
            app.shutdown().await?;
            let mut seen = Vec::new();
            server.read_to_end(&mut seen).await?;
            drop((server, app));
            Ok::<_, std::io::Error>(seen)
        };
        let ((moved, _), seen) = tokio::join!(relay, talk);
        assert!(seen.expect("the duplex pipes work") == sent);
        assert_eq!(moved, 100_000);
    }

    #[tokio::test]
    async fn what_waits_for_a_slow_reader_is_little_where_many_hold_much() {
        let buffers = Buffers::default();
        let rights: Vec<_> = std::iter::from_fn(|| buffers.large()).collect();
        for (most, rights) in [(MEDIUM, rights), (200_000, Vec::new())] {
            let (mut app, mut client) = tokio::io::duplex(1 << 20);
            let (_server, mut task) = tokio::io::duplex(10);
            app.write_all(&[0; 200_010])
                .await
                .expect("the pipe has room");
            let mut half = Half::default();
            let polled = std::future::poll_fn(|cx| {
                let scratch = &mut *buffers.scratch();
                let polled = half.poll(cx, &mut client, &mut task, scratch, &buffers);
                Poll::Ready(polled.is_pending())
            });
            assert!(polled.await, "the reader is slow");
            assert_eq!(half.rest.len() + usize::from(most == MEDIUM) * 10, most);
            assert_eq!(half.large.is_some(), most > MEDIUM);
            drop(rights);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_for_the_idle_timeout_ends_it() {
        let (_app, mut client) = tokio::io::duplex(64);
        let (_server, mut task) = tokio::io::duplex(64);
        let local = tokio::task::LocalSet::new();
        let end = local
            .run_until(async {
                let sweep = Sweep::new();
                tokio::task::spawn_local(sweep.clone().run());
                let idle = sweep.deadline();
                let (buffers, hour) = (Buffers::default(), Duration::from_secs(3600));
                copy(&mut client, &mut task, &idle, hour, &buffers).await.1
            })
            .await;
        assert_eq!(end.expect_err("nobody spoke").kind, Kind::IdleTimeout);
    }
}
