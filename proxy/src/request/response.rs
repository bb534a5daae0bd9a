//! The response body on its way to the client, under observation: its end ends the lease and writes the record.

use std::task::{Context, Poll};

use bytes::Bytes;

use super::body::{AttemptBody, Replay};
use super::record::Record;
use super::tunnel::Tunnel;
use crate::error::{Kind, ProxyError};
use crate::message::{Body, Part};
use crate::upstream::{h1, h2};

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
            // There is none but a CONNECT's head.
            Self::H2(_) => true,
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
    /// An upgrade was granted: what follows are bytes both ways.
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

    /// Counts what breaks it off, once. Nothing more is taken of it: dropped, an HTTP/2 stream is reset.
    fn fail(&mut self, kind: Kind) {
        if self.body.take().is_some() {
            self.record.fail(kind);
        }
    }

    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Part, ProxyError>>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let timer = self.request.timer();
        match body.poll_part(cx) {
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Ready(Some(Ok(Part::Data(data))))
                if self.record.is_bodiless() && !data.is_empty() =>
            {
                let kind = Kind::UpstreamProtocol;
                self.fail(kind);
                let why = "data after a head that is the whole message";
                Poll::Ready(Some(Err(ProxyError::caused(kind, why))))
            }
            Poll::Ready(Some(Ok(mut part))) => {
                timer.touch();
                match &mut part {
                    Part::Data(data) => self.record.bytes(data.len() as u64),
                    Part::Trailers(trailers) => self.request.strip_answers(trailers),
                }
                Poll::Ready(Some(Ok(part)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.fail(error.kind);
                Poll::Ready(Some(Err(error)))
            }
            Poll::Pending => timer.poll(cx).map(|kind| {
                self.fail(kind);
                Some(Err(kind.into()))
            }),
        }
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        self.record.bytes(self.request.bytes());
        let Some(UpstreamBody::H1(exchange)) = self.body.take() else {
            return;
        };
        if exchange.has_extra() {
            self.record.fail(Kind::UpstreamProtocol);
        }
        if let Some(idle) = exchange.into_idle() {
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

    /// Counts what broke it off, unless it is counted already.
    pub(crate) fn fail(&mut self, kind: Kind) {
        if let Self::Upstream(observed) = self {
            observed.fail(kind);
        }
    }

    /// For a client that takes no more for now: which timeout has passed, if one has.
    pub(crate) fn poll_timer(&mut self, cx: &Context<'_>) -> Poll<()> {
        let Self::Upstream(observed) = self else {
            return Poll::Pending;
        };
        let timer = observed.request.timer();
        timer.poll(cx).map(|kind| observed.fail(kind))
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
