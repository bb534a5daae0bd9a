//! A lean HTTP/1.1 client: requests rendered once, answers read on httparse, so that the load costs less than what it measures.

use std::io;
use std::ops::Range;

use bytes::{Buf, BytesMut};
use futures_util::FutureExt;
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Plan;
use super::record::Answer;
use super::tls::Socket;
use crate::ledger;

const HEADERS: usize = 64;
const READ: usize = 16 * 1024;
/// Large bodies are read in pieces of this size.
const READ_BODY: usize = 256 * 1024;
/// A longer head or chunk size line is not an answer.
const LONGEST_LINE: usize = 256 * 1024;

/// The bytes of every request of a plan; only the digits of its id change.
#[derive(Debug)]
pub(super) struct Request {
    bytes: Vec<u8>,
    digits: Option<Range<usize>>,
}

impl Request {
    pub(super) fn render(plan: &Plan) -> Self {
        let mut text = format!(
            "{} {} HTTP/1.1\r\nhost: {}\r\n",
            plan.method, plan.path, plan.authority
        );
        let mut digits = None;
        if let Some(prefix) = &plan.ids {
            let line = format!("{}: {}", ledger::ID_HEADER, ledger::id(prefix, 0));
            let begin = text.len() + line.rfind('-').map_or(line.len(), |dash| dash + 1);
            text.push_str(&line);
            digits = Some(begin..text.len());
            text.push_str("\r\n");
        }
        if !plan.body.is_empty() || plan.method == http::Method::POST {
            text.push_str(&format!("content-length: {}\r\n", plan.body.len()));
        }
        text.push_str("\r\n");
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(&plan.body);
        Self { bytes, digits }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The request of this number.
    pub(super) fn numbered(&mut self, number: u64) -> &[u8] {
        if let Some(digits) = self.digits.clone() {
            let width = digits.len();
            self.bytes[digits].copy_from_slice(format!("{number:0width$}").as_bytes());
        }
        &self.bytes
    }
}

/// One connection, kept between requests.
#[derive(Debug)]
pub(super) struct Connection {
    stream: Socket,
    buffer: BytesMut,
    scratch: Vec<u8>,
}

/// How the body of an answer ends.
enum Framing {
    Length(u64),
    Chunked,
    Close,
}

struct Head {
    status: StatusCode,
    framing: Framing,
    task: Option<http::HeaderValue>,
    keep: bool,
}

impl Connection {
    pub(super) fn new(stream: Socket) -> Self {
        Self {
            stream,
            buffer: BytesMut::new(),
            scratch: Vec::new(),
        }
    }

    /// Whether the server has closed it, as far as is known without asking the kernel: tokio reads only when an event has come.
    pub(super) fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        // If there is anything: closed, broken, or bytes that nobody asked for.
        match &mut self.stream {
            Socket::Plain(stream) => {
                let read = stream.try_read(&mut byte);
                !read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
            }
            Socket::Tls(stream) => stream.read(&mut byte).now_or_never().is_some(),
        }
    }

    /// Says that no more comes, and ends it.
    pub(super) async fn close(mut self) {
        // The answer is there already; a server that has gone first is no failure.
        let _ = self.stream.shutdown().await;
    }

    /// Sends the request and reads the whole answer; `true` when the connection may be used again.
    pub(super) async fn exchange(
        &mut self,
        request: &[u8],
        head_only: bool,
    ) -> Result<(Answer, bool), String> {
        if let Err(error) = self.send(request).await {
            // The answer to a request that was refused half-way says more than the broken pipe.
            return match self.receive(head_only).await {
                Ok((answer, _)) => Ok((answer, false)),
                Err(_) => Err(format!("write: {error}")),
            };
        }
        self.receive(head_only).await
    }

