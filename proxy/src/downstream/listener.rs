//! Binds listeners, accepts connections, hands each to the worker with the fewest, and keeps the limits.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use outrigger_xds::model;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{Receiver, Sender};
use tokio_util::sync::CancellationToken;

use super::{farewell, protocol};
use crate::drain::{Drain, Phase};
use crate::mutants::{self, Mutant};
use crate::request::worker::Worker;
use crate::routing::snapshot::{ListenerPolicy, Slot};

/// Connections the kernel holds for us until they are accepted.
const BACKLOG: i32 = 4096;
/// Commands one worker may have waiting.
pub(crate) const MAX_COMMANDS: usize = 4096;
/// Pause after an accept error such as EMFILE, so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A bound socket. Dropping it closes the socket and ends its accept loop; its connections live on.
pub(crate) struct Bound {
    pub(crate) address: SocketAddr,
    /// The same socket as the worker's, for a successor.
    pub(crate) socket: std::net::TcpListener,
    stop: CancellationToken,
    ended: CancellationToken,
}

impl Bound {
    /// What is cancelled when nothing more is accepted.
    pub(crate) fn close(self) -> CancellationToken {
        self.ended.clone()
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What a worker thread is told to do.
pub(crate) enum Command {
    /// Accept on this socket, which the worker then owns.
    Accept(std::net::TcpListener, Arc<Accepting>, Queue),
    /// Serve this connection, accepted by another worker.
    Serve(std::net::TcpStream, Arc<Accepting>, Place),
}

/// A listening socket that may have somebody in its accept queue, in the count of all.
pub(crate) struct Queue(Workers);

impl Queue {
    fn of(workers: &Workers) -> Self {
        workers.queues.fetch_add(1, Relaxed);
        Self(workers.clone())
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.0.queues.fetch_sub(1, Relaxed);
    }
}

/// One connection in a worker's count, from the moment the worker is chosen.
pub(crate) struct Place {
    workers: Workers,
    worker: usize,
}

impl Place {
    fn take(workers: &Workers, worker: usize) -> Self {
        workers.handles[worker].connections.fetch_add(1, Relaxed);
        Self {
            workers: workers.clone(),
            worker,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.workers.handles[self.worker]
            .connections
            .fetch_sub(1, Relaxed);
    }
}

/// What is shared by the connections of one listening socket.
pub(crate) struct Accepting {
    slot: Slot,
    open: AtomicU32,
    /// Cancelled when this process may accept.
    begin: CancellationToken,
    stop: CancellationToken,
    /// Cancelled when nothing more is accepted.
    ended: CancellationToken,
}

/// The workers' command queues and how many connections each has.
#[derive(Clone)]
pub(crate) struct Workers {
    handles: Arc<[Handle]>,
    queues: Arc<AtomicU32>,
}

/// One worker, from outside.
pub(crate) struct Handle {
    pub(crate) commands: Sender<Command>,
    pub(crate) connections: AtomicU32,
}

impl Workers {
    pub(crate) fn new(handles: Vec<Handle>) -> Self {
        Self {
            handles: handles.into(),
            queues: Arc::default(),
        }
    }

    /// Sockets that are accepted on.
    pub(crate) fn queues(&self) -> u64 {
        u64::from(self.queues.load(Relaxed))
    }

    /// Connections open on all workers.
    pub(crate) fn connections(&self) -> u64 {
        self.handles
            .iter()
            .map(|worker| u64::from(worker.connections.load(Relaxed)))
            .sum()
    }

    /// Lets a worker accept on `socket`, once `begin` is cancelled.
    pub(crate) fn listen(
        &self,
        socket: std::net::TcpListener,
        slot: Slot,
        begin: &CancellationToken,
    ) -> io::Result<Bound> {
        let address = socket.local_addr()?;
        let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
        let accepting = Arc::new(Accepting {
            slot,
            open: AtomicU32::new(0),
            begin: begin.clone(),
            stop: stop.clone(),
            ended: ended.clone(),
        });
        let quiet = self
            .handles
            .iter()
            .min_by_key(|worker| worker.connections.load(Relaxed));
        let worker = quiet.ok_or_else(|| io::Error::other("there is no worker"))?;
        let same = socket.try_clone()?;
        let accept = Command::Accept(same, accepting, Queue::of(self));
        let told = worker.commands.try_send(accept);
        told.map_err(|_| io::Error::other("the worker does not take commands"))?;
        Ok(Bound {
            address,
            socket,
            stop,
            ended,
        })
    }
}

/// One socket per address, without SO_REUSEPORT: a second sidecar must fail to bind, not share the traffic.
pub(crate) fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// One worker's life: it takes commands until the sidecar stops.
pub(crate) async fn run_worker(
    worker: Rc<Worker>,
    workers: Workers,
    mut commands: Receiver<Command>,
    drain: Drain,
) {
    while let Some(command) = commands.recv().await {
        match command {
            Command::Accept(socket, accepting, queue) => match TcpListener::from_std(socket) {
                Ok(socket) => {
                    let (worker, workers, drain) =
                        (Rc::clone(&worker), workers.clone(), drain.clone());
                    let accepted = accept(worker, workers, socket, accepting, drain);
                    tokio::task::spawn_local(async move {
                        accepted.await;
                        drop(queue);
                    });
                }
                Err(error) => tracing::error!(%error, "a bound socket cannot be accepted on"),
            },
            Command::Serve(stream, accepting, place) => match TcpStream::from_std(stream) {
                Ok(stream) => serve(&worker, place, accepting, stream, &drain),
                Err(error) => tracing::warn!(%error, "an accepted connection was lost"),
            },
        }
    }
}

async fn accept(
    worker: Rc<Worker>,
    workers: Workers,
    socket: TcpListener,
    accepting: Arc<Accepting>,
    drain: Drain,
) {
    let _ended = accepting.ended.clone().drop_guard();
    tokio::select! {
        () = accepting.begin.cancelled() => {}
        () = accepting.stop.cancelled() => return,
    }
    let mut stopped = pin!(drain.reached(Phase::Stopped));
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            () = accepting.stop.cancelled() => return,
            () = &mut stopped => break,
        };
        match accepted {
            Ok((stream, _)) => dispatch(&worker, &workers, &accepting, stream, &drain),
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    if mutants::is(Mutant::LeaveAcceptQueue) {
        return;
    }
    let taken = accept_the_rest(socket, |stream| {
        dispatch(&worker, &workers, &accepting, stream, &drain);
    });
    if let Err(error) = taken {
        tracing::warn!(%error, "connections may be left in an accept queue");
    }
}

/// Closes the socket with nobody left in its queue, whom the kernel would reset: their requests may have arrived.
fn accept_the_rest(socket: TcpListener, mut take: impl FnMut(TcpStream)) -> io::Result<()> {
    // Asked directly: readiness is only heard of between two turns of the worker.
    let socket = socket.into_std()?;
    let closed = close_to_newcomers(&socket);
    loop {
        match socket.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(true)?;
                take(TcpStream::from_std(stream)?);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return closed,
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => return Err(error),
        }
    }
}

/// From here on a SYN is dropped, and finds the port closed when it is sent again, which is safe to try elsewhere; handshakes
/// under way still end. Without this one could end between the last accept and the close.
#[cfg(target_os = "linux")]
fn close_to_newcomers(socket: &std::net::TcpListener) -> io::Result<()> {
    const FLAGS: u32 = 13;
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    let step = |code: u32, jt, jf, k| socket2::SockFilter::new(code as u16, jt, jf, k);
    let drop_syn = [
        step(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, FLAGS),
        step(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, SYN | ACK),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, SYN),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
    ];
    socket2::SockRef::from(socket).attach_filter(&drop_syn)
}

#[cfg(not(target_os = "linux"))]
fn close_to_newcomers(_: &std::net::TcpListener) -> io::Result<()> {
    Ok(())
}

/// Keeps the connection or passes it to the worker that has the fewest.
fn dispatch(
    worker: &Rc<Worker>,
    workers: &Workers,
    accepting: &Arc<Accepting>,
    stream: TcpStream,
    drain: &Drain,
) {
    let load = |id: usize| workers.handles[id].connections.load(Relaxed);
    let fewest = (0..workers.handles.len())
        .min_by_key(|id| load(*id))
        .unwrap_or(worker.id);
    let here = |stream| {
        let place = Place::take(workers, worker.id);
        serve(worker, place, Arc::clone(accepting), stream, drain);
    };
    if fewest == worker.id || load(fewest) >= load(worker.id) {
        return here(stream);
    }
    let Ok(queue) = workers.handles[fewest].commands.try_reserve() else {
        return here(stream);
    };
    if let Ok(stream) = stream.into_std() {
        let place = Place::take(workers, fewest);
        queue.send(Command::Serve(stream, Arc::clone(accepting), place));
    }
}

fn serve(
    worker: &Rc<Worker>,
    place: Place,
    accepting: Arc<Accepting>,
    stream: TcpStream,
    drain: &Drain,
) {
    let Some(listener) = worker.snapshot.load().listener(accepting.slot).cloned() else {
        return;
    };
    let shard = listener.metrics.shard(worker.id);
    if accepting.open.fetch_add(1, Relaxed) >= listener.max_connections {
        accepting.open.fetch_sub(1, Relaxed);
        shard.refused_connections.add(1);
        if listener.protocol != model::Protocol::Tcp {
            farewell::begin(worker, place, listener, stream, drain);
        }
        return;
    }
    shard.connections.add(1);
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set");
    }
    let slot = accepting.slot;
    let open = Rc::new(Counted {
        place,
        accepting,
        listener: Arc::clone(&listener),
    });
    let (worker, drain) = (Rc::clone(worker), drain.clone());
    tokio::task::spawn_local(async move {
        protocol::serve(&worker, slot, &listener, open, stream, drain).await;
    });
}

/// One open connection in every count; given up when its last holder is gone.
struct Counted {
    place: Place,
    accepting: Arc<Accepting>,
    listener: Arc<ListenerPolicy>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let shard = self.listener.metrics.shard(self.place.worker);
        shard.closed_connections.add(1);
        self.accepting.open.fetch_sub(1, Relaxed);
    }
}
