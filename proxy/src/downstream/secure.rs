//! The beginning of a connection on a listener that takes TLS: plaintext is told from it by the first byte, then the handshake.

use std::io;
use std::pin::pin;
use std::time::Duration;

use outrigger_xds::identity::TlsMode;
use outrigger_xds::model::Protocol;
use rustix::net::RecvFlags;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::protocol::SILENCE;
use crate::deadline::Deadline;
use crate::drain::{Drain, Phase};
use crate::request::worker::Worker;
use crate::routing::snapshot::ListenerPolicy;
use crate::tls::Accepting;
use crate::tls::accept::{Accepted, Inside, is_meant, why};
use crate::tls::stream::{HANDSHAKE, Stream};

/// For a client that is refused to hear why.
const LINGER: Duration = Duration::from_secs(1);
/// A longer ClientHello is none of a sidecar's.
const MAX_HELLO: usize = 16 * 1024;

/// What the client is to be spoken to by; `None` when it is refused or gone. Nobody is answered before this.
pub(super) async fn secure(
    worker: &Worker,
    listener: &ListenerPolicy,
    tls: &Accepting,
    tcp: TcpStream,
    deadline: &Deadline,
    drain: &Drain,
) -> Option<Accepted> {
    // From the accept queue at the very end: what this client sends is on its way.
    let last = drain.is(Phase::Stopped);
    let patience = match last {
        true => listener.header_timeout.min(SILENCE),
        false => listener.header_timeout,
    };
    deadline.set_after(patience);
    if tls.mode == TlsMode::Permissive {
        match first(&tcp, listener.protocol, deadline, drain).await {
            First::Tls => deadline.set_after(patience),
            First::Other(inside) => return Some(Accepted::plain(tcp, inside)),
            First::Gone => return None,
        }
    }
    let shard = listener.metrics.shard(worker.id);
    let name = &listener.name;
    let Some(mut stream) = tls.begin(tcp) else {
        shard.tls_errors.add(1);
        tracing::debug!(listener = name, "no certificate yet: a client is refused");
        return None;
    };
    let why = match handshake(&mut stream, deadline, drain, last).await? {
        Ok(()) => match tls.accepted(stream) {
            Ok(accepted) => {
                shard.tls_connections.add(1);
                return Some(accepted);
            }
            Err(why) => why.to_owned(),
        },
        Err(why) => {
            deadline.set_after(LINGER);
            let refused = pin!(stream.refuse());
            deadline.bound(refused).await;
            why
        }
    };
    shard.tls_errors.add(1);
    tracing::debug!(listener = name, why, "a client is refused");
    None
}

/// The handshake, or why it failed; `None` when nothing has come of the client and this sidecar ends.
async fn handshake(
    stream: &mut Stream,
    deadline: &Deadline,
    drain: &Drain,
    last: bool,
) -> Option<Result<(), String>> {
    let done = {
        let handshake = pin!(stream.handshake());
        tokio::select! {
            biased;
            done = deadline.bound(handshake) => Some(done),
            () = drain.reached(Phase::Stopped), if !last => None,
        }
    };
    let done = match done {
        Some(done) => done,
        None if stream.has_begun() => {
            // A request follows.
            deadline.set_after(SILENCE);
            let handshake = pin!(stream.handshake());
            deadline.bound(handshake).await
        }
        None => return None,
    };
    Some(match done {
        Some(Ok(())) => Ok(()),
        Some(Err(error)) => Err(why(&error)),
        None => Err("the handshake took too long".to_owned()),
    })
}

/// What a client begins with, where both are taken.
enum First {
    Tls,
    Other(Inside),
    Gone,
}

/// Looks at the first byte and leaves it there. A client of an opaque service may wait for the server: it has no handshake to begin
/// with.
async fn first(tcp: &TcpStream, protocol: Protocol, deadline: &Deadline, drain: &Drain) -> First {
    let opaque = match protocol {
        Protocol::Tcp | Protocol::Auto => true,
        Protocol::Http | Protocol::Http2 | Protocol::Grpc => false,
    };
    if opaque {
        deadline.set_after(SILENCE);
    }
    let peeked = {
        let peek = pin!(async {
            let mut byte = [0];
            match tcp.peek(&mut byte).await? {
                1.. if byte[0] != HANDSHAKE => Ok(Some(First::Other(Inside::Unsaid))),
                // What an opaque service speaks may be TLS of its own.
                1.. if opaque && !is_ours(tcp).await? => Ok(Some(First::Other(Inside::Tcp))),
                1.. => Ok(Some(First::Tls)),
                0 => io::Result::Ok(None),
            }
        });
        tokio::select! {
            biased;
            peeked = deadline.bound(peek) => peeked,
            () = drain.reached(Phase::Stopped), if !drain.is(Phase::Stopped) => return First::Gone,
        }
    };
    match peeked {
        Some(Ok(Some(first))) => first,
        // Of an opaque service a client may want to hear something before, or after, it speaks.
        None | Some(Ok(None)) if opaque => First::Other(Inside::Tcp),
        Some(Ok(None) | Err(_)) | None => First::Gone,
    }
}

/// Whether a ClientHello is meant for this sidecar: it names one of our protocols, or a task in the way of hops. All of it is
/// looked at, and left where it is.
async fn is_ours(tcp: &TcpStream) -> io::Result<bool> {
    let mut bytes = vec![0; MAX_HELLO];
    loop {
        let hello = tcp.try_io(Interest::READABLE, || {
            let (count, _) = rustix::net::recv(tcp, &mut bytes[..], RecvFlags::PEEK)?;
            let whole = count == MAX_HELLO;
            match is_meant(&bytes[..count]) {
                None if !whole => Err(io::ErrorKind::WouldBlock.into()),
                ours => Ok(ours.unwrap_or(false)),
            }
        });
        match hello {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => tcp.readable().await?,
            done => return done,
        }
    }
}
