//! TLS of the load's HTTP/1.1 connections: 1.3 alone, mutual, one key exchange group, kept or made anew for each request.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use anyhow::Context as _;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{CipherSuite, ClientConfig, HandshakeKind, RootCertStore};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::certificates::Certificates;

/// Tickets that a connection may have in store: one is used for each resumption, and servers send one or two.
const TICKETS: usize = 8;

/// The key exchange of a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Group {
    /// Elliptic curve alone.
    X25519,
    /// With ML-KEM-768 beside it, against those who record now and decrypt later (draft-ietf-tls-ecdhe-mlkem).
    X25519MLKEM768,
}

/// How long connections live, and how they begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Session {
    /// Kept for many requests.
    Kept,
    /// For one request; every handshake is a full one.
    Full,
    /// For one request; every handshake but a worker's first resumes the one before.
    Resumed,
}

/// A load's TLS.
#[derive(Debug, Clone)]
pub struct Tls {
    config: Arc<ClientConfig>,
    server: ServerName<'static>,
    session: Session,
}

impl Tls {
    /// A client with the client's certificate, which verifies that the server has the server's.
    pub fn new(
        certificates: &Certificates,
        group: Group,
        session: Session,
    ) -> anyhow::Result<Self> {
        let mut provider = aws_lc_rs::default_provider();
        provider.kx_groups = vec![match group {
            Group::X25519 => kx_group::X25519,
            Group::X25519MLKEM768 => kx_group::X25519MLKEM768,
        }];
        // What Envoy and ours choose themselves: the same for everybody.
        let aes = CipherSuite::TLS13_AES_128_GCM_SHA256;
        provider.cipher_suites.retain(|one| one.suite() == aes);
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&certificates.ca)?)?;
        let client = &certificates.client;
        let chain = vec![CertificateDer::from_pem_file(&client.cert)?];
        let mut config = ClientConfig::builder_with_provider(provider.into())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(&client.key)?)
            .context("the client's certificate")?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Self {
            config: config.into(),
            server: ServerName::try_from(certificates.server.host.clone())?,
            session,
        })
    }
}

/// One worker's TLS: its tickets are its own, so that nobody else takes them.
pub(super) struct Client {
    tls: Tls,
    resumes: bool,
}

impl Client {
    pub(super) fn new(tls: &Tls) -> Self {
        let mut tls = tls.clone();
        if tls.session == Session::Resumed {
            let mut config = ClientConfig::clone(&tls.config);
            config.resumption = Resumption::in_memory_sessions(TICKETS);
            tls.config = Arc::new(config);
        }
        Self {
            tls,
            resumes: false,
        }
    }

    /// Whether a connection is for more than one request.
    pub(super) fn keeps(&self) -> bool {
        self.tls.session == Session::Kept
    }

    /// A handshake of another kind than is measured is an error.
    pub(super) async fn connect(&mut self, stream: TcpStream) -> Result<Socket, String> {
        let connector = TlsConnector::from(Arc::clone(&self.tls.config));
        let connected = connector.connect(self.tls.server.clone(), stream).await;
        let stream = connected.map_err(|error| format!("TLS handshake: {error}"))?;
        let kind = stream.get_ref().1.handshake_kind();
        let wanted = match std::mem::take(&mut self.resumes) {
            true => HandshakeKind::Resumed,
            false => HandshakeKind::Full,
        };
        if kind != Some(wanted) {
            return Err(format!("the handshake was {kind:?}, not {wanted:?}"));
        }
        self.resumes = self.tls.session == Session::Resumed;
        Ok(Socket::Tls(Box::new(stream)))
    }
}

/// What an HTTP/1.1 connection is read from and written to.
#[derive(Debug)]
pub(super) enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests;
