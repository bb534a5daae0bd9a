//! The replayable request body: what is kept of it for another attempt, and how each attempt reads it.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};

use super::headers::Named;
use super::timer::Timer;
use crate::error::{Kind, ProxyError};
use crate::http1::reader::{ReadError, Reader};
use crate::http1::writer::Writer;
use crate::http2::body::Receiving;
use crate::message::fields::Fields;
use crate::message::head::RequestHead;
use crate::message::{Body, Part};

/// Bytes of a request body kept for another attempt; beyond it the body streams and the request is no longer retriable.
pub(crate) const MAX_REPLAY: usize = 64 * 1024;

/// An HTTP/1.1 client: its connection reads and writes in turn with the request's story, both on the same task.
pub(crate) struct Client {
    pub(crate) reader: RefCell<Reader>,
    pub(crate) writer: RefCell<Writer>,
}

/// Where a request's body comes from.
pub(crate) enum Source {
    H1(Rc<Client>),
    H2(Receiving),
    /// What the client sends is not the request's.
    Nothing,
}

impl Source {
    /// Keeps apart what follows an extended CONNECT: bytes for the tunnel, not a body (RFC 8441 section 5).
    pub(crate) fn without_tunnel(self, head: &RequestHead) -> (Self, Option<Receiving>) {
        match self {
            Self::H2(client) if head.protocol.is_some() => (Self::Nothing, Some(client)),
            body => (body, None),
        }
    }

    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Part, ProxyError>>> {
        match self {
            Self::H1(client) => {
                let part = ready!(client.reader.borrow_mut().poll_part(cx));
                Poll::Ready(part.map(|part| {
                    part.map_err(|error| {
                        let kind = match error {
                            ReadError::Refused(_) => Kind::DownstreamProtocol,
                            ReadError::Io(_) | ReadError::Closed | ReadError::Truncated => {
                                Kind::DownstreamTermination
                            }
                        };
                        ProxyError::caused(kind, error)
                    })
                }))
            }
            Self::H2(body) => body.poll_part(cx, Kind::DownstreamTermination),
            Self::Nothing => Poll::Ready(None),
        }
    }

    /// Whether nothing will come any more.
    pub(crate) fn is_end(&self) -> bool {
        match self {
            Self::H1(client) => client.reader.borrow().is_complete(),
            Self::H2(body) => body.is_end(),
            Self::Nothing => true,
        }
    }

    fn length(&self) -> Option<u64> {
        match self {
            Self::H1(client) => client.reader.borrow().remaining(),
            Self::H2(body) => body.length(),
            Self::Nothing => Some(0),
        }
    }
}

/// A request body that can be sent again while it is small enough. Clones share it.
#[derive(Clone)]
pub(crate) struct Replay {
    state: Rc<State>,
}

pub(crate) struct State {
    source: RefCell<Source>,
    kept: RefCell<BytesMut>,
    trailers: RefCell<Option<Fields>>,
    /// Bytes went by that were not kept.
    overflowed: Cell<bool>,
    /// The source has given its last part.
    ended: Cell<bool>,
    /// The source failed: the client broke off, or what it sent is malformed.
    broken: Cell<Option<Kind>>,
    /// Only the newest attempt may read.
    attempt: Cell<u32>,
    limit: usize,
    length: Option<u64>,
    bytes: Cell<u64>,
    /// Fields for one hop, which trailers may have as well: the request's, and the response's.
    named: Named,
    response_named: OnceCell<Named>,
    timer: Timer,
}

impl Replay {
    /// `limit` is how many bytes are kept; zero when the request will not be tried again.
    pub(crate) fn new(source: Source, named: Named, limit: usize, timer: Timer) -> Self {
        let ended = source.is_end();
        if ended {
            timer.request_complete();
        }
        let length = source.length();
        let state = State {
            source: RefCell::new(source),
            kept: RefCell::default(),
            trailers: RefCell::default(),
            overflowed: Cell::new(false),
            ended: Cell::new(ended),
            broken: Cell::new(None),
            attempt: Cell::new(0),
            limit,
            length,
            bytes: Cell::new(0),
            named,
            response_named: OnceCell::new(),
            timer,
        };
        Self {
            state: Rc::new(state),
        }
    }

    /// The stream's deadline.
    pub(crate) fn timer(&self) -> &Timer {
        &self.state.timer
    }

    /// The body for one more attempt, from its first byte; earlier attempts' bodies end with an error.
    pub(crate) fn attempt(&self) -> AttemptBody {
        let state = &self.state;
        state.attempt.set(state.attempt.get() + 1);
        if self.is_empty() {
            return AttemptBody::Empty;
        }
        AttemptBody::Replayed {
            state: Rc::clone(state),
            attempt: state.attempt.get(),
            next: 0,
            trailers_sent: false,
        }
    }

