//! An HTTP/2 client connection (RFC 9113): requests are put on its streams directly; one task of this worker reads and writes it.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, Connection, SendRequest};
use h2::ext::Protocol;
use h2::{Ping, Reason, SendStream};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, Request, Response, response};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::h1::{Failed, MAX_INFORMATIONAL};
use crate::error::{Kind, ProxyError};
use crate::hop::spelling;
use crate::http2::batch::{Batched, Outbox, Watch, batched};
use crate::http2::body::{Broken, Receiving, Sending};
use crate::http2::guard::{Guard, Side};
use crate::http2::hpack;
use crate::http2::peer_broke_protocol;
use crate::http2::pipe::Pipe;
use crate::message::head::{RequestHead, ResponseHead};
use crate::message::{Body, Part};
use crate::policy::limits::Share;
use crate::tls::stream::REFUSED;
use crate::tls::transport::Transport;

/// Silence with open streams after which a connection is probed with PING (RFC 9113 section 6.7), and the wait for its answer.
const PING_AFTER: Duration = Duration::from_secs(10);
/// For an endpoint that broke the protocol to take its GOAWAY and stop.
const LINGER: Duration = Duration::from_secs(1);
/// Receive windows: one stream may have this much in flight, and all of a connection together 64 times as much, so that some
/// clients that do not read do not stop the others.
const STREAM_WINDOW: u32 = 256 * 1024;
/// Streams we open before the peer has said how many it allows.
const FIRST_STREAMS: usize = 100;
/// The largest response head, as HPACK counts it (RFC 9113 section 6.5.2); HTTP/1.1's may be as large.
const MAX_HEADER_LIST: u32 = 64 * 1024;
/// On a hop such a head comes with 32 bytes more for each field, and with its names once more.
const MAX_HOP_HEADER_LIST: u32 = 4 * MAX_HEADER_LIST;
/// Bytes of one request's body that are kept while the peer's window is closed.
const MAX_SEND_BUFFER: usize = 256 * 1024;

/// Bytes h2 may count beside small frames that no client has taken, up to 256 for each, before it ends the connection: what six
/// streams' windows take of gRPC's smallest messages, 6 bytes.
const FRAME_BUDGET: usize = 6 * (STREAM_WINDOW as usize / 6 * 250);

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
    /// The peer has said something, and its SETTINGS come first (RFC 9113 section 3.4).
    heard: Cell<bool>,
    /// Told of that, and of the end.
    news: Notify,
    /// The peer is a sidecar that has proved who it is.
    hop: bool,
    watch: Watch,
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
    outgoing: Outgoing<B>,
    receiving: Receiving,
}

/// What is still to be sent of a request.
enum Outgoing<B> {
    Nothing,
    Body(Sending<B>),
    /// An extended CONNECT's bytes, once it is granted (RFC 8441 section 5).
    Tunnel(SendStream<Bytes>),
}

impl<B: Body> Outgoing<B> {
    /// Sends what can be sent. Only the body's own breaking off is an error: a peer that resets the stream may have answered.
    fn poll(&mut self, cx: &mut Context<'_>) -> Result<(), ProxyError> {
        let Self::Body(sending) = self else {
            return Ok(());
        };
        let Poll::Ready(sent) = sending.poll(cx) else {
            return Ok(());
        };
        *self = Self::Nothing;
        match sent {
            Err(Broken::Body(error)) => Err(error),
            Ok(()) | Err(Broken::Stream) => Ok(()),
        }
    }
}

