//! What a connection speaks: detected from its first bytes or told by the listener, then served as HTTP/1.1, HTTP/2 or opaque TCP.
//!
//! TLS will be one more step before detection: the stream is whatever `serve` is given.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::Body;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use outrigger_xds::model::Protocol;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::deadline::Deadline;
use crate::drain::{Drain, Phase};
use crate::request::body::ResponseBody;
use crate::request::timer::Timer;
use crate::request::worker::Worker;
use crate::request::{self, Open, tcp};
use crate::routing::snapshot::{ListenerPolicy, Slot};
use crate::upstream::connect::LocalExecutor;

/// What a client that knows HTTP/2 sends first (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// `auto`: a client that is silent this long waits for the server to speak first.
const SILENCE: Duration = Duration::from_secs(1);
/// Concurrent streams one client connection may open (RFC 9113 section 5.1.2).
const MAX_STREAMS: u32 = 256;
/// For an idle HTTP/2 client to take its GOAWAY.
const CLOSING: Duration = Duration::from_secs(10);
/// Longest method a first line may begin with to be taken for HTTP.
const MAX_METHOD: usize = 24;

/// Serves one accepted connection to its end.
pub(crate) async fn serve(
    worker: &Rc<Worker>,
    slot: Slot,
    listener: &Arc<ListenerPolicy>,
    open: Open,
    stream: TcpStream,
    drain: Drain,
) {
    let mut stream = Stream::new(stream);
    let speaks = match listener.protocol {
        Protocol::Tcp => Some(Speaks::Tcp),
        Protocol::Auto => detect(worker, &mut stream, SILENCE, Some(Speaks::Tcp)).await,
        Protocol::Http | Protocol::Http2 | Protocol::Grpc => {
            detect(worker, &mut stream, listener.header_timeout, None)
                .await
                .map(Speaks::or_http)
        }
    };
    match speaks {
        Some(Speaks::Http1) => http1(worker, slot, listener, open, stream, drain).await,
        Some(Speaks::Http2) => http2(worker, slot, listener, open, stream, drain).await,
        Some(Speaks::Tcp) => {
            tokio::select! {
                () = tcp::serve(worker, listener, &mut stream) => {}
                () = drain.reached(Phase::Stopped) => {}
            }
        }
        None => {}
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speaks {
    Http1,
    Http2,
    Tcp,
}

impl Speaks {
    /// On an HTTP listener whatever is not HTTP/2 is HTTP/1.1's to refuse.
    fn or_http(self) -> Self {
        if self == Self::Tcp { Self::Http1 } else { self }
    }
}

/// What the bytes so far say; `None` while more are needed.
fn recognise(bytes: &[u8]) -> Option<Speaks> {
    if bytes.is_empty() {
        return None;
    }
    if PREFACE.starts_with(&bytes[..bytes.len().min(PREFACE.len())]) {
        return (bytes.len() >= PREFACE.len()).then_some(Speaks::Http2);
    }
    let method = bytes.iter().take_while(|byte| is_token(**byte)).count();
    match bytes.get(method) {
        None if method <= MAX_METHOD => None,
        Some(b' ') if method > 0 && method <= MAX_METHOD => match bytes.get(method + 1) {
            None => None,
            // origin-form, asterisk-form, or absolute- and authority-form (RFC 9112 section 3.2).
            Some(b'/' | b'*' | b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'[') => {
                Some(Speaks::Http1)
            }
            Some(_) => Some(Speaks::Tcp),
        },
        _ => Some(Speaks::Tcp),
    }
}

/// RFC 9110 section 5.6.2.
const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~')
}

/// Reads until the protocol is clear; `silent` if nothing came for `wait`, `None` if the client left or dawdled.
async fn detect(
    worker: &Rc<Worker>,
    stream: &mut Stream,
    wait: Duration,
    silent: Option<Speaks>,
) -> Option<Speaks> {
    let deadline = worker.sweep.deadline();
    deadline.set_after(wait);
    loop {
        match deadline.bound(stream.fill()).await {
            None => return silent,
            Some(Err(_)) => return None,
            Some(Ok(0)) if stream.prefix.is_empty() => return None,
            Some(Ok(0)) => return Some(Speaks::Tcp),
            Some(Ok(_)) => {
                if let Some(speaks) = recognise(&stream.prefix) {
                    return Some(speaks);
                }
            }
        }
    }
}

async fn http1(
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

async fn http2(
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
struct Connection {
    in_flight: Cell<u32>,
    /// The timer of the latest response under way; HTTP/1.1 has only the one.
    timer: RefCell<Option<Rc<Timer>>>,
    /// Requests so far.
    served: Cell<u64>,
    deadline: Deadline,
}

impl Connection {
    fn new(worker: &Worker) -> Rc<Self> {
        Rc::new(Self {
            in_flight: Cell::new(0),
            timer: RefCell::default(),
            served: Cell::new(0),
            deadline: worker.sweep.deadline(),
        })
    }
}

/// Hands each request to its story and counts it until its response body is gone.
fn service(
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

struct InFlight(Rc<Connection>);

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

/// The client's stream, with the bytes that detection has read in front of it.
struct Stream {
    prefix: Vec<u8>,
    stream: TcpStream,
    /// Bytes have been read since somebody last looked.
    read: Arc<AtomicBool>,
}

impl Stream {
    fn new(stream: TcpStream) -> Self {
        Self {
            prefix: Vec::new(),
            stream,
            read: Arc::default(),
        }
    }

    /// Reads a little more for detection.
    async fn fill(&mut self) -> io::Result<usize> {
        let mut some = [0; PREFACE.len()];
        let read = self.stream.read(&mut some).await?;
        self.prefix.extend_from_slice(&some[..read]);
        Ok(read)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.prefix.is_empty() {
            let fits = this.prefix.len().min(buf.remaining());
            buf.put_slice(&this.prefix[..fits]);
            this.prefix.drain(..fits);
            this.read.store(true, Relaxed);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            this.read.store(true, Relaxed);
        }
        polled
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_recognised_from_their_first_bytes() {
        for (bytes, speaks) in [
            (&b""[..], None),
            (b"GET", None),
            (b"GET ", None),
            (b"GET /", Some(Speaks::Http1)),
            (b"OPTIONS * HTTP/1.1", Some(Speaks::Http1)),
            (b"BREW /pot", Some(Speaks::Http1)),
            (b"PRI", None),
            (PREFACE, Some(Speaks::Http2)),
            (b"PRIX /", Some(Speaks::Http1)),
            (b"\x16\x03\x01", Some(Speaks::Tcp)),
            (b"\x00\x00", Some(Speaks::Tcp)),
            (b"*3\r\n", Some(Speaks::Tcp)),
            (b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", Some(Speaks::Tcp)),
        ] {
            assert_eq!(
                recognise(bytes),
                speaks,
                "{:?}",
                String::from_utf8_lossy(bytes)
            );
        }
    }
}
