//! The half of an HTTP/1.1 connection that is written: a head and the first of its body leave in one write, large parts uncopied.

use std::io::{self, IoSlice, Write};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

use super::body::Framing;
use super::buffers::Buffers;
use super::head;
use crate::error::{Kind, ProxyError};
use crate::message::head::{RequestHead, ResponseHead};
use crate::message::{Body, Part};
use crate::tls::transport::WriteHalf;

/// Data up to this long is copied beside what else waits; longer data is written from where it lies.
const COPIED: usize = 4 * 1024;
/// No more is taken from a body while this much waits to be written.
const GATHERED: usize = 16 * 1024;

/// Why sending a message ended.
#[derive(Debug)]
pub(crate) enum SendError {
    /// The body itself broke off.
    Body(ProxyError),
    Io(io::Error),
}

impl From<io::Error> for SendError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// What is still to be sent of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoder {
    Length(u64),
    Chunked,
    UntilClose,
    Done,
}

/// The write half.
#[derive(Debug)]
pub(crate) struct Writer {
    /// Gone once the connection was aborted.
    half: Option<WriteHalf>,
    output: Vec<u8>,
    /// Bytes of `output` that are written.
    written: usize,
    /// Data that follows `output`, uncopied, and the line end that follows it.
    large: Bytes,
    tail: &'static [u8],
    encoder: Encoder,
    /// The body broke off; told once what came before is written.
    broken: Option<ProxyError>,
    /// It broke off where its end is the connection's.
    cut: bool,
    /// Bytes have left since somebody last asked.
    moved: bool,
    /// A byte of the message under way has been handed to the kernel.
    begun: bool,
    /// The message is a request: one that breaks off before it has begun is not sent at all.
    request: bool,
    buffers: Rc<Buffers>,
}

impl Writer {
    pub(crate) fn new(half: WriteHalf, buffers: Rc<Buffers>) -> Self {
        Self {
            half: Some(half),
            output: Vec::new(),
            written: 0,
            large: Bytes::new(),
            tail: b"",
            encoder: Encoder::Done,
            broken: None,
            cut: false,
            moved: false,
            begun: false,
            request: false,
            buffers,
        }
    }

