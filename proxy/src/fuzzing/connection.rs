//! Whole connections for the fuzz targets: both halves, the replayable body and the request as a task gets it, over socket pairs.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, header};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};

use super::{Field, LIMIT, Length, pairs};
use crate::deadline::Sweep;
use crate::error::ProxyError;
use crate::http1::buffers::Buffers;
use crate::http1::head::{Limits, Parsed};
use crate::http1::reader::{ReadError, Reader};
use crate::http1::writer::Writer;
use crate::http2::body::trailers_of;
use crate::message::fields::Known;
use crate::message::head::RequestHead;
use crate::message::{Body, Part};
use crate::request::body::{AttemptBody, Client, MAX_REPLAY, Replay, Source};
use crate::request::headers::{self, Named};
use crate::request::timer::Timer;
use crate::request::upgrade::Upgrade;
use crate::tls::transport::Transport;
use crate::upstream::h1;

thread_local! {
    static RUNTIME: Rc<Runtime> = Rc::new(
        Builder::new_current_thread().enable_all().build().expect("a runtime can be made"),
    );
}

fn runtime() -> Rc<Runtime> {
    RUNTIME.with(Rc::clone)
}

/// Our end of a connection, to be made within a runtime, and the other one, which never blocks.
fn pair() -> io::Result<(TcpStream, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    theirs.set_nonblocking(true)?;
    // Reading and writing are all that is done with it.
    let ours = std::net::TcpStream::from(OwnedFd::from(ours));
    Ok((TcpStream::from_std(ours)?, theirs))
}

fn client(stream: TcpStream) -> Rc<Client> {
    let buffers = Buffers::new();
    let (read, write) = Transport::from(stream).into_split();
    Rc::new(Client {
        reader: RefCell::new(Reader::new(read, BytesMut::new(), Rc::clone(&buffers))),
        writer: RefCell::new(Writer::new(write, buffers)),
    })
}

fn replay(client: &Rc<Client>, named: Named) -> Replay {
    let timer = Timer::new(&Sweep::new(), Duration::ZERO, Some(Duration::ZERO));
    Replay::new(Source::H1(Rc::clone(client)), named, MAX_REPLAY, timer)
}

/// What a task gets of one request.
#[derive(Debug)]
pub struct Message {
    /// The bytes.
    pub wire: Vec<u8>,
    /// Whether the whole request was read and sent.
    pub complete: bool,
}

/// What became of a client's connection.
#[derive(Debug)]
pub struct Forwarded {
    /// The requests that were passed on, in order.
    pub messages: Vec<Message>,
    /// How many of the client's last bytes belong to none of them.
    pub left: usize,
}

/// What goes to tasks, each request on a connection of its own, when a client sends these bytes, at most 64 KiB, and closes.
pub fn forwarded(bytes: &[u8]) -> io::Result<Forwarded> {
    runtime().block_on(async {
        let (stream, mut peer) = pair()?;
        peer.write_all(bytes)?;
        peer.shutdown(Shutdown::Write)?;
        let client = client(stream);
        let mut messages = Vec::new();
        while let Ok(parsed) = head(&client).await {
            let mut head = parsed.head;
            let whole = client.reader.borrow().is_complete();
            let Some(named) = taken(&mut head, whole) else {
                break;
            };
            let (wire, sent) = sent(head, replay(&client, named).attempt()).await?;
            let complete = sent && client.reader.borrow().is_complete();
            messages.push(Message { wire, complete });
            if !complete || !parsed.keep_alive {
                break;
            }
        }
        let client = Rc::into_inner(client).expect("the request's story is over");
        let (mut half, mut left) = client.reader.into_inner().into_parts();
        while half.read_buf(&mut left).await.is_ok_and(|read| read > 0) {}
        Ok(Forwarded {
            messages,
            left: left.len(),
        })
    })
}

async fn head(client: &Client) -> Result<Parsed<RequestHead>, ReadError> {
    let limits = Limits {
        head: LIMIT,
        target: LIMIT,
    };
    poll_fn(|cx| client.reader.borrow_mut().poll_request(cx, limits)).await
}

/// What its story does with a head before a task is picked; `None` when it is refused.
fn taken(head: &mut RequestHead, whole: bool) -> Option<Named> {
    let upgrade = Upgrade::asked(head, whole).ok()?;
    let one = head.fields.values(Known::Host).take(2).count() < 2;
    one.then(|| headers::strip_hop_by_hop(&mut head.fields, upgrade.is_asked()))
}

/// The request on the wire, and whether it was sent to its end.
async fn sent(mut head: RequestHead, mut body: impl Body) -> io::Result<(Vec<u8>, bool)> {
    head.ensure_host(|| "task".to_owned());
    let framing = h1::frame(&mut head, &body);
    let (stream, mut task) = pair()?;
    let (_read, write) = Transport::from(stream).into_split();
    let mut writer = Writer::new(write, Buffers::new());
    writer.begin_request(&head, framing);
    let mut wire = Vec::new();
    let mut take = || match task.read_to_end(&mut wire) {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => Ok(()),
    };
    let sent = poll_fn(|cx| {
        let sent = writer.poll_send(cx, &mut body);
        take()?;
        sent.map(|sent| Ok::<_, io::Error>(sent.is_ok()))
    })
    .await?;
    take()?;
    Ok((wire, sent))
}

