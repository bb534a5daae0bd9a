//! A connection as those see it who speak HTTP or opaque bytes on it: TCP, or TLS over TCP.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::stream::Stream;

/// Either.
pub(crate) enum Transport {
    Plain(TcpStream),
    Tls(Box<Stream>),
}

impl From<TcpStream> for Transport {
    fn from(stream: TcpStream) -> Self {
        Self::Plain(stream)
    }
}

impl Transport {
    /// Ready when there is something to read, be it the end.
    pub(crate) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => stream.poll_read_ready(cx),
            Self::Tls(stream) => stream.poll_readable(cx),
        }
    }

    /// Whether bytes are there, even if nothing has said so yet.
    pub(crate) fn has_arrived(&mut self) -> bool {
        match self {
            Self::Plain(stream) => has_arrived(stream),
            Self::Tls(stream) => !stream.is_quiet(true),
        }
    }

    /// Whether nothing has come that is not read, not even the end. Always a system call, which reads nothing.
    pub(crate) fn is_silent(&self) -> bool {
        match self {
            Self::Plain(stream) => is_silent(stream),
            Self::Tls(stream) => stream.is_silent(),
        }
    }

    /// Closing resets the connection, so that nobody takes what was sent for all there was.
    pub(crate) fn abort(&mut self) {
        match self {
            // Without it the peer sees an end in order; there is nothing else to do about it.
            Self::Plain(stream) => drop(SockRef::from(&*stream).set_linger(Some(Duration::ZERO))),
            Self::Tls(stream) => stream.abort(),
        }
    }

    /// Says the end as far as TLS has one and the socket takes it at once; TCP's is said by closing.
    pub(crate) fn say_goodbye(&mut self) {
        if let Self::Tls(stream) = self {
            stream.say_goodbye();
        }
    }

    /// Both halves, for one task.
    pub(crate) fn into_split(self) -> (ReadHalf, WriteHalf) {
        match self {
            Self::Plain(stream) => {
                let (read, write) = stream.into_split();
                (ReadHalf::Plain(read), WriteHalf::Plain(write))
            }
            Self::Tls(stream) => {
                let stream = Rc::new(RefCell::new(stream));
                (ReadHalf::Tls(Rc::clone(&stream)), WriteHalf::Tls(stream))
            }
        }
    }
}

/// Whether bytes wait in a socket: asks the kernel, since readiness is only heard of between two turns of a worker.
fn has_arrived(stream: &TcpStream) -> bool {
    let mut byte = [MaybeUninit::uninit(); 1];
    matches!(SockRef::from(stream).peek(&mut byte), Ok(1..))
}

fn is_silent(stream: &TcpStream) -> bool {
    let peeked = SockRef::from(stream).peek(&mut [MaybeUninit::uninit(); 1]);
    peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

macro_rules! forward {
    ($self:ident, $stream:ident => $do:expr) => {
        match $self.get_mut() {
            Self::Plain(stream) => {
                let $stream = Pin::new(stream);
                $do
            }
            Self::Tls(stream) => {
                let $stream = Pin::new(&mut **stream);
                $do
            }
        }
    };
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        forward!(self, stream => stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        forward!(self, stream => stream.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        forward!(self, stream => stream.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(self, stream => stream.poll_shutdown(cx))
    }
}

/// What both halves of a TLS connection share.
type Shared = Rc<RefCell<Box<Stream>>>;

/// The half that is read.
pub(crate) enum ReadHalf {
    Plain(OwnedReadHalf),
    Tls(Shared),
}

/// The half that is written.
pub(crate) enum WriteHalf {
    Plain(OwnedWriteHalf),
    Tls(Shared),
}

impl ReadHalf {
    /// Ready when there is something to read, be it the end.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(half) => half.as_ref().poll_read_ready(cx),
            Self::Tls(stream) => stream.borrow_mut().poll_readable(cx),
        }
    }

    /// Whether an idle connection is still good: nothing has come, not even its end. A system call only if something has.
    pub(crate) fn is_quiet(&self) -> bool {
        match self {
            Self::Plain(half) => half
                .try_read(&mut [0; 1])
                .is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock),
            Self::Tls(stream) => stream.borrow_mut().is_quiet(false),
        }
    }

    /// Whether the kernel holds nothing of it either. Always a system call.
    pub(crate) fn is_quiet_now(&self) -> bool {
        match self {
            Self::Plain(half) => is_silent(half.as_ref()),
            Self::Tls(stream) => stream.borrow_mut().is_quiet(true),
        }
    }

    /// Whether bytes wait in the socket, even if nothing has said so yet.
    pub(crate) fn has_arrived(&self) -> bool {
        match self {
            Self::Plain(half) => has_arrived(half.as_ref()),
            Self::Tls(stream) => !stream.borrow_mut().is_quiet(true),
        }
    }
}

impl WriteHalf {
    /// Whether something was written that the socket has not taken: a flush sends it.
    pub(crate) fn has_unsent(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(stream) => stream.borrow().has_unsent(),
        }
    }

    /// Says the end as far as TLS has one and the socket takes it at once; TCP's is said by closing.
    pub(crate) fn say_goodbye(&self) {
        if let Self::Tls(stream) = self {
            stream.borrow_mut().say_goodbye();
        }
    }

    /// Resets the connection as it closes, so that nobody takes what was sent for all there was.
    pub(crate) fn abort(self) {
        match self {
            Self::Plain(half) => {
                // Without it the peer sees an end in order; there is nothing else to do about it.
                let socket = SockRef::from(AsRef::<TcpStream>::as_ref(&half));
                let _ = socket.set_linger(Some(Duration::ZERO));
                // Dropped, it would send a FIN before the reset.
                half.forget();
            }
            Self::Tls(stream) => stream.borrow_mut().abort(),
        }
    }
}

macro_rules! forward_half {
    ($self:ident, $stream:ident => $do:expr) => {
        match $self.get_mut() {
            Self::Plain(half) => {
                let $stream = Pin::new(half);
                $do
            }
            Self::Tls(stream) => {
                let mut stream = stream.borrow_mut();
                let $stream = Pin::new(&mut **stream);
                $do
            }
        }
    };
}

impl AsyncRead for ReadHalf {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        forward_half!(self, stream => stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for WriteHalf {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        forward_half!(self, stream => stream.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        forward_half!(self, stream => stream.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward_half!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward_half!(self, stream => stream.poll_shutdown(cx))
    }
}

impl fmt::Debug for ReadHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain",
            Self::Tls(_) => "Tls",
        })
    }
}

impl fmt::Debug for WriteHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain",
            Self::Tls(_) => "Tls",
        })
    }
}
