//! The replayable request body, and the observed response body that ends the lease and writes the record.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};

use super::headers::Named;
use super::record::Record;
use super::timer::Timer;
use super::tunnel::Tunnel;
use crate::error::{Kind, ProxyError};
use crate::http1::reader::Reader;
use crate::http1::writer::Writer;
use crate::http2::body::Receiving;
use crate::message::fields::Fields;
use crate::message::{Body, Part};
use crate::upstream::{h1, h2};

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
}

impl Source {
    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Part, ProxyError>>> {
        match self {
            Self::H1(client) => {
                let part = ready!(client.reader.borrow_mut().poll_part(cx));
                Poll::Ready(part.map(|part| {
                    part.map_err(|error| ProxyError::caused(Kind::DownstreamTermination, error))
                }))
            }
            Self::H2(body) => body.poll_part(cx, Kind::DownstreamTermination),
        }
    }

    fn is_end(&self) -> bool {
        match self {
            Self::H1(client) => client.reader.borrow().is_complete(),
            Self::H2(body) => body.is_end(),
        }
    }

    fn length(&self) -> Option<u64> {
        match self {
            Self::H1(client) => client.reader.borrow().remaining(),
            Self::H2(body) => body.length(),
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
    /// The source failed: the client broke off.
    broken: Cell<bool>,
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
            broken: Cell::new(false),
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
        if state.ended.get() && state.bytes.get() == 0 && state.trailers.borrow().is_none() {
            return AttemptBody::Empty;
        }
        AttemptBody::Replayed {
            state: Rc::clone(state),
            attempt: state.attempt.get(),
            next: 0,
            trailers_sent: false,
        }
    }

    /// Whether another attempt would see the whole body.
    pub(crate) fn is_replayable(&self) -> bool {
        !self.state.overflowed.get() && !self.state.broken.get()
    }

    /// Whether the client broke off.
    pub(crate) fn is_broken(&self) -> bool {
        self.state.broken.get()
    }

    /// An answer has come; `named` are its fields for one hop.
    pub(crate) fn answered(&self, named: Named) {
        self.state.timer.response_head();
        // An answer is passed on once.
        let _ = self.state.response_named.set(named);
    }

    /// Takes out of the answer's trailers what does not pass.
    fn strip_answers(&self, trailers: &mut Fields) {
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
            Some(Err(_)) => self.broken.set(true),
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
            return Poll::Ready(Some(Err(ProxyError::caused(
                Kind::Unsent,
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

/// A response's body as it comes from the task.
pub(crate) enum UpstreamBody {
    H1(h1::Exchange<AttemptBody>),
    H2(h2::Exchange<AttemptBody>),
}

impl UpstreamBody {
    /// Whether the request it answers has been sent to its end.
    pub(crate) fn has_request(&self) -> bool {
        match self {
            Self::H1(exchange) => exchange.is_sent(),
            Self::H2(_) => false,
        }
    }

    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Part, ProxyError>>> {
        match self {
            Self::H1(exchange) => exchange.poll_part(cx),
            Self::H2(exchange) => exchange.poll_part(cx),
        }
    }

    fn is_end(&self) -> bool {
        match self {
            Self::H1(exchange) => exchange.is_end(),
            Self::H2(exchange) => exchange.is_end(),
        }
    }

    fn length(&self) -> Option<u64> {
        match self {
            Self::H1(exchange) => exchange.remaining(),
            Self::H2(exchange) => exchange.length(),
        }
    }
}

/// What a client is answered with.
pub(crate) enum ResponseBody {
    /// A text of ours.
    Local(Bytes),
    /// The task's, as it comes.
    Upstream(Observed),
    /// 101 Switching Protocols: what follows are bytes both ways.
    Tunnel(Box<Tunnel>),
}

/// A response body under observation. Dropping it, finished or not, ends the lease and writes the record.
pub(crate) struct Observed {
    body: Option<UpstreamBody>,
    request: Replay,
    record: Record,
}

impl Observed {
    pub(crate) fn new(body: UpstreamBody, request: Replay, record: Record) -> Self {
        Self {
            body: Some(body),
            request,
            record,
        }
    }

    fn is_end(&self) -> bool {
        self.body.as_ref().is_none_or(UpstreamBody::is_end)
    }

    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Part, ProxyError>>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let timer = self.request.timer();
        match body.poll_part(cx) {
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Ready(Some(Ok(mut part))) => {
                timer.touch();
                match &mut part {
                    Part::Data(data) => self.record.bytes(data.len() as u64),
                    Part::Trailers(trailers) => self.request.strip_answers(trailers),
                }
                Poll::Ready(Some(Ok(part)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.record.fail(error.kind);
                Poll::Ready(Some(Err(error)))
            }
            Poll::Pending => timer.poll(cx).map(|kind| {
                self.record.fail(kind);
                Some(Err(kind.into()))
            }),
        }
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        self.record.bytes(self.request.bytes());
        if let Some(UpstreamBody::H1(exchange)) = self.body.take()
            && let Some(idle) = exchange.into_idle()
        {
            self.record.give_back(idle);
        }
    }
}

impl ResponseBody {
    pub(crate) fn empty() -> Self {
        Self::Local(Bytes::new())
    }

    /// The client has taken a piece of a part.
    pub(crate) fn touch(&self) {
        if let Self::Upstream(observed) = self {
            observed.request.timer().touch();
        }
    }

    /// For a client that takes no more for now: which timeout has passed, if one has.
    pub(crate) fn poll_timer(&mut self, cx: &Context<'_>) -> Poll<()> {
        let Self::Upstream(observed) = self else {
            return Poll::Pending;
        };
        let timer = observed.request.timer();
        timer.poll(cx).map(|kind| observed.record.fail(kind))
    }
}

impl Body for ResponseBody {
    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Part, ProxyError>>> {
        match self {
            Self::Local(text) if text.is_empty() => Poll::Ready(None),
            Self::Local(text) => Poll::Ready(Some(Ok(Part::Data(std::mem::take(text))))),
            Self::Upstream(observed) => observed.poll_part(cx),
            Self::Tunnel(_) => Poll::Ready(None),
        }
    }

    fn is_end(&self) -> bool {
        match self {
            Self::Local(text) => text.is_empty(),
            Self::Upstream(observed) => observed.is_end(),
            Self::Tunnel(_) => true,
        }
    }

    fn length(&self) -> Option<u64> {
        match self {
            Self::Local(text) => Some(text.len() as u64),
            Self::Upstream(observed) => match &observed.body {
                Some(body) => body.length(),
                None => Some(0),
            },
            Self::Tunnel(_) => Some(0),
        }
    }
}