/// A body that is there already.
struct Ready {
    length: Option<u64>,
    parts: VecDeque<Part>,
}

impl Body for Ready {
    fn poll_part(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Part, ProxyError>>> {
        Poll::Ready(self.parts.pop_front().map(Ok))
    }

    fn is_end(&self) -> bool {
        self.parts.is_empty()
    }

    fn length(&self) -> Option<u64> {
        self.length
    }
}

/// What goes to a task that speaks HTTP/1.1 for an HTTP/2 request with these DATA frames; `None` when it is refused.
pub fn forwarded_from_h2(
    request: Request<()>,
    data: Vec<Bytes>,
    trailers: Option<HeaderMap>,
) -> io::Result<Option<Vec<u8>>> {
    if RequestHead::check_h2(&request, LIMIT).is_err() {
        return Ok(None);
    }
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|value| value.to_str().ok()?.parse().ok());
    let whole = data.is_empty() && trailers.is_none();
    let mut head = RequestHead::from_h2(request.into_parts().0);
    let Some(named) = taken(&mut head, whole) else {
        return Ok(None);
    };
    let trailers = match trailers.map(|map| trailers_of(map, false)) {
        Some(None) => return Ok(None),
        trailers => trailers.flatten().map(|mut fields| {
            named.strip(&mut fields);
            Part::Trailers(fields)
        }),
    };
    let body = Ready {
        length: if whole { Some(0) } else { length },
        parts: data.into_iter().map(Part::Data).chain(trailers).collect(),
    };
    let (wire, complete) = runtime().block_on(sent(head, body))?;
    Ok(complete.then_some(wire))
}

/// What one look at an attempt's body gives.
#[derive(Debug, PartialEq, Eq)]
pub enum Polled {
    /// Nothing before the client has sent more.
    Pending,
    /// Data.
    Data(Vec<u8>),
    /// Trailers.
    Trailers(Vec<Field>),
    /// The body is complete.
    End,
    /// It broke off, or another attempt reads it now.
    Failed,
}

/// A replayable body while its client sends it and attempts read it.
pub struct Replaying {
    peer: Option<UnixStream>,
    client: Rc<Client>,
    replay: Replay,
    attempts: Vec<AttemptBody>,
    /// Something was sent that the client's connection does not know of yet.
    fresh: bool,
}

impl Replaying {
    /// The length is the whole body's.
    pub fn new(length: Length) -> io::Result<Self> {
        runtime().block_on(async {
            let (stream, mut peer) = pair()?;
            let head = match length {
                Length::Bytes(length) => format!("content-length: {length}"),
                Length::Chunked | Length::UntilClose => "transfer-encoding: chunked".to_owned(),
            };
            write!(peer, "POST / HTTP/1.1\r\nhost: a\r\n{head}\r\n\r\n")?;
            let client = client(stream);
            self::head(&client).await.map_err(io::Error::other)?;
            Ok(Self {
                peer: Some(peer),
                replay: replay(&client, Named::default()),
                client,
                attempts: Vec::new(),
                fresh: false,
            })
        })
    }

    /// The client sends this much more of its message; answers how much of it the connection took.
    pub fn send(&mut self, wire: &[u8]) -> io::Result<usize> {
        let Some(peer) = self.peer.as_mut().filter(|_| !wire.is_empty()) else {
            return Ok(0);
        };
        match peer.write(wire) {
            Ok(sent) => {
                self.fresh = true;
                Ok(sent)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// The client closes.
    pub fn close(&mut self) {
        self.fresh |= self.peer.take().is_some();
    }

    /// Begins another attempt; answers whether it would see the whole body.
    pub fn attempt(&mut self) -> bool {
        let replayable = self.replay.is_replayable();
        self.attempts.push(self.replay.attempt());
        replayable
    }

    /// Looks for the next part of an attempt's body.
    pub fn poll(&mut self, attempt: usize) -> Polled {
        let body = &mut self.attempts[attempt];
        let (client, fresh) = (&self.client, std::mem::take(&mut self.fresh));
        let part = runtime().block_on(async {
            if fresh {
                let readable = pin!(poll_fn(|cx| client.reader.borrow_mut().poll_readable(cx)));
                // An error is what the body is told, too.
                let _ = readable.await;
            }
            poll_fn(|cx| Poll::Ready(body.poll_part(cx))).await
        });
        match part {
            Poll::Pending => Polled::Pending,
            Poll::Ready(None) => Polled::End,
            Poll::Ready(Some(Ok(Part::Data(data)))) => Polled::Data(data.to_vec()),
            Poll::Ready(Some(Ok(Part::Trailers(fields)))) => Polled::Trailers(pairs(&fields)),
            Poll::Ready(Some(Err(_))) => Polled::Failed,
        }
    }

    /// What an attempt's body says of itself: whether it is at its end, and its length where that is known.
    pub fn says(&self, attempt: usize) -> (bool, Option<u64>) {
        let body = &self.attempts[attempt];
        (body.is_end(), body.length())
    }
}
