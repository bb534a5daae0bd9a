//! Origin servers: applications on HTTP/1.1, HTTP/2 and server-first TCP that answer their name and misbehave on request.
//!
//! | request | answer |
//! |---|---|
//! | `/…` | 200, the task's name as body, or `?bytes=N` bytes |
//! | `/status/NNN` | that status |
//! | `/delay?ms=N` | after so long (the query works on every path) |
//! | `/echo` | the request body, streamed back as it comes |
//! | `/upload` | the number of bytes received |
//! | `/headers` | the request head as it arrived |
//! | `/reset` | no answer: the connection (HTTP/2: the stream) is aborted |
//! | `/truncate?bytes=N` | promises N bytes, sends half, aborts |
//! | `/echo.Echo/Bidi` | gRPC: every message back, then trailers with `grpc-status: 0` |
//! | `Upgrade: …` | 101, then every byte back |
//!
//! Every answer carries the task's name in `x-task`. With a ledger every request that has an id is written down before it is acted
//! upon. At SIGTERM an origin takes no new connection, finishes what is under way, and leaves idle connections open for a while.

pub mod lean;
mod leaving;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::header::{
    CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    UPGRADE,
};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use sha1::{Digest, Sha1};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::ledger::{ID_HEADER, Ledger};
use leaving::Leaving;

/// The response header that names the task that answered.
pub const TASK_HEADER: HeaderName = HeaderName::from_static("x-task");

/// The largest body an origin makes on request.
const MAX_BYTES: u64 = 1 << 30;
const CHUNK: usize = 64 * 1024;

type AnswerBody = UnsyncBoxBody<Bytes, io::Error>;

/// How long an origin that was told to end keeps idle connections: Node's `keepAliveTimeout`, the shortest in common use.
pub const KEEP_IDLE: Duration = Duration::from_secs(5);

/// How an origin treats everybody.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Manner {
    /// As the path asks.
    #[default]
    Well,
    /// Accepts, reads, and never says anything.
    Mute,
    /// Resets each connection as soon as it is accepted.
    Reset,
    /// Acts upon each request, and answers 503.
    Unavailable,
    /// Acts upon each request, and breaks the connection (HTTP/2: the stream) instead of answering.
    Break,
}

/// What one origin server is.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The task's name, answered in `x-task`.
    pub name: String,
    /// `Some`: opaque TCP; this line (none if empty) is sent before the client says anything, then every byte comes back.
    pub greeting: Option<String>,
    /// Where requests with an id are written down.
    pub ledger: Option<Arc<Ledger>>,
    /// How it treats everybody.
    pub manner: Manner,
    /// How long idle connections stay open once it was told to end; zero is at once.
    pub keep_idle: Duration,
}

impl Default for Origin {
    fn default() -> Self {
        Self {
            name: "origin".to_owned(),
            greeting: None,
            ledger: None,
            manner: Manner::Well,
            keep_idle: KEEP_IDLE,
        }
    }
}

/// Accepts until `shutdown` resolves, then finishes what is under way.
pub async fn serve(
    listener: TcpListener,
    origin: Origin,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let origin = Arc::new(origin);
    let (leave, leaving) = leaving::pair();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        // Whoever has connected already is served: closing the listener would reset connections that nobody has accepted.
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            () = &mut shutdown => break,
        };
        match accepted {
            Ok((stream, _)) => {
                tokio::spawn(connection(stream, Arc::clone(&origin), leaving.clone()));
            }
            // Out of descriptors or an aborted handshake: the listener itself is fine.
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
    drop((listener, leaving));
    leave.finish(origin.keep_idle).await;
    Ok(())
}

/// Binds every address, prints `origin listening on ADDR` (`origin-2` for the second, and so on), and serves until SIGTERM,
/// then finishes what is under way; Ctrl-C ends it at once.
pub async fn run(addresses: &[SocketAddr], origin: Origin) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut listeners = JoinSet::new();
    let stop = watch::Sender::new(false);
    for (index, address) in addresses.iter().enumerate() {
        let listener = announced(index, *address).await?;
        let mut stopped = stop.subscribe();
        let shutdown = async move {
            // A sender that is gone means the same.
            let _ = stopped.wait_for(|stop| *stop).await;
        };
        listeners.spawn(serve(listener, origin.clone(), shutdown));
    }
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => return Ok(()),
    }
    stop.send_replace(true);
    while let Some(ended) = listeners.join_next().await {
        ended??;
    }
    Ok(())
}

async fn announced(index: usize, address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    match index {
        0 => println!("origin listening on {address}"),
        _ => println!("origin-{} listening on {address}", index + 1),
    }
    Ok(listener)
}