    /// Whether a byte of the latest message has left.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun
    }

    /// Whether the message that was begun has been sent to its end.
    pub(crate) fn is_complete(&self) -> bool {
        let unsent = self.half.as_ref().is_some_and(WriteHalf::has_unsent);
        self.encoder == Encoder::Done && self.broken.is_none() && !self.is_waiting() && !unsent
    }

    fn is_waiting(&self) -> bool {
        self.written < self.output.len() || !self.large.is_empty() || !self.tail.is_empty()
    }

    fn is_full(&self) -> bool {
        !self.large.is_empty() || !self.tail.is_empty() || self.output.len() >= GATHERED
    }

    fn output(&mut self) -> &mut Vec<u8> {
        if self.output.capacity() == 0 {
            self.output = self.buffers.output();
        }
        &mut self.output
    }

    /// Begins a request; its body must keep to `framing`.
    pub(crate) fn begin_request(&mut self, head: &RequestHead, framing: Framing) {
        head::write_request(head, self.output());
        self.begin(framing);
        self.request = true;
    }

    /// Begins a response; its body must keep to `framing`.
    pub(crate) fn begin_response(&mut self, head: &ResponseHead, framing: Framing) {
        head::write_response(head, self.output());
        self.begin(framing);
    }

    /// An informational response (RFC 9110 section 15.2), before the one that counts.
    pub(crate) fn inform(&mut self, head: &ResponseHead) {
        head::write_response(head, self.output());
    }

    fn begin(&mut self, framing: Framing) {
        self.begun = false;
        self.encoder = match framing {
            Framing::Length(length) => Encoder::Length(length),
            Framing::Chunked => Encoder::Chunked,
            Framing::UntilClose => Encoder::UntilClose,
        };
    }

    /// Sends the rest of the message: takes parts from `body` while they come, and writes.
    pub(crate) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        body: &mut impl Body,
    ) -> Poll<Result<(), SendError>> {
        loop {
            let mut waits = false;
            while self.encoder != Encoder::Done && !self.is_full() {
                match body.poll_part(cx) {
                    Poll::Ready(Some(Ok(part))) => {
                        if let Err(why) = self.put(part) {
                            self.break_off(self.not_as_announced(why));
                        }
                    }
                    Poll::Ready(Some(Err(error))) => self.break_off(error),
                    Poll::Ready(None) => {
                        if let Err(why) = self.end() {
                            self.break_off(self.not_as_announced(why));
                        }
                    }
                    Poll::Pending => {
                        waits = true;
                        break;
                    }
                }
            }
            ready!(self.poll_flush(cx))?;
            if let Some(error) = self.broken.take() {
                return Poll::Ready(Err(SendError::Body(error)));
            }
            if self.encoder == Encoder::Done {
                return Poll::Ready(Ok(()));
            }
            if waits {
                return Poll::Pending;
            }
        }
    }

    /// Gives up a message that is not complete. Where the end of the connection is the end of the body, the connection must be
    /// reset: closed, it would make the body look whole.
    pub(crate) fn abort(&mut self) {
        if !self.cut && self.encoder != Encoder::UntilClose {
            return;
        }
        if let Some(half) = self.half.take() {
            half.abort();
        }
    }

    /// The body ends here; what came before it is written.
    fn break_off(&mut self, error: ProxyError) {
        self.cut = self.encoder == Encoder::UntilClose;
        self.encoder = Encoder::Done;
        self.broken = Some(error);
        if self.request && !self.begun {
            self.output.clear();
        }
    }

    /// The error of a body that does not keep to its framing: its sender's.
    fn not_as_announced(&self, why: &'static str) -> ProxyError {
        let kind = if self.request {
            Kind::DownstreamProtocol
        } else {
            Kind::UpstreamProtocol
        };
        ProxyError::caused(kind, why)
    }

    fn put(&mut self, part: Part) -> Result<(), &'static str> {
        match part {
            Part::Data(data) if data.is_empty() => {}
            Part::Data(data) => match self.encoder {
                Encoder::Length(left) => {
                    let left = left.checked_sub(data.len() as u64);
                    let left = left.ok_or("the body is longer than its head says")?;
                    self.put_data(data, b"");
                    // At 0 the body is still asked for its end: who observes it waits for that.
                    self.encoder = Encoder::Length(left);
                }
                Encoder::Chunked => {
                    let size = data.len();
                    // A Vec takes everything.
                    let _ = write!(self.output(), "{size:x}\r\n");
                    self.put_data(data, b"\r\n");
                }
                Encoder::UntilClose => self.put_data(data, b""),
                Encoder::Done => {}
            },
            Part::Trailers(fields) => {
                if self.encoder == Encoder::Chunked {
                    self.output().extend_from_slice(b"0\r\n");
                    head::write_fields(&fields, self.output());
                    self.encoder = Encoder::Done;
                }
            }
        }
        Ok(())
    }

    fn put_data(&mut self, data: Bytes, tail: &'static [u8]) {
        if data.len() <= COPIED {
            let output = self.output();
            output.extend_from_slice(&data);
            output.extend_from_slice(tail);
        } else {
            self.large = data;
            self.tail = tail;
        }
    }

    fn end(&mut self) -> Result<(), &'static str> {
        match self.encoder {
            Encoder::Length(1..) => return Err("the body is shorter than its head says"),
            Encoder::Chunked => self.output().extend_from_slice(b"0\r\n\r\n"),
            Encoder::Length(0) | Encoder::UntilClose | Encoder::Done => {}
        }
        self.encoder = Encoder::Done;
        Ok(())
    }

    /// Writes all that waits.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.is_waiting() {
            let output = &self.output[self.written..];
            let Some(half) = &mut self.half else {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            };
            let half = Pin::new(half);
            let written = if self.large.is_empty() && self.tail.is_empty() {
                ready!(half.poll_write(cx, output))?
            } else {
                let slices = [
                    IoSlice::new(output),
                    IoSlice::new(&self.large),
                    IoSlice::new(self.tail),
                ];
                ready!(half.poll_write_vectored(cx, &slices))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.begun = true;
            self.moved = true;
            self.advance(written);
        }
        if let Some(half) = &mut self.half {
            ready!(Pin::new(half).poll_flush(cx))?;
        }
        if self.encoder == Encoder::Done && self.output.capacity() > 0 {
            self.buffers.give_output(std::mem::take(&mut self.output));
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut written: usize) {
        let from_output = written.min(self.output.len() - self.written);
        self.written += from_output;
        written -= from_output;
        if self.written == self.output.len() {
            self.output.clear();
            self.written = 0;
        }
        let from_large = written.min(self.large.len());
        if from_large == self.large.len() {
            self.large = Bytes::new();
        } else {
            self.large.advance(from_large);
        }
        self.tail = &self.tail[written - from_large..];
    }

    /// Ends our direction of the connection.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        match &mut self.half {
            Some(half) => Pin::new(half).poll_shutdown(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    /// Before the connection closes: its peer is told that what it has is all there is, where that is so.
    pub(crate) fn say_goodbye(&self) {
        if let Some(half) = &self.half
            && self.is_complete()
            && !self.cut
        {
            half.say_goodbye();
        }
    }

    /// Whether bytes have left since this was last asked.
    pub(crate) fn has_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    /// The half, for a tunnel; everything must be written. `None` after an abort.
    pub(crate) fn into_half(self) -> Option<WriteHalf> {
        self.half
    }
}
