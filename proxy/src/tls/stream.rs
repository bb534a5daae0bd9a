//! TLS over a TCP connection: few reads, few records, one write for what is written at once, and no buffer while nothing is under way.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice, Read};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{AlertDescription, ClientConfig, CommonState, ServerConfig};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use super::session::{OVERHEAD, Session};

/// What every handshake begins with (RFC 8446 section 5.1).
pub(crate) const HANDSHAKE: u8 = 22;
/// The most that is read from the socket at once, and made records of at once.
const MOST: usize = 64 * 1024;
/// The least that is asked of the socket.
const LEAST: usize = 4 * 1024;
/// What one turn may leave of what the socket had: rustls joins handshake messages of up to 64 KiB.
const MOST_LEFT: usize = 80 * 1024;
/// Records of [`MOST`] bytes, and new keys in front of them.
const RECORDS: usize = MOST + (MOST / 16_384 + 2) * OVERHEAD + 1024;
/// As much that waits to be sent waits for more to be written: the end of a handshake leaves together with the first request.
const LITTLE: usize = 8 * 1024;
/// Plaintext buffers that a thread keeps for its connections, and the largest of them.
const SPARE: usize = 64;
const KEPT: usize = 32 * 1024;

/// The kind of error by which a peer has refused our certificate, and with it all that was sent.
pub(crate) const REFUSED: io::ErrorKind = io::ErrorKind::PermissionDenied;

/// What every connection of a thread works in, each for the length of one call.
struct Scratch {
    input: Box<[u8]>,
    gathered: Vec<u8>,
    output: Box<[u8]>,
    spare: Vec<Vec<u8>>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        input: vec![0; MOST_LEFT + MOST + OVERHEAD].into(),
        gathered: Vec::with_capacity(MOST),
        output: vec![0; LITTLE + RECORDS].into(),
        spare: Vec::new(),
    });
}

/// Bytes that wait, of which some are taken already. It holds memory only while there are any.
#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    taken: usize,
}

impl Waiting {
    fn bytes(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }

    fn is_empty(&self) -> bool {
        self.taken == self.bytes.len()
    }

    fn take(&mut self, count: usize) {
        self.taken += count;
        if self.is_empty() {
            *self = Self::default();
        }
    }
}

/// How the peer's side has ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// It has said so.
    Closed,
    /// It has not: what was sent may have been cut off by somebody else (RFC 8446 section 6.1).
    Cut,
}

/// A TCP connection with TLS on it, for one task at a time.
pub(crate) struct Stream {
    tcp: TcpStream,
    session: Session,
    /// The beginning of what is not a whole record yet.
    partial: Vec<u8>,
    /// Plaintext that nobody has taken.
    plain: Waiting,
    /// Records that the socket has not taken.
    unsent: Waiting,
    /// The first byte that came.
    first: Option<u8>,
    ended: Option<End>,
    /// We have said that nothing follows.
    closed: bool,
}

