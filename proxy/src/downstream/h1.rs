//! An HTTP/1.1 client's connection (RFC 9112), served by hyper.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;

use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;

use super::h2::{Connection, service};
use super::protocol::Stream;
use crate::drain::{Drain, Phase};
use crate::request::Open;
use crate::request::worker::Worker;
use crate::routing::snapshot::{ListenerPolicy, Slot};

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
    let read = Arc::clone(&stream.read);
    let service = service(worker, slot, &state, &open);
    let mut builder = http1::Builder::new();
    builder
        .half_close(true)
        .preserve_header_case(true)
        .auto_date_header(false)
        .max_buf_size(listener.max_header_bytes.max(8192) as usize);
    let connection = builder
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let mut stopped = pin!(drain.reached(Phase::Stopped));
    state.deadline.set_after(listener.header_timeout);
    let (mut told, mut registered) = (false, false);
    let (mut was_in_flight, mut was_served, mut in_head) = (0, 0, true);
    let end = poll_fn(|cx| {
        if let Poll::Ready(end) = connection.as_mut().poll(cx) {
            return Poll::Ready(end);
        }
        // Polled once to be woken, and then only when there is something to hear: polling takes a lock all workers share.
        let look = !told && (!registered || drain.is(Phase::Stopped));
        registered = true;
        if look && stopped.as_mut().poll(cx).is_ready() {
            // What is written is flushed; an idle connection ends now.
            connection.as_mut().graceful_shutdown();
            told = true;
            cx.waker().wake_by_ref();
        }
        // Between messages the idle timeout runs; from the first byte of a head the header timeout; else the stream's own.
        let (in_flight, served) = (state.in_flight.get(), state.served.get());
        let bytes = read.swap(false, Relaxed);
        if in_flight > 0 {
            if was_in_flight == 0 {
                state.deadline.set(None);
            }
            in_head = false;
        } else if was_in_flight > 0 || served != was_served {
            state.deadline.set_after(listener.idle_timeout);
            in_head = false;
        } else if bytes && !in_head {
            state.deadline.set_after(listener.header_timeout);
            in_head = true;
        }
        was_served = served;
        was_in_flight = in_flight;
        // A client that does not read keeps hyper from polling the body, whose timer is looked at here instead.
        if let Some(timer) = &*state.timer.borrow()
            && timer.poll(cx).is_ready()
        {
            return Poll::Ready(Ok(()));
        }
        state.deadline.poll_expired(cx).map(Ok)
    });
    if let Err(error) = end.await {
        tracing::debug!(listener = listener.name, %error, "connection ended");
    }
}
