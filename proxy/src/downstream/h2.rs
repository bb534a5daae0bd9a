//! An HTTP/2 client's connection (RFC 9113), served by hyper.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use super::protocol::Stream;
use crate::deadline::Deadline;
use crate::drain::{Drain, Phase};
use crate::message::head::RequestHead;
use crate::request;
use crate::request::body::{ResponseBody, Source};
use crate::request::worker::Worker;
use crate::routing::snapshot::{ListenerPolicy, Slot};
use crate::upstream::connect::LocalExecutor;

/// Concurrent streams one client connection may open (RFC 9113 section 5.1.2).
const MAX_STREAMS: u32 = 256;
/// For an idle HTTP/2 client to take its GOAWAY.
const CLOSING: Duration = Duration::from_secs(10);

/// Serves the connection to its end.
pub(super) async fn serve(
    worker: &Rc<Worker>,
    slot: Slot,
    listener: &Arc<ListenerPolicy>,
    stream: Stream,
    drain: Drain,
) {
    let state = Connection::new(worker);
    let service = service(worker, slot, &state);
    let connection = http2::Builder::new(LocalExecutor)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(listener.max_header_bytes)
        .auto_date_header(false)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let mut draining = pin!(drain.reached(Phase::Draining));
    let (mut told, mut registered, mut closing) = (false, false, false);
    state.deadline.set_after(listener.idle_timeout);
    let mut was_in_flight = 0;
    let end = poll_fn(|cx| {
        let look = !told && (!registered || drain.is(Phase::Draining));
        registered = true;
        if look && draining.as_mut().poll(cx).is_ready() {
            // GOAWAY(2^31-1), PING round trip, final GOAWAY (RFC 9113 section 6.8): hyper's graceful shutdown.
            connection.as_mut().graceful_shutdown();
            told = true;
        }
        if let Poll::Ready(end) = connection.as_mut().poll(cx) {
            return Poll::Ready(end);
        }
        let in_flight = state.in_flight.get();
        match in_flight {
            0 if was_in_flight > 0 => state.deadline.set_after(listener.idle_timeout),
            1.. if was_in_flight == 0 => state.deadline.set(None),
            _ => {}
        }
        was_in_flight = in_flight;
        if state.deadline.poll_expired(cx).is_ready() {
            if closing {
                return Poll::Ready(Ok(()));
            }
            // Idle: GOAWAY first, so that a request that crosses it is known to be unprocessed.
            connection.as_mut().graceful_shutdown();
            closing = true;
            state.deadline.set_after(CLOSING);
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    });
    if let Err(error) = end.await {
        tracing::debug!(listener = listener.name, %error, "connection ended");
    }
}

/// What a connection knows of itself between two polls.
struct Connection {
    in_flight: Cell<u32>,
    deadline: Deadline,
}

impl Connection {
    fn new(worker: &Worker) -> Rc<Self> {
        Rc::new(Self {
            in_flight: Cell::new(0),
            deadline: worker.sweep.deadline(),
        })
    }
}

/// Hands each request to its story and counts it until its response body is gone.
fn service(
    worker: &Rc<Worker>,
    slot: Slot,
    state: &Rc<Connection>,
) -> impl hyper::service::Service<
    http::Request<Incoming>,
    Response = http::Response<Counted>,
    Error = Infallible,
    Future = impl Future<Output = Result<http::Response<Counted>, Infallible>> + use<>,
> + use<> {
    let (worker, state) = (Rc::clone(worker), Rc::clone(state));
    service_fn(move |request: http::Request<Incoming>| {
        let (worker, guard) = (Rc::clone(&worker), InFlight::enter(&state));
        async move {
            let (parts, body) = request.into_parts();
            let head = RequestHead::from_h2(&parts);
            let response = request::serve(&worker, slot, head, Source::H2(body)).await;
            Ok(response.head.to_h2(Counted {
                body: response.body,
                _guard: guard,
            }))
        }
    })
}

struct InFlight(Rc<Connection>);

impl InFlight {
    fn enter(state: &Rc<Connection>) -> Self {
        state.in_flight.set(state.in_flight.get() + 1);
        Self(Rc::clone(state))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let left = self.0.in_flight.get() - 1;
        self.0.in_flight.set(left);
    }
}

/// A response body that keeps its connection counted as busy.
pub(crate) struct Counted {
    body: ResponseBody,
    _guard: InFlight,
}

impl Body for Counted {
    type Data = <ResponseBody as Body>::Data;
    type Error = <ResponseBody as Body>::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
