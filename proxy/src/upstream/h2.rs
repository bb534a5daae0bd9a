//! An HTTP/2 client connection (RFC 9113): requests are put on its streams directly; one task of this worker reads and writes it.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, Connection, SendRequest};
use h2::{Ping, Reason};
use http::{Response, StatusCode};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::h1::{Failed, MAX_INFORMATIONAL};
use crate::error::{Kind, ProxyError};
use crate::http2::batch::{Batched, Outbox, batched};
use crate::http2::body::{Broken, Receiving, Sending};
use crate::message::head::{RequestHead, ResponseHead};
use crate::message::{Body, Part};

/// Silence with open streams after which a connection is probed with PING (RFC 9113 section 6.7), and the wait for its answer.
const PING_AFTER: Duration = Duration::from_secs(10);
/// Receive windows: one stream may have this much in flight, and all of a connection together 64 times as much, so that some
/// clients that do not read do not stop the others.
const STREAM_WINDOW: u32 = 256 * 1024;
/// Streams we open before the peer has said how many it allows.
const FIRST_STREAMS: usize = 100;
/// The largest response head, as HPACK counts it (RFC 9113 section 6.5.2).
const MAX_HEADER_LIST: u32 = 16 * 1024;
/// Bytes of one request's body that are kept while the peer's window is closed.
const MAX_SEND_BUFFER: usize = 256 * 1024;

/// Where requests are put. Clones share the connection, which closes when the last is dropped and its streams have ended.
pub(crate) struct Sender {
    requests: SendRequest<Bytes>,
    state: Rc<State>,
}

struct State {
    /// No request can be sent any more.
    closed: Cell<bool>,
    /// Has one holder more than there are streams.
    open: Rc<()>,
}

impl Clone for Sender {
    fn clone(&self) -> Self {
        Self {
            requests: self.requests.clone(),
            state: Rc::clone(&self.state),
        }
    }
}

/// One response, and what is still to be sent of its request.
pub(crate) struct Exchange<B> {
    sending: Option<Sending<B>>,
    receiving: Receiving,
}

impl<B: Body> Exchange<B> {
    /// The next part of the response; `None` at its end.
    pub(crate) fn poll_part(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Part, ProxyError>>> {
        match self.sending.as_mut().map(|sending| sending.poll(cx)) {
            Some(Poll::Ready(Err(Broken::Body(error)))) => {
                self.sending = None;
                return Poll::Ready(Some(Err(error)));
            }
            Some(Poll::Ready(_)) => self.sending = None,
            Some(Poll::Pending) | None => {}
        }
        self.receiving.poll_part(cx, Kind::ConnectionTermination)
    }

    /// Whether the response has come to its end.
    pub(crate) fn is_end(&self) -> bool {
        self.receiving.is_end()
    }

    /// Bytes of the response's body, where that is known.
    pub(crate) fn length(&self) -> Option<u64> {
        self.receiving.length()
    }
}

/// Makes the stream a connection (prior knowledge, RFC 9113 section 3.3).
pub(crate) async fn h2(stream: TcpStream) -> Result<Sender, ProxyError> {
    let (stream, outbox) = batched(stream);
    let (requests, connection) = Builder::new()
        .initial_max_send_streams(FIRST_STREAMS)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(STREAM_WINDOW * 64)
        .max_header_list_size(MAX_HEADER_LIST)
        .max_send_buffer_size(MAX_SEND_BUFFER)
        .enable_push(false)
        .handshake(stream)
        .await
        .map_err(|error| ProxyError::caused(Kind::ConnectFailed, error))?;
    let state = Rc::new(State {
        closed: Cell::new(false),
        open: Rc::new(()),
    });
    tokio::task::spawn_local(drive(connection, outbox, Rc::clone(&state)));
    Ok(Sender { requests, state })
}

/// Reads and writes the connection until its end, and asks after a peer that is silent while streams are open.
async fn drive(
    mut connection: Connection<Batched<TcpStream>, Bytes>,
    outbox: Outbox<TcpStream>,
    state: Rc<State>,
) {
    let mut pings = connection.ping_pong();
    let mut asked = false;
    let mut silence = pin!(tokio::time::sleep(PING_AFTER));
    poll_fn(|cx| {
        loop {
            let polled = Pin::new(&mut connection).poll(cx);
            outbox.send(cx);
            if let Poll::Ready(end) = polled {
                if let Err(error) = end {
                    tracing::debug!(%error, "upstream connection ended");
                }
                return Poll::Ready(());
            }
            if silence.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            silence.as_mut().reset(Instant::now() + PING_AFTER);
            let heard = outbox.has_read();
            if asked && !heard {
                tracing::debug!("upstream connection ended: no answer to PING");
                return Poll::Ready(());
            }
            asked = !heard && Rc::strong_count(&state.open) > 1;
            if let Some(pings) = &mut pings {
                let _ = pings.poll_pong(cx);
                if asked {
                    // One that is under way already is as good.
                    let _ = pings.send_ping(Ping::opaque());
                }
            }
        }
    })
    .await;
    state.closed.set(true);
}

impl Sender {
    /// Whether no request can be sent any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.state.closed.get()
    }

