//! An HTTP/2 client's connection (RFC 9113), a task of this worker for each of its streams.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::server::{Builder, SendResponse};
use http::header::{self, HeaderValue};
use http::{Method, StatusCode};

use super::protocol::Stream;
use super::{Caller, leaves};
use crate::deadline::Deadline;
use crate::drain::{Drain, Phase};
use crate::error::{Kind, ProxyError};
use crate::hop::{VERDICT, spelling, verdict};
use crate::http2::batch::batched;
use crate::http2::body::{Receiving, Sending};
use crate::http2::guard::{Guard, Side};
use crate::http2::peer_broke_protocol;
use crate::message::head::{RequestHead, ResponseHead, Unfit};
use crate::message::{Body, Part};
use crate::request::body::Source;
use crate::request::response::ResponseBody;
use crate::request::worker::Worker;
use crate::request::{self, Came};
use crate::routing::snapshot::{ListenerPolicy, Slot};

/// Concurrent streams one client connection may open (RFC 9113 section 5.1.2).
const MAX_STREAMS: u32 = 256;
/// Requests of a connection that were taken back before they were accepted: a hop's callers give up together, and a busy worker reads
/// requests and their resets at once. Far more let clients that only reset keep a worker from all others (CVE-2023-44487).
const MAX_TAKEN_BACK: usize = 100;
/// Receive windows, of one stream and of a connection: some uploads that a task does not take must not stop the others.
const WINDOWS: (u32, u32) = (256 * 1024, 4 * 1024 * 1024);
/// The same for a client that comes when many are connected: what it may send before a task takes it is memory. An upload by one
/// stream is slower then, 170 MB/s on loopback. (Envoy's advice for proxies at the edge has the same numbers.)
const NARROW_WINDOWS: (u32, u32) = (64 * 1024, 1024 * 1024);
/// What one stream's window takes of a client whose messages are the smallest of gRPC, 6 bytes: h2 counts up to 256 bytes beside each
/// frame that no task has taken, and ends the connection above this. Its own choice, half the connection's window, would end that
/// of a client that keeps within its windows.
const fn frame_budget((window, connection_window): (u32, u32)) -> usize {
    let small = window as usize / 6 * 250;
    let half = connection_window as usize / 2;
    if small > half { small } else { half }
}

/// What one connection may take.
struct Limits {
    streams: u32,
    /// As a multiple of the listener's `max_header_bytes`.
    head: u32,
    taken_back: usize,
    /// Streams that we reset for what the peer did.
    errors: Option<usize>,
    windows: (u32, u32),
}

impl Limits {
    const WIDE: Self = Self {
        streams: MAX_STREAMS,
        head: 1,
        taken_back: MAX_TAKEN_BACK,
        // h2's own.
        errors: Some(1024),
        windows: WINDOWS,
    };
    const NARROW: Self = Self {
        windows: NARROW_WINDOWS,
        ..Self::WIDE
    };
    /// A sidecar that has proved who it is speaks for many clients, on few connections. Its heads carry names twice, and are
    /// counted by HTTP/2's rule though HTTP/1.1's limit has passed them.
    const HOP: Self = Self {
        streams: 4096,
        head: 4,
        taken_back: 100_000,
        errors: None,
        windows: (WINDOWS.0, 64 * WINDOWS.0),
    };
}

/// Connections of one worker that have wide windows at once.
const MAX_WIDE: usize = 16;
/// Bytes of one response that are kept while the client's window is closed.
const MAX_SEND_BUFFER: usize = 64 * 1024;
/// For an idle HTTP/2 client to take its GOAWAY.
const CLOSING: Duration = Duration::from_secs(10);
/// For a client to take its GOAWAY and stop, when it broke the protocol or at this sidecar's end.
const LINGER: Duration = Duration::from_secs(1);