    /// Reads while it writes: an echo of a large body would otherwise wait for us as we wait for it. Not over TLS, where requests
    /// are small.
    async fn send(&mut self, mut request: &[u8]) -> io::Result<()> {
        let stream = match &mut self.stream {
            Socket::Plain(stream) => stream,
            Socket::Tls(stream) => {
                stream.write_all(request).await?;
                return stream.flush().await;
            }
        };
        loop {
            match stream.try_write(request) {
                Ok(written) if written == request.len() => return Ok(()),
                Ok(written) => request = &request[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let (mut read, mut write) = stream.split();
                    self.buffer.reserve(READ);
                    tokio::select! {
                        written = write.write(request) => request = &request[written?..],
                        read = read.read_buf(&mut self.buffer) => {
                            if read? == 0 {
                                return Err(io::ErrorKind::BrokenPipe.into());
                            }
                        }
                    }
                }
                Err(error) => return Err(error),
            }
            if request.is_empty() {
                return Ok(());
            }
        }
    }

    async fn receive(&mut self, head_only: bool) -> Result<(Answer, bool), String> {
        let head = loop {
            if let Some(head) = self.parse_head()? {
                if head.status == StatusCode::SWITCHING_PROTOCOLS || !head.status.is_informational()
                {
                    break head;
                }
                continue;
            }
            if self.buffer.len() > LONGEST_LINE {
                return Err("the head of the answer has no end".to_owned());
            }
            let had = self.buffer.len();
            if self.fill("read").await? == 0 {
                return Err(match had {
                    0 => "closed before the answer".to_owned(),
                    _ => "closed within the head of the answer".to_owned(),
                });
            }
        };
        let bodyless = head_only
            || head.status == StatusCode::NO_CONTENT
            || head.status == StatusCode::NOT_MODIFIED;
        let (bytes, keep) = match head.framing {
            _ if bodyless => (0, head.keep),
            Framing::Length(length) => {
                self.skip(length).await?;
                (length, head.keep)
            }
            Framing::Chunked => (self.chunks().await?, head.keep),
            Framing::Close => (self.rest().await?, false),
        };
        let answer = Answer {
            task: head.task,
            status: head.status,
            bytes,
        };
        Ok((answer, keep && self.buffer.is_empty()))
    }

