//! HTTP/1.1 to an endpoint: one exchange at a time on a connection that is driven by whoever waits for its answer.
//!
//! No task of its own and no channel: sending the request, waiting for the head and reading the body are polls of the same
//! connection, and while the response is read what is left of the request is still sent.

use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use http::{Method, StatusCode, Version};

use super::keepalive;
use crate::error::{Kind, ProxyError};
use crate::http1;
use crate::http1::body::Framing;
use crate::http1::buffers::Buffers;
use crate::http1::head::Parsed;
use crate::http1::reader::{ReadError, Reader};
use crate::http1::writer::{SendError, Writer};
use crate::message::fields::Known;
use crate::message::head::{RequestHead, ResponseHead};
use crate::message::{Body, Part};
use crate::policy::limits::Share;
use crate::tls::stream::REFUSED;
use crate::tls::transport::Transport;

/// The largest response head.
const MAX_HEAD: usize = 64 * 1024;
/// Informational responses before the one that counts; more are a flood.
pub(crate) const MAX_INFORMATIONAL: u32 = 32;

/// An open connection with nothing under way. It holds no buffer.
pub(crate) struct Idle(Box<Halves>);

struct Halves {
    reader: Reader,
    writer: Writer,
    /// Its place among the cluster's connections.
    open: Share,
}

impl Idle {
    pub(crate) fn new(stream: Transport, buffers: &Rc<Buffers>, open: Share) -> Self {
        let (read, write) = stream.into_split();
        Self(Box::new(Halves {
            reader: Reader::new(read, BytesMut::new(), Rc::clone(buffers)),
            writer: Writer::new(write, Rc::clone(buffers)),
            open,
        }))
    }

    /// Whether the endpoint has neither closed nor said anything, as far as this worker has heard.
    pub(crate) fn is_open(&self) -> bool {
        self.0.reader.is_quiet()
    }

    /// The same, asking the kernel: for one more system call it knows of a close that this worker has not been told of yet.
    pub(crate) fn is_open_now(&self) -> bool {
        self.is_open() && self.0.reader.is_quiet_now()
    }
}

/// A request that failed before its response's head.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) error: ProxyError,
    /// Not a byte of it was written.
    pub(crate) unsent: bool,
}

/// One request and its response.
pub(crate) struct Exchange<B> {
    connection: Box<Halves>,
    body: B,
    method: Method,
    /// The connection may be used again after this exchange.
    keep_alive: bool,
    /// For so long, by what the endpoint says.
    keep_for: Option<Duration>,
    /// The endpoint takes no more of the request; its answer may have come all the same.
    send_failed: bool,
    informational: u32,
    /// The response may have a body. Bytes after one that may not are what many send by mistake.
    has_body: bool,
}

impl<B: Body> Exchange<B> {
    /// Renders the head; nothing is written before the first poll.
    pub(crate) fn new(idle: Idle, head: &mut RequestHead, body: B) -> Self {
        let mut connection = idle.0;
        let framing = frame(head, &body);
        connection.writer.begin_request(head, framing);
        Self {
            connection,
            body,
            method: head.method.clone(),
            keep_alive: true,
            keep_for: None,
            send_failed: false,
            informational: 0,
            has_body: false,
        }
    }

    /// Sends, and waits for the head of the response. Informational ones go to `inform`.
    pub(crate) async fn head(
        &mut self,
        mut inform: impl FnMut(&mut ResponseHead),
    ) -> Result<ResponseHead, Failed> {
        std::future::poll_fn(|cx| self.poll_head(cx, &mut inform)).await
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        inform: &mut impl FnMut(&mut ResponseHead),
    ) -> Poll<Result<ResponseHead, Failed>> {
        if let Err(error) = self.poll_rest_of_request(cx) {
            return Poll::Ready(Err(self.failed(error)));
        }
        loop {
            let reader = &mut self.connection.reader;
            let read = ready!(reader.poll_response(cx, MAX_HEAD, &self.method));
            let mut parsed = match read {
                Ok(parsed) => parsed,
                Err(error) => {
                    let error = self.unanswered(error);
                    return Poll::Ready(Err(self.failed(error)));
                }
            };
            if !parsed.head.status.is_informational() || parsed.head.status == SWITCHING {
                return Poll::Ready(match self.look_ahead(cx, &parsed.head) {
                    Ok(()) => Ok(self.answered(parsed)),
                    Err(error) => Err(self.failed(malformed(error))),
                });
            }
            self.informational += 1;
            if self.informational > MAX_INFORMATIONAL {
                let flood = "too many informational responses";
                let error = ProxyError::caused(Kind::UpstreamProtocol, flood);
                return Poll::Ready(Err(self.failed(error)));
            }
            inform(&mut parsed.head);
        }
    }

    /// A response that is wrong already is not passed on in part. One without a body has no framing to be wrong about.
    fn look_ahead(&mut self, cx: &mut Context<'_>, head: &ResponseHead) -> Result<(), ReadError> {
        if head.is_whole(&self.method) {
            return Ok(());
        }
        self.connection.reader.look_ahead(cx)
    }

