//! A message's body on an HTTP/2 stream: one being received, and one being sent under the peer's flow control.

use std::error::Error;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, header};

use super::guard::is_blame;
use super::peer_broke_protocol;
use crate::error::{Kind, ProxyError};
use crate::hop::spelling;
use crate::message::fields::{Fields, Known};
use crate::message::head::is_unfit;
use crate::message::{Body, Part};

/// A body that comes from the peer. Dropping it before its end resets the stream.
pub(crate) struct Receiving {
    stream: RecvStream,
    length: Option<u64>,
    /// Nothing will come any more. Kept here: asking the stream takes its connection's lock.
    ended: bool,
    data_done: bool,
    /// It comes by a hop, which tells how HTTP/1.1's trailers were spelt.
    hop: bool,
    /// Counts the stream as open.
    _open: Option<Rc<()>>,
}

impl Receiving {
    /// `headers` are the message's own; `open` is held as long as the body. One that announces trailers has no length: HTTP/1.1
    /// has trailers after a chunked body alone; but what came by HTTP/1.1 to a `hop` had a length all the same.
    pub(crate) fn new(
        stream: RecvStream,
        headers: &HeaderMap,
        open: Option<Rc<()>>,
        hop: bool,
    ) -> Self {
        let had_length = hop && spelling::is_spelt(headers);
        let length = headers.get(header::CONTENT_LENGTH);
        let length = length.filter(|_| had_length || !headers.contains_key(header::TRAILER));
        let length = length.and_then(|value| value.to_str().ok()?.parse().ok());
        Self {
            ended: stream.is_end_stream(),
            stream,
            length,
            data_done: false,
            hop,
            _open: open,
        }
    }
}

impl Receiving {
    /// The next part; an error without a cause is of trailers that are malformed.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Part, Option<h2::Error>>>> {
        if !self.data_done {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // An error means that the stream is gone, which the next poll says.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    self.ended = self.stream.is_end_stream();
                    return Poll::Ready(Some(Ok(Part::Data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(Some(error)))),
                None => self.data_done = true,
            }
        }
        let trailers = ready!(self.stream.poll_trailers(cx)).transpose();
        self.ended = true;
        let hop = self.hop;
        Poll::Ready(
            trailers.map(|found| match found.map(|map| trailers_of(map, hop)) {
                Ok(Some(fields)) => Ok(Part::Trailers(fields)),
                Ok(None) => Err(None),
                Err(error) => Err(Some(error)),
            }),
        )
    }

    /// The next part; an error is of kind `broken`.
    pub(crate) fn poll_part(
        &mut self,
        cx: &mut Context<'_>,
        broken: Kind,
    ) -> Poll<Option<Result<Part, ProxyError>>> {
        let part = ready!(self.poll(cx));
        Poll::Ready(part.map(|part| {
            part.map_err(|error| {
                let kind = match broken {
                    _ if error
                        .as_ref()
                        .is_some_and(|error| !peer_broke_protocol(error)) =>
                    {
                        broken
                    }
                    Kind::DownstreamTermination => Kind::DownstreamProtocol,
                    _ => Kind::UpstreamProtocol,
                };
                match error {
                    Some(error) => ProxyError::caused(kind, error),
                    None => ProxyError::caused(kind, "white space around a trailer's value"),
                }
            })
        }))
    }

    /// Whether nothing will come any more.
    pub(crate) fn is_end(&self) -> bool {
        self.ended
    }

    /// Bytes of data in all, where that is known.
    pub(crate) fn length(&self) -> Option<u64> {
        if self.is_end() { Some(0) } else { self.length }
    }
}

/// Trailers without what may not be among them (RFC 9110 section 6.5.1); `None` where they are malformed (RFC 9113 section 8.2.1).
pub(crate) fn trailers_of(map: HeaderMap, hop: bool) -> Option<Fields> {
    const NOT_TRAILERS: [Known; 5] = [
        Known::ContentLength,
        Known::Host,
        Known::Te,
        Known::Trailer,
        Known::Expect,
    ];
    if map.iter().any(is_unfit) {
        return None;
    }
    let mut fields = if hop {
        spelling::from_h2_trailers(map)
    } else {
        Fields::of_map(map)
    };
    if fields.has_any(&NOT_TRAILERS) {
        fields.remove(|known, _| NOT_TRAILERS.contains(&known));
    }
    Some(fields)
}

