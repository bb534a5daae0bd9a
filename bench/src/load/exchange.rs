//! One request and its complete answer, over a connection that is dialled when there is none.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, TE};
use http::{HeaderMap, Request, Response, StatusCode, Uri, Version};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::deferred::{Deferred, Spawner};
use super::http1::{self, Connection};
use super::record::Answer;
use super::stream::{self, Fed};
use super::tls::{Client, Socket};
use super::{Plan, Wire};
use crate::ledger;

type RequestBody = Either<Full<Bytes>, Fed>;

/// The HTTP/2 connection that several workers put their streams on.
pub(super) type Shared = Arc<tokio::sync::Mutex<Option<http2::SendRequest<RequestBody>>>>;

/// A worker's way to the server.
pub(super) enum Link {
    Http1(Http1),
    Http2(Shared),
    Tcp(Option<TcpStream>),
}

/// A worker's HTTP/1.1: the connection it keeps, the request it sends, and how connections begin.
pub(super) struct Http1 {
    kept: Option<Connection>,
    request: http1::Request,
    tls: Option<Client>,
}

impl Link {
    pub(super) fn new(plan: &Plan, shared: &Shared) -> Self {
        match plan.wire {
            Wire::Http1 => Self::Http1(Http1 {
                kept: None,
                request: http1::Request::render(plan),
                tls: plan.tls.as_ref().map(Client::new),
            }),
            Wire::Http2 | Wire::Grpc | Wire::Bidi => Self::Http2(Arc::clone(shared)),
            Wire::Tcp => Self::Tcp(None),
        }
    }

    /// After a timeout nothing on the connection can be trusted; an HTTP/2 stream is reset alone.
    pub(super) fn abandon(&mut self) {
        match self {
            Self::Http1(http1) => http1.kept = None,
            Self::Http2(_) => {}
            Self::Tcp(stream) => *stream = None,
        }
    }

    pub(super) async fn exchange(&mut self, plan: &Plan, number: u64) -> Result<Answer, String> {
        match self {
            Self::Http1(http1) => http1.exchange(plan, number).await,
            Self::Http2(shared) if plan.wire == Wire::Bidi => {
                stream::exchange(shared, plan, number).await
            }
            Self::Http2(shared) => http2_exchange(shared, plan, number).await,
            Self::Tcp(stream) => tcp_exchange(stream, plan).await,
        }
    }
}

impl Http1 {
    async fn exchange(&mut self, plan: &Plan, number: u64) -> Result<Answer, String> {
        // A kept connection may have been closed since.
        let mut kept = self.kept.take();
        let mut connection = match kept.take_if(|kept| !kept.is_closed()) {
            Some(connection) => connection,
            None => connect(dial(plan.address).await?, &mut self.tls).await?,
        };
        let head_only = plan.method == http::Method::HEAD;
        let request = self.request.numbered(number);
        let (answer, keep) = connection.exchange(request, head_only).await?;
        if self.tls.as_ref().is_some_and(|tls| !tls.keeps()) {
            connection.close().await;
        } else if keep {
            self.kept = Some(connection);
        }
        Ok(answer)
    }
}

/// Begins what is spoken on a new stream.
pub(super) async fn connect(
    stream: TcpStream,
    tls: &mut Option<Client>,
) -> Result<Connection, String> {
    let socket = match tls {
        Some(client) => client.connect(stream).await?,
        None => Socket::Plain(stream),
    };
    Ok(Connection::new(socket))
}

async fn http2_exchange(shared: &Shared, plan: &Plan, number: u64) -> Result<Answer, String> {
    let grpc = plan.wire == Wire::Grpc;
    let body = if grpc {
        message(&plan.body)
    } else {
        plan.body.clone()
    };
    let body = || Either::Left(Full::new(body.clone()));
    let mut answered = http2_response(shared, plan, number, body()).await;
    if answered.as_ref().is_err_and(|failed| failed.unprocessed) {
        answered = http2_response(shared, plan, number, body()).await;
    }
    collect(answered?, grpc).await
}

/// A request without an answer.
pub(super) struct Unanswered {
    pub(super) reason: String,
    /// The server ended the connection in order and says that it did not take this request: it is sent again by right (RFC 9113
    /// section 8.7). hyper hands back only what it never gave to its connection.
    unprocessed: bool,
}

impl From<String> for Unanswered {
    fn from(reason: String) -> Self {
        Self {
            reason,
            unprocessed: false,
        }
    }
}

impl From<Unanswered> for String {
    fn from(failed: Unanswered) -> Self {
        failed.reason
    }
}