    /// What an end before the response's head means. A connection may close while it idles, but not within an answer.
    fn unanswered(&self, error: ReadError) -> ProxyError {
        match error {
            ReadError::Io(error) if error.kind() == REFUSED => {
                ProxyError::caused(Kind::TlsFailed, error)
            }
            ReadError::Io(_) | ReadError::Closed if self.informational == 0 => {
                ProxyError::caused(Kind::ConnectionTermination, error)
            }
            error => malformed(error),
        }
    }

    fn failed(&self, error: ProxyError) -> Failed {
        let ours = error.kind == Kind::ConnectionTermination;
        Failed {
            error,
            unsent: ours && !self.connection.writer.has_begun(),
        }
    }

    fn answered(&mut self, parsed: Parsed<ResponseHead>) -> ResponseHead {
        self.keep_alive = parsed.keep_alive && parsed.head.status != SWITCHING;
        self.keep_for = keepalive::announced(&parsed.head.fields);
        self.has_body = !parsed.head.is_whole(&self.method);
        parsed.head
    }

    /// Sends as much of the request as can be sent now. Only the client's breaking off is an error: the endpoint may have
    /// answered before it stopped reading (RFC 9112 section 9.5).
    fn poll_rest_of_request(&mut self, cx: &mut Context<'_>) -> Result<(), ProxyError> {
        if self.send_failed || self.connection.writer.is_complete() {
            return Ok(());
        }
        match self.connection.writer.poll_send(cx, &mut self.body) {
            Poll::Ready(Err(SendError::Body(error))) => Err(error),
            Poll::Ready(Err(SendError::Io(error))) => {
                tracing::debug!(%error, "the endpoint takes no more of the request");
                self.send_failed = true;
                Ok(())
            }
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
        }
    }

    /// The next part of the response; `None` at its end.
    pub(crate) fn poll_part(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Part, ProxyError>>> {
        if let Err(error) = self.poll_rest_of_request(cx) {
            return Poll::Ready(Some(Err(error)));
        }
        let part = ready!(self.connection.reader.poll_part(cx));
        Poll::Ready(part.map(|part| part.map_err(cut_off)))
    }

    /// Whether the request has been sent to its end.
    pub(crate) fn is_sent(&self) -> bool {
        self.connection.writer.is_complete()
    }

    /// Whether the response has been read to its end.
    pub(crate) fn is_end(&self) -> bool {
        self.connection.reader.is_complete()
    }

    /// Bytes of the response's body still to come, where that is known.
    pub(crate) fn remaining(&self) -> Option<u64> {
        self.connection.reader.remaining()
    }

    /// Whether more came than the response: who sent it may take it for the answer to the next request.
    pub(crate) fn has_extra(&self) -> bool {
        let reader = &self.connection.reader;
        self.has_body && reader.is_complete() && reader.has_input()
    }

    /// The connection, if both messages are complete and it may carry another; and for how long, if the endpoint says so.
    pub(crate) fn into_idle(self) -> Option<(Idle, Option<Duration>)> {
        let mut connection = self.connection;
        let reusable = self.keep_alive
            && !self.send_failed
            && connection.writer.is_complete()
            && connection.reader.is_complete()
            && !connection.reader.has_input();
        if !reusable {
            return None;
        }
        connection.reader.park();
        Some((Idle(connection), self.keep_for))
    }

    /// The connection after 101, for bytes both ways, and its place among the cluster's.
    pub(crate) fn into_stream(self) -> Option<(http1::Stream, Share)> {
        let Halves {
            reader,
            writer,
            open,
        } = *self.connection;
        http1::into_stream(reader, writer).map(|stream| (stream, open))
    }
}

const SWITCHING: StatusCode = StatusCode::SWITCHING_PROTOCOLS;

/// How the request's body travels; the head says the same when this returns (RFC 9112 section 6).
pub(crate) fn frame(head: &mut RequestHead, body: &impl Body) -> Framing {
    match body.length() {
        Some(0) if body.is_end() => {
            head.fields.remove_known(Known::TransferEncoding);
            // A client's `Content-Length: 0` stays where it was. HTTP/2 says it by the end of the stream.
            let expected = matches!(head.method, Method::POST | Method::PUT | Method::PATCH);
            if expected && head.version == Version::HTTP_2 && !head.fields.has(Known::ContentLength)
            {
                head.fields.push("content-length", b"0");
            }
            Framing::Length(0)
        }
        Some(length) => {
            head.fields.remove_known(Known::TransferEncoding);
            if !head.fields.has(Known::ContentLength) {
                let digits = length.to_string();
                head.fields.push("content-length", digits.as_bytes());
            }
            Framing::Length(length)
        }
        None => {
            head.fields.remove_known(Known::ContentLength);
            if !head.fields.has(Known::TransferEncoding) || head.version == Version::HTTP_2 {
                let (known, name) = (Known::TransferEncoding, "transfer-encoding");
                head.fields.set(known, name, b"chunked");
            }
            Framing::Chunked
        }
    }
}

/// An answer that is none.
fn malformed(error: ReadError) -> ProxyError {
    ProxyError::caused(Kind::UpstreamProtocol, error)
}

/// What an end within the response's body means.
fn cut_off(error: ReadError) -> ProxyError {
    let kind = match error {
        ReadError::Io(_) | ReadError::Closed | ReadError::Truncated => Kind::ConnectionTermination,
        ReadError::Refused(_) => Kind::UpstreamProtocol,
    };
    ProxyError::caused(kind, error)
}