impl Stream {
    /// The dialling end, before its handshake.
    pub(crate) fn client(
        tcp: TcpStream,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<Self> {
        let session = Session::client(config, name).map_err(io::Error::other)?;
        Ok(Self::new(tcp, session))
    }

    /// The accepting end, before its handshake.
    pub(crate) fn server(tcp: TcpStream, config: Arc<ServerConfig>) -> io::Result<Self> {
        let session = Session::server(config).map_err(io::Error::other)?;
        Ok(Self::new(tcp, session))
    }

    fn new(tcp: TcpStream, session: Session) -> Self {
        Self {
            tcp,
            session,
            partial: Vec::new(),
            plain: Waiting::default(),
            unsent: Waiting::default(),
            first: None,
            ended: None,
            closed: false,
        }
    }

    /// What the handshake has led to.
    pub(crate) fn state(&self) -> &CommonState {
        self.session.state()
    }

    /// Whether anything has come of the peer.
    pub(crate) fn has_begun(&self) -> bool {
        self.first.is_some() || !self.is_silent()
    }

    /// Behind a handshake that failed: waits for the peer to close, as closing at once would reset our last words away.
    pub(crate) async fn refuse(&mut self) {
        if self.first == Some(HANDSHAKE) && self.tcp.shutdown().await.is_ok() {
            let mut sink = [0; 1024];
            while self.tcp.read(&mut sink).await.is_ok_and(|count| count > 0) {}
        }
    }

    /// The handshake. Its last words leave with the first that is written, or by a flush.
    pub(crate) async fn handshake(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_handshake(cx)).await
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.partial.is_empty() && self.unsent.is_empty() {
            self.digest(0, &mut [], None)?;
        }
        while self.state().is_handshaking() {
            ready!(self.poll_send(cx))?;
            ready!(self.poll_pull(cx, MOST, None))?;
            // Its end may have come together with its last word.
            if self.ended.is_some() && self.state().is_handshaking() {
                return Poll::Ready(Err(cut()));
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads the socket once. Plaintext goes to `into` where it fits, and waits otherwise.
    fn poll_pull(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
        into: Option<&mut ReadBuf<'_>>,
    ) -> Poll<io::Result<()>> {
        self.pull(most, into, |tcp, space| {
            let mut space = ReadBuf::new(space);
            ready!(Pin::new(tcp).poll_read(cx, &mut space))?;
            Poll::Ready(Ok(space.filled().len()))
        })
    }

    fn pull(
        &mut self,
        most: usize,
        into: Option<&mut ReadBuf<'_>>,
        read: impl FnOnce(&mut TcpStream, &mut [u8]) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<()>> {
        if self.ended.is_some() {
            return Poll::Ready(Ok(()));
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let left = self.partial.len();
            let input = &mut scratch.input;
            let count = ready!(read(&mut self.tcp, &mut input[left..left + most]))?;
            if count == 0 {
                self.ended = Some(End::Cut);
                return Poll::Ready(Ok(()));
            }
            self.first.get_or_insert(input[0]);
            input[..left].copy_from_slice(&self.partial);
            self.partial = Vec::new();
            let spare = &mut scratch.spare;
            if self.plain.bytes.capacity() == 0 {
                self.plain.bytes = spare.pop().unwrap_or_default();
            }
            let digested = self.digest(left + count, input, into);
            self.give_back(spare);
            Poll::Ready(digested)
        })
    }

    /// Takes in the first `count` bytes of `input`.
    fn digest(
        &mut self,
        count: usize,
        input: &mut [u8],
        mut into: Option<&mut ReadBuf<'_>>,
    ) -> io::Result<()> {
        let (plain, unsent) = (&mut self.plain.bytes, &mut self.unsent.bytes);
        let digested = self.session.digest(&mut input[..count], unsent, |bytes| {
            let fits = match &mut into {
                // In order: nothing passes by what waits.
                Some(into) if plain.is_empty() => into.remaining().min(bytes.len()),
                _ => 0,
            };
            if let Some(into) = &mut into {
                into.put_slice(&bytes[..fits]);
            }
            plain.extend_from_slice(&bytes[fits..]);
        });
        match digested {
            Ok(digested) => {
                if digested.closed {
                    self.ended = Some(End::Closed);
                }
                let left = &input[digested.used..count];
                if left.len() > MOST_LEFT {
                    return Err(io::Error::other("a handshake message is too long"));
                }
                self.partial = left.to_vec();
                Ok(())
            }
            Err(error) => {
                // The session is not asked for anything any more: it remembers places in what is gone.
                (self.ended, self.closed) = (Some(End::Cut), true);
                // The peer is told why, if it listens and knows the language.
                if self.first == Some(HANDSHAKE) {
                    let _ = self.tcp.try_write(self.unsent.bytes());
                }
                self.unsent = Waiting::default();
                Err(refused(error))
            }
        }
    }

    /// An empty plaintext buffer is the thread's again.
    fn give_back(&mut self, spare: &mut Vec<Vec<u8>>) {
        if !self.plain.is_empty() || self.plain.bytes.capacity() == 0 {
            return;
        }
        let mut empty = std::mem::take(&mut self.plain).bytes;
        if spare.len() < SPARE && empty.capacity() <= KEPT {
            empty.clear();
            spare.push(empty);
        }
    }

    /// Ready when there is plaintext or the end. What else comes is taken in meanwhile: tickets, new keys.
    pub(crate) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.send_little(cx);
        while self.plain.is_empty() && self.ended.is_none() {
            ready!(self.poll_pull(cx, LEAST, None))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Whether nothing has come but what TLS says to itself: no plaintext, no end. With `now` the kernel is asked even if it has not
    /// said that there is something.
    pub(crate) fn is_quiet(&mut self, now: bool) -> bool {
        loop {
            if !self.plain.is_empty() || self.ended.is_some() {
                return false;
            }
            let pulled = self.pull(LEAST, None, |tcp, space| {
                let read = match now {
                    true => (&*SockRef::from(&*tcp)).read(space),
                    false => tcp.try_read(space),
                };
                Poll::Ready(read)
            });
            match pulled {
                Poll::Ready(Ok(())) | Poll::Pending => {}
                Poll::Ready(Err(error)) => {
                    return error.kind() == io::ErrorKind::WouldBlock && self.partial.is_empty();
                }
            }
        }
    }

    /// Whether the kernel holds nothing that came, and nothing of it waits here.
    pub(crate) fn is_silent(&self) -> bool {
        let peeked = SockRef::from(&self.tcp).peek(&mut [MaybeUninit::uninit(); 1]);
        let nothing = peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        nothing && self.plain.is_empty() && self.ended.is_none()
    }

    /// Whether there is something that the socket has not taken.
    pub(crate) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// What the handshake or new keys have left to say goes out as there is room; if there is none, with what is written next.
    fn send_little(&mut self, cx: &mut Context<'_>) {
        if self.unsent.bytes().len() > LITTLE {
            // An error is told by the next read or write.
            let _ = self.poll_send(cx);
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let tcp = Pin::new(&mut self.tcp);
            match ready!(tcp.poll_write(cx, self.unsent.bytes()))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.unsent.take(sent),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Makes records of up to [`MOST`] bytes and writes them behind what waits. What the socket does not take is for a flush.
    fn write(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if self.unsent.bytes().len() > LITTLE {
            ready!(self.poll_send(cx))?;
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let plain = gather(slices, &mut scratch.gathered);
            let output = &mut scratch.output;
            let mut end = self.unsent.bytes().len();
            output[..end].copy_from_slice(self.unsent.bytes());
            end += self
                .session
                .encrypt(&mut self.partial, plain, &mut output[end..])?;
            self.unsent = Waiting::default();
            let sent = match Pin::new(&mut self.tcp).poll_write(cx, &output[..end]) {
                Poll::Ready(sent) => sent?,
                Poll::Pending => 0,
            };
            self.unsent.bytes.extend_from_slice(&output[sent..end]);
            Poll::Ready(Ok(plain.len()))
        })
    }

    /// Closing resets the connection: what was sent is not whole.
    pub(crate) fn abort(&mut self) {
        self.closed = true;
        // Without it the peer still sees that nobody has said that this is the end.
        let _ = SockRef::from(&self.tcp).set_linger(Some(Duration::ZERO));
    }

    /// Says that nothing follows, as far as the socket takes it at once.
    pub(crate) fn say_goodbye(&mut self) {
        if self.queue_close().is_ok() && self.has_unsent() {
            // Whoever is gone need not hear it.
            let _ = self.tcp.try_write(self.unsent.bytes());
        }
    }

    fn queue_close(&mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.closed, true) {
            return Ok(());
        }
        let mut record = [0; 1024];
        let count = self.session.close(&mut self.partial, &mut record)?;
        self.unsent.bytes.extend_from_slice(&record[..count]);
        Ok(())
    }
}

/// One slice of up to [`MOST`] bytes; where there are several, they are copied.
fn gather<'a>(slices: &'a [IoSlice<'a>], gathered: &'a mut Vec<u8>) -> &'a [u8] {
    let mut filled = slices.iter().filter(|slice| !slice.is_empty());
    match (filled.next(), filled.next()) {
        (None, _) => &[],
        (Some(only), None) => &only[..only.len().min(MOST)],
        (Some(_), Some(_)) => {
            gathered.clear();
            for slice in slices {
                let fits = slice.len().min(MOST - gathered.len());
                gathered.extend_from_slice(&slice[..fits]);
            }
            gathered
        }
    }
}

/// A peer that does not take our certificate says so behind our handshake, by an alert that comes at no other time (RFC 8446
/// sections 4.4.2.4 and 6.2): it has looked at nothing that we sent. Told by the kind, as h2 passes on no more of an error.
fn refused(error: io::Error) -> io::Error {
    use AlertDescription as Alert;
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref());
    match tls {
        Some(rustls::Error::AlertReceived(
            Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::CertificateRequired,
        )) => io::Error::new(
            REFUSED,
            error.into_inner().unwrap_or_else(|| "alert".into()),
        ),
        _ => error,
    }
}

fn cut() -> io::Error {
    let why = "the connection was closed without the end that TLS says";
    io::Error::new(io::ErrorKind::UnexpectedEof, why)
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.send_little(cx);
        loop {
            if !this.plain.is_empty() {
                let fits = this.plain.bytes().len().min(buf.remaining());
                buf.put_slice(&this.plain.bytes()[..fits]);
                this.plain.taken += fits;
                SCRATCH.with_borrow_mut(|scratch| this.give_back(&mut scratch.spare));
                return Poll::Ready(Ok(()));
            }
            match this.ended {
                Some(End::Closed) => return Poll::Ready(Ok(())),
                Some(End::Cut) => return Poll::Ready(Err(cut())),
                None => {}
            }
            let (before, room) = (buf.filled().len(), buf.remaining());
            if room == 0 {
                return Poll::Ready(Ok(()));
            }
            let most = room.clamp(LEAST, MOST) + OVERHEAD;
            ready!(this.poll_pull(cx, most, Some(&mut *buf)))?;
            if buf.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().write(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().write(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_send(cx)
    }

    /// close_notify, then TCP's own end: who relays TCP passes the one on as the other.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.queue_close()?;
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.tcp).poll_shutdown(cx)
    }
}