/// Why a body was not sent to its end.
#[derive(Debug)]
pub(crate) enum Broken {
    /// It failed itself; the stream was reset.
    Body(ProxyError),
    /// The peer reset the stream, or the connection is gone.
    Stream,
}

/// The most of the peer's window one stream asks for at once, in bytes.
const PIECE: usize = 64 * 1024;

/// Parts below this many bytes are joined, up to so many.
const SMALL: usize = 4 * 1024;
const GATHERED: usize = 16 * 1024;

/// What a body gave.
type Given = Option<Result<Part, ProxyError>>;
/// What a body said when it was last asked, where that is not in hand already.
type Next = Option<Poll<Given>>;

/// A body on its way to the peer. Dropping it before its end resets the stream.
pub(crate) struct Sending<B> {
    body: B,
    stream: SendStream<Bytes>,
    /// Waits for the peer's window.
    waiting: Option<Bytes>,
    /// What waits is the last.
    last: bool,
    /// Came with what waits, and follows it; or why it broke off.
    kept: Option<Box<Given>>,
    /// Nothing is handed to h2 before the peer's window has room for it: this ends only when the peer has let all of it come.
    exact: bool,
    /// It goes by a hop.
    hop: bool,
    /// It broke off, which the peer is told next.
    failed: bool,
    started: bool,
    /// There was room again since somebody last asked.
    moved: bool,
}

impl<B: Body> Sending<B> {
    /// For a response. What h2 keeps for a client, it keeps beyond the request's end, unseen by its timer and by `max_requests`:
    /// that is no more than the client has leave for.
    pub(crate) fn response(body: B, stream: SendStream<Bytes>, hop: bool) -> Self {
        Self::new(body, stream, true, hop)
    }

    /// For a request, which lasts until its response. Its first part needs no leave, and h2 gives none before the stream is opened,
    /// which is when the head is written.
    pub(crate) fn request(body: B, stream: SendStream<Bytes>, hop: bool) -> Self {
        Self::new(body, stream, false, hop)
    }

    fn new(body: B, stream: SendStream<Bytes>, exact: bool, hop: bool) -> Self {
        Self {
            body,
            stream,
            waiting: None,
            last: false,
            kept: None,
            exact,
            hop,
            failed: false,
            started: false,
            moved: false,
        }
    }

    /// What is being sent.
    pub(crate) fn body(&mut self) -> &mut B {
        &mut self.body
    }