/// Serves the connection to its end.
pub(super) async fn serve(
    worker: &Rc<Worker>,
    caller: Caller,
    listener: &Arc<ListenerPolicy>,
    stream: Stream,
    drain: Drain,
) {
    let state = Rc::new(Connection {
        in_flight: Cell::new(0),
        deadline: worker.sweep.deadline(),
    });
    state.deadline.set_after(listener.idle_timeout);
    let (hop, max_target) = (caller.hop, listener.max_uri_bytes as usize);
    let wide = if hop {
        None
    } else {
        worker.wide.take(MAX_WIDE)
    };
    let limits = match &wide {
        _ if hop => Limits::HOP,
        Some(_) => Limits::WIDE,
        None => Limits::NARROW,
    };
    let guard = if hop {
        Guard::of_hop(Side::Server)
    } else {
        Guard::new(Side::Server)
    };
    let (stream, outbox) = batched(stream, guard);
    let (window, connection_window) = limits.windows;
    let handshake = Builder::new()
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(listener.max_header_bytes.saturating_mul(limits.head))
        .max_pending_accept_reset_streams(limits.taken_back)
        .max_local_error_reset_streams(limits.errors)
        .initial_window_size(window)
        .initial_connection_window_size(connection_window)
        .max_send_buffer_size(MAX_SEND_BUFFER)
        .data_frame_budget(frame_budget((window, connection_window)))
        .enable_connect_protocol()
        .handshake(stream);
    // The preface is here already: this waits for nothing but the client's leave to write.
    let mut connection = match state.deadline.bound(pin!(handshake)).await {
        Some(Ok(connection)) => connection,
        Some(Err(error)) => {
            return tracing::debug!(listener = listener.name, %error, "no HTTP/2 connection");
        }
        None => return,
    };
    let mut stopped = pin!(drain.reached(Phase::Stopped));
    let (mut heard, mut told, mut closing) = (None, false, false);
    let mut was_in_flight = 0;
    let heads = worker.sweep.deadline();
    let (mut was_owed, mut too_late) = (false, false);
    let end = poll_fn(|cx| {
        let now = drain.now();
        if heard != Some(now) {
            heard = Some(drain.told());
            let _woken_by_the_next = stopped.as_mut().poll(cx);
        }
        if !told && (now >= leaves(listener.direction) || caller.is_to_come_by_tls(worker)) {
            // GOAWAY(2^31-1), PING round trip, final GOAWAY (RFC 9113 section 6.8): h2's graceful shutdown.
            connection.graceful_shutdown();
            told = true;
        }
        let accepted = loop {
            match connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    if let Err(unfit) = RequestHead::check_h2(&request, max_target) {
                        let bodiless = request.method() == Method::HEAD;
                        refuse(worker, (listener, hop), respond, (unfit, bodiless));
                        continue;
                    }
                    let guard = InFlight::enter(&state);
                    let worker = Rc::clone(worker);
                    // A small task around the story, whose place is used again.
                    let caller = caller.clone();
                    let story = answer(Rc::clone(&worker), caller, request, respond, guard);
                    let story = worker.streams.put(story);
                    tokio::task::spawn_local(async move { story.run(&worker.streams).await });
                }
                Poll::Ready(Some(Err(error))) => break Poll::Ready(Err(error)),
                Poll::Ready(None) => break Poll::Ready(Ok(())),
                Poll::Pending => break Poll::Pending,
            }
        };
        outbox.send(cx);
        if accepted.is_ready() {
            return accepted;
        }
        let owed = outbox.is_owed();
        if owed != was_owed && !too_late {
            heads.set(None);
            if owed {
                heads.set_after(listener.header_timeout);
            }
        }
        was_owed = owed;
        if (owed || too_late) && heads.poll_expired(cx).is_ready() {
            if too_late {
                return Poll::Ready(Ok(()));
            }
            too_late = true;
            let shard = listener.metrics.shard(worker.id);
            shard.error(Kind::HeaderTimeout);
            connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            heads.set_after(CLOSING);
            cx.waker().wake_by_ref();
        }
        let in_flight = state.in_flight.get();
        if now == Phase::Stopped && in_flight == 0 && !closing {
            // A client that does not answer the PING has had its time while this sidecar drained.
            closing = true;
            state.deadline.set_after(LINGER);
        }
        match in_flight {
            0 if was_in_flight > 0 && !closing => state.deadline.set_after(listener.idle_timeout),
            1.. if was_in_flight == 0 => state.deadline.set(None),
            _ => {}
        }
        was_in_flight = in_flight;
        if state.deadline.poll_expired(cx).is_ready() {
            if closing {
                // It has not answered the PING. Should it ever read on, it knows what was not processed.
                connection.abrupt_shutdown(Reason::NO_ERROR);
                let _written = connection.poll_closed(cx);
                outbox.send(cx);
                return Poll::Ready(Ok(()));
            }
            // Idle: GOAWAY first, so that a request that crosses it is known to be unprocessed.
            connection.graceful_shutdown();
            closing = true;
            state.deadline.set_after(CLOSING);
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    });
    let Err(error) = end.await else { return };
    tracing::debug!(listener = listener.name, %error, "connection ended");
    if peer_broke_protocol(&error) {
        let shard = listener.metrics.shard(worker.id);
        shard.error(Kind::DownstreamProtocol);
        drop(connection);
        state.deadline.set_after(LINGER);
        let mut discarded = 0;
        let goodbye = pin!(poll_fn(|cx| outbox.poll_end(cx, &mut discarded)));
        state.deadline.bound(goodbye).await;
    }
}

