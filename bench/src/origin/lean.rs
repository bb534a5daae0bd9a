//! An origin for measuring: every request gets the same answer, rendered once, whatever its path, so that its own cost is small
//! and the same for every proxy before it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

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

/// Binds every address, prints `origin listening on ADDR` for each, and serves until SIGTERM or Ctrl-C.
pub async fn run(addresses: &[SocketAddr], lean: Lean) -> anyhow::Result<()> {
    let answers = Arc::new(Answers::new(&lean));
    let mut listeners = JoinSet::new();
    for address in addresses {
        let listener = TcpListener::bind(address).await?;
        println!("origin listening on {}", listener.local_addr()?);
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
                    if let Err(error) = connection(stream, &answers).await {
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
        Self {
            http1: http1.into(),
            delay: lean.delay,
        }
    }
}

async fn connection(stream: TcpStream, answers: &Answers) -> io::Result<()> {
    stream.set_nodelay(true)?;
    http1(stream, answers).await
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
    use crate::load::{Load, Plan};

    #[tokio::test]
    async fn every_request_gets_the_same_answer_under_the_name_it_was_given() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let lean = Lean {
            bytes: 100_000,
            delay: Duration::ZERO,
            name: Some("one".to_owned()),
        };
        tokio::spawn(serve(listener, Arc::new(Answers::new(&lean))));
        let plan = Plan {
            requests: Some(50),
            connections: 3,
            method: http::Method::POST,
            body: Bytes::from(vec![b'x'; 50_000]),
            ..Plan::new(address, "orders")
        };
        let record = Load::start(plan).finished().await;
        assert_eq!(
            (record.sent, record.failed),
            (50, 0),
            "{:?}",
            record.reasons
        );
        assert_eq!(record.bytes, 5_000_000);
        assert_eq!(record.by_task["one"].answers, 50);
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