async fn connection(mut stream: TcpStream, origin: Arc<Origin>, leaving: Leaving) {
    let result = match (origin.manner, &origin.greeting) {
        (Manner::Reset, _) => stream.set_zero_linger(),
        (Manner::Mute, _) => tokio::io::copy(&mut stream, &mut tokio::io::sink())
            .await
            .map(drop),
        (_, Some(greeting)) => greet(stream, greeting).await,
        (_, None) => http(stream, Arc::clone(&origin), leaving).await,
    };
    if let Err(error) = result {
        tracing::debug!(%error, "connection ended");
    }
}

async fn greet(mut stream: TcpStream, greeting: &str) -> io::Result<()> {
    stream.set_nodelay(true)?;
    if !greeting.is_empty() {
        stream.write_all(format!("{greeting}\n").as_bytes()).await?;
    }
    let (mut read, mut write) = stream.split();
    tokio::io::copy(&mut read, &mut write).await?;
    write.shutdown().await
}

async fn http(stream: TcpStream, origin: Arc<Origin>, leaving: Leaving) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let prior_knowledge = speaks_http2(&stream).await?;
    let service = service_fn(move |request| {
        let origin = Arc::clone(&origin);
        async move { answer(&origin, request).await }
    });
    if prior_knowledge {
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let served = pin!(builder.serve_connection(TokioIo::new(stream), service));
        until_left(served, leaving, |served| served.graceful_shutdown()).await
    } else {
        let builder = hyper::server::conn::http1::Builder::new();
        let served = builder.serve_connection(TokioIo::new(stream), service);
        let served = pin!(served.with_upgrades());
        until_left(served, leaving, |served| served.graceful_shutdown()).await
    }
}

/// Drives a connection; `close` ends it once it idles.
async fn until_left<F>(
    mut served: Pin<&mut F>,
    mut leaving: Leaving,
    close: impl FnOnce(Pin<&mut F>),
) -> io::Result<()>
where
    F: Future<Output = hyper::Result<()>>,
{
    tokio::select! {
        ended = &mut served => return ended.map_err(io::Error::other),
        () = leaving.close_idle() => close(served.as_mut()),
    }
    served.await.map_err(io::Error::other)
}

/// Whether the first bytes are HTTP/2's preface: no HTTP/1 method in use begins with `PRI`.
async fn speaks_http2(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0; 3];
    loop {
        let seen = stream.peek(&mut first).await?;
        if seen == 0 || seen == first.len() || first[..seen] != b"PRI"[..seen] {
            return Ok(&first[..seen] == b"PRI");
        }
        tokio::task::yield_now().await;
    }
}

async fn answer(origin: &Origin, request: Request<Incoming>) -> io::Result<Response<AnswerBody>> {
    let id = request.headers().get(ID_HEADER);
    if let (Some(ledger), Some(id)) = (&origin.ledger, id.and_then(|id| id.to_str().ok())) {
        ledger.note(id)?;
    }
    let query = query(request.uri().query().unwrap_or_default());
    if let Some(ms) = query.get("ms") {
        tokio::time::sleep(Duration::from_millis(*ms)).await;
    }
    let bytes = query.get("bytes").map(|n| (*n).min(MAX_BYTES));
    let mut response = if origin.manner == Manner::Break {
        return Err(io::Error::other("breaks every answer"));
    } else if origin.manner == Manner::Unavailable {
        let mut response = text(format!("{} is unavailable\n", origin.name));
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        response
    } else if request.headers().contains_key(UPGRADE) {
        upgrade(request)
    } else {
        match request.uri().path() {
            "/echo" => echo(request),
            "/echo.Echo/Bidi" => grpc_echo(request),
            "/upload" => text(upload(request.into_body()).await?.to_string()),
            "/headers" => text(format!(
                "{} {}\n{:#?}\n",
                request.method(),
                request.uri(),
                request.headers()
            )),
            "/reset" => return Err(io::Error::other("asked to reset")),
            "/truncate" => truncated(bytes.unwrap_or(CHUNK as u64)),
            path => {
                let status = path
                    .strip_prefix("/status/")
                    .and_then(|code| code.parse::<StatusCode>().ok());
                let mut response = match bytes {
                    Some(length) => Response::new(Generated::new(length, length).boxed_unsync()),
                    None => text(format!("{}\n", origin.name)),
                };
                *response.status_mut() = status.unwrap_or(StatusCode::OK);
                response
            }
        }
    };
    response.headers_mut().insert(
        TASK_HEADER,
        HeaderValue::from_str(&origin.name).map_err(io::Error::other)?,
    );
    Ok(response)
}