    /// Whether the request has no body.
    pub(crate) fn is_empty(&self) -> bool {
        let state = &self.state;
        state.ended.get() && state.bytes.get() == 0 && state.trailers.borrow().is_none()
    }

    /// Whether another attempt would see the whole body.
    pub(crate) fn is_replayable(&self) -> bool {
        !self.state.overflowed.get() && !self.is_broken()
    }

    /// Whether the client broke off.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken().is_some()
    }

    /// How the client broke off, if it did.
    pub(crate) fn broken(&self) -> Option<Kind> {
        self.state.broken.get()
    }

    /// An answer has come; `named` are its fields for one hop.
    pub(crate) fn answered(&self, named: Named) {
        self.state.timer.response_head();
        // An answer is passed on once.
        let _ = self.state.response_named.set(named);
    }

    /// Takes out of the answer's trailers what does not pass.
    pub(super) fn strip_answers(&self, trailers: &mut Fields) {
        self.state
            .response_named
            .get_or_init(Named::default)
            .strip(trailers);
    }

    /// Body bytes read from the client.
    pub(crate) fn bytes(&self) -> u64 {
        self.state.bytes.get()
    }
}

/// The body as one attempt sends it.
pub(crate) enum AttemptBody {
    Empty,
    Replayed {
        state: Rc<State>,
        attempt: u32,
        next: usize,
        trailers_sent: bool,
    },
}

impl State {
    fn poll_source(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Part, ProxyError>>> {
        let Poll::Ready(mut polled) = self.source.borrow_mut().poll_part(cx) else {
            self.timer.owed();
            return Poll::Pending;
        };
        if let Some(Ok(Part::Trailers(trailers))) = &mut polled {
            self.named.strip(trailers);
        }
        match &polled {
            None => self.end(),
            Some(Err(error)) => self.broken.set(Some(error.kind)),
            Some(Ok(part)) => self.note(part),
        }
        Poll::Ready(polled)
    }

    fn note(&self, part: &Part) {
        self.timer.received();
        match part {
            Part::Data(data) => {
                self.bytes.set(self.bytes.get() + data.len() as u64);
                self.keep(data);
            }
            Part::Trailers(trailers) => {
                *self.trailers.borrow_mut() = Some(trailers.clone());
            }
        }
        if self.source.borrow().is_end() {
            self.end();
        }
    }

    fn keep(&self, data: &Bytes) {
        if self.overflowed.get() {
            return;
        }
        // Copied: a part of one byte would keep the whole buffer that it was read into.
        let mut kept = self.kept.borrow_mut();
        if kept.len() + data.len() > self.limit {
            self.overflowed.set(true);
            *kept = BytesMut::new();
        } else {
            kept.extend_from_slice(data);
        }
    }

    fn end(&self) {
        if !self.ended.replace(true) {
            self.timer.request_complete();
        }
    }
}

impl Body for AttemptBody {
    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Part, ProxyError>>> {
        let Self::Replayed {
            state,
            attempt,
            next,
            trailers_sent,
        } = self
        else {
            return Poll::Ready(None);
        };
        if *attempt != state.attempt.get() {
            // Whatever it has sent of it: its end says nothing of another attempt.
            return Poll::Ready(Some(Err(ProxyError::caused(
                Kind::DownstreamTermination,
                "a newer attempt reads the body",
            ))));
        }
        let kept = state.kept.borrow().len();
        if *next < kept {
            let data = Bytes::copy_from_slice(&state.kept.borrow()[*next..]);
            *next = kept;
            return Poll::Ready(Some(Ok(Part::Data(data))));
        }
        if state.ended.get() {
            if *trailers_sent {
                return Poll::Ready(None);
            }
            *trailers_sent = true;
            let trailers = state.trailers.borrow().clone();
            return Poll::Ready(trailers.map(|trailers| Ok(Part::Trailers(trailers))));
        }
        let polled = state.poll_source(cx);
        match &polled {
            Poll::Ready(Some(Ok(Part::Trailers(_)))) => *trailers_sent = true,
            Poll::Ready(Some(Ok(Part::Data(_)))) => *next = state.kept.borrow().len(),
            _ => {}
        }
        polled
    }

    fn is_end(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Replayed {
                state,
                next,
                trailers_sent,
                ..
            } => {
                state.ended.get()
                    && *next >= state.kept.borrow().len()
                    && (*trailers_sent || state.trailers.borrow().is_none())
            }
        }
    }

    fn length(&self) -> Option<u64> {
        match self {
            Self::Empty => Some(0),
            Self::Replayed { state, .. } => state.length,
        }
    }
}