/// Ends a stream whose request is not one: with an answer where RFC 9110 has one, else it is malformed (RFC 9113 section 8.1.1).
fn refuse(
    worker: &Worker,
    (listener, hop): (&ListenerPolicy, bool),
    mut respond: SendResponse<Bytes>,
    (unfit, bodiless): (Unfit, bool),
) {
    let shard = listener.metrics.shard(worker.id);
    shard.error(Kind::DownstreamProtocol);
    tracing::debug!(listener = listener.name, %unfit, "request refused");
    let status = match unfit {
        Unfit::Malformed(_) => return respond.send_reset(Reason::PROTOCOL_ERROR),
        Unfit::NoAuthority => StatusCode::BAD_REQUEST,
        Unfit::TargetTooLong => StatusCode::URI_TOO_LONG,
    };
    let (name, kind) = (&listener.name, Kind::DownstreamProtocol);
    let (flag, source) = (kind.flag(), kind.source());
    let text = format!("outrigger: {name}: {unfit} ({flag}, {source:?})\n");
    let mut head = ResponseHead::of_text(status);
    if hop {
        head.fields.push(VERDICT, verdict(kind).as_bytes());
    }
    head.fields
        .push("content-length", text.len().to_string().as_bytes());
    worker.date.stamp(&mut head);
    let sent = respond.send_response(head.h2_response(()), bodiless);
    let sent = sent.and_then(|mut body| match bodiless {
        true => Ok(()),
        false => body.send_data(Bytes::from(text), true),
    });
    if let Err(error) = sent {
        tracing::debug!(%error, "refusal cannot be sent");
    }
}