/// The numeric parameters of a query; others mean nothing here.
fn query(text: &str) -> BTreeMap<&str, u64> {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .filter_map(|(key, value)| Some((key, value.parse().ok()?)))
        .collect()
}

fn text(body: String) -> Response<AnswerBody> {
    Response::new(
        Full::new(Bytes::from(body))
            .map_err(infallible)
            .boxed_unsync(),
    )
}

fn infallible(never: Infallible) -> io::Error {
    match never {}
}

fn echo(request: Request<Incoming>) -> Response<AnswerBody> {
    let content_type = request.headers().get(CONTENT_TYPE).cloned();
    let mut response = Response::new(request.into_body().map_err(io::Error::other).boxed_unsync());
    if let Some(value) = content_type {
        response.headers_mut().insert(CONTENT_TYPE, value);
    }
    response
}

fn grpc_echo(request: Request<Incoming>) -> Response<AnswerBody> {
    let trailers = HeaderMap::from_iter([
        (
            HeaderName::from_static("grpc-status"),
            HeaderValue::from_static("0"),
        ),
        (
            HeaderName::from_static("grpc-message"),
            HeaderValue::from_static("echoed"),
        ),
    ]);
    // A client's own trailers end with the request; ours follow the last message.
    let messages = DataOnly(request.into_body()).map_err(io::Error::other);
    let body = messages.with_trailers(async move { Some(Ok(trailers)) });
    let mut response = Response::new(body.boxed_unsync());
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

async fn upload(mut body: Incoming) -> io::Result<u64> {
    let mut received = 0;
    while let Some(frame) = body.frame().await {
        received += frame
            .map_err(io::Error::other)?
            .data_ref()
            .map_or(0, |data| data.len() as u64);
    }
    Ok(received)
}

fn truncated(promised: u64) -> Response<AnswerBody> {
    let mut response = Response::new(Generated::new(promised, promised / 2).boxed_unsync());
    response
        .headers_mut()
        .insert(CONTENT_LENGTH, HeaderValue::from(promised));
    response
}

fn upgrade(mut request: Request<Incoming>) -> Response<AnswerBody> {
    let protocol = request
        .headers()
        .get(UPGRADE)
        .cloned()
        .unwrap_or(HeaderValue::from_static("echo"));
    let accept = request.headers().get(SEC_WEBSOCKET_KEY).map(accept);
    tokio::spawn(async move {
        let upgraded = match hyper::upgrade::on(&mut request).await {
            Ok(upgraded) => upgraded,
            Err(error) => return tracing::debug!(%error, "upgrade failed"),
        };
        let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
        let mut buffer = vec![0; CHUNK];
        while let Ok(length @ 1..) = read.read(&mut buffer).await {
            if write.write_all(&buffer[..length]).await.is_err() || write.flush().await.is_err() {
                return;
            }
        }
        let _ = write.shutdown().await;
    });
    let mut response = text(String::new());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(UPGRADE, protocol);
    response.headers_mut().insert(
        http::header::CONNECTION,
        HeaderValue::from_static("upgrade"),
    );
    if let Some(Ok(accept)) = accept {
        response.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}

/// The answer to a WebSocket's key (RFC 6455 section 4.2.2).
fn accept(key: &HeaderValue) -> Result<HeaderValue, http::header::InvalidHeaderValue> {
    let digest = Sha1::new()
        .chain_update(key)
        .chain_update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11")
        .finalize();
    HeaderValue::from_str(&BASE64.encode(digest))
}

/// `length` bytes in chunks; aborts when fewer than promised are to be sent.
struct Generated {
    promised: u64,
    sent: u64,
    stop_at: u64,
}

static ZEROES: [u8; CHUNK] = [b'0'; CHUNK];

impl Generated {
    fn new(promised: u64, stop_at: u64) -> Self {
        Self {
            promised,
            sent: 0,
            stop_at,
        }
    }
}

impl Body for Generated {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let left = self.stop_at - self.sent;
        if left == 0 {
            return Poll::Ready(
                (self.stop_at < self.promised).then(|| Err(io::Error::other("asked to truncate"))),
            );
        }
        let length = left.min(CHUNK as u64);
        self.sent += length;
        let chunk = Bytes::from_static(&ZEROES[..usize::try_from(length).unwrap_or(CHUNK)]);
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.sent == self.promised
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.promised - self.sent)
    }
}

/// The data frames of a body, without its trailers.
struct DataOnly(Incoming);

impl Body for DataOnly {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match Pin::new(&mut self.0).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) if !frame.is_data() => Poll::Ready(None),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests;
