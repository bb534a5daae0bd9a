//! What a connection speaks: detected from its first bytes or told by the listener, then served as HTTP/1.1, HTTP/2 or opaque TCP.
//! Where it comes by TLS, the handshake says what is spoken inside.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use outrigger_xds::hop::Identity;
use outrigger_xds::model::Protocol;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use super::secure::secure;
use super::{Caller, h1, h2};
use crate::deadline::Deadline;
use crate::drain::{Drain, Phase};
use crate::hop::hello::{self, Heard};
use crate::http1::buffers::Buffers;
use crate::request::worker::Worker;
use crate::request::{access, tcp};
use crate::routing::snapshot::{ListenerPolicy, Slot};
use crate::tls::accept::{Accepted, Inside};
use crate::tls::peer::Peer;
use crate::tls::transport::Transport;

/// What a client that knows HTTP/2 sends first (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// `auto`: a client that is silent this long waits for the server to speak first.
pub(super) const SILENCE: Duration = Duration::from_secs(1);
/// Longest method a first line may begin with to be taken for HTTP.
const MAX_METHOD: usize = 24;

/// Serves one accepted connection to its end.
pub(crate) async fn serve(
    worker: &Rc<Worker>,
    slot: Slot,
    listener: &Arc<ListenerPolicy>,
    open: Rc<dyn std::any::Any>,
    stream: TcpStream,
    drain: Drain,
) {
    let deadline = worker.sweep.deadline();
    let accepted = match listener.tls_taken() {
        Some(tls) => {
            let securing = secure(worker, listener, tls, stream, &deadline, &drain);
            Box::pin(securing).await
        }
        None => Some(Accepted::plain(stream, Inside::Unsaid)),
    };
    let Some(Accepted {
        transport,
        inside,
        peer,
    }) = accepted
    else {
        return;
    };
    let secure = matches!(transport, Transport::Tls(_));
    if !secure {
        listener
            .metrics
            .shard(worker.id)
            .plaintext_connections
            .add(1);
    }
    let mut stream = Stream::new(transport);
    let first = first_bytes(worker, listener, inside, &mut stream, &deadline, &drain);
    let Some(speaks) = first.await else {
        return;
    };
    let (speaks, hop) = match (speaks, &listener.hop) {
        _ if secure => (
            speaks,
            inside.is_hop() && is_trusted(listener, peer.as_deref()),
        ),
        (Speaks::Http1, Some(identity)) => {
            let greeting = greet(&mut stream, identity, &worker.buffers, &deadline, &drain);
            match Box::pin(greeting).await {
                Greeted::Stranger => (speaks, false),
                Greeted::Hop(speaks) => (speaks, true),
                Greeted::Mistaken => return,
            }
        }
        _ => (speaks, false),
    };
    let caller = Caller {
        slot,
        hop,
        secure,
        peer,
    };
    match speaks {
        Speaks::Http1 => {
            let parts = stream.into_parts();
            h1::serve(worker, caller, listener, parts, deadline, drain).await;
        }
        // Boxed, so that an idle HTTP/1.1 connection is not as large as what these hold.
        Speaks::Http2 => {
            drop(deadline);
            Box::pin(h2::serve(worker, caller, listener, stream, drain)).await;
        }
        Speaks::Tcp => {
            drop(deadline);
            let peer = caller.peer.as_deref();
            let relay = Box::pin(tcp::serve(worker, listener, peer, &mut stream));
            let broken = tokio::select! {
                broken = relay => Some(broken),
                () = drain.reached(Phase::Stopped) => None,
            };
            match broken {
                Some(true) => stream.stream.abort(),
                // Refused, or idle: this end is ours.
                Some(false) => stream.stream.say_goodbye(),
                None => {}
            }
        }
    }
    drop(open);
}

/// Whether a peer that says it is a sidecar is given a sidecar's limits: hops are taken here, and it may ask for something.
fn is_trusted(listener: &ListenerPolicy, peer: Option<&Peer>) -> bool {
    let allowed = listener.authorization.as_ref();
    let met = access::met(peer);
    listener.hop.is_some() && allowed.is_none_or(|allowed| allowed.lists(met))
}

/// What the client speaks; `None` when it is gone, or when nothing has come of it and this sidecar ends.
async fn first_bytes(
    worker: &Worker,
    listener: &ListenerPolicy,
    inside: Inside,
    stream: &mut Stream,
    deadline: &Deadline,
    drain: &Drain,
) -> Option<Speaks> {
    let auto = match (listener.protocol, inside) {
        (Protocol::Tcp, _) | (_, Inside::Tcp) => return Some(Speaks::Tcp),
        (Protocol::Auto, Inside::Unsaid) => true,
        (Protocol::Auto | Protocol::Http | Protocol::Http2 | Protocol::Grpc, _) => false,
    };
    let patience = if auto {
        SILENCE
    } else {
        listener.header_timeout
    };
    // From the accept queue at the very end: what this client sends is on its way.
    let last = drain.is(Phase::Stopped);
    deadline.set_after(if last {
        patience.min(SILENCE)
    } else {
        patience
    });
    let detected = {
        let detection = detect(stream, &worker.buffers, deadline);
        tokio::select! {
            biased;
            detected = detection => Some(detected),
            () = drain.reached(Phase::Stopped), if !last => None,
        }
    };
    let detected = match detected {
        Some(detected) => detected,
        None if stream.has_begun() => {
            deadline.set_after(patience.min(SILENCE));
            detect(stream, &worker.buffers, deadline).await
        }
        None => return None,
    };
    if auto {
        deadline.set_after(listener.header_timeout);
        return detected.or_tcp();
    }
    let speaks = detected.or_http()?;
    let as_said = match inside {
        Inside::Http1 { .. } => speaks == Speaks::Http1,
        Inside::Http2 { .. } => speaks == Speaks::Http2,
        Inside::Tcp | Inside::Unsaid => true,
    };
    as_said.then_some(speaks)
}