impl<B: Body> Exchange<B> {
    /// The next part of the response; `None` at its end.
    pub(crate) fn poll_part(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Part, ProxyError>>> {
        if let Err(error) = self.outgoing.poll(cx) {
            return Poll::Ready(Some(Err(error)));
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

    /// The stream after an extended CONNECT was granted, for bytes both ways.
    pub(crate) fn into_pipe(self) -> Option<Pipe> {
        match self.outgoing {
            Outgoing::Tunnel(stream) => Some(Pipe::new(self.receiving, stream)),
            Outgoing::Nothing | Outgoing::Body(_) => None,
        }
    }
}

/// Makes the stream a connection (prior knowledge, RFC 9113 section 3.3), a `hop` if its peer has proved who it is.
///
/// `open` is its place among the cluster's connections.
pub(crate) async fn h2(stream: Transport, hop: bool, open: Share) -> Result<Sender, ProxyError> {
    let (guard, header_list) = if hop {
        (Guard::of_hop(Side::Client), MAX_HOP_HEADER_LIST)
    } else {
        (Guard::new(Side::Client), MAX_HEADER_LIST)
    };
    let (stream, outbox) = batched(stream, guard);
    let (requests, connection) = Builder::new()
        .initial_max_send_streams(FIRST_STREAMS)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(STREAM_WINDOW * 64)
        .max_header_list_size(header_list)
        .max_send_buffer_size(MAX_SEND_BUFFER)
        .data_frame_budget(FRAME_BUDGET)
        .enable_push(false)
        .handshake(stream)
        .await
        .map_err(|error| ProxyError::caused(Kind::ConnectFailed, error))?;
    let state = Rc::new(State {
        closed: Cell::new(false),
        open: Rc::new(()),
        heard: Cell::new(false),
        news: Notify::new(),
        hop,
        watch: outbox.watch(),
    });
    let driven = drive(connection, outbox, Rc::clone(&state));
    tokio::task::spawn_local(async move {
        driven.await;
        drop(open);
    });
    Ok(Sender { requests, state })
}

/// Reads and writes the connection until its end, and asks after a peer that is silent while streams are open.
async fn drive(
    mut connection: Connection<Batched<Transport>, Bytes>,
    outbox: Outbox<Transport>,
    state: Rc<State>,
) {
    let mut pings = connection.ping_pong();
    let mut asked = false;
    let mut silence = pin!(tokio::time::sleep(PING_AFTER));
    let broke_protocol = poll_fn(|cx| {
        loop {
            let polled = Pin::new(&mut connection).poll(cx);
            outbox.send(cx);
            if !state.heard.get() && outbox.has_begun() {
                state.heard.set(true);
                state.news.notify_waiters();
            }
            if let Poll::Ready(end) = polled {
                if let Err(error) = &end {
                    tracing::debug!(%error, "upstream connection ended");
                }
                return Poll::Ready(end.is_err_and(|error| peer_broke_protocol(&error)));
            }
            if silence.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            silence.as_mut().reset(Instant::now() + PING_AFTER);
            let heard = outbox.has_read();
            if asked && !heard {
                tracing::debug!("upstream connection ended: no answer to PING");
                return Poll::Ready(false);
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
    state.news.notify_waiters();
    drop(connection);
    if broke_protocol {
        let mut discarded = 0;
        let goodbye = poll_fn(|cx| outbox.poll_end(cx, &mut discarded));
        // Whoever does not hear it in time is cut off.
        let _ = tokio::time::timeout(LINGER, goodbye).await;
    }
}

impl Sender {
    /// Whether no request can be sent any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.state.closed.get()
    }

    /// Whether the peer has neither closed nor said anything that its connection's task has not heard yet: a request that crosses its
    /// end is lost. Asks the kernel; where streams are open, something to read says nothing.
    pub(crate) fn is_open_now(&self) -> bool {
        !self.is_closed() && (self.streams() > 0 || self.state.watch.is_quiet_now())
    }

    /// Streams that are open.
    pub(crate) fn streams(&self) -> usize {
        Rc::strong_count(&self.state.open) - 1
    }

    /// Whether the peer takes extended CONNECT; its SETTINGS are waited for (RFC 8441 section 3).
    pub(crate) async fn takes_connect(&self) -> bool {
        loop {
            let news = self.state.news.notified();
            let takes = self.requests.is_extended_connect_protocol_enabled();
            if takes || self.state.heard.get() || self.is_closed() {
                return takes;
            }
            news.await;
        }
    }

    /// Sends the request, and waits for the head of its response. Informational ones go to `inform`. `told` is for a hop alone.
    pub(crate) async fn send<B: Body>(
        &mut self,
        head: &mut RequestHead,
        body: B,
        told: Option<&HeaderValue>,
        mut inform: impl FnMut(&mut ResponseHead),
    ) -> Result<(ResponseHead, Exchange<B>), Failed> {
        let failed = |error| Failed {
            error,
            unsent: false,
        };
        let open = Rc::clone(&self.state.open);
        let hop = self.state.hop;
        let request = if hop {
            spelling::h2_request(head, told)
        } else {
            head.h2_request(())
        };
        let request = request.map_err(failed)?;
        if !is_sendable(&request) {
            return Err(failed(Kind::HeadTooLarge.into()));
        }
        let opens = head.protocol.is_some();
        let whole = body.is_end() && !opens;
        let sent = self.requests.send_request(request, whole);
        let (mut response, stream) = sent.map_err(|error| self.not_sent(error))?;
        let mut outgoing = match (opens, whole) {
            (true, _) => Outgoing::Tunnel(stream),
            (false, false) => Outgoing::Body(Sending::request(body, stream, hop)),
            (false, true) => Outgoing::Nothing,
        };
        let mut informational = 0;
        let response = poll_fn(|cx| {
            outgoing.poll(cx)?;
            while let Some(head) = ready!(response.poll_informational(cx)) {
                let head = head.map_err(classify)?;
                informational += 1;
                let mut head = may_inform(head, informational, hop)?;
                inform(&mut head);
            }
            Pin::new(&mut response).poll(cx).map_err(classify)
        })
        .await
        .map_err(|error| {
            failed(if informational > 0 {
                begun(error)
            } else {
                error
            })
        })?;
        let (head, stream) = response.into_parts();
        let receiving = Receiving::new(stream, &head.headers, Some(open), hop);
        if let Outgoing::Tunnel(stream) = &mut outgoing
            && !head.status.is_success()
        {
            // Refused: nothing follows. A stream that is gone needs no end.
            let _ = stream.send_data(Bytes::new(), true);
            outgoing = Outgoing::Nothing;
        }
        let exchange = Exchange {
            outgoing,
            receiving,
        };
        let head = read_head(head, hop).map_err(failed)?;
        Ok((head, exchange))
    }
}

impl Sender {
    /// After GOAWAY or a connection error a request is handed back; else something is wrong with the request itself.
    fn not_sent(&mut self, error: h2::Error) -> Failed {
        // Asked only here: it takes the connection's lock. A clone that has sent nothing yet never waits.
        let context = &mut Context::from_waker(Waker::noop());
        let unsent = matches!(self.requests.poll_ready(context), Poll::Ready(Err(_)));
        let error = if unsent {
            self.state.closed.set(true);
            ProxyError::caused(Kind::Unsent, error)
        } else {
            classify(error)
        };
        Failed { error, unsent }
    }
}

/// Whether the request's head is of a size that no peer ends the connection for.
fn is_sendable(request: &Request<()>) -> bool {
    let uri = request.uri();
    let target = uri.path_and_query().map_or("", PathAndQuery::as_str);
    let authority = uri.authority().map_or("", Authority::as_str);
    let protocol = request.extensions().get::<Protocol>();
    let pseudo = [
        (":method", request.method().as_str()),
        (":scheme", uri.scheme_str().unwrap_or_default()),
        (":authority", authority),
        (":path", target),
        (":protocol", protocol.map_or("", Protocol::as_str)),
    ];
    hpack::fits(&pseudo, request.headers())
}

/// An informational response that is passed on: never a 101 (RFC 9113 section 8.6), and not too many of them.
fn may_inform(
    head: Response<()>,
    informational: u32,
    hop: bool,
) -> Result<ResponseHead, ProxyError> {
    let (head, ()) = head.into_parts();
    if informational > MAX_INFORMATIONAL {
        let flood = "too many informational responses";
        return Err(ProxyError::caused(Kind::UpstreamProtocol, flood));
    }
    read_head(head, hop)
}

fn read_head(head: response::Parts, hop: bool) -> Result<ResponseHead, ProxyError> {
    if hop {
        spelling::from_h2_response(head)
    } else {
        ResponseHead::from_h2(head)
    }
}

/// A request that was answered with something is not one that was refused before anything was done, whatever the peer says.
fn begun(error: ProxyError) -> ProxyError {
    match error.kind {
        Kind::RefusedStream => ProxyError {
            kind: Kind::RemoteReset,
            ..error
        },
        _ => error,
    }
}

/// What an error means for the request that was on its way.
fn classify(error: h2::Error) -> ProxyError {
    let refused = |error: &std::io::Error| error.kind() == REFUSED;
    let kind = match error.reason() {
        _ if error.get_io().is_some_and(refused) => Kind::TlsFailed,
        _ if peer_broke_protocol(&error) => Kind::UpstreamProtocol,
        Some(Reason::REFUSED_STREAM) if error.is_remote() => Kind::RefusedStream,
        // h2 fails only the streams above GOAWAY's last id with it: whatever its code, they were not processed (RFC 9113 section 6.8).
        _ if error.is_go_away() && error.is_remote() => Kind::RefusedStream,
        Some(_) if error.is_reset() && error.is_remote() => Kind::RemoteReset,
        _ => Kind::ConnectionTermination,
    };
    ProxyError::caused(kind, error)
}

#[cfg(test)]
mod tests;
