//! An HTTP/2 client's connection (RFC 9113), served by hyper.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::Body;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use super::protocol::Stream;
use crate::deadline::Deadline;
use crate::drain::{Drain, Phase};
use crate::request::body::ResponseBody;
use crate::request::timer::Timer;
use crate::request::worker::Worker;
use crate::request::{self, Open};
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
    open: Open,
    stream: Stream,
    drain: Drain,
) {
    let state = Connection::new(worker);
    let service = service(worker, slot, &state, &open);
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
pub(super) struct Connection {
    pub(super) in_flight: Cell<u32>,
    /// The timer of the latest response under way; HTTP/1.1 has only the one.
    pub(super) timer: RefCell<Option<Rc<Timer>>>,
    /// Requests so far.
    pub(super) served: Cell<u64>,
    pub(super) deadline: Deadline,
}

impl Connection {
    pub(super) fn new(worker: &Worker) -> Rc<Self> {
        Rc::new(Self {
            in_flight: Cell::new(0),
            timer: RefCell::default(),
            served: Cell::new(0),
            deadline: worker.sweep.deadline(),
        })
    }
}

/// Hands each request to its story and counts it until its response body is gone.
pub(super) fn service(
    worker: &Rc<Worker>,
    slot: Slot,
    state: &Rc<Connection>,
    open: &Open,
) -> impl hyper::service::Service<
    http::Request<hyper::body::Incoming>,
    Response = http::Response<Counted>,
    Error = Infallible,
    Future = impl Future<Output = Result<http::Response<Counted>, Infallible>> + use<>,
> + use<> {
    let (worker, state, open) = (Rc::clone(worker), Rc::clone(state), Rc::clone(open));
    service_fn(move |request| {
        let (worker, guard) = (Rc::clone(&worker), InFlight::enter(&state));
        let open = Rc::clone(&open);
        async move {
            let response = request::serve(worker, slot, open, request).await;
            if let Some(timer) = response.body().timer() {
                guard.0.timer.replace(Some(timer));
            }
            Ok(response.map(|body| Counted {
                body,
                _guard: guard,
            }))
        }
    })
}

pub(super) struct InFlight(Rc<Connection>);

impl InFlight {
    fn enter(state: &Rc<Connection>) -> Self {
        state.in_flight.set(state.in_flight.get() + 1);
        state.served.set(state.served.get() + 1);
        Self(Rc::clone(state))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let left = self.0.in_flight.get() - 1;
        self.0.in_flight.set(left);
        if left == 0 {
            self.0.timer.take();
        }
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
