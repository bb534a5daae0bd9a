//! The half of an HTTP/1.1 connection that is read: heads, then bodies part by part. While nothing is under way it holds no buffer.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use http::Method;

use super::body::{Decoded, Decoder};
use super::buffers::{Buffers, Large, MEDIUM, SMALL, held};
use super::head::{self, Limits, Parsed, Refused};
use crate::message::Part;
use crate::message::head::{RequestHead, ResponseHead};
use crate::tls::transport::ReadHalf;

/// The most one read asks for; reached in steps while reads fill the buffer.
const LARGE: usize = 256 * 1024;

/// Why reading ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// Before the first byte of a message.
    #[error("the connection was closed")]
    Closed,
    #[error("the connection was closed within a message")]
    Truncated,
    #[error(transparent)]
    Refused(#[from] Refused),
}

/// The read half.
#[derive(Debug)]
pub(crate) struct Reader {
    half: ReadHalf,
    buffer: BytesMut,
    decoder: Decoder,
    /// The peer has sent its FIN.
    ended: bool,
    /// How much the next read asks for.
    want: usize,
    /// The buffer was made for more than a small read.
    grown: bool,
    /// Bytes of the buffer that are known to be no whole head.
    tried: usize,
    /// The right to ask for more than [`MEDIUM`].
    large: Option<Arc<Large>>,
    buffers: Rc<Buffers>,
}

impl Reader {
    /// `first` is what was read before.
    pub(crate) fn new(half: ReadHalf, first: BytesMut, buffers: Rc<Buffers>) -> Self {
        Self {
            half,
            buffer: first,
            decoder: Decoder::Done,
            ended: false,
            want: SMALL,
            grown: false,
            tried: 0,
            large: None,
            buffers,
        }
    }

    /// Whether bytes of a further message are here already.
    pub(crate) fn has_input(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Whether all that is here are line ends: some clients send one behind a body (RFC 9112 section 2.2).
    pub(crate) fn is_blank(&self) -> bool {
        self.buffer.iter().all(|byte| matches!(byte, b'\r' | b'\n'))
    }

    /// Whether the message that was begun has been read to its end.
    pub(crate) fn is_complete(&self) -> bool {
        self.decoder.is_done()
    }

    /// Bytes of the body that are still to come, where that is known.
    pub(crate) fn remaining(&self) -> Option<u64> {
        self.decoder.remaining()
    }

    /// Gives an empty buffer back: nothing is held while nothing comes.
    pub(crate) fn park(&mut self) {
        if self.buffer.is_empty() && self.buffer.capacity() > 0 {
            let buffer = std::mem::take(&mut self.buffer);
            // One that has grown shows only what is left of it.
            if !std::mem::take(&mut self.grown) {
                self.buffers.give_input(buffer);
            }
            self.want = SMALL;
        }
        self.large = None;
    }

    /// Asks for `want` bytes from the next read on, or as much as this reader may.
    fn ask_for(&mut self, want: usize) {
        if want > MEDIUM && self.large.is_none() {
            self.large = self.buffers.large();
        }
        self.want = match self.large {
            Some(_) => want,
            None => want.min(MEDIUM),
        };
    }

    /// Ready when there is something to read, be it the end. Reads nothing, needs no buffer.
    pub(crate) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.half.poll_readable(cx)
    }

    /// Whether an idle connection is still good: nothing has come, not even its end. A system call only if something has.
    pub(crate) fn is_quiet(&self) -> bool {
        !self.ended && self.half.is_quiet()
    }

    /// Whether the kernel holds nothing of it either. Always a system call.
    pub(crate) fn is_quiet_now(&self) -> bool {
        self.half.is_quiet_now()
    }

    /// Whether bytes wait in the socket, even if nothing has said so yet.
    pub(crate) fn has_arrived(&self) -> bool {
        self.half.has_arrived()
    }