    fn parse_head(&mut self) -> Result<Option<Head>, String> {
        if self.buffer.is_empty() {
            return Ok(None);
        }
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let length = match response.parse(&self.buffer) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(error) => return Err(format!("not an answer: {error}")),
        };
        let code = response.code.unwrap_or_default();
        let mut head = Head {
            status: StatusCode::from_u16(code).map_err(|_| format!("status {code}"))?,
            framing: Framing::Close,
            task: None,
            keep: response.version == Some(1),
        };
        for header in response.headers.iter() {
            let name = header.name;
            if name.eq_ignore_ascii_case("content-length") {
                let value = std::str::from_utf8(header.value).ok();
                let length = value.and_then(|text| text.trim().parse().ok());
                if !matches!(head.framing, Framing::Chunked) {
                    head.framing = Framing::Length(length.ok_or("content-length is no number")?);
                }
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                head.framing = Framing::Chunked;
            } else if name.eq_ignore_ascii_case("connection") {
                let close = header.value.eq_ignore_ascii_case(b"close");
                head.keep &= !close;
            } else if name.eq_ignore_ascii_case(crate::origin::TASK_HEADER.as_str()) {
                head.task = http::HeaderValue::from_bytes(header.value).ok();
            }
        }
        self.buffer.advance(length);
        Ok(Some(head))
    }

    async fn fill(&mut self, what: &str) -> Result<usize, String> {
        self.buffer.reserve(READ);
        let read = self.stream.read_buf(&mut self.buffer).await;
        read.map_err(|error| format!("{what}: {error}"))
    }

    /// Reads past `length` bytes of body without keeping them.
    async fn skip(&mut self, length: u64) -> Result<(), String> {
        let here = self
            .buffer
            .len()
            .min(usize::try_from(length).unwrap_or(usize::MAX));
        self.buffer.advance(here);
        let mut left = length - here as u64;
        while left > 0 {
            let want = usize::try_from(left).map_or(READ_BODY, |left| left.min(READ_BODY));
            if self.scratch.len() < want {
                self.scratch.resize(want, 0);
            }
            let read = self.stream.read(&mut self.scratch[..want]).await;
            let read = read.map_err(|error| format!("body cut off: {error}"))?;
            if read == 0 {
                return Err("body cut off: closed".to_owned());
            }
            left -= read as u64;
        }
        Ok(())
    }

    async fn chunks(&mut self) -> Result<u64, String> {
        let mut bytes = 0;
        loop {
            let line = self.line().await?;
            let size = line[..].split(|byte: &u8| *byte == b';').next();
            let size = std::str::from_utf8(size.unwrap_or_default())
                .ok()
                .and_then(|text| u64::from_str_radix(text.trim(), 16).ok())
                .ok_or("a chunk without a size")?;
            if size == 0 {
                while !self.line().await?.is_empty() {}
                return Ok(bytes);
            }
            self.skip(size).await?;
            bytes += size;
            if !self.line().await?.is_empty() {
                return Err("a chunk is longer than its size".to_owned());
            }
        }
    }

    /// The next line, without its end.
    async fn line(&mut self) -> Result<BytesMut, String> {
        let mut searched = 0;
        loop {
            if let Some(end) = self.buffer[searched..]
                .windows(2)
                .position(|pair| pair == b"\r\n")
            {
                let line = self.buffer.split_to(searched + end);
                self.buffer.advance(2);
                return Ok(line);
            }
            searched = self.buffer.len().saturating_sub(1);
            if self.buffer.len() > LONGEST_LINE || self.fill("body cut off").await? == 0 {
                return Err("body cut off: closed".to_owned());
            }
        }
    }

    async fn rest(&mut self) -> Result<u64, String> {
        let mut bytes = self.buffer.len() as u64;
        loop {
            self.buffer.clear();
            match self.fill("body cut off").await? {
                0 => return Ok(bytes),
                read => bytes += read as u64,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, TcpStream};

    /// What the client makes of these bytes, sent in pieces of `piece`, before the server closes.
    async fn receive(answer: &str, piece: usize) -> Result<(Answer, bool), String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        let answer = answer.to_owned();
        let server = tokio::spawn(async move {
            for piece in answer.as_bytes().chunks(piece) {
                server.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        let received = Connection::new(Socket::Plain(stream)).receive(false).await;
        server.await.unwrap();
        received
    }

    #[tokio::test]
    async fn bodies_end_by_length_by_last_chunk_or_by_close_in_pieces_of_any_size() {
        let length = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nx-task: a\r\n\r\nhello";
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nx-task: a\r\n\r\n3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\nx: y\r\n\r\n";
        let close = "HTTP/1.1 200 OK\r\nx-task: a\r\n\r\nhello";
        let after_hints = format!("HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n{length}");
        for (text, keeps) in [
            (length, true),
            (chunked, true),
            (close, false),
            (&after_hints, true),
        ] {
            for piece in [1, 7, 1000] {
                let (answer, keep) = receive(text, piece).await.unwrap();
                assert_eq!((answer.bytes, keep), (5, keeps), "{text:?} by {piece}");
                assert_eq!(answer.task.unwrap(), "a");
            }
        }
    }

    #[tokio::test]
    async fn an_answer_that_is_cut_off_or_not_http_is_a_failure_with_its_reason() {
        for (text, reason) in [
            ("", "closed before the answer"),
            ("HTTP/1.1 200", "closed within the head of the answer"),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel",
                "body cut off: closed",
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhe",
                "body cut off: closed",
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
                "a chunk without a size",
            ),
            ("SSH-2.0-x\r\n\r\n", "not an answer: invalid HTTP version"),
        ] {
            assert_eq!(receive(text, 1000).await.unwrap_err(), reason, "{text:?}");
        }
    }
}
