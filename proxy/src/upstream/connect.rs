//! Makes a connection: TCP with the options a sidecar wants, then TLS with those who take it.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use outrigger_xds::model::ServiceRef;
use outrigger_xds::tls::hop_name;
use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};
use tower::timeout::{Timeout, error::Elapsed};
use tower::{Service, ServiceExt};

use super::cluster::Cluster;
use crate::error::{Kind, ProxyError};
use crate::policy::endpoint::Endpoint;
use crate::tls::dial::{Dialling, Inside};
use crate::tls::transport::Transport;

/// Unacknowledged bytes end a connection after this (tcp(7), TCP_USER_TIMEOUT).
const USER_TIMEOUT: Duration = Duration::from_secs(10);
#[derive(Clone, Copy)]
struct TcpConnector;

impl Service<SocketAddr> for TcpConnector {
    type Response = TcpStream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, address: SocketAddr) -> Self::Future {
        Box::pin(async move {
            let socket = if address.is_ipv4() {
                TcpSocket::new_v4()?
            } else {
                TcpSocket::new_v6()?
            };
            let stream = socket.connect(address).await?;
            stream.set_nodelay(true)?;
            SockRef::from(&stream).set_tcp_user_timeout(Some(USER_TIMEOUT))?;
            Ok(stream)
        })
    }
}

/// A TCP connection to `address` within `timeout`.
pub(crate) async fn tcp(address: SocketAddr, timeout: Duration) -> Result<TcpStream, ProxyError> {
    Timeout::new(TcpConnector, timeout)
        .oneshot(address)
        .await
        .map_err(|error| {
            let kind = if error.is::<Elapsed>() {
                Kind::ConnectTimeout
            } else {
                Kind::ConnectFailed
            };
            ProxyError::caused(kind, format!("{address}: {error}"))
        })
}

/// A TLS connection to an endpoint that takes it, both handshakes within the cluster's connect timeout. It is never one without.
/// A handshake that fails is counted in the worker's shard.
pub(crate) async fn tls(
    cluster: &Cluster,
    endpoint: &Endpoint,
    inside: Inside,
    worker: usize,
) -> Result<Transport, ProxyError> {
    let (dialling, service) = (cluster.tls(), cluster.service());
    let timeout = cluster.connect_timeout();
    let connected = secured(dialling.as_deref(), &service, endpoint, inside, timeout).await;
    if let Err(Kind::TlsFailed | Kind::TlsIdentity | Kind::NoIdentity) =
        connected.as_ref().map_err(|error| error.kind)
    {
        cluster.metrics.shard(worker).tls_errors.add(1);
    }
    connected
}

/// The same, for one that is not counted.
pub(crate) async fn secured(
    dialling: Option<&Dialling>,
    service: &ServiceRef,
    endpoint: &Endpoint,
    inside: Inside,
    timeout: Duration,
) -> Result<Transport, ProxyError> {
    let dialling = dialling.ok_or(Kind::NoIdentity)?;
    let address = endpoint.address;
    let named = !endpoint.instance.is_empty();
    let connecting = async {
        let stream = tcp(address, timeout).await?;
        let target = named.then(|| hop_name(&target(service, endpoint)));
        dialling.connect(stream, inside, target).await
    };
    let connected = tokio::time::timeout(timeout, connecting).await;
    connected.unwrap_or_else(|_| {
        let cause = format!("{address}: no TLS handshake");
        Err(ProxyError::caused(Kind::ConnectTimeout, cause))
    })
}

/// Which task is meant.
pub(crate) fn target(service: &ServiceRef, endpoint: &Endpoint) -> String {
    let ServiceRef { namespace, name } = service;
    outrigger_xds::hop::target(namespace, name, &endpoint.instance)
}
