//! The attackers: a thread of its own with all their connections, behind the good client when both want the processor.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;

use super::frames::Scanner;
use super::kind::{Kind, Reads};

/// Source addresses: one has some 28,000 ports towards one listener.
const SOURCES: usize = 16;
/// How much less often than others this thread runs (nice(2)).
const NICE: i32 = 10;

/// What the attackers have met so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) open: AtomicUsize,
    began: AtomicU64,
    endings: Mutex<BTreeMap<String, u64>>,
}

impl Tally {
    fn ended(&self, how: String) {
        let mut endings = self.endings.lock().unwrap_or_else(PoisonError::into_inner);
        *endings.entry(how).or_default() += 1;
    }

    /// Connections that were opened so far.
    pub(super) fn began(&self) -> u64 {
        self.began.load(Relaxed)
    }

    /// How connections ended, with how often.
    pub(super) fn endings(&self) -> BTreeMap<String, u64> {
        let endings = self.endings.lock().unwrap_or_else(PoisonError::into_inner);
        endings.clone()
    }
}

/// Attackers at work; dropping them resets all their connections.
pub(super) struct Crowd {
    pub(super) tally: Arc<Tally>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Crowd {
    /// Begins to open `connections`, spread over one pace of the kind.
    pub(super) fn start(
        kind: Kind,
        target: SocketAddr,
        connections: usize,
        tally: Arc<Tally>,
    ) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (stop, mut stopped) = watch::channel(false);
        let told = Arc::clone(&tally);
        let run = move || {
            // Without it the attackers merely disturb the measurement a little more.
            let _ = rustix::process::nice(NICE);
            runtime.block_on(async {
                for index in 0..connections {
                    let start = kind.pace().mul_f64(index as f64 / connections as f64);
                    tokio::spawn(attack(kind, target, index, start, Arc::clone(&told)));
                }
                // An error is the sender's end: stopped as well.
                let _ = stopped.wait_for(|stop| *stop).await;
            });
        };
        let thread = std::thread::Builder::new()
            .name("attackers".to_owned())
            .spawn(run)?;
        Ok(Self {
            tally,
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the attackers' thread panicked");
        }
        self.tally.open.store(0, Relaxed);
    }
}

/// One attacker: a connection after the other.
async fn attack(kind: Kind, target: SocketAddr, index: usize, start: Duration, tally: Arc<Tally>) {
    let mut random = SmallRng::seed_from_u64(index as u64);
    let source = SocketAddr::from(([127, 90, (index % SOURCES) as u8, 1], 0));
    tokio::time::sleep(start).await;
    loop {
        let how = match connect(kind, source, target).await {
            Ok(stream) => {
                tally.open.fetch_add(1, Relaxed);
                tally.began.fetch_add(1, Relaxed);
                let how = live(kind, stream, &mut random).await;
                tally.open.fetch_sub(1, Relaxed);
                how
            }
            Err(error) => format!("no connection: {error}"),
        };
        tally.ended(how);
        tokio::time::sleep(kind.pace().mul_f64(random.random_range(0.1..1.0))).await;
    }
}

async fn connect(kind: Kind, source: SocketAddr, target: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    // Reset when dropped: nothing of it lingers in the kernel.
    socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO))?;
    if kind.reads() == Reads::Slowly {
        socket.set_recv_buffer_size(4096)?;
    }
    socket.bind(source)?;
    socket.connect(target).await
}

/// One connection, from its first byte until the other side has had enough of it. Says how it ended.
async fn live(kind: Kind, mut stream: TcpStream, random: &mut SmallRng) -> String {
    if let Err(error) = stream.write_all(&kind.opening()).await {
        return format!("write: {}", error.kind());
    }
    let (mut seen, mut buffer) = (Seen::new(kind), vec![0; 16 * 1024]);
    let (mut piece, mut unsent) = (0, Vec::new());
    loop {
        let pause = tokio::time::sleep(kind.pace().mul_f64(random.random_range(0.1..1.9)));
        tokio::pin!(pause);
        loop {
            let wants_write = !unsent.is_empty();
            let (mut reader, writer) = stream.split();
            tokio::select! {
                read = reader.read(&mut buffer), if kind.reads() != Reads::Slowly => match read {
                    Ok(0) => return seen.ending("closed"),
                    Ok(read) => {
                        seen.note(&buffer[..read]);
                        if kind.reads() == Reads::Once {
                            return seen.ending("left");
                        }
                    }
                    Err(_) => return seen.ending("reset"),
                },
                writable = writer.writable(), if wants_write => {
                    // What went wrong is seen by the read.
                    let written = writable.and_then(|()| writer.try_write(&unsent)).unwrap_or(0);
                    unsent.drain(..written);
                }
                () = &mut pause => break,
            }
        }
        if kind.reads() == Reads::Slowly {
            match stream.try_read(&mut buffer[..1]) {
                Ok(0) => return seen.ending("closed"),
                Ok(read) => seen.note(&buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return seen.ending("reset"),
            }
        }
        if unsent.is_empty() {
            unsent = kind.piece(piece);
            piece += 1;
        }
    }
}

/// What one connection was told.
enum Seen {
    Http1(Vec<u8>),
    Http2(Scanner, Option<u32>),
}

impl Seen {
    fn new(kind: Kind) -> Self {
        if kind.is_http2() {
            Self::Http2(Scanner::default(), None)
        } else {
            Self::Http1(Vec::new())
        }
    }

    fn note(&mut self, bytes: &[u8]) {
        match self {
            Self::Http1(first) => {
                let missing = "HTTP/1.1 408".len().saturating_sub(first.len());
                first.extend(&bytes[..bytes.len().min(missing)]);
            }
            Self::Http2(scanner, code) => *code = scanner.goaway(bytes).or(*code),
        }
    }

    fn ending(&self, how: &str) -> String {
        match self {
            Self::Http1(first) => match first.get(9..12) {
                Some(status) => format!("{} then {how}", String::from_utf8_lossy(status)),
                None => how.to_owned(),
            },
            Self::Http2(_, Some(code)) => format!("GOAWAY({code}) then {how}"),
            Self::Http2(_, None) => how.to_owned(),
        }
    }
}