    /// Reads once. 0 is the end.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.buffer.capacity() == 0 {
            // The buffer is not taken before there is something to read.
            ready!(self.poll_readable(cx))?;
            if self.want == SMALL {
                self.buffer = self.buffers.input();
            }
        }
        self.grown |= self.want > SMALL;
        let missing = self.want.saturating_sub(self.buffer.len());
        self.buffer.reserve(missing.max(SMALL / 2));
        let room = self.buffer.capacity() - self.buffer.len();
        let read = ready!(tokio_util::io::poll_read_buf(
            Pin::new(&mut self.half),
            cx,
            &mut self.buffer
        ))?;
        if read == room && self.want < LARGE {
            self.ask_for(LARGE.min(4 * self.want));
        }
        self.ended |= read == 0;
        Poll::Ready(Ok(read))
    }

    /// While a request is answered: ready when the client is gone. What it sends meanwhile is kept for later.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.ended && self.buffer.is_empty() && self.is_complete() {
            if ready!(self.poll_fill(cx)).is_err() {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }

    /// Reads and throws away. Ready when the peer has closed.
    pub(crate) fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.ended {
            self.buffer.clear();
            if ready!(self.poll_fill(cx)).is_err() {
                break;
            }
        }
        Poll::Ready(())
    }

    /// The next request's head. [`ReadError::Closed`] when the client is done instead.
    pub(crate) fn poll_request(
        &mut self,
        cx: &mut Context<'_>,
        limits: Limits,
    ) -> Poll<Result<Parsed<RequestHead>, ReadError>> {
        let parse = |bytes: &[u8]| head::request(bytes, limits.target);
        self.poll_head(cx, limits.head, parse, |bytes| limits.exceeded_by(bytes))
    }

    /// The next response's head of at most `limit` bytes, to a request of that method.
    pub(crate) fn poll_response(
        &mut self,
        cx: &mut Context<'_>,
        limit: usize,
        method: &Method,
    ) -> Poll<Result<Parsed<ResponseHead>, ReadError>> {
        let parse = |bytes: &[u8]| head::response(bytes, method);
        let exceeded = |bytes: &[u8]| (bytes.len() >= limit).then_some(Refused::TooLarge);
        self.poll_head(cx, limit, parse, exceeded)
    }

    fn poll_head<H>(
        &mut self,
        cx: &mut Context<'_>,
        limit: usize,
        parse: impl Fn(&[u8]) -> Result<Option<Parsed<H>>, Refused>,
        exceeded: impl Fn(&[u8]) -> Option<Refused>,
    ) -> Poll<Result<Parsed<H>, ReadError>> {
        loop {
            let exceeded = exceeded(&self.buffer);
            if exceeded.is_some() || is_worth_parsing(&self.buffer, self.tried) {
                self.tried = self.buffer.len();
                match (parse(&self.buffer)?, exceeded) {
                    (Some(parsed), _) if parsed.length <= limit => {
                        self.tried = 0;
                        self.buffer.advance(parsed.length);
                        self.decoder = Decoder::new(parsed.framing);
                        if self.decoder.is_done() {
                            self.park();
                        }
                        return Poll::Ready(Ok(parsed));
                    }
                    (Some(_), _) => return Poll::Ready(Err(Refused::TooLarge.into())),
                    (None, Some(refused)) => return Poll::Ready(Err(refused.into())),
                    (None, None) => {}
                }
            }
            match ready!(self.poll_fill(cx)) {
                Ok(1..) => {}
                Ok(0) if self.buffer.is_empty() => return Poll::Ready(Err(ReadError::Closed)),
                Err(error) if self.buffer.is_empty() => return Poll::Ready(Err(error.into())),
                Ok(0) | Err(_) => return Poll::Ready(Err(ReadError::Truncated)),
            }
        }
    }

    /// Looks at what has come of the body already: malformed, cut off and followed by bytes are told before any of it is taken.
    /// What comes later is told when it is taken.
    pub(crate) fn look_ahead(&mut self, cx: &mut Context<'_>) -> Result<(), ReadError> {
        match self.decoder.whole(&self.buffer)? {
            Some(length) if self.buffer.len() > length => {
                Err(Refused::Bad("bytes follow the message").into())
            }
            // One that fills the buffers is read in large pieces, and not kept for this.
            None if self.decoder != Decoder::UntilClose && self.want == SMALL => {
                match self.poll_fill(cx) {
                    Poll::Ready(Ok(0)) => Err(ReadError::Truncated),
                    Poll::Ready(Err(error)) => Err(error.into()),
                    Poll::Ready(Ok(_)) | Poll::Pending => Ok(()),
                }
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The next part of the body; `None` at its end.
    pub(crate) fn poll_part(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Part, ReadError>>> {
        loop {
            match self.decoder.decode(&mut self.buffer) {
                Ok(Decoded::Part(Part::Data(data))) => {
                    // However short: it keeps the whole buffer that it was read into.
                    let data = match &self.large {
                        Some(large) => held(data, large),
                        None => data,
                    };
                    return Poll::Ready(Some(Ok(Part::Data(data))));
                }
                Ok(Decoded::Part(part)) => return Poll::Ready(Some(Ok(part))),
                Ok(Decoded::End) => return Poll::Ready(None),
                Ok(Decoded::More) => {}
                Err(refused) => return Poll::Ready(Some(Err(refused.into()))),
            }
            if let Some(remaining) = self.decoder.remaining() {
                self.ask_for(remaining.clamp(SMALL as u64, LARGE as u64) as usize);
            }
            match ready!(self.poll_fill(cx)) {
                Ok(0) if self.decoder == Decoder::UntilClose => {
                    self.decoder = Decoder::Done;
                    return Poll::Ready(None);
                }
                Ok(0) => return Poll::Ready(Some(Err(ReadError::Truncated))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
        }
    }

    /// The half and what was read beyond the last message, for a tunnel.
    pub(crate) fn into_parts(self) -> (ReadHalf, BytesMut) {
        (self.half, self.buffer)
    }
}

/// Whether a head may be whole of which `tried` bytes were not: a line has ended since, or there is as much again. A client that
/// sends one byte after the other cannot have its whole head read for each.
fn is_worth_parsing(buffer: &[u8], tried: usize) -> bool {
    buffer.len() > tried
        && (buffer.len() >= 2 * tried || memchr::memchr(b'\n', &buffer[tried..]).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_that_comes_byte_by_byte_is_not_read_for_each_byte() {
        let head = [b"GET / HTTP/1.1\r\nX: ", &[b'x'; 10_000][..], b"\r\n\r\n"].concat();
        let (mut tried, mut read) = (0, Vec::new());
        for length in 1..=head.len() {
            if is_worth_parsing(&head[..length], tried) {
                tried = length;
                read.push(length);
            }
        }
        assert_eq!(read.last(), Some(&head.len()), "the whole head is read");
        assert!(read.len() < 25, "{read:?}");
    }
}