    /// Streams that are open.
    pub(crate) fn streams(&self) -> usize {
        Rc::strong_count(&self.state.open) - 1
    }

    /// Sends the request, and waits for the head of its response. Informational ones go to `inform`.
    pub(crate) async fn send<B: Body>(
        &mut self,
        head: &mut RequestHead,
        body: B,
        mut inform: impl FnMut(&mut ResponseHead),
    ) -> Result<(ResponseHead, Exchange<B>), Failed> {
        let failed = |error| Failed {
            error,
            unsent: false,
        };
        // Fails after GOAWAY or a connection error; a clone that has sent nothing yet never waits.
        let ready = self
            .requests
            .poll_ready(&mut Context::from_waker(Waker::noop()));
        if let Poll::Ready(Err(error)) = ready {
            self.state.closed.set(true);
            return Err(Failed {
                error: ProxyError::caused(Kind::Unsent, error),
                unsent: true,
            });
        }
        let open = Rc::clone(&self.state.open);
        let request = head.h2_request(()).map_err(failed)?;
        let whole = body.is_end();
        let (mut response, stream) = self
            .requests
            .send_request(request, whole)
            .map_err(|error| failed(classify(error)))?;
        let mut sending = (!whole).then(|| Sending::new(body, stream));
        let mut informational = 0;
        let response = poll_fn(|cx| {
            match sending.as_mut().map(|sending| sending.poll(cx)) {
                Some(Poll::Ready(Err(Broken::Body(error)))) => return Poll::Ready(Err(error)),
                // A peer that resets the stream may have answered before.
                Some(Poll::Ready(_)) => sending = None,
                Some(Poll::Pending) | None => {}
            }
            while let Some(head) = ready!(response.poll_informational(cx)) {
                informational += 1;
                let mut head = may_inform(head, informational)?;
                inform(&mut head);
            }
            Pin::new(&mut response).poll(cx).map_err(classify)
        })
        .await
        .map_err(failed)?;
        let (head, stream) = response.into_parts();
        let receiving = Receiving::new(stream, &head.headers, Some(open));
        let exchange = Exchange { sending, receiving };
        Ok((ResponseHead::from_h2(head), exchange))
    }
}

/// An informational response that is passed on: never a 101 (RFC 9113 section 8.6), and not too many of them.
fn may_inform(
    head: Result<Response<()>, h2::Error>,
    informational: u32,
) -> Result<ResponseHead, ProxyError> {
    let (head, ()) = head.map_err(classify)?.into_parts();
    let wrong = match head.status {
        StatusCode::SWITCHING_PROTOCOLS => "101 on HTTP/2",
        _ if informational > MAX_INFORMATIONAL => "too many informational responses",
        _ => return Ok(ResponseHead::from_h2(head)),
    };
    Err(ProxyError::caused(Kind::UpstreamProtocol, wrong))
}

/// What an error means for the request that was on its way.
fn classify(error: h2::Error) -> ProxyError {
    let kind = match error.reason() {
        Some(Reason::REFUSED_STREAM) if error.is_remote() => Kind::RefusedStream,
        // h2 fails only the streams above GOAWAY's last id with it (RFC 9113 section 6.8): they were not processed.
        Some(Reason::NO_ERROR) if error.is_go_away() && error.is_remote() => Kind::RefusedStream,
        Some(_) if error.is_reset() && error.is_remote() => Kind::RemoteReset,
        // What h2 finds malformed it resets itself (RFC 9113 section 8.1.1).
        Some(_) if error.is_library() => Kind::UpstreamProtocol,
        _ => Kind::ConnectionTermination,
    };
    ProxyError::caused(kind, error)
}

#[cfg(test)]
mod tests;
