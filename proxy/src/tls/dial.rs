//! Connections to endpoints that take TLS: who they must be, what is spoken inside, and what a failed handshake means.

use std::io;
use std::sync::Arc;

use outrigger_xds::tls::{
    Connector, Group, Identity, Peer, alpn, is_current, is_wrong_identity, reason,
};
use rustls::{AlertDescription, Error, HandshakeKind};
use rustls_pki_types::{ServerName, UnixTime};
use tokio::net::TcpStream;

use super::stream::Stream;
use super::transport::Transport;
use crate::error::{Kind, ProxyError};

/// What is spoken inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inside {
    HopHttp2,
    HopHttp1,
    Http2,
    Http1,
    Tcp,
}

impl Inside {
    const ALL: [Self; 5] = [
        Self::HopHttp2,
        Self::HopHttp1,
        Self::Http2,
        Self::Http1,
        Self::Tcp,
    ];

    /// HTTP.
    pub(crate) const fn http(http2: bool, hop: bool) -> Self {
        match (http2, hop) {
            (true, true) => Self::HopHttp2,
            (false, true) => Self::HopHttp1,
            (true, false) => Self::Http2,
            (false, false) => Self::Http1,
        }
    }

    const fn alpn(self) -> &'static [u8] {
        match self {
            Self::HopHttp2 => alpn::HOP_H2,
            Self::HopHttp1 => alpn::HOP_HTTP1,
            Self::Http2 => alpn::H2,
            Self::Http1 => alpn::HTTP1,
            Self::Tcp => alpn::TCP,
        }
    }
}

/// By what a cluster's endpoints are known, and this sidecar to them.
#[derive(Debug)]
pub(crate) struct Dialling {
    identity: Arc<Identity>,
    peer: Peer,
    groups: Vec<Group>,
    /// The name that the certificate must have, where it is not an identity.
    name: Option<ServerName<'static>>,
    /// One for each of [`Inside::ALL`]: a session is resumed with what was spoken when it began.
    connectors: [Connector; Inside::ALL.len()],
}

impl Dialling {
    pub(crate) fn new(
        identity: Arc<Identity>,
        peer: Peer,
        name: Option<ServerName<'static>>,
        groups: &[Group],
    ) -> Self {
        let connector = |inside: Inside| {
            Connector::new(
                Arc::clone(&identity),
                peer.clone(),
                &[inside.alpn()],
                groups,
            )
        };
        Self {
            connectors: Inside::ALL.map(connector),
            groups: groups.to_vec(),
            identity,
            peer,
            name,
        }
    }

    /// What it proves itself by.
    pub(crate) fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// For `/clusters`.
    pub(crate) fn describe(&self) -> serde_json::Value {
        let peers = match &self.peer {
            Peer::OneOf(ids) => ids.iter().map(ToString::to_string).collect(),
            Peer::TrustDomain(domain) => vec![format!("spiffe://{domain}")],
            Peer::Dns => self
                .name
                .iter()
                .map(|name| name.to_str().into_owned())
                .collect(),
            Peer::OwnTrustDomain | Peer::Kin | Peer::Anybody => Vec::new(),
        };
        serde_json::json!({
            "identity": self.identity.id().map(|id| id.to_string()),
            "peers": peers,
        })
    }

    /// The handshake. `target` is the name by which the task that is meant says so, if it has one; else its address is asked for.
    pub(crate) async fn connect(
        &self,
        tcp: TcpStream,
        inside: Inside,
        target: Option<String>,
    ) -> Result<Transport, ProxyError> {
        let config = self.connectors[inside as usize].config();
        let config = config.ok_or(Kind::NoIdentity)?;
        let name = match (&self.name, target) {
            (Some(name), _) => name.clone(),
            (None, Some(target)) => ServerName::try_from(target)
                .map_err(|error| ProxyError::caused(Kind::TlsFailed, error))?,
            (None, None) => address(&tcp)?,
        };
        let stream = Stream::client(tcp, config, name);
        let mut stream = stream.map_err(|error| ProxyError::caused(Kind::TlsFailed, error))?;
        stream.handshake().await.map_err(failed)?;
        let state = stream.state();
        // Nobody has looked at it since the session was begun.
        let unseen = state.handshake_kind() == Some(HandshakeKind::Resumed);
        let leaf = state.peer_certificates().and_then(|chain| chain.first());
        if unseen && !leaf.is_some_and(|leaf| is_current(leaf, UnixTime::now())) {
            let why = "the certificate that the session was begun with has ended";
            return Err(ProxyError::caused(Kind::TlsFailed, why));
        }
        if state.alpn_protocol() != Some(inside.alpn()) {
            let spoken = String::from_utf8_lossy(inside.alpn());
            let why = format!("the peer does not say that it speaks {spoken}");
            return Err(ProxyError::caused(Kind::TlsFailed, why));
        }
        Ok(Transport::Tls(Box::new(stream)))
    }
}

/// Whether it would be made of the same.
impl PartialEq for Dialling {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.identity, &other.identity)
            && self.peer == other.peer
            && self.name == other.name
            && self.groups == other.groups
    }
}

impl Eq for Dialling {}

/// No name is sent for an address (RFC 6066 section 3), and sessions are kept by it.
fn address(tcp: &TcpStream) -> Result<ServerName<'static>, ProxyError> {
    let peer = tcp.peer_addr();
    let peer = peer.map_err(|error| ProxyError::caused(Kind::ConnectFailed, error))?;
    Ok(ServerName::from(peer.ip()))
}

/// What a handshake's failure says of the endpoint.
fn failed(error: io::Error) -> ProxyError {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref());
    let kind = match tls {
        // A sidecar refuses a name that is not its task's so (`proxy/HOP.md`).
        Some(Error::AlertReceived(AlertDescription::AccessDenied)) => Kind::Misdirected,
        Some(_) if is_wrong_identity(&error) => Kind::TlsIdentity,
        _ => Kind::TlsFailed,
    };
    ProxyError::caused(kind, reason(&error))
}
