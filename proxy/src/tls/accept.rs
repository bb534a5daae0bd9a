//! What a listener takes: TLS, plaintext, or both on one port.

use std::rc::Rc;
use std::sync::Arc;

use outrigger_xds::identity::TlsMode;
use outrigger_xds::model::Protocol;
use outrigger_xds::tls::{
    Acceptor, Clients, Group, Identity, Peer as Verified, alpn, hop_name, is_current, is_hop_name,
    reason,
};
use rustls::HandshakeKind;
use rustls_pki_types::UnixTime;
use tokio::net::TcpStream;

use super::peer::Peer;
use super::stream::Stream;
use super::transport::Transport;

/// What all connections of a listener share.
#[derive(Debug)]
pub(crate) struct Accepting {
    pub(crate) mode: TlsMode,
    identity: Arc<Identity>,
    acceptor: Acceptor,
}

/// What a client has said that it speaks (RFC 7301).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inside {
    /// HTTP/2, on a hop or not.
    Http2 { hop: bool },
    /// HTTP/1.1, on a hop or not.
    Http1 { hop: bool },
    /// Opaque bytes.
    Tcp,
    /// Nothing: what comes will tell.
    Unsaid,
}

impl Inside {
    /// Whether its sender is a sidecar that speaks the hop protocol.
    pub(crate) const fn is_hop(self) -> bool {
        matches!(self, Self::Http2 { hop: true } | Self::Http1 { hop: true })
    }
}

/// A client that has proved who it is.
pub(crate) struct Accepted {
    pub(crate) transport: Transport,
    pub(crate) inside: Inside,
    pub(crate) peer: Option<Rc<Peer>>,
}

impl Accepted {
    /// One that has not been asked.
    pub(crate) fn plain(tcp: TcpStream, inside: Inside) -> Self {
        Self {
            transport: Transport::Plain(tcp),
            inside,
            peer: None,
        }
    }
}

impl Accepting {
    /// `targets` are the tasks for which hops are taken; none takes every name.
    pub(crate) fn new(
        mode: TlsMode,
        identity: Arc<Identity>,
        clients: Verified,
        protocol: Protocol,
        groups: &[Group],
        targets: Option<&[String]>,
    ) -> Self {
        let spoken: &[&[u8]] = match protocol {
            Protocol::Tcp => &[alpn::TCP],
            Protocol::Http | Protocol::Http2 | Protocol::Grpc => {
                &[alpn::HOP_H2, alpn::HOP_HTTP1, alpn::H2, alpn::HTTP1]
            }
            Protocol::Auto => &[
                alpn::HOP_H2,
                alpn::HOP_HTTP1,
                alpn::H2,
                alpn::HTTP1,
                alpn::TCP,
            ],
        };
        let names = targets.map(|targets| targets.iter().map(|target| hop_name(target)).collect());
        let own = Arc::clone(&identity);
        Self {
            mode,
            identity,
            acceptor: Acceptor::new(own, Clients::Must(clients), spoken, groups, names),
        }
    }

    /// What it proves itself by.
    pub(crate) fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// A connection before its handshake; `None` while this sidecar has no identity.
    pub(crate) fn begin(&self, tcp: TcpStream) -> Option<Box<Stream>> {
        let config = self.acceptor.config()?;
        Stream::server(tcp, config).ok().map(Box::new)
    }

    /// What the handshake, which is over, has led to; or why the connection is refused all the same.
    pub(crate) fn accepted(&self, stream: Box<Stream>) -> Result<Accepted, &'static str> {
        let state = stream.state();
        let chain = state.peer_certificates().unwrap_or_default();
        // Nobody has looked at it since the session was begun.
        let unseen = state.handshake_kind() == Some(HandshakeKind::Resumed);
        let is_current = |leaf| is_current(leaf, UnixTime::now());
        if unseen && !chain.first().is_some_and(is_current) {
            return Err("the certificate that the session was begun with has ended");
        }
        let inside = match state.alpn_protocol() {
            Some(alpn::HOP_H2) => Inside::Http2 { hop: true },
            Some(alpn::HOP_HTTP1) => Inside::Http1 { hop: true },
            Some(alpn::H2) => Inside::Http2 { hop: false },
            Some(alpn::HTTP1) => Inside::Http1 { hop: false },
            Some(alpn::TCP) => Inside::Tcp,
            _ => Inside::Unsaid,
        };
        let peer = Peer::of(chain, self.identity.id().as_ref()).map(Rc::new);
        Ok(Accepted {
            transport: Transport::Tls(stream),
            inside,
            peer,
        })
    }
}

/// Whether a ClientHello is meant for a sidecar, and not for the application behind it, which may speak TLS of its own: it names one of
/// our protocols, or a task as hops do. `None` while it is not whole.
pub(crate) fn is_meant(mut bytes: &[u8]) -> Option<bool> {
    let mut acceptor = rustls::server::Acceptor::default();
    while !bytes.is_empty() {
        if acceptor.read_tls(&mut bytes).is_err() {
            return Some(false);
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                let ours = [alpn::TCP, alpn::HOP_H2, alpn::HOP_HTTP1];
                let mut spoken = hello.alpn().into_iter().flatten();
                return Some(
                    spoken.any(|protocol| ours.contains(&protocol))
                        || hello.server_name().is_some_and(is_hop_name),
                );
            }
            Err(_) => return Some(false),
        }
    }
    None
}

/// Why a handshake failed, for a log.
pub(crate) fn why(error: &std::io::Error) -> String {
    reason(error)
}
