//! Connections as both listeners take them: plaintext, TLS, or either, told apart by the first byte.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use outrigger_xds::identity::TlsMode;
use outrigger_xds::tls::{self, Acceptor};
use outrigger_xds::transport::{Accepted, BoxedIo, PeerIdentity};
use rustls::HandshakeKind;
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};

use crate::identity::{node_of, token_of};

/// Connections whose first bytes or handshake are waited for; more wait to be accepted.
const BEGINNING: usize = 4096;
/// How long a connection may take to say what it is and to prove who it is.
const BEGIN: Duration = Duration::from_secs(10);
/// Connections that are ready and not yet taken.
const READY: usize = 64;
/// After an error that is not one connection's, such as too many open files.
const PAUSE: Duration = Duration::from_millis(100);
/// A TLS record that begins a handshake (RFC 8446 section 5.1).
const HANDSHAKE: u8 = 0x16;

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) address: SocketAddr,
    pub(crate) encrypted: bool,
    /// What it proved itself by.
    pub(crate) leaf: Option<Arc<Leaf>>,
}

/// A verified certificate.
#[derive(Debug)]
pub(crate) struct Leaf {
    pub(crate) identity: outrigger_xds::identity::SpiffeId,
    /// The node that it was signed for, if our CA says so.
    pub(crate) node: Option<String>,
    /// The id of the token by which it enrolled, if it did by one.
    pub(crate) token: Option<String>,
    der: CertificateDer<'static>,
}

impl Leaf {
    /// Whether its time is not over.
    pub(crate) fn is_current(&self) -> bool {
        tls::is_current(&self.der, UnixTime::now())
    }
}

impl Caller {
    /// Somebody in plaintext.
    pub(crate) const fn plain(address: SocketAddr) -> Self {
        Self {
            address,
            encrypted: false,
            leaf: None,
        }
    }

    pub(crate) fn is_local(&self) -> bool {
        self.address.ip().to_canonical().is_loopback()
    }
}

/// What a listener takes.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) mode: TlsMode,
    /// `None` where TLS is disabled.
    pub(crate) acceptor: Option<Arc<Acceptor>>,
}

/// Connections that are ready to be served.
pub(crate) struct Incoming {
    address: SocketAddr,
    ready: mpsc::Receiver<(BoxedIo, Caller)>,
}

impl Incoming {
    /// Accepts until it is dropped.
    pub(crate) fn start(listener: TcpListener, address: SocketAddr, door: Door) -> Self {
        let (taken, ready) = mpsc::channel(READY);
        tokio::spawn(accept(listener, door, taken));
        Self { address, ready }
    }

    /// As ADS takes them.
    pub(crate) fn for_ads(self) -> impl Stream<Item = io::Result<Accepted<BoxedIo>>> + Send {
        ReceiverStream::new(self.ready).map(|(io, caller)| {
            let leaf = caller.leaf.as_deref();
            let peer = PeerIdentity {
                identity: leaf.map(|leaf| leaf.identity.clone()),
                node: leaf.and_then(|leaf| leaf.node.clone()),
            };
            Ok(Accepted::new(io, peer))
        })
    }
}

/// As axum takes them.
impl Listener for Incoming {
    type Io = BoxedIo;
    type Addr = Caller;

    async fn accept(&mut self) -> (BoxedIo, Caller) {
        match self.ready.recv().await {
            Some(connection) => connection,
            // The runtime is ending.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Caller> {
        Ok(Caller::plain(self.address))
    }
}

impl Connected<IncomingStream<'_, Incoming>> for Caller {
    fn connect_info(stream: IncomingStream<'_, Incoming>) -> Self {
        stream.remote_addr().clone()
    }
}

async fn accept(listener: TcpListener, door: Door, taken: mpsc::Sender<(BoxedIo, Caller)>) {
    let beginning = Arc::new(Semaphore::new(BEGINNING));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = taken.closed() => return,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&beginning).acquire_owned().await else {
            return;
        };
        let (door, taken) = (door.clone(), taken.clone());
        tokio::spawn(async move {
            let begun = tokio::time::timeout(BEGIN, begin(stream, address, &door)).await;
            drop(permit);
            match begun {
                // If it is not taken, nothing is served any more.
                Ok(Ok(Some(connection))) => drop(taken.send(connection).await),
                // Closed before it said anything, as probes are.
                Ok(Ok(None)) => {}
                Ok(Err(reason)) => tracing::info!(%address, reason, "a connection is refused"),
                Err(_) => tracing::debug!(%address, "a connection said nothing in time"),
            }
        });
    }
}

async fn begin(
    stream: TcpStream,
    address: SocketAddr,
    door: &Door,
) -> Result<Option<(BoxedIo, Caller)>, String> {
    stream
        .set_nodelay(true)
        .map_err(|error| error.to_string())?;
    let Some(acceptor) = &door.acceptor else {
        return Ok(Some((Box::new(stream), Caller::plain(address))));
    };
    let mut first = [0];
    match stream.peek(&mut first).await {
        Ok(0) => return Ok(None),
        Ok(_) if first == [HANDSHAKE] => {}
        Ok(_) if door.mode == TlsMode::Permissive => {
            return Ok(Some((Box::new(stream), Caller::plain(address))));
        }
        Ok(_) => return Err("plaintext, and TLS is strict here".to_owned()),
        Err(error) => return Err(error.to_string()),
    }
    let config = acceptor
        .config()
        .ok_or("the server has no certificate yet")?;
    let stream = TlsAcceptor::from(config).accept(stream).await;
    let stream = stream.map_err(|error| tls::reason(&error))?;
    let session = stream.get_ref().1;
    let leaf = session.peer_certificates().and_then(<[_]>::first).cloned();
    let leaf = leaf.and_then(|der| {
        Some(Leaf {
            identity: tls::identity_of(&der)?,
            node: node_of(&der),
            token: token_of(&der),
            der,
        })
    });
    let resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
    if let Some(leaf) = leaf.as_ref().filter(|_| resumed)
        && !leaf.is_current()
    {
        return Err(format!("a session of {} has ended", leaf.identity));
    }
    let caller = Caller {
        address,
        encrypted: true,
        leaf: leaf.map(Arc::new),
    };
    Ok(Some((Box::new(stream), caller)))
}
