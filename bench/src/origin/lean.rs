//! An origin for measuring: every request gets the same answer, rendered once, whatever its path, so that its own cost is small
//! and the same for every proxy before it.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::load::deferred::Deferred;
use crate::load::exchange::message;

const HEADERS: usize = 64;
const READ: usize = 16 * 1024;
const LONGEST_HEAD: usize = 256 * 1024;

/// What the answers are.
#[derive(Debug, Clone)]
pub struct Lean {
    /// Bytes of body.
    pub bytes: usize,
    /// Wait before each answer.
    pub delay: Duration,
    /// Answered in `x-task`; absent: no such header.
    pub name: Option<String>,
}

/// Binds every address, says where as [`super::run`] does, and serves until SIGTERM or Ctrl-C.
pub async fn run(addresses: &[SocketAddr], lean: Lean) -> anyhow::Result<()> {
    let answers = Arc::new(Answers::new(&lean));
    let mut listeners = JoinSet::new();
    for (index, address) in addresses.iter().enumerate() {
        let listener = super::announced(index, *address).await?;
        listeners.spawn(serve(listener, Arc::clone(&answers)));
    }
    crate::stop_signal().await;
    Ok(())
}

/// Accepts for as long as it is polled.
pub(super) async fn serve(listener: TcpListener, answers: Arc<Answers>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let answers = Arc::clone(&answers);
                tokio::spawn(async move {
                    if let Err(error) = connection(stream, answers).await {
                        tracing::debug!(%error, "connection ended");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

/// The rendered answers.
pub(super) struct Answers {
    http1: Bytes,
    body: Bytes,
    message: Bytes,
    name: Option<HeaderValue>,
    delay: Duration,
}

impl Answers {
    pub(super) fn new(lean: &Lean) -> Self {
        let mut text = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n",
            lean.bytes
        );
        if let Some(name) = &lean.name {
            text.push_str(&format!("{}: {name}\r\n", super::TASK_HEADER));
        }
        text.push_str("\r\n");
        let mut http1 = text.into_bytes();
        http1.resize(http1.len() + lean.bytes, b'0');
        let http1 = Bytes::from(http1);
        let body = http1.slice(http1.len() - lean.bytes..);
        Self {
            message: message(&body),
            http1,
            body,
            name: lean
                .name
                .as_ref()
                .and_then(|name| HeaderValue::from_str(name).ok()),
            delay: lean.delay,
        }
    }

    fn http2(&self, grpc: bool) -> Response<Whole> {
        let (kind, data, trailers) = if grpc {
            let status = (
                HeaderName::from_static("grpc-status"),
                HeaderValue::from_static("0"),
            );
            let trailers = HeaderMap::from_iter([status]);
            ("application/grpc", &self.message, Some(trailers))
        } else {
            ("text/plain", &self.body, None)
        };
        let mut response = Response::new(Whole {
            data: Some(data.clone()),
            trailers,
        });
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        if !grpc {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(self.body.len()));
        }
        if let Some(name) = &self.name {
            headers.insert(super::TASK_HEADER, name.clone());
        }
        response
    }
}

async fn connection(stream: TcpStream, answers: Arc<Answers>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    if super::speaks_http2(&stream).await? {
        http2(stream, answers).await
    } else {
        http1(stream, &answers).await
    }
}

async fn http2(stream: TcpStream, answers: Arc<Answers>) -> io::Result<()> {
    let stream = Deferred::new(stream);
    let service = service_fn(move |request: Request<Incoming>| {
        let answers = Arc::clone(&answers);
        async move {
            let grpc = request
                .headers()
                .get(CONTENT_TYPE)
                .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
            // An answer before the end of the request would reset its stream.
            let mut body = request.into_body();
            while let Some(frame) = body.frame().await {
                frame?;
            }
            if !answers.delay.is_zero() {
                tokio::time::sleep(answers.delay).await;
            }
            Ok::<_, hyper::Error>(answers.http2(grpc))
        }
    });
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream.clone()), service);
    stream.turn(connection).await.map_err(io::Error::other)
}

/// A whole body, and the trailers of a gRPC answer.
struct Whole {
    data: Option<Bytes>,
    trailers: Option<HeaderMap>,
}

impl Body for Whole {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = self.data.take().map(Frame::data);
        let frame = data.or_else(|| self.trailers.take().map(Frame::trailers));
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none() && self.trailers.is_none()
    }
}

async fn http1(mut stream: TcpStream, answers: &Answers) -> io::Result<()> {
    let mut buffer = BytesMut::with_capacity(READ);
    loop {
        let Some((head, mut body)) = parse(&buffer)? else {
            buffer.reserve(READ);
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
            continue;
        };
        buffer.advance(head);
        while body > buffer.len() as u64 {
            body -= buffer.len() as u64;
            buffer.clear();
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
        // Not longer than the buffer now.
        buffer.advance(usize::try_from(body).unwrap_or(buffer.len()));
        if !answers.delay.is_zero() {
            tokio::time::sleep(answers.delay).await;
        }
        stream.write_all(&answers.http1).await?;
    }
}

/// The length of the request head and of the body behind it; `None` while the head is not complete.
fn parse(buffer: &[u8]) -> io::Result<Option<(usize, u64)>> {
    if buffer.is_empty() {
        return Ok(None);
    }
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let head = match request.parse(buffer).map_err(io::Error::other)? {
        httparse::Status::Complete(head) => head,
        httparse::Status::Partial if buffer.len() > LONGEST_HEAD => {
            return Err(io::Error::other("the head of the request has no end"));
        }
        httparse::Status::Partial => return Ok(None),
    };
    let mut body = 0;
    for header in request.headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") {
            let text = std::str::from_utf8(header.value).map_err(io::Error::other)?;
            body = text.trim().parse().map_err(io::Error::other)?;
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(io::Error::other("the lean origin takes no chunked bodies"));
        }
    }
    Ok(Some((head, body)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Load, Plan, Wire};

    #[tokio::test]
    async fn every_request_gets_the_same_answer_under_the_name_it_was_given() {
        for wire in [Wire::Http1, Wire::Http2, Wire::Grpc] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let lean = Lean {
                bytes: 100_000,
                delay: Duration::ZERO,
                name: Some("one".to_owned()),
            };
            tokio::spawn(serve(listener, Arc::new(Answers::new(&lean))));
            let plan = Plan {
                wire,
                requests: Some(50),
                connections: 3,
                streams: 4,
                method: http::Method::POST,
                body: Bytes::from(vec![b'x'; 150_000]),
                ..Plan::new(address, "orders")
            };
            let record = Load::start(plan).finished().await;
            assert_eq!(
                (record.sent, record.failed),
                (50, 0),
                "{wire:?}: {:?}",
                record.reasons
            );
            let prefix = if wire == Wire::Grpc { 5 } else { 0 };
            assert_eq!(record.bytes, 50 * (100_000 + prefix));
            assert_eq!(record.by_task["one"].answers, 50);
        }
    }

    #[test]
    fn a_request_is_complete_with_its_empty_line_and_tells_its_body() {
        assert_eq!(parse(b"").unwrap(), None);
        assert_eq!(parse(b"GET / HTTP/1.1\r\nhost: a\r\n").unwrap(), None);
        let text = b"POST / HTTP/1.1\r\nContent-Length: 7\r\n\r\nabc";
        assert_eq!(parse(text).unwrap(), Some((text.len() - 3, 7)));
        assert!(parse(b"nonsense\r\n\r\n").is_err());
    }
}