impl From<&hyper::Error> for Unanswered {
    fn from(error: &hyper::Error) -> Self {
        let source = std::error::Error::source(error);
        let unprocessed = source
            .and_then(|source| source.downcast_ref::<h2::Error>())
            .is_some_and(|error| {
                let ended = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
                error.is_remote() && ended
            });
        Self {
            reason: reason(error),
            unprocessed,
        }
    }
}

/// Sends the head and what `body` gives, until the head of the answer has come.
pub(super) async fn http2_response(
    shared: &Shared,
    plan: &Plan,
    number: u64,
    body: RequestBody,
) -> Result<Response<Incoming>, Unanswered> {
    let uri = Uri::builder()
        .scheme("http")
        .authority(plan.authority.as_str())
        .path_and_query(plan.path.as_str())
        .build()
        .map_err(|error| error.to_string())?;
    let mut request = Request::builder()
        .method(&plan.method)
        .uri(uri)
        .version(Version::HTTP_2);
    if matches!(plan.wire, Wire::Grpc | Wire::Bidi) {
        request = request
            .header(CONTENT_TYPE, "application/grpc")
            .header(TE, "trailers");
    }
    if let Some(prefix) = &plan.ids {
        request = request.header(ledger::ID_HEADER, ledger::id(prefix, number));
    }
    let mut request = request.body(body).map_err(|error| error.to_string())?;
    for _ in 0..2 {
        let mut sender = http2_sender(shared, plan.address).await?;
        match sender.try_send_request(request).await {
            Ok(response) => return Ok(response),
            Err(mut error) => match error.take_message() {
                Some(unsent) => request = unsent,
                None => return Err(error.error().into()),
            },
        }
    }
    Err("two connections in a row took no request".to_owned().into())
}

async fn http2_sender(
    shared: &Shared,
    address: SocketAddr,
) -> Result<http2::SendRequest<RequestBody>, String> {
    let mut slot = shared.lock().await;
    if let Some(sender) = slot.as_ref().filter(|sender| !sender.is_closed()) {
        return Ok(sender.clone());
    }
    let stream = dial(address).await?;
    let stream = Deferred::new(stream);
    let io = TokioIo::new(stream.clone());
    // Until the handshake is done nobody else writes.
    let handshake = stream.turn(http2::handshake(Spawner(stream.clone()), io));
    let (sender, connection) = handshake.await.map_err(|error| reason(&error))?;
    tokio::spawn(async move {
        // Errors reach the streams that meet them.
        let _ = connection.await;
    });
    *slot = Some(sender.clone());
    Ok(sender)
}

async fn tcp_exchange(kept: &mut Option<TcpStream>, plan: &Plan) -> Result<Answer, String> {
    let mut stream = match kept.take() {
        Some(stream) => stream,
        None => dial(plan.address).await?,
    };
    let mut echoed = vec![0; plan.body.len()];
    stream
        .write_all(&plan.body)
        .await
        .map_err(|error| format!("write: {error}"))?;
    stream
        .read_exact(&mut echoed)
        .await
        .map_err(|error| format!("read: {error}"))?;
    if echoed != plan.body {
        return Err("the echo differs from what was sent".to_owned());
    }
    *kept = Some(stream);
    Ok(Answer {
        task: None,
        status: StatusCode::OK,
        bytes: echoed.len() as u64,
    })
}

pub(super) async fn dial(address: SocketAddr) -> Result<TcpStream, String> {
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| format!("connect {address}: {error}"))?;
    stream
        .set_nodelay(true)
        .map_err(|error| format!("TCP_NODELAY: {error}"))?;
    Ok(stream)
}

async fn collect(response: Response<Incoming>, grpc: bool) -> Result<Answer, String> {
    let (head, mut body) = response.into_parts();
    let (mut bytes, mut trailers) = (0, None);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| format!("body cut off: {}", reason(&error)))?;
        bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        trailers = frame.into_trailers().ok().or(trailers);
    }
    if grpc && head.status.is_success() {
        // An answer without a message has its trailers in the head.
        grpc_status(trailers.as_ref().unwrap_or(&head.headers))?;
    }
    Ok(Answer::new(&head, bytes))
}

/// Any `grpc-status` but 0 is a failure.
pub(super) fn grpc_status(fields: &HeaderMap) -> Result<(), String> {
    let status = fields.get("grpc-status");
    match status.and_then(|status| status.to_str().ok()) {
        Some("0") => Ok(()),
        other => Err(format!("grpc-status {}", other.unwrap_or("absent"))),
    }
}

/// One gRPC message: not compressed, its length, itself.
pub(crate) fn message(body: &[u8]) -> Bytes {
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let mut framed = vec![0];
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(body);
    framed.into()
}

/// The error and what caused it: hyper's own text names only the step.
pub(super) fn reason(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