/// One stream: hands the request to its story, then sends the response to its last byte.
async fn answer(
    worker: Rc<Worker>,
    Caller {
        slot, hop, peer, ..
    }: Caller,
    request: http::Request<h2::RecvStream>,
    respond: SendResponse<Bytes>,
    guard: InFlight,
) {
    let (parts, body) = request.into_parts();
    let body = Source::H2(Receiving::new(body, &parts.headers, None, hop));
    let bodiless = parts.method == Method::HEAD;
    let (head, told) = if hop {
        let (head, told) = spelling::from_h2_request(parts);
        (head, Some(told))
    } else {
        (RequestHead::from_h2(parts), None)
    };
    let came = Came { slot, told, peer };
    let in_h2 = |head: &mut ResponseHead| match hop {
        true => spelling::h2_response(head),
        false => head.h2_response(()),
    };
    let respond = RefCell::new(respond);
    let inform = |head: &mut ResponseHead| {
        // A client that is gone is noticed below.
        let _ = respond.borrow_mut().send_informational(in_h2(head));
    };
    let response = {
        let mut story = pin!(request::serve(&worker, came, head, body, &inform));
        let mut begun = false;
        let answered = poll_fn(|cx| {
            // Taken back before anything was done for it: nothing is done (CVE-2023-44487).
            if !std::mem::replace(&mut begun, true)
                && respond.borrow_mut().poll_reset(cx).is_ready()
            {
                return Poll::Ready(None);
            }
            match story.as_mut().poll(cx) {
                Poll::Ready(response) => Poll::Ready(Some(response)),
                Poll::Pending => respond.borrow_mut().poll_reset(cx).map(|_| None),
            }
        });
        answered.await
    };
    // The client took the request back.
    let Some(request::Response { mut head, body }) = response else {
        return;
    };
    let mut respond = respond.into_inner();
    if let ResponseBody::Local(_) = body {
        worker.date.stamp(&mut head);
    }
    // Such a head ends the stream at once, and a task's body that should not be there is only looked at.
    let ends = head.is_whole(&Method::GET) && matches!(body, ResponseBody::Upstream(_));
    let mut head = in_h2(&mut head);
    if let ResponseBody::Tunnel(tunnel) = body {
        match respond.send_response(head, false) {
            Ok(stream) => Box::pin(tunnel.run_on_stream(stream)).await,
            Err(error) => tracing::debug!(%error, "response cannot be sent"),
        }
        return;
    }
    let whole = body.is_end();
    if let Some(length) = body.length().filter(|_| !(whole || bodiless || ends)) {
        let entry = head.headers_mut().entry(header::CONTENT_LENGTH);
        entry.or_insert_with(|| HeaderValue::from(length));
    }
    match respond.send_response(head, whole || ends) {
        Ok(_) if ends => {
            let mut body = body;
            while let Some(Ok(_)) = poll_fn(|cx| body.poll_part(cx)).await {}
        }
        Ok(stream) if !whole => {
            let body = match body {
                ResponseBody::Local(text) => {
                    let sending = Sending::response(Text(text), stream, hop);
                    return send_own(&worker, slot, sending, guard).await;
                }
                body => body,
            };
            let mut sending = Sending::response(body, stream, hop);
            let sent = poll_fn(|cx| {
                let sent = sending.poll(cx);
                if sent.is_ready() {
                    return sent.map(Some);
                }
                if sending.has_moved() {
                    sending.body().touch();
                }
                // A client whose window stays closed keeps the body, and its timer with it, from being polled.
                sending.body().poll_timer(cx).map(|()| None)
            });
            if let Some(Err(broken)) = sent.await {
                tracing::debug!(?broken, "response ended early");
            }
        }
        Ok(_) => {}
        Err(error) => {
            tracing::debug!(%error, "response cannot be sent");
            respond.send_reset(h2::Reason::INTERNAL_ERROR);
        }
    }
}

/// Sends a text of ours. No request is counted for it and no timer runs any more: where the client's window is closed it waits in a
/// task much smaller than a story, until the idle timeout.
async fn send_own(worker: &Worker, slot: Slot, mut sending: Sending<Text>, guard: InFlight) {
    let at_once = poll_fn(|cx| Poll::Ready(sending.poll(cx).is_ready())).await;
    if at_once {
        return;
    }
    let deadline = worker.sweep.deadline();
    if let Some(listener) = worker.snapshot.load().listener(slot) {
        deadline.set_after(listener.idle_timeout);
    }
    tokio::task::spawn_local(async move {
        let _guard = guard;
        let sent = pin!(poll_fn(|cx| sending.poll(cx)));
        deadline.bound(sent).await;
    });
}

/// A text of ours as a body.
struct Text(Bytes);

impl Body for Text {
    fn poll_part(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Part, ProxyError>>> {
        let text = std::mem::take(&mut self.0);
        Poll::Ready((!text.is_empty()).then_some(Ok(Part::Data(text))))
    }

    fn is_end(&self) -> bool {
        self.0.is_empty()
    }

    fn length(&self) -> Option<u64> {
        Some(self.0.len() as u64)
    }
}

/// What a connection knows of itself between two polls.
struct Connection {
    in_flight: Cell<u32>,
    deadline: Deadline,
}

/// One request under way on a connection.
struct InFlight(Rc<Connection>);

impl InFlight {
    fn enter(state: &Rc<Connection>) -> Self {
        state.in_flight.set(state.in_flight.get() + 1);
        Self(Rc::clone(state))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
    }
}
