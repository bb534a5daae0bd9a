//! A connection over the limit is told so in the words of its protocol before it is closed.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use super::h1::LINGER;
use super::listener::Place;
use super::protocol::{Speaks, Stream, detect};
use super::secure::secure;
use crate::deadline::Deadline;
use crate::drain::Drain;
use crate::error::{Kind, ProxyError};
use crate::hop::hello::{self, Heard};
use crate::http1::buffers::SMALL;
use crate::http1::head::write_response;
use crate::request;
use crate::request::response::ResponseBody;
use crate::request::worker::Worker;
use crate::routing::snapshot::ListenerPolicy;
use crate::tls::accept::{Accepted, Inside};

/// Connections one worker tells at once; beyond them a connection is closed without a word.
const MAX_FAREWELLS: usize = 64;
/// How long a client may take to say what it speaks, and to end its first head.
const FIRST_HEAD: Duration = Duration::from_secs(1);

/// Tells the client in a task of its own, where there is room for one more.
pub(super) fn begin(
    worker: &Rc<Worker>,
    place: Place,
    listener: Arc<ListenerPolicy>,
    stream: TcpStream,
    drain: &Drain,
) {
    let Some(farewell) = worker.farewells.take(MAX_FAREWELLS) else {
        return;
    };
    let (worker, drain) = (Rc::clone(worker), drain.clone());
    tokio::task::spawn_local(async move {
        tell(&worker, &listener, stream, &drain).await;
        drop((farewell, place));
    });
}

async fn tell(worker: &Worker, listener: &ListenerPolicy, tcp: TcpStream, drain: &Drain) {
    let deadline = worker.sweep.deadline();
    let accepted = match listener.tls_taken() {
        Some(tls) => secure(worker, listener, tls, tcp, &deadline, drain).await,
        None => Some(Accepted::plain(tcp, Inside::Unsaid)),
    };
    let Some(Accepted {
        transport, inside, ..
    }) = accepted
    else {
        return;
    };
    if inside == Inside::Tcp {
        return;
    }
    let mut stream = Stream::new(transport);
    deadline.set_after(FIRST_HEAD);
    let detected = detect(&mut stream, &worker.buffers, &deadline).await;
    let words = match detected.or_http() {
        Some(Speaks::Http1) => {
            // Answered in the middle of its head, a client would take the answer for a broken connection.
            {
                let whole = pin!(first_head(worker, &mut stream));
                deadline.bound(whole).await;
            }
            match (&listener.hop, hello::hear(stream.prefix())) {
                _ if inside.is_hop() => hello::BUSY.into(),
                (Some(_), Heard::Hello { .. }) => hello::BUSY.into(),
                _ => http1(worker, listener, stream.prefix().starts_with(b"HEAD ")),
            }
        }
        Some(Speaks::Http2) => http2(listener),
        Some(Speaks::Tcp) | None => return,
    };
    listener.metrics.shard(worker.id).error(Kind::Overflow);
    deadline.set_after(LINGER);
    close(&mut stream, &words, &deadline).await;
}

/// Reads to the end of the first head, or as much of it as fits a small buffer.
async fn first_head(worker: &Worker, stream: &mut Stream) {
    let end = |bytes: &[u8]| memchr::memmem::find(bytes, b"\r\n\r\n").is_some();
    while !end(stream.prefix()) && stream.prefix().len() < SMALL {
        match stream.fill(&worker.buffers).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return,
        }
    }
}

fn http1(worker: &Worker, listener: &ListenerPolicy, only_head: bool) -> Vec<u8> {
    let refusal = request::refuse(&Kind::Overflow.into(), false, &listener.name);
    let mut head = refusal.head;
    let text = match refusal.body {
        ResponseBody::Local(text) => text,
        ResponseBody::Upstream(_) | ResponseBody::Tunnel(_) => Default::default(),
    };
    worker.date.stamp(&mut head);
    let length = text.len().to_string();
    head.fields.push("content-length", length.as_bytes());
    head.fields.push("connection", b"close");
    let mut bytes = Vec::new();
    write_response(&head, &mut bytes);
    if !only_head {
        bytes.extend_from_slice(&text);
    }
    bytes
}

/// SETTINGS, with which a server must begin, and GOAWAY: nothing was processed, so all of it may be sent again elsewhere (RFC
/// 9113 sections 3.4, 6.8). NO_ERROR: this client did nothing wrong, it only came late.
fn http2(listener: &ListenerPolicy) -> Vec<u8> {
    let (name, error) = (&listener.name, ProxyError::new(Kind::Overflow));
    let reason = format!("outrigger: {name}: {error}");
    let length = u8::try_from(8 + reason.len()).unwrap_or(8);
    let mut bytes = vec![0, 0, 0, 4, 0, 0, 0, 0, 0];
    bytes.extend([0, 0, length, 7, 0, 0, 0, 0, 0]);
    bytes.extend([0; 8]);
    bytes.extend(&reason.as_bytes()[..usize::from(length) - 8]);
    bytes
}

/// Writes the last words and takes in what still comes: closing at once would reset them away (RFC 9112 section 9.6).
async fn close(stream: &mut Stream, words: &[u8], deadline: &Deadline) {
    let goodbye = pin!(async {
        stream.write_all(words).await?;
        stream.shutdown().await?;
        let mut sink = [0; 1024];
        poll_fn(|cx| {
            loop {
                let mut space = ReadBuf::new(&mut sink);
                std::task::ready!(Pin::new(&mut *stream).poll_read(cx, &mut space))?;
                if space.filled().is_empty() {
                    return std::task::Poll::Ready(std::io::Result::Ok(()));
                }
            }
        })
        .await
    });
    if let Some(Err(error)) = deadline.bound(goodbye).await {
        tracing::debug!(%error, "a refused client left before it was told");
    }
}