    /// Whether the peer has taken some of what waited, since this was last asked.
    pub(crate) fn has_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    /// Sends what there is, until the body's end.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        loop {
            if let Some(data) = self.waiting.take() {
                let last = self.last;
                if self.put(cx, data, last)?.is_pending() {
                    return Poll::Pending;
                }
                if last {
                    return Poll::Ready(Ok(()));
                }
            }
            let mut part = match self.kept.take() {
                Some(part) => Poll::Ready(*part),
                None => self.body.poll_part(cx),
            };
            if let Poll::Ready(Some(Ok(Part::Data(first)))) = part {
                let (data, last, next) = self.gather(cx, first);
                self.ask_for(data.len());
                if self.put(cx, data, last)?.is_pending() {
                    if let Some(Poll::Ready(next)) = next {
                        self.kept = Some(Box::new(next));
                    }
                    return Poll::Pending;
                }
                if last {
                    return Poll::Ready(Ok(()));
                }
                match next {
                    Some(Poll::Ready(Some(Ok(Part::Data(data))))) => {
                        self.ask_for(data.len());
                        self.waiting = Some(data);
                        self.last = self.body.is_end();
                        continue;
                    }
                    Some(next) => part = next,
                    None => continue,
                }
            }
            let Poll::Ready(part) = part else {
                // Only who waits needs to hear of a reset; a write would tell as well.
                return match self.stream.poll_reset(cx) {
                    Poll::Ready(_) => Poll::Ready(Err(Broken::Stream)),
                    Poll::Pending => Poll::Pending,
                };
            };
            match part {
                // Taken above.
                Some(Ok(Part::Data(_))) => {}
                Some(Ok(Part::Trailers(mut fields))) => {
                    let trailers = if self.hop {
                        spelling::h2_trailers(&mut fields)
                    } else {
                        fields.take_map()
                    };
                    let sent = self.stream.send_trailers(trailers);
                    return Poll::Ready(sent.map_err(gone));
                }
                // A reset takes back what h2 has not written, be it the head: who gets no head may send the request again. The
                // connection's task was woken for that, and runs before this one does again.
                failed @ Some(Err(_)) if !self.failed => {
                    self.failed = true;
                    self.kept = Some(Box::new(failed));
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Some(Err(error)) => {
                    self.stream.send_reset(reason(&error));
                    return Poll::Ready(Err(Broken::Body(error)));
                }
                None => {
                    let end = self.stream.send_data(Bytes::new(), true);
                    return Poll::Ready(end.map_err(gone));
                }
            }
        }
    }

    /// Joins a small part with those that are here already: a peer has to keep something of its own for each frame, and h2's would
    /// end the connection for too many. Nothing is waited for. Also whether it is the last, and what came instead of another.
    fn gather(&mut self, cx: &mut Context<'_>, first: Bytes) -> (Bytes, bool, Next) {
        let mut last = self.body.is_end();
        if last || first.len() >= SMALL {
            return (first, last, None);
        }
        let mut joined = BytesMut::new();
        let next = loop {
            match self.body.poll_part(cx) {
                Poll::Ready(Some(Ok(Part::Data(more)))) if more.len() < SMALL => {
                    if joined.is_empty() {
                        joined.extend_from_slice(&first);
                    }
                    joined.extend_from_slice(&more);
                    last = self.body.is_end();
                    if last || joined.len() >= GATHERED {
                        break None;
                    }
                }
                next => break Some(next),
            }
        };
        let data = if joined.is_empty() {
            first
        } else {
            joined.freeze()
        };
        (data, last, next)
    }

    /// Asks the peer's window for room: for as much as is sent at once, as a stream that waits must not hold the connection's window.
    fn ask_for(&mut self, length: usize) {
        let wanted = match (self.exact, self.started) {
            (true, _) => length.min(PIECE),
            (false, true) => length.min(1),
            (false, false) => 0,
        };
        if wanted > 0 {
            self.stream.reserve_capacity(wanted);
        }
    }

    /// Hands data to h2 that was asked room for, or keeps what must wait.
    fn put(
        &mut self,
        cx: &mut Context<'_>,
        mut data: Bytes,
        last: bool,
    ) -> Result<Poll<()>, Broken> {
        // Only reads by a right to large ones are larger, and those are counted until they are written.
        let exact = self.exact && (last || data.len() <= PIECE);
        while !data.is_empty() && (exact || self.started) {
            let room = self.stream.capacity();
            if room >= data.len() || (room > 0 && !exact) {
                break;
            }
            if room > 0 {
                let piece = data.split_to(room);
                self.stream.send_data(piece, false).map_err(gone)?;
                self.ask_for(data.len());
                continue;
            }
            match self.stream.poll_capacity(cx) {
                Poll::Ready(Some(Ok(_))) => self.moved = true,
                Poll::Ready(Some(Err(_)) | None) => return Err(Broken::Stream),
                Poll::Pending => {
                    self.waiting = Some(data);
                    self.last = last;
                    return Ok(Poll::Pending);
                }
            }
        }
        self.started = true;
        self.stream.send_data(data, last).map_err(gone)?;
        Ok(Poll::Ready(()))
    }
}

fn gone(_: h2::Error) -> Broken {
    Broken::Stream
}

/// A stream that was reset on one side is reset alike on the other, unless that blames one side for what the other has done, or says
/// that nothing was done (RFC 9113 section 8.7): what has a body to break off was begun.
fn reason(error: &(dyn Error + 'static)) -> Reason {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(reason) = error
            .downcast_ref::<h2::Error>()
            .and_then(h2::Error::reason)
        {
            return if is_blame(reason) || reason == Reason::REFUSED_STREAM {
                Reason::INTERNAL_ERROR
            } else {
                reason
            };
        }
        cause = error.source();
    }
    Reason::INTERNAL_ERROR
}
