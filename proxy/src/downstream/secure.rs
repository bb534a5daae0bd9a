//! The beginning of a connection on a listener that takes TLS: plaintext is told from it by the first byte, then the handshake.

use std::pin::pin;
use std::time::Duration;

use outrigger_xds::identity::TlsMode;
use outrigger_xds::model::Protocol;
use tokio::net::TcpStream;

use super::protocol::SILENCE;
use crate::deadline::Deadline;
use crate::drain::{Drain, Phase};
use crate::request::worker::Worker;
use crate::routing::snapshot::ListenerPolicy;
use crate::tls::Accepting;
use crate::tls::accept::{Accepted, Inside, why};
use crate::tls::stream::{HANDSHAKE, Stream};

/// For a client that is refused to hear why.
const LINGER: Duration = Duration::from_secs(1);

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
    let mut byte = [0];
    let peeked = {
        let peek = pin!(tcp.peek(&mut byte));
        tokio::select! {
            biased;
            peeked = deadline.bound(peek) => peeked,
            () = drain.reached(Phase::Stopped), if !drain.is(Phase::Stopped) => return First::Gone,
        }
    };
    match peeked {
        Some(Ok(1..)) if byte[0] == HANDSHAKE => First::Tls,
        Some(Ok(1..)) => First::Other(Inside::Unsaid),
        None if opaque => First::Other(Inside::Tcp),
        // Of an opaque service it may still want to hear something.
        Some(Ok(_)) if opaque => First::Other(Inside::Tcp),
        Some(Ok(_) | Err(_)) | None => First::Gone,
    }
}