/// How a connection to somebody who takes hops begins.
enum Greeted {
    /// Not with a hello.
    Stranger,
    /// By a sidecar that knows us; then with this.
    Hop(Speaks),
    /// By one that means another, or it is gone.
    Mistaken,
}

/// Answers a hello, if there is one (`proxy/HOP.md` section 2).
async fn greet(
    stream: &mut Stream,
    identity: &Identity,
    buffers: &Buffers,
    deadline: &Deadline,
    drain: &Drain,
) -> Greeted {
    loop {
        let (answer, length) = match hello::hear(&stream.prefix) {
            Heard::Other => return Greeted::Stranger,
            Heard::Part => {
                let last = drain.is(Phase::Stopped);
                let fill = pin!(stream.fill(buffers));
                let filled = tokio::select! {
                    biased;
                    filled = deadline.bound(fill) => filled,
                    () = drain.reached(Phase::Stopped), if !last => {
                        deadline.set_after(SILENCE);
                        continue;
                    }
                };
                match filled {
                    Some(Ok(1..)) => continue,
                    // What began like one and goes on in no way is answered like any head that is not complete.
                    Some(Ok(0)) | None => return Greeted::Stranger,
                    Some(Err(_)) => return Greeted::Mistaken,
                }
            }
            Heard::Hello {
                target,
                token,
                length,
            } => (hello::answer(identity, target, token), length),
        };
        let words = answer.as_deref().unwrap_or(hello::MISDIRECTED);
        let written = stream.write_all(words.as_bytes()).await;
        if answer.is_none() || written.is_err() {
            tracing::debug!("a hello was for another");
            return Greeted::Mistaken;
        }
        stream.prefix.advance(length);
        if stream.prefix.is_empty() {
            stream.prefix = BytesMut::new();
        }
        let last = drain.is(Phase::Stopped);
        let detected = tokio::select! {
            biased;
            detected = detect(stream, buffers, deadline) => Some(detected),
            () = drain.reached(Phase::Stopped), if !last => None,
        };
        let detected = match detected {
            Some(detected) => detected,
            None => {
                // The first request may be on its way.
                deadline.set_after(SILENCE);
                detect(stream, buffers, deadline).await
            }
        };
        return detected.or_http().map_or(Greeted::Mistaken, Greeted::Hop);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaks {
    Http1,
    Http2,
    Tcp,
}

/// How detection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Detected {
    Clear(Speaks),
    /// The time is over, and a few bytes are here that may become anything.
    Begun,
    /// The time is over without a byte.
    Silent,
    Gone,
}

impl Detected {
    /// On an HTTP listener whatever is not HTTP/2 is HTTP/1.1's to refuse.
    pub(super) fn or_http(self) -> Option<Speaks> {
        match self {
            Self::Clear(Speaks::Http2) => Some(Speaks::Http2),
            Self::Clear(Speaks::Http1 | Speaks::Tcp) | Self::Begun => Some(Speaks::Http1),
            Self::Silent | Self::Gone => None,
        }
    }

    /// Where anything may come, a client that does not go on waits for the server.
    fn or_tcp(self) -> Option<Speaks> {
        match self {
            Self::Clear(speaks) => Some(speaks),
            Self::Begun | Self::Silent => Some(Speaks::Tcp),
            Self::Gone => None,
        }
    }
}

/// What the bytes so far say; `None` while more are needed.
pub(crate) fn recognise(bytes: &[u8]) -> Option<Speaks> {
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

/// Reads until the protocol is clear, the deadline passes or the client is gone.
pub(super) async fn detect(
    stream: &mut Stream,
    buffers: &Buffers,
    deadline: &Deadline,
) -> Detected {
    loop {
        if let Some(speaks) = recognise(&stream.prefix) {
            return Detected::Clear(speaks);
        }
        let read = {
            let fill = pin!(stream.fill(buffers));
            deadline.bound(fill).await
        };
        match read {
            None if stream.prefix.is_empty() => return Detected::Silent,
            None => return Detected::Begun,
            Some(Err(_)) => return Detected::Gone,
            Some(Ok(0)) if stream.prefix.is_empty() => return Detected::Gone,
            Some(Ok(0)) => return Detected::Clear(Speaks::Tcp),
            Some(Ok(_)) => {}
        }
    }
}

/// The client's stream, with the bytes that detection has read in front of it.
pub(super) struct Stream {
    prefix: BytesMut,
    stream: Transport,
}

impl Stream {
    pub(super) fn new(stream: Transport) -> Self {
        Self {
            prefix: BytesMut::new(),
            stream,
        }
    }

    /// Reads a little more for detection. A client that is silent costs no buffer.
    pub(super) async fn fill(&mut self, buffers: &Buffers) -> io::Result<usize> {
        if self.prefix.is_empty() {
            poll_fn(|cx| self.stream.poll_readable(cx)).await?;
            self.prefix = buffers.input();
        }
        self.stream.read_buf(&mut self.prefix).await
    }

    /// Whether anything has come.
    fn has_begun(&mut self) -> bool {
        !self.prefix.is_empty() || self.stream.has_arrived()
    }

    /// What was read so far.
    pub(super) fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    fn into_parts(self) -> (Transport, BytesMut) {
        (self.stream, self.prefix)
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
            this.prefix.advance(fits);
            if this.prefix.is_empty() {
                this.prefix = BytesMut::new();
            }
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.stream).poll_read(cx, buf)
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
