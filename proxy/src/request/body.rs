//! The replayable request body, and the observed response body that ends the lease and writes the record.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;

use super::record::Record;
use super::timer::Timer;
use crate::error::{Kind, ProxyError};

/// Bytes of a request body kept for another attempt; beyond it the body streams and the request is no longer retriable.
pub(crate) const MAX_REPLAY: usize = 64 * 1024;

/// A request body that can be sent again while it is small enough. Clones share it.
#[derive(Clone)]
pub(crate) struct Replay {
    state: Rc<State>,
}

pub(crate) struct State {
    source: RefCell<Incoming>,
    kept: RefCell<Vec<Bytes>>,
    trailers: RefCell<Option<HeaderMap>>,
    kept_bytes: Cell<usize>,
    /// Bytes went by that were not kept.
    overflowed: Cell<bool>,
    /// The source has given its last frame.
    ended: Cell<bool>,
    /// The source failed: the client broke off.
    broken: Cell<bool>,
    /// Only the newest attempt may read.
    attempt: Cell<u32>,
    limit: usize,
    exact: Option<u64>,
    bytes: Cell<u64>,
    timer: Rc<Timer>,
}

impl Replay {
    /// `limit` is how many bytes are kept; zero when the request will not be tried again.
    pub(crate) fn new(source: Incoming, limit: usize, timer: Rc<Timer>) -> Self {
        let ended = source.is_end_stream();
        if ended {
            timer.request_complete();
        }
        let exact = source.size_hint().exact();
        let state = State {
            source: RefCell::new(source),
            kept: RefCell::default(),
            trailers: RefCell::default(),
            kept_bytes: Cell::new(0),
            overflowed: Cell::new(false),
            ended: Cell::new(ended),
            broken: Cell::new(false),
            attempt: Cell::new(0),
            limit,
            exact,
            bytes: Cell::new(0),
            timer,
        };
        Self {
            state: Rc::new(state),
        }
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

    /// Whether the client has sent all of it.
    pub(crate) fn is_complete(&self) -> bool {
        self.state.ended.get()
    }

    /// Whether the client broke off.
    pub(crate) fn is_broken(&self) -> bool {
        self.state.broken.get()
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
    fn poll_source(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ProxyError>>> {
        let polled = Pin::new(&mut *self.source.borrow_mut()).poll_frame(cx);
        match std::task::ready!(polled) {
            None => {
                self.end();
                Poll::Ready(None)
            }
            Some(Err(error)) => {
                self.broken.set(true);
                Poll::Ready(Some(Err(ProxyError::caused(
                    Kind::DownstreamTermination,
                    error,
                ))))
            }
            Some(Ok(frame)) => {
                self.note(&frame);
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn note(&self, frame: &Frame<Bytes>) {
        self.timer.touch();
        if let Some(data) = frame.data_ref() {
            self.bytes.set(self.bytes.get() + data.len() as u64);
            self.keep(data);
        } else if let Some(trailers) = frame.trailers_ref() {
            *self.trailers.borrow_mut() = Some(trailers.clone());
        }
        if self.source.borrow().is_end_stream() {
            self.end();
        }
    }

    fn keep(&self, data: &Bytes) {
        if self.overflowed.get() {
            return;
        }
        let total = self.kept_bytes.get() + data.len();
        if total > self.limit {
            self.overflowed.set(true);
            self.kept.borrow_mut().clear();
        } else {
            self.kept_bytes.set(total);
            self.kept.borrow_mut().push(data.clone());
        }
    }

    fn end(&self) {
        if !self.ended.replace(true) {
            self.timer.request_complete();
        }
    }
}

impl Body for AttemptBody {
    type Data = Bytes;
    type Error = ProxyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ProxyError>>> {
        let Self::Replayed {
            state,
            attempt,
            next,
            trailers_sent,
        } = self.get_mut()
        else {
            return Poll::Ready(None);
        };
        if *attempt != state.attempt.get() {
            return Poll::Ready(Some(Err(ProxyError::caused(
                Kind::Unsent,
                "a newer attempt reads the body",
            ))));
        }
        let kept = state.kept.borrow().get(*next).cloned();
        if let Some(data) = kept {
            *next += 1;
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if state.ended.get() {
            if *trailers_sent {
                return Poll::Ready(None);
            }
            *trailers_sent = true;
            return Poll::Ready(
                state
                    .trailers
                    .borrow()
                    .clone()
                    .map(|trailers| Ok(Frame::trailers(trailers))),
            );
        }
        let polled = state.poll_source(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            if frame.is_trailers() {
                *trailers_sent = true;
            } else {
                *next = state.kept.borrow().len();
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
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

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Replayed { state, .. } => state
                .exact
                .map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

/// What a client is answered with: a body of ours, or the task's as it comes.
pub(crate) enum ResponseBody {
    Local(Full<Bytes>),
    Upstream(Box<Observed>),
}

impl ResponseBody {
    pub(crate) fn text(text: String) -> Self {
        Self::Local(Full::new(text.into()))
    }

    /// The timer of a response that comes from a task.
    pub(crate) fn timer(&self) -> Option<Rc<Timer>> {
        match self {
            Self::Local(_) => None,
            Self::Upstream(body) => Some(Rc::clone(&body.timer)),
        }
    }

    pub(crate) fn empty() -> Self {
        Self::Local(Full::default())
    }
}

/// A response body under observation. Dropping it, finished or not, ends the lease and writes the record.
pub(crate) struct Observed {
    inner: Incoming,
    timer: Rc<Timer>,
    record: Record,
}

impl Observed {
    pub(crate) fn new(inner: Incoming, timer: Rc<Timer>, mut record: Record) -> Self {
        if inner.is_end_stream() {
            record.complete();
        }
        Self {
            inner,
            timer,
            record,
        }
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ProxyError>>> {
        match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(None) => {
                self.record.complete();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Ok(frame))) => {
                self.timer.touch();
                self.record
                    .response_bytes(frame.data_ref().map_or(0, Bytes::len));
                if self.inner.is_end_stream() {
                    self.record.complete();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.record.fail(Kind::ConnectionTermination);
                Poll::Ready(Some(Err(ProxyError::caused(
                    Kind::ConnectionTermination,
                    error,
                ))))
            }
            Poll::Pending => self.timer.poll(cx).map(|kind| {
                self.record.fail(kind);
                Some(Err(kind.into()))
            }),
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = ProxyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ProxyError>>> {
        match self.get_mut() {
            Self::Local(body) => Pin::new(body)
                .poll_frame(cx)
                .map_err(|never| match never {}),
            Self::Upstream(body) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Local(body) => body.is_end_stream(),
            Self::Upstream(body) => body.inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Local(body) => body.size_hint(),
            Self::Upstream(body) => body.inner.size_hint(),
        }
    }
}
