//! An HTTP/2 stream as a pipe of bytes both ways: what follows an extended CONNECT (RFC 8441 section 5).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{Reason, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::body::Receiving;
use crate::error::Kind;
use crate::message::Part;

/// The most one write takes, however large the peer's window is.
const MAX_WRITE: usize = 64 * 1024;

/// Both directions of one stream. The end of one is END_STREAM; dropped before both have ended, the stream is reset.
pub(crate) struct Pipe {
    receiving: Receiving,
    sending: SendStream<Bytes>,
    /// What came and was not read yet: one frame at most, then the peer's window stays closed.
    unread: Bytes,
    ended: bool,
    shut: bool,
}

impl Pipe {
    pub(crate) fn new(receiving: Receiving, sending: SendStream<Bytes>) -> Self {
        Self {
            receiving,
            sending,
            unread: Bytes::new(),
            ended: false,
            shut: false,
        }
    }

    /// Resets the stream as a TCP connection is reset (RFC 8441 section 5).
    pub(crate) fn reset(&mut self) {
        self.sending.send_reset(Reason::CANCEL);
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.unread.is_empty() && !self.ended {
            match ready!(self.receiving.poll_part(cx, Kind::RemoteReset)) {
                Some(Ok(Part::Data(data))) => self.unread = data,
                Some(Ok(Part::Trailers(_))) | None => self.ended = true,
                Some(Err(error)) => return Poll::Ready(Err(reset(error))),
            }
        }
        let fits = self.unread.len().min(buf.remaining());
        buf.put_slice(&self.unread[..fits]);
        self.unread.advance(fits);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wanted = bytes.len().min(MAX_WRITE);
        self.sending.reserve_capacity(wanted);
        while self.sending.capacity() == 0 {
            match ready!(self.sending.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(reset(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        let data = Bytes::copy_from_slice(&bytes[..wanted.min(self.sending.capacity())]);
        let written = data.len();
        self.sending.send_data(data, false).map_err(reset)?;
        Poll::Ready(Ok(written))
    }

    /// The connection's own task does it.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !std::mem::replace(&mut self.shut, true) {
            self.sending.send_data(Bytes::new(), true).map_err(reset)?;
        }
        Poll::Ready(Ok(()))
    }
}

fn reset(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}
